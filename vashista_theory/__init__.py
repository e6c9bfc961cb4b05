"""Theory verification and numerical analysis for sparse attention.

Attention as the projection of the query on the convex hull of its keys, and softmax-like attention
as its entropic relaxation. Importing switches nothing on; verification wants
``jax.config.update("jax_enable_x64", True)``.
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

from vashista_theory import attention as attention
from vashista_theory._results import Result as Result
from vashista_theory._version import __version__ as __version__
from vashista_theory.hull.kkt import Residuals as Residuals
from vashista_theory.hull.projection import Projection as Projection
from vashista_theory.hull.projection import project as project
from vashista_theory.hull.projection import project_many as project_many
from vashista_theory.hull.relaxation import Relaxation as Relaxation
from vashista_theory.hull.relaxation import relax as relax
from vashista_theory.hull.stability import FaceStability as FaceStability
from vashista_theory.hull.stability import face_stability as face_stability

if TYPE_CHECKING:
    from vashista_theory import evaluation as evaluation
    from vashista_theory import explore as explore
    from vashista_theory import models as models
    from vashista_theory import plots as plots
    from vashista_theory import sweep as sweep
    from vashista_theory._diagnose import Answer as Answer
    from vashista_theory._diagnose import Diagnosis as Diagnosis
    from vashista_theory._diagnose import diagnose as diagnose
    from vashista_theory.hull import heads as heads
    from vashista_theory.hull import instances as instances
    from vashista_theory.hull import oracle as oracle
    from vashista_theory.hull.rigorous import Certificate as Certificate
    from vashista_theory.hull.rigorous import certify as certify
    from vashista_theory.streaming import BlockProjection as BlockProjection
    from vashista_theory.streaming import project_blocks as project_blocks

_LAZY_MODULES = {
    "evaluation": "vashista_theory.evaluation",
    "explore": "vashista_theory.explore",
    "heads": "vashista_theory.hull.heads",
    "instances": "vashista_theory.hull.instances",
    "models": "vashista_theory.models",
    "oracle": "vashista_theory.hull.oracle",
    "plots": "vashista_theory.plots",
    "sweep": "vashista_theory.sweep",
}
_LAZY_NAMES = {
    "Answer": "vashista_theory._diagnose",
    "certify": "vashista_theory.hull.rigorous",
    "Certificate": "vashista_theory.hull.rigorous",
    "diagnose": "vashista_theory._diagnose",
    "Diagnosis": "vashista_theory._diagnose",
    "project_blocks": "vashista_theory.streaming",
    "BlockProjection": "vashista_theory.streaming",
}


def __getattr__(name: str) -> ModuleType | Any:
    """Import the parts that pull heavier packages on first use (PEP 562)."""
    if name in _LAZY_MODULES:
        return importlib.import_module(_LAZY_MODULES[name])
    if name in _LAZY_NAMES:
        return getattr(importlib.import_module(_LAZY_NAMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """What is meant for users, and nothing that is here by the way."""
    helpers = {"TYPE_CHECKING", "Any", "ModuleType", "importlib"}
    names = {name for name in globals() if not name.startswith("_")} - helpers
    return sorted({*names, *_LAZY_MODULES, *_LAZY_NAMES, "__version__", "__doc__"})

"""Seeded instances of the projection problem, in families behind one registry.

``make("planted", seed=3, n=256, d=16, gap=0.1)`` gives an `Instance` whose `known` holds every
answer the construction fixes; ``describe("planted")`` says which, and how well.
"""

import importlib
import pkgutil

from vashista_theory.hull.instances.registry import Draw as Draw
from vashista_theory.hull.instances.registry import Drawn as Drawn
from vashista_theory.hull.instances.registry import Instance as Instance
from vashista_theory.hull.instances.registry import Known as Known
from vashista_theory.hull.instances.registry import describe as describe
from vashista_theory.hull.instances.registry import families as families
from vashista_theory.hull.instances.registry import family as family
from vashista_theory.hull.instances.registry import make as make
from vashista_theory.hull.instances.registry import nearest_shape as nearest_shape

# Families register themselves: every module of this folder is imported, in alphabetical order.
for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

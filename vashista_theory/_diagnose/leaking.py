"""The temperature at which leakage passes 1 %."""

import math

import numpy as np
from jaxtyping import Float

from vashista_theory._diagnose.verdict import TOLERATED_LOG_MASS
from vashista_theory.hull.projection import Projection
from vashista_theory.hull.relaxation import Relaxation, relax

PATH = 33
"""Temperatures of every path that is relaxed here, so that all compile to the same shapes."""

_HOTTEST = 1e3


def search_grid(projection: Projection, proved: float, size: int) -> Float[np.ndarray, " e"]:
    """Temperatures among which leakage of 1 % is looked for: from the proved one to very hot."""
    scale, gap = float(projection.scale) or 1.0, float(projection.gap)
    low = proved if 0 < proved < math.inf else 1e-6 * (gap if 0 < gap < math.inf else scale)
    return np.geomspace(low, max(_HOTTEST * scale, 10.0 * low), size)


def first_leaking(
    projection: Projection, proved: float, relaxation: Relaxation, *, refinements: int = 2
) -> float:
    """The ε at which leakage first exceeds 1 %: bracketed on a path, and on finer ones.

    Inside a bracket log m is taken to be linear in 1/ε, as it is where ε is small (T4).
    """
    gap = float(projection.gap)
    if not math.isfinite(gap) or math.isinf(proved):
        return math.nan if math.isnan(gap) else math.inf
    found = math.inf
    while True:
        order = np.argsort(relaxation.epsilon)
        epsilon = np.asarray(relaxation.epsilon)[order]
        log_mass = np.asarray(relaxation.log_off_face_mass)[order]
        over = np.flatnonzero(log_mass > TOLERATED_LOG_MASS)
        if len(over) == 0:
            return found
        if over[0] == 0:
            return float(epsilon[0])
        at = slice(over[0] - 1, over[0] + 1)
        found = 1.0 / float(np.interp(TOLERATED_LOG_MASS, log_mass[at], 1.0 / epsilon[at]))
        if refinements == 0:
            return found
        refinements -= 1
        finer = np.geomspace(epsilon[over[0] - 1], epsilon[over[0]], PATH)
        relaxation = relax(projection, finer, throw=False)

"""The largest temperature proved safe: proposed by bisection in floats, proved once in balls."""

import math
from collections.abc import Callable

from vashista_theory.hull.rigorous.balls import flint, floor_float
from vashista_theory.hull.rigorous.bounds import PRECISION, Constants, is_safe

_STEPS = 40
_LARGEST, _SMALLEST = 1e300, 1e-300


def largest_safe_epsilon(c: Constants, log_mass: float) -> float:
    """An ε at which, and below which, the leakage is proved at most `log_mass`.

    Args:
        c: what is proved of the projection.
        log_mass: at most 0.

    Returns:
        Squared length; +inf if no temperature leaks more, 0 if none is proved safe, NaN inside.
    """
    if c.inside:
        return math.nan
    if c.gap is None or log_mass == 0:
        return math.inf
    if log_mass == -math.inf:
        return 0.0
    with flint.ctx.workprec(PRECISION):
        gap = floor_float(c.gap)
    start = gap / (1.0 + abs(log_mass)) or _SMALLEST
    return _bisected(lambda epsilon: is_safe(c, epsilon, log_mass), start)


def _bisected(safe: Callable[[float], bool], start: float) -> float:
    """The lower end of a bracket in log ε: a temperature that was proved safe itself."""
    low = high = min(max(start, _SMALLEST), _LARGEST)
    factor = 2.0
    if safe(low):
        while safe(high := min(high * factor, _LARGEST)):
            low, factor = high, factor * factor
            if high == _LARGEST:
                return _LARGEST
    else:
        while not safe(low := low / factor):
            high, factor = low, min(factor * factor, 1e30)
            if low < _SMALLEST:
                return 0.0
    for _ in range(_STEPS):
        middle = math.sqrt(low) * math.sqrt(high)
        if not low < middle < high:
            break
        low, high = (middle, high) if safe(middle) else (low, middle)
    return low

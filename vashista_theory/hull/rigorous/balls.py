"""The door to python-flint: balls, exact integers and rationals, and floats rounded outward."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from vashista_theory._version import install

try:
    import flint as _flint  # pyright: ignore[reportMissingImports]
except ImportError as error:
    raise ImportError(
        "`vashista_theory.certify` computes with python-flint, which is not installed. Remedy: "
        f"{install('rigorous')}"
    ) from error

flint: Any = _flint
"""The library; untyped here, because its own annotations are partial."""

Ball: TypeAlias = Any
"""`flint.arb`: a midpoint and a radius that contain the real number meant."""

Integer: TypeAlias = Any
"""`int` or `flint.fmpz`: an exact integer."""

Rational: TypeAlias = Any
"""`flint.fmpq`: an exact fraction."""

IntegerMatrix: TypeAlias = Any
"""`flint.fmpz_mat`: exact integers."""

PRECISIONS = (128, 512, 2048)
"""Bits tried in turn before rational arithmetic. A generic instance is settled by the first."""

DIGITS = 64
"""Bits of relative accuracy wanted of a stated interval, so that float64 is what limits it."""


class Enclosure(NamedTuple):
    """Floats or float arrays between which every number meant lies, ends included.

    Attributes:
        lower: never above it.
        upper: never below it.
    """

    lower: Any
    upper: Any

    @property
    def middle(self) -> Any:
        """A float inside, for display."""
        return self.lower + 0.5 * (self.upper - self.lower)

    def distance(self, value: Any) -> Any:
        """How far a float lies outside, elementwise; 0 inside."""
        return np.maximum(np.maximum(self.lower - value, value - self.upper), 0.0)


def total(values: Iterable[Ball]) -> Ball:
    """The sum of balls."""
    return sum(values, flint.arb(0))  # pyright: ignore[reportCallIssue, reportArgumentType]


def floor_float(value: Ball) -> float:
    """The float64 next below or at the lower end; NaN and infinities as they are."""
    return _outward(value.lower(), -math.inf)


def ceil_float(value: Ball) -> float:
    """The float64 next above or at the upper end; NaN and infinities as they are."""
    return _outward(value.upper(), math.inf)


def _outward(end: Ball, towards: float) -> float:
    nearest = float(end)
    if math.isnan(nearest) or not end.is_finite():
        return towards if math.isnan(nearest) else nearest
    while end < flint.arb(nearest) if towards < 0 else end > flint.arb(nearest):
        nearest = math.nextafter(nearest, towards)
    return nearest


def enclose(value: Ball) -> Enclosure:
    """One ball between two floats."""
    return Enclosure(floor_float(value), ceil_float(value))


def enclose_all(values: Iterable[Ball]) -> Enclosure:
    """Balls between two float arrays."""
    ends = [(floor_float(value), ceil_float(value)) for value in values]
    both = np.array(ends, np.float64).reshape(-1, 2)
    return Enclosure(both[:, 0], both[:, 1])


def power_of_two(exponent: int) -> Ball:
    """2^exponent, exactly."""
    return flint.arb((1, exponent))


def certain_sign(value: Ball) -> int | None:
    """1 or −1 where the ball excludes zero, else None; a ball never proves a zero."""
    if value > 0:
        return 1
    return -1 if value < 0 else None


def exact_sign(value: Rational) -> int:
    """−1, 0 or 1."""
    return (value > 0) - (value < 0)

"""The exact projection of a query on the hull of a few keys: integers alone, no rounding anywhere.

Floats are rational numbers with a power of two below, so that a common power of two makes integers
of all of them. Wolfe's method for the point of a hull nearest to the origin then ends at the
exact answer: a corral's equations are solved without fractions (Bareiss), every key is priced, and
the distance falls strictly. Before an answer is returned its optimality is verified, in integers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np

Vector = list[int]


@dataclass(frozen=True)
class Exact:
    """The projection; lengths are in units of 2^exponent, so that no number has a far exponent.

    Attributes:
        exponent: Of the unit.
        keys: k_i − q in units.
        query: q in units.
        support: Keys that carry weight, in rising order.
        shares: Their weights, times `total`.
        total: Σ shares, positive.
        lean: total · (p* − q) in units.
    """

    exponent: int
    keys: list[Vector]
    query: Vector
    support: tuple[int, ...]
    shares: tuple[int, ...]
    total: int
    lean: Vector

    @cached_property
    def offset(self) -> list[Fraction]:
        """p* − q in units."""
        return [Fraction(x, self.total) for x in self.lean]

    @cached_property
    def multipliers(self) -> list[Fraction]:
        """μ_i = ⟨q − p*, p* − k_i⟩ in squared units."""
        level = dot(self.lean, self.lean)
        square = self.total**2
        return [Fraction(self.total * dot(self.lean, v) - level, square) for v in self.keys]

    @property
    def weights(self) -> list[Fraction]:
        """One optimum α, a weight for each key."""
        weights = [Fraction(0)] * len(self.keys)
        for index, share in zip(self.support, self.shares, strict=True):
            weights[index] = Fraction(share, self.total)
        return weights

    @property
    def inside(self) -> bool:
        """The query is a point of the hull."""
        return not any(self.lean)

    @cached_property
    def face(self) -> np.ndarray:
        """(n,) bool, the keys with μ_i = 0."""
        return np.array([m == 0 for m in self.multipliers])

    @property
    def gap(self) -> Fraction | float | None:
        """Δ in squared units; None inside the hull, +inf where every key is on the face."""
        if self.inside:
            return None
        return min((m for m in self.multipliers if m > 0), default=math.inf)

    @property
    def point(self) -> list[Fraction]:
        """p*, absolute, in the units of the input."""
        unit = Fraction(2) ** self.exponent
        return [(q + x) * unit for q, x in zip(self.query, self.offset, strict=True)]


def project(keys: Sequence[Sequence[float]], query: Sequence[float]) -> Exact:
    """Project exactly.

    Args:
        keys: (n, d) finite floats of any type, n ≥ 1.
        query: (d,).
    """
    rows, exponent = as_integers([query, *keys])
    target, given = rows[0], rows[1:]
    moved = [[k - q for k, q in zip(row, target, strict=True)] for row in given]
    support, shares, lean = _nearest_to_origin(moved)
    order = sorted(range(len(support)), key=lambda i: support[i])
    exact = Exact(
        exponent,
        moved,
        target,
        tuple(support[i] for i in order),
        tuple(shares[i] for i in order),
        sum(shares),
        lean,
    )
    _verify(exact)
    return exact


def as_integers(rows: Sequence[Sequence[float]]) -> tuple[list[Vector], int]:
    """Floats as integers times one power of two, the largest that does; and its exponent."""
    parts = [[_split(float(x)) for x in row] for row in rows]
    exponent = min((e for row in parts for m, e in row if m), default=0)
    return [[m << (e - exponent) if m else 0 for m, e in row] for row in parts], exponent


def _split(x: float) -> tuple[int, int]:
    """The pair (m, e) of x = m·2^e with m odd, or m = 0."""
    if not math.isfinite(x):
        raise ValueError(f"the exact projection takes finite numbers, got {x}")
    fraction, exponent = math.frexp(x)
    m = int(math.ldexp(fraction, 53))
    zeros = (m & -m).bit_length() - 1 if m else 0
    return m >> zeros, exponent - 53 + zeros


def dot(a: Sequence, b: Sequence):
    """⟨a, b⟩ without rounding."""
    return sum(x * y for x, y in zip(a, b, strict=True))


def _nearest_to_origin(rows: list[Vector]) -> tuple[list[int], list[int], Vector]:
    """Wolfe's method: support, its weights times their sum, and the point times that sum."""
    support = [min(range(len(rows)), key=lambda i: dot(rows[i], rows[i]))]
    shares, total = [1], 1
    while True:
        lean = [
            sum(s * rows[i][c] for s, i in zip(shares, support, strict=True))
            for c in range(len(rows[0]))
        ]
        products = [dot(lean, row) for row in rows]
        best = min(range(len(rows)), key=products.__getitem__)
        if total * products[best] >= dot(lean, lean):
            return support, shares, lean
        support, shares = [*support, best], [*shares, 0]
        while True:
            wanted = _affine_shares([rows[i] for i in support])
            aim = sum(wanted)
            if min(wanted) > 0:
                shares = wanted
                break
            # θ = min α_i / (α_i − w_i) over w_i ≤ 0, for α = shares/total and w = wanted/aim.
            theta = min(
                Fraction(s * aim, s * aim - w * total)
                for s, w in zip(shares, wanted, strict=True)
                if w <= 0
            )
            a, b = theta.numerator, theta.denominator
            moved = [(b - a) * s * aim + a * w * total for s, w in zip(shares, wanted, strict=True)]
            kept = [i for i, s in enumerate(moved) if s > 0]
            support, shares = [support[i] for i in kept], _lowest([moved[i] for i in kept])
            total = sum(shares)
        shares = _lowest(shares)
        total = sum(shares)


def _lowest(shares: list[int]) -> list[int]:
    divisor = math.gcd(*shares)
    return [s // divisor for s in shares]


def _affine_shares(rows: list[Vector]) -> list[int]:
    """Weights, times a positive number, of the affine hull's point nearest to the origin.

    (G + 1 1ᵀ) u = 1 with G the Gram matrix, positive definite where the rows are affinely
    independent, by Bareiss' elimination: every division leaves no remainder.
    """
    size = len(rows)
    table = [[dot(a, b) + 1 for b in rows] + [1] for a in rows]
    previous = 1
    for k in range(size):
        head = table[k]
        pivot = head[k]
        for i in range(size):
            if i != k:
                row, factor = table[i], table[i][k]
                table[i] = [
                    (pivot * x - factor * h) // previous for x, h in zip(row, head, strict=True)
                ]
        previous = pivot
    return [row[size] for row in table]


def _verify(exact: Exact) -> None:
    """Weights positive, the point theirs, no key below the supporting plane, the support on it."""
    assert min(exact.shares) > 0
    assert sum(exact.shares) == exact.total
    assert exact.lean == [
        sum(s * exact.keys[i][c] for s, i in zip(exact.shares, exact.support, strict=True))
        for c in range(len(exact.lean))
    ]
    level = dot(exact.lean, exact.lean)
    heights = [exact.total * dot(exact.lean, v) - level for v in exact.keys]
    assert min(heights) >= 0
    assert not any(heights[i] for i in exact.support)

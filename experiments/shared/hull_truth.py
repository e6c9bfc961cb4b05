"""What is true of a few keys and a query, by trying every simplex in rational arithmetic.

Shares nothing with the package or its checker: neither their code nor their method. For the tests
of the checker, which has to be wrong about something before it can be caught.
"""

import itertools
from collections import Counter
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import NamedTuple, TypeVar

import numpy as np

Point = tuple[Fraction, ...]
Number = TypeVar("Number", Fraction, Decimal)

_DIGITS = 80
_ERROR = Decimal(10) ** -40  # what Newton's method leaves is far below; no float is so close to h
_MOST = 12  # distinct keys: all their simplices are tried


class Truth(NamedTuple):
    """The projection of a query on a hull.

    Attributes:
        outcome: successful, degenerate_face or inside_hull.
        face: keys whose multiplier is zero.
        gap: the least other multiplier, None if there is none.
        squared: ‖q − p*‖².
        point: p*.
        entropy: of the maximum-entropy weights of p*, to 40 digits.
        tangent: w₀, to 40 digits of its largest coordinate.
    """

    outcome: str
    face: list[int]
    gap: Fraction | None
    squared: Fraction
    point: Point
    entropy: Decimal
    tangent: list[Decimal]


def truth(keys: np.ndarray, query: np.ndarray) -> Truth:
    """The truth about float64 keys (n, d) and a query (d,)."""
    rows = [_point(row) for row in keys]
    q = _point(query)
    distinct = sorted(set(rows))
    if len(distinct) > _MOST:
        raise ValueError(f"{len(distinct)} distinct keys, where at most {_MOST} can be tried")
    nearest = _nearest(distinct, q)
    residual = _minus(q, nearest)
    squared = _dot(residual, residual)
    # μ = ⟨p* − q, k − p*⟩
    multipliers = {row: -_dot(residual, _minus(row, nearest)) for row in distinct}
    exposed = [row for row in distinct if not multipliers[row]]
    carrying = sorted({r for simplex in _simplices(exposed, nearest) for r in simplex})
    face = [i for i, row in enumerate(rows) if not multipliers[row]]
    off = [multiplier for multiplier in multipliers.values() if multiplier]
    strict = len(carrying) == len(exposed)
    outcome = "successful" if strict else "degenerate_face"
    copies = Counter(rows)
    entropy, tangent = _entropy_and_tangent(carrying, [copies[row] for row in carrying], nearest)
    return Truth(
        "inside_hull" if not squared else outcome,
        face,
        min(off, default=None),
        squared,
        nearest,
        entropy,
        tangent,
    )


def near(low: float, high: float, value: Decimal, size: Decimal) -> bool:
    """Whether a number known to 40 digits of a size may lie between two floats."""
    with localcontext(prec=_DIGITS):
        slack = size * _ERROR
        return Decimal(low) <= value + slack and value - slack <= Decimal(high)


def _point(values: np.ndarray) -> Point:
    return tuple(Fraction(float(value)) for value in values)


def _dot(a: Point, b: Point) -> Fraction:
    return sum((x * y for x, y in zip(a, b, strict=True)), Fraction(0))


def _minus(a: Point, b: Point) -> Point:
    return tuple(x - y for x, y in zip(a, b, strict=True))


def _solve(matrix: list[list[Number]]) -> list[Number] | None:
    """The solution of a square system with its right side as last column; None if singular."""
    work, size = [list(line) for line in matrix], len(matrix)
    for c in range(size):
        pivot = max(range(c, size), key=lambda i: abs(work[i][c]))
        if not work[pivot][c]:
            return None
        work[c], work[pivot] = work[pivot], work[c]
        work[c] = [value / work[c][c] for value in work[c]]
        for i in range(size):
            if i != c and work[i][c]:
                factor = work[i][c]
                work[i] = [x - factor * y for x, y in zip(work[i], work[c], strict=True)]
    return [line[-1] for line in work]


def _weights(simplex: tuple[Point, ...], target: Point) -> list[Fraction] | None:
    """Weights of the point of the affine hull nearest to the target; None if dependent."""
    edges = [_minus(row, simplex[0]) for row in simplex[1:]]
    aim = _minus(target, simplex[0])
    solved = _solve([[*(_dot(a, b) for b in edges), _dot(a, aim)] for a in edges])
    return None if solved is None else [1 - sum(solved, Fraction(0)), *solved]


def _mean(simplex: tuple[Point, ...], weights: list[Fraction]) -> Point:
    return tuple(
        sum((w * x for w, x in zip(weights, column, strict=True)), Fraction(0))
        for column in zip(*simplex, strict=True)
    )


def _subsets(rows: list[Point]) -> "itertools.chain[tuple[Point, ...]]":
    most = min(len(rows), len(rows[0]) + 1)
    return itertools.chain.from_iterable(
        itertools.combinations(rows, size) for size in range(1, most + 1)
    )


def _nearest(rows: list[Point], q: Point) -> Point:
    best: tuple[Fraction, Point] | None = None
    for simplex in _subsets(rows):
        weights = _weights(simplex, q)
        if weights is None or min(weights) <= 0:
            continue
        point = _mean(simplex, weights)
        away = _minus(q, point)
        if best is None or _dot(away, away) < best[0]:
            best = (_dot(away, away), point)
    assert best is not None  # a single key is a simplex
    return best[1]


def _simplices(rows: list[Point], point: Point) -> list[tuple[Point, ...]]:
    """Those that hold the point in their relative interior: corners of all its weights."""
    found = []
    for simplex in _subsets(rows):
        weights = _weights(simplex, point)
        if weights and min(weights) > 0 and _mean(simplex, weights) == point:
            found.append(simplex)
    return found


def _entropy_and_tangent(
    rows: list[Point], copies: list[int], point: Point
) -> tuple[Decimal, list[Decimal]]:
    """Newton's method for h = min_w log Σ c e^{⟨w, v⟩} and its w, on a basis of the span."""
    offsets = [_minus(row, point) for row in rows]
    basis: list[Point] = []
    for offset in offsets:
        tried = [*basis, offset]
        if _solve([[*(_dot(a, b) for b in tried), Fraction(0)] for a in tried]) is not None:
            basis = tried
    with localcontext(prec=_DIGITS):
        places = [[_decimal(_dot(offset, b)) for b in basis] for offset in offsets]
        at = [Decimal(0)] * len(basis)
        for _ in range(200):
            height, gradient, step = _newton(places, copies, at)
            decrease = sum((s * g for s, g in zip(step, gradient, strict=True)), Decimal(0))
            if decrease <= Decimal(10) ** -50:
                break
            length = Decimal(1)
            while length > Decimal(10) ** -12:
                moved = [a - length * s for a, s in zip(at, step, strict=True)]
                if _slope(places, copies, moved)[0] < height:
                    break
                length /= 2
            at = moved
        else:
            raise ArithmeticError("Newton's method on the entropy did not settle")
        # From here each whole step doubles the digits, up to those that are computed with.
        for _ in range(2):
            at = [a - s for a, s in zip(at, step, strict=True)]
            height, _, step = _newton(places, copies, at)
        d = len(point)
        columns = [[_decimal(b[k]) for b in basis] for k in range(d)]
        tangent = [
            sum((a * x for a, x in zip(at, column, strict=True)), Decimal(0)) for column in columns
        ]
        return height, tangent


def _decimal(value: Fraction) -> Decimal:
    return Decimal(value.numerator) / Decimal(value.denominator)


def _newton(
    places: list[list[Decimal]], copies: list[int], at: list[Decimal]
) -> tuple[Decimal, list[Decimal], list[Decimal]]:
    """Height, gradient and Newton's step."""
    height, gradient, hessian = _slope(places, copies, at)
    step = _solve([[*line, slope] for line, slope in zip(hessian, gradient, strict=True)])
    assert step is not None  # the places span their space
    return height, gradient, step


def _slope(
    places: list[list[Decimal]], copies: list[int], at: list[Decimal]
) -> tuple[Decimal, list[Decimal], list[list[Decimal]]]:
    exponents = [sum((a * z for a, z in zip(at, p, strict=True)), Decimal(0)) for p in places]
    top = max(exponents)
    terms = [c * (e - top).exp() for c, e in zip(copies, exponents, strict=True)]
    mass = sum(terms, Decimal(0))
    shares = [term / mass for term in terms]
    size = range(len(at))
    gradient = [
        sum((s * p[i] for s, p in zip(shares, places, strict=True)), Decimal(0)) for i in size
    ]
    hessian = [
        [
            sum((s * p[i] * p[j] for s, p in zip(shares, places, strict=True)), Decimal(0))
            - gradient[i] * gradient[j]
            for j in size
        ]
        for i in size
    ]
    return mass.ln() + top, gradient, hessian

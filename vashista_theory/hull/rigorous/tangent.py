r"""Enclosures of the tangent w₀ and the entropy h on a face with strict complementarity.

.. math:: h = \min_w \log\sum_{j\in F} e^{\langle w, v_j\rangle}, \qquad v_j = k_j - p^*

On an affinely independent face the weights α are known and w₀ solves a linear system:
⟨w₀, k_j − k_0⟩ = log α_j − log α_0. On a dependent one Newton's method proposes w₀ and the
Krawczyk operator proves that exactly one minimiser lies in a box around the proposal.
"""

from typing import Any, NamedTuple

from vashista_theory.hull.rigorous.balls import DIGITS, Ball, Rational, flint, total
from vashista_theory.hull.rigorous.problem import ExactProblem
from vashista_theory.hull.rigorous.support import Undecided

_LADDER = (192, 384, 768, 1536, 3072)
_NEWTON_STEPS = 200
_WIDENINGS = 8


class Tangent(NamedTuple):
    """Enclosures in the problem's own unit of length, in balls.

    Attributes:
        vector: w₀, one over the unit.
        entropy: h in nats.
        weights: mass of the maximum-entropy weights by row, copies of a key together.
    """

    vector: list[Ball]
    entropy: Ball
    weights: dict[int, Ball]


def enclose_tangent(problem: ExactProblem, weights: dict[int, Rational]) -> Tangent:
    """Enclose w₀ and h, given exact positive weights on every row of the face.

    Raises:
        Undecided: no precision tried gives an enclosure.
    """
    rows = list(weights)
    independent = len(rows) == 1 or _edges(problem, rows).rank() == len(rows) - 1
    reach = max(int(x).bit_length() for row in rows for x in problem.row(row))
    for precision in _LADDER:
        with flint.ctx.workprec(precision):
            enclosed = _linear if independent else _krawczyk
            found = enclosed(problem, weights)
        if found is not None and _accurate(found, reach):
            return found
    raise Undecided("tangent and entropy of this face: no precision tried encloses them")


def entropy_of(problem: ExactProblem, weights: dict[int, Ball]) -> Ball:
    """Entropy of weights given by row, spread evenly over the copies of each key."""
    return -total(w * (w / problem.counts[row]).log() for row, w in weights.items())


def _edges(problem: ExactProblem, rows: list[int]) -> Any:
    start = problem.row(rows[0])
    return flint.fmpz_mat(
        [[x - o for x, o in zip(problem.row(row), start, strict=True)] for row in rows[1:]]
    )


def _accurate(found: Tangent, reach: int) -> bool:
    """Whether w₀ and h are known to the digits wanted; rows are shorter than 2^reach."""
    largest = max(coordinate.abs_upper() for coordinate in found.vector)
    wide = max(coordinate.rad() for coordinate in found.vector)
    small = flint.arb((1, -DIGITS))
    # A vanishing tangent has no relative accuracy: ⟨w₀, v⟩ is then known to DIGITS twice over.
    allowed = small * largest + flint.arb((1, -2 * DIGITS - reach))
    return bool(wide <= allowed) and bool(found.entropy.rad() <= small)


def _linear(problem: ExactProblem, weights: dict[int, Rational]) -> Tangent | None:
    rows = list(weights)
    masses = {row: flint.arb(weight) for row, weight in weights.items()}
    entropy = entropy_of(problem, masses)
    if len(rows) == 1:
        return Tangent([flint.arb(0)] * problem.dimension, entropy, masses)
    logs = [(masses[row] / problem.counts[row]).log() for row in rows]
    edges = _edges(problem, rows)
    right = flint.arb_mat(len(rows) - 1, 1, [value - logs[0] for value in logs[1:]])
    gram = flint.arb_mat(edges * edges.transpose())
    coefficients = gram.solve(right, nonstop=True)
    vector = (flint.arb_mat(edges.transpose()) * coefficients).entries()
    return Tangent(vector, entropy, masses) if vector[0].is_finite() else None


def _krawczyk(problem: ExactProblem, weights: dict[int, Rational]) -> Tangent | None:
    """Newton in coordinates c of the face's span, w = Dᵀc, then a box proved to hold the zero."""
    rows = list(weights)
    reduced, _, rank = _edges(problem, rows).rref()
    # The rows of the reduced form span the face's directions and are independent.
    span = flint.arb_mat([[reduced[i, k] for k in range(problem.dimension)] for i in range(rank)])
    span = _unit_rows(span)
    mean = [
        sum((w * problem.rows[row, k] for row, w in weights.items()), flint.fmpq(0))
        for k in range(problem.dimension)
    ]
    seen = flint.arb_mat(
        [
            [flint.arb(problem.rows[row, k] - mean[k]) for k in range(problem.dimension)]
            for row in rows
        ]
    )
    places = seen * span.transpose()
    counts = [problem.counts[row] for row in rows]
    start = _newton(places, counts, rank)
    if start is None:
        return None
    value, _ = _slope(places, counts, start)
    inverse = _inverse(_slope(places, counts, start)[1])
    if inverse is None:
        return None
    correction = inverse * value
    radius = max(entry.abs_upper() for entry in correction.entries())
    radius = radius * 2 + flint.arb((1, -flint.ctx.prec))
    for _ in range(_WIDENINGS):
        box = flint.arb_mat(rank, 1, [flint.arb(c.mid(), radius.upper()) for c in start.entries()])
        slopes = _slope(places, counts, box)[1]
        identity = flint.arb_mat(rank, rank, [int(i % (rank + 1) == 0) for i in range(rank**2)])
        image = start - correction + (identity - inverse * slopes) * (box - start)
        pairs = zip(box.entries(), image.entries(), strict=True)
        if all(outer.contains_interior(inner) for outer, inner in pairs):
            return _at(rows, counts, places, span, image)
        radius = radius * 16
    return None


def _unit_rows(span: Any) -> Any:
    lines = []
    for line in span.tolist():
        size = max(entry.abs_upper() for entry in line)
        lines.append([entry / size for entry in line])
    return flint.arb_mat(lines)


def _at(rows: list[int], counts: list[int], places: Any, span: Any, zero: Any) -> Tangent:
    exponents = (places * zero).entries()
    terms = [c * e.exp() for c, e in zip(counts, exponents, strict=True)]
    mass = total(terms)
    masses = {row: term / mass for row, term in zip(rows, terms, strict=True)}
    vector = (span.transpose() * zero).entries()
    return Tangent(vector, mass.log(), masses)


def _slope(places: Any, counts: list[int], at: Any) -> tuple[Any, Any]:
    """Gradient and Hessian of log Σ c_j e^{⟨c, z_j⟩} in balls."""
    exponents = (places * at).entries()
    top = max((e.mid() for e in exponents), key=lambda e: e)
    terms = [c * (e - top).exp() for c, e in zip(counts, exponents, strict=True)]
    mass = total(terms)
    shares = [term / mass for term in terms]
    gradient = places.transpose() * flint.arb_mat(len(shares), 1, shares)
    scaled = flint.arb_mat(
        [[share * z for z in line] for share, line in zip(shares, places.tolist(), strict=True)]
    )
    return gradient, places.transpose() * scaled - gradient * gradient.transpose()


def _inverse(matrix: Any) -> Any | None:
    try:
        return matrix.mid().inv().mid()
    except ZeroDivisionError:
        return None


def _newton(places: Any, counts: list[int], rank: int) -> Any | None:
    """A point near the minimiser: midpoints only, damped where the objective would rise."""
    at = flint.arb_mat(rank, 1)

    def height(point: Any) -> Ball:
        exponents = (places * point).entries()
        terms = (c * e.exp() for c, e in zip(counts, exponents, strict=True))
        return total(terms).log().mid()

    for _ in range(_NEWTON_STEPS):
        gradient, hessian = _slope(places, counts, at)
        inverse = _inverse(hessian)
        if inverse is None:
            return None
        step, length, here = (inverse * gradient).mid(), flint.arb(1), height(at)
        while height((at - step * length).mid()) > here and length > 1e-9:
            length = length / 2
        at = (at - step * length).mid()
        size = max(entry.abs_upper() for entry in step.entries())
        if size < flint.arb((1, -flint.ctx.prec // 2)):
            return at
    return at

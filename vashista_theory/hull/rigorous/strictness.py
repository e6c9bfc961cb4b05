"""Whether p* lies in the relative interior of its exposed face, settled in rational arithmetic.

The support spans part of the smallest face G that contains p*. Seen across that span, the other
rows of F either hold the origin in their hull, and then those that carry it belong to G too, or
they stay away from it by ρ > 0, and then strict complementarity fails with exactly that ρ (T5).
Which of the two is one more projection, of the origin, by the same proved search.
"""

from typing import NamedTuple

import numpy as np

from vashista_theory.hull.rigorous.balls import DIGITS, Ball, Integer, Rational, flint
from vashista_theory.hull.rigorous.problem import ExactProblem
from vashista_theory.hull.rigorous.search import Proved, prove
from vashista_theory.hull.rigorous.support import Support, Undecided

LARGEST_FACE = 600
"""Distinct rows of an affinely dependent face beyond which no decision is tried."""

LONGEST_SYSTEM = 60_000
"""Bits of the determinant of a support beyond which no decision is tried."""


class Strictness(NamedTuple):
    """The smallest face with weights that prove it.

    Attributes:
        weights: positive and exact, of sum 1, by row of G; their point is p*.
        strict: G = F.
        margin: integers y, constant on G and larger on F∖G, where strict complementarity fails.
    """

    weights: dict[int, Rational]
    strict: bool
    margin: list[int] | None


def decide_strictness(problem: ExactProblem, proved: Proved) -> Strictness:
    """Decide strict complementarity of a proved face outside the hull.

    Raises:
        Undecided: the face is too large for rational arithmetic.
    """
    support = proved.support
    rest = sorted(set(proved.face) - set(support.indices))
    weights = dict(zip(support.indices, support.exact[0], strict=True))
    long = len(support.indices) * _bits(support) > LONGEST_SYSTEM
    if rest and (long or len(proved.face) > LARGEST_FACE):
        raise Undecided(
            f"strict complementarity on an affinely dependent face of {len(proved.face)} distinct "
            "keys, too large for rational arithmetic"
        )
    basis = list(support.indices)
    while rest:
        across = _across(problem, basis, rest)
        flat = [row for row, part in zip(rest, across, strict=True) if not any(part)]
        if flat:
            share = {row: flint.fmpq(1, len(flat)) for row in flat}
        else:
            seen = _from_origin(across)
            found = prove(seen, {})
            if not found.inside:
                step = found.support.exact_step
                common = flint.fmpz(1)
                for value in step:
                    common = common.lcm(value.q)
                return Strictness(weights, False, [int((value * common).p) for value in step])
            copies = [seen.row_of_key.tolist().index(row) for row in found.support.indices]
            share = {
                rest[copy]: weight
                for copy, weight in zip(copies, found.support.exact[0], strict=True)
            }
        weights = _joined(problem, weights, basis, share)
        basis = _independent(problem, [*basis, *share])
        rest = sorted(set(rest) - set(share))
    return Strictness(weights, True, None)


def _bits(support: Support) -> int:
    return max(int(x).bit_length() for i in support.indices for x in support.problem.row(i)) * 2


def _edges(problem: ExactProblem, rows: list[int], origin: int) -> list[list[Integer]]:
    start = problem.row(origin)
    return [[x - o for x, o in zip(problem.row(row), start, strict=True)] for row in rows]


def _across(problem: ExactProblem, basis: list[int], rest: list[int]) -> list[list[Integer]]:
    """Parts of the rest orthogonal to the span of the basis, in one integer unit of length."""
    relative = flint.fmpz_mat(_edges(problem, rest, basis[0]))
    if len(basis) == 1:
        return relative.tolist()
    edges = flint.fmpz_mat(_edges(problem, basis[1:], basis[0]))
    along = (edges * edges.transpose()).solve(edges * relative.transpose())
    across = flint.fmpq_mat(relative) - along.transpose() * flint.fmpq_mat(edges)
    return across.numer_denom()[0].tolist()


def _from_origin(rows: list[list[Integer]]) -> ExactProblem:
    keys = [tuple(int(x) for x in row) for row in rows]
    distinct = sorted(set(keys))
    row_of_key = np.array([distinct.index(key) for key in keys])
    counts = np.bincount(row_of_key).tolist()
    return ExactProblem(
        flint.fmpz_mat([list(row) for row in distinct]), 0, row_of_key, counts, [0] * len(rows[0])
    )


def _joined(
    problem: ExactProblem,
    weights: dict[int, Rational],
    basis: list[int],
    share: dict[int, Rational],
) -> dict[int, Rational]:
    """Positive weights of p* on G and on rows whose weighted mean lies in the span of the basis."""
    d = problem.dimension
    mean = [sum(w * problem.rows[row, k] for row, w in share.items()) for k in range(d)]
    start = problem.row(basis[0])
    coordinates: list[Rational] = []
    if len(basis) > 1:
        edges = flint.fmpz_mat(_edges(problem, basis[1:], basis[0]))
        offset = flint.fmpq_mat(d, 1, [m - s for m, s in zip(mean, start, strict=True)])
        right = flint.fmpq_mat(edges) * offset
        coordinates = flint.fmpq_mat(edges * edges.transpose()).solve(right).entries()
    same_point = dict(zip(basis[1:], coordinates, strict=True))
    same_point[basis[0]] = 1 - sum(coordinates, flint.fmpq(0))
    part = flint.fmpq(1, 2)
    for row, coefficient in same_point.items():
        if coefficient > 0:
            part = min(part, weights[row] / (2 * coefficient))
    joined = {row: w - part * same_point.get(row, 0) for row, w in weights.items()}
    for row, weight in share.items():
        joined[row] = joined.get(row, flint.fmpq(0)) + part * weight
    return joined


def weights_near(
    problem: ExactProblem, weights: dict[int, Rational], wanted: dict[int, Ball]
) -> dict[int, Rational]:
    """Exact positive weights of the same point, beside the ones wanted; else those given.

    Rows beyond an affine basis get the wanted weight as a short binary fraction, the basis what
    is then left.
    """
    rows = list(weights)
    basis = _independent(problem, rows)
    if len(basis) == len(rows):
        return weights
    near = {row: _short(wanted[row]) for row in rows if row not in set(basis)}
    left = {row: weights[row] - near.get(row, 0) for row in rows}
    d = problem.dimension
    mean = [sum(w * problem.rows[row, k] for row, w in left.items()) for k in range(d)]
    mass = sum(left.values(), flint.fmpq(0))
    if len(basis) > 1:
        edges = flint.fmpz_mat(_edges(problem, basis[1:], basis[0]))
        start = problem.row(basis[0])
        offset = flint.fmpq_mat(d, 1, [m - mass * s for m, s in zip(mean, start, strict=True)])
        gram = flint.fmpq_mat(edges * edges.transpose())
        solved = gram.solve(flint.fmpq_mat(edges) * offset).entries()
        near |= dict(zip(basis[1:], solved, strict=True))
        mass -= sum(solved, flint.fmpq(0))
    near[basis[0]] = mass
    return near if min(near.values()) > 0 else weights


def _short(ball: Ball) -> Rational:
    mantissa, exponent = ball.mid().man_exp()
    cut = max(0, int(mantissa).bit_length() - 2 * DIGITS)
    whole, exponent = int(mantissa) >> cut, int(exponent) + cut
    return flint.fmpq(whole << max(exponent, 0), 1 << max(-exponent, 0))


def _independent(problem: ExactProblem, rows: list[int]) -> list[int]:
    """A largest affinely independent part, the first row in it."""
    edges = flint.fmpz_mat(_edges(problem, rows[1:], rows[0])).transpose()
    reduced, _, rank = edges.rref()
    pivots: list[int] = []
    for line in range(rank):
        column = next(k for k in range(edges.ncols()) if reduced[line, k] != 0)
        pivots.append(column)
    return [rows[0], *(rows[1 + column] for column in pivots)]

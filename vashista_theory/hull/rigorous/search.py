"""From a proposed support to a proved one: Wolfe's active set, every sign of it certain.

The float solver's answer is right up to its rounding, so as a rule nothing is left to do but prove
it. Where the exact binary numbers put the nearest point elsewhere by less than rounding (a query on
the boundary, keys coplanar to rounding only), the search goes on from there, exactly.
"""

from typing import Any, NamedTuple

import numpy as np

from vashista_theory.hull.rigorous.balls import PRECISIONS, Ball, flint
from vashista_theory.hull.rigorous.problem import ExactProblem
from vashista_theory.hull.rigorous.support import Support, Undecided


class Proved(NamedTuple):
    """A support whose weights are proved positive, and what follows.

    Attributes:
        support: affinely independent, all weights positive.
        inside: the query is in the hull; then `face` is every row.
        face: rows whose multiplier is zero.
        steps: changes of the support that the proposal needed.
    """

    support: Support
    inside: bool
    face: list[int]
    steps: int


def prove(problem: ExactProblem, proposal: dict[int, float]) -> Proved:
    """Find and prove the support of p*, starting from proposed rows and weights.

    Raises:
        Undecided: no proof within the limits; the message says what is open.
    """
    weights = _started(problem, proposal)
    limit = 100 + 20 * problem.dimension
    for steps in range(limit):
        support = Support(problem, list(weights))
        if min(support.weight_signs) <= 0:
            weights = _shortened(support, weights)
            continue
        if support.level_sign == 0:
            return Proved(support, True, list(range(problem.size)), steps)
        signs = support.multiplier_signs
        if signs.min() >= 0:
            return Proved(support, False, np.flatnonzero(signs == 0).tolist(), steps)
        weights = _extended(support, signs)
    raise Undecided(f"the exact active set did not settle in {limit} steps")


def _started(problem: ExactProblem, proposal: dict[int, float]) -> dict[int, Ball]:
    usable = 0 < len(proposal) <= problem.dimension + 1
    if usable and len(proposal) > 1:
        rows = problem.gather(list(proposal))
        first = problem.row(next(iter(proposal)))
        edges = [
            [rows[i, j] - first[j] for j in range(rows.ncols())] for i in range(1, rows.nrows())
        ]
        usable = flint.fmpz_mat(edges).rank() == len(edges)
    if usable:
        return {index: flint.arb(weight) for index, weight in proposal.items()}
    lengths = [sum(x * x for x in problem.row(index)) for index in range(problem.size)]
    return {lengths.index(min(lengths)): flint.arb(1)}


def _shortened(support: Support, weights: dict[int, Ball]) -> dict[int, Ball]:
    """Move from the weights towards the support's own until one vanishes, and drop that row."""
    target = dict(zip(support.indices, _middles(support), strict=True))
    falling = [
        i for i, sign in zip(support.indices, support.weight_signs, strict=True) if sign <= 0
    ]
    with flint.ctx.workprec(PRECISIONS[-1]):
        share = {i: weights[i] / (weights[i] - target[i]) for i in falling}
        first = min(falling, key=lambda i: _order(share[i]))
        part = share[first].mid()
        moved = {i: (w + part * (target[i] - w)).mid() for i, w in weights.items() if i != first}
        # Rounding of the path may leave a weight a hair below zero; its size does not matter.
        tiny = flint.arb((1, -PRECISIONS[-1]))
        return {i: w if w > 0 else tiny for i, w in moved.items()}


def _order(share: Ball) -> Any:
    middle = share.mid()
    return middle if middle.is_finite() else flint.arb(0)


def _extended(support: Support, signs: np.ndarray) -> dict[int, Ball]:
    """Add the row of the most negative multiplier."""
    negative = np.flatnonzero(signs < 0).tolist()
    rows = support.problem.gather(negative)
    values = [value.mid() for value in support.multipliers(rows, PRECISIONS[-1])]
    worst = negative[min(range(len(values)), key=lambda i: values[i])]
    return {**dict(zip(support.indices, _middles(support), strict=True)), worst: flint.arb(0)}


def _middles(support: Support) -> list[Ball]:
    """Midpoints of α, exact where the precision leaves none."""
    middles = [ball.mid() for ball in support.balls(PRECISIONS[-1])[0]]
    if all(middle.is_finite() for middle in middles):
        return middles
    with flint.ctx.workprec(PRECISIONS[-1]):
        return [flint.arb(value).mid() for value in support.exact[0]]

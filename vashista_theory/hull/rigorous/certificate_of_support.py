"""From a proved support to a `Certificate`."""

from typing import Any, NamedTuple

import numpy as np

from vashista_theory.hull.rigorous.balls import (
    Ball,
    Enclosure,
    ceil_float,
    enclose,
    enclose_all,
    flint,
    floor_float,
    total,
)
from vashista_theory.hull.rigorous.bounds import Constants
from vashista_theory.hull.rigorous.certificate import Certificate, Witness, digest
from vashista_theory.hull.rigorous.face_in_balls import LADDER, View
from vashista_theory.hull.rigorous.problem import ExactProblem
from vashista_theory.hull.rigorous.search import Proved
from vashista_theory.hull.rigorous.strictness import Strictness, decide_strictness, weights_near
from vashista_theory.hull.rigorous.support import Support, Undecided
from vashista_theory.hull.rigorous.tangent import Tangent, enclose_tangent, entropy_of

_NAN = float("nan")
_AT_ROUNDING_LEVEL = (
    "The gap or a weight is at the rounding level of the input: the face is that of these exact "
    "numbers, and other roundings of the same data may have another."
)
_NOT_SAVED = "The exact weights are too long to be saved."


def nothing(keys: np.ndarray, query: np.ndarray, reason: str) -> Certificate:
    """The certificate of what was not settled."""
    n, d = keys.shape
    return Certificate(
        outcome="ambiguous_face",
        reason=reason,
        face=np.zeros(n, np.bool_),
        gap_lower=_NAN,
        gap_upper=_NAN,
        residual_norm=Enclosure(_NAN, _NAN),
        point=_undefined(d),
        multipliers=_undefined(n),
        weights=_undefined(n),
        tangent=_undefined(d),
        entropy=Enclosure(_NAN, _NAN),
        steps=0,
        keys=keys,
        query=query,
        constants=None,
        witness=None,
    )


def inside(
    keys: np.ndarray, query: np.ndarray, problem: ExactProblem, proved: Proved
) -> Certificate:
    """The certificate of a query proved to be a convex combination of keys."""
    n, d = keys.shape
    exact = _exact_weights(proved.support)
    with flint.ctx.workprec(LADDER[0]):
        weights = exact or _ball_weights(proved.support)
        balls = {row: flint.arb(weight) for row, weight in weights.items()}
        least = entropy_of(problem, balls)
        entropy = _between(least, flint.arb(n).log())
        constants = Constants(n, n, least, None, [], None, inside=True)
        by_key = _by_key(problem, balls)
    witness = None
    if exact is not None:
        witness = _witness(keys, query, problem, exact, None, [0.0] * d)
    return Certificate(
        outcome="inside_hull",
        reason="" if exact else _NOT_SAVED,
        face=np.ones(n, np.bool_),
        gap_lower=_NAN,
        gap_upper=_NAN,
        residual_norm=Enclosure(0.0, 0.0),
        point=Enclosure(query.copy(), query.copy()),
        multipliers=Enclosure(np.zeros(n), np.zeros(n)),
        weights=by_key,
        tangent=_undefined(d),
        entropy=entropy,
        steps=proved.steps,
        keys=keys,
        query=query,
        constants=constants,
        witness=witness,
    )


def outside(
    keys: np.ndarray, query: np.ndarray, problem: ExactProblem, proved: Proved
) -> Certificate:
    """The certificate of a query proved to be outside the hull."""
    n, d = keys.shape
    view, settled = View(problem, proved), _settle_face(problem, proved)
    strict = settled.outcome == "successful"
    face = np.isin(problem.row_of_key, proved.face)
    tangent = settled.tangent
    with flint.ctx.workprec(view.precision):
        vector = None if tangent is None else [w / view.unit for w in tangent.vector]
        shown = vector if strict else None
        norm = None if shown is None else total(w * w for w in shown).sqrt()
        off_face = view.off_face(None if shown is None or tangent is None else tangent.vector)
        feasible = _ball_weights(proved.support)
        if tangent is None:
            least = entropy_of(problem, feasible)
            entropy = _between(least, flint.arb(int(face.sum())).log())
            weights = _undefined(n)
        else:
            least, entropy = tangent.entropy, enclose(tangent.entropy)
            weights = _by_key(problem, tangent.weights)
        constants = Constants(n, int(face.sum()), least, norm, off_face, view.gap, inside=False)
        gap = Enclosure(np.inf, np.inf) if view.gap is None else enclose(view.gap)
        reasons = list(settled.reasons)
        if view.at_rounding_level(list(feasible.values())):
            reasons.append(_AT_ROUNDING_LEVEL)
        multipliers = enclose_all(view.multipliers)
        witness = None
        if settled.exact is not None:
            exact = settled.exact.weights
            if tangent is not None:
                exact = weights_near(problem, exact, tangent.weights)
            tilt = [0.0] * d if vector is None else [_middle(w) for w in vector]
            witness = _witness(keys, query, problem, exact, settled.exact.margin, tilt)
        return Certificate(
            outcome=settled.outcome,
            reason=" ".join(reasons),
            face=face,
            gap_lower=gap.lower,
            gap_upper=gap.upper,
            residual_norm=enclose(view.residual_norm),
            point=enclose_all(view.point),
            multipliers=Enclosure(*(end[problem.row_of_key] for end in multipliers)),
            weights=weights,
            tangent=_undefined(d) if shown is None else enclose_all(shown),
            entropy=entropy,
            steps=proved.steps,
            keys=keys,
            query=query,
            constants=constants,
            witness=witness,
        )


class _Settled(NamedTuple):
    outcome: str
    exact: Strictness | None
    tangent: Tangent | None
    reasons: tuple[str, ...]


def _settle_face(problem: ExactProblem, proved: Proved) -> _Settled:
    """Strict complementarity, tangent and entropy, each as far as it can be proved."""
    exact: Strictness | None = None
    reasons: tuple[str, ...] = ()
    independent = len(proved.face) == len(proved.support.indices)
    weights: dict[int, Any] = _ball_weights(proved.support)
    if independent and _exact_weights(proved.support) is None:
        outcome, reasons = "successful", (_NOT_SAVED,)
    else:
        try:
            exact = decide_strictness(problem, proved)
        except Undecided as open_:
            return _Settled("ambiguous_face", None, None, (f"Not settled: {open_}.",))
        outcome = "successful" if exact.strict else "degenerate_face"
        weights = exact.weights
    try:
        tangent = enclose_tangent(problem, weights)
    except Undecided as open_:
        return _Settled(outcome, exact, None, (*reasons, f"Not settled: {open_}."))
    return _Settled(outcome, exact, tangent, reasons)


def _exact_weights(support: Support) -> dict[int, Any] | None:
    try:
        return dict(zip(support.indices, support.exact[0], strict=True))
    except Undecided:
        return None


def _ball_weights(support: Support) -> dict[int, Ball]:
    balls = support.balls(LADDER[-1])[0]
    if not all(ball > 0 for ball in balls):
        balls = [flint.arb(weight) for weight in support.exact[0]]
    return dict(zip(support.indices, balls, strict=True))


def _between(least: Ball, most: Ball) -> Enclosure:
    return Enclosure(max(floor_float(least), 0.0), ceil_float(most))


def _undefined(size: int) -> Enclosure:
    return Enclosure(np.full(size, np.nan), np.full(size, np.nan))


def _middle(ball: Ball) -> float:
    value = float(ball.mid())
    return value if np.isfinite(value) else 0.0


def _by_key(problem: ExactProblem, masses: dict[int, Ball]) -> Enclosure:
    lower, upper = np.zeros(problem.size), np.zeros(problem.size)
    for row, mass in masses.items():
        share = mass / problem.counts[row]
        lower[row], upper[row] = floor_float(share), ceil_float(share)
    return Enclosure(lower[problem.row_of_key], upper[problem.row_of_key])


def _witness(
    keys: np.ndarray,
    query: np.ndarray,
    problem: ExactProblem,
    masses: dict[int, Any],
    margin: list[int] | None,
    tilt: list[float],
) -> Witness:
    weights = {
        int(key): masses[row] / problem.counts[row]
        for key, row in enumerate(problem.row_of_key.tolist())
        if row in masses
    }
    return Witness(digest(keys, query), weights, margin, tilt)

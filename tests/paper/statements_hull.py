"""What the labelled displays of Sections 2 and 3 say, evaluated on planted hulls (T1 to T3)."""

import dataclasses
import random
from collections.abc import Iterable

from mpmath import mp, mpf

from tests.paper import planted
from tests.paper.about_hulls import (
    about_hulls,
    every_case,
    farther,
    heavier,
    hotter,
    less_entropy,
    strict_cases,
)
from tests.paper.planted import (
    Case,
    axpy,
    combine,
    divergence,
    dot,
    entropy,
    logsumexp,
    norm,
    relax,
    softmax,
)
from tests.paper.statement import Pairs, of_changed, plus, times

# ---------------------------------------------------------------- Section 2


def _trials(case: Case) -> list[list[mpf]]:
    draw = random.Random(len(case.v))
    made = [[mpf(draw.expovariate(1)) for _ in case.v] for _ in range(3)]
    return [case.alpha, case.optimal, *([w / mp.fsum(row) for w in row] for row in made)]


def _dual(case: Case, alpha: list[mpf]) -> tuple[list[mpf], list[mpf], mpf]:
    point = combine(alpha, case.hull.keys)
    u = axpy(mpf(-1), point, case.hull.query)
    gap = max(dot(u, k) for k in case.hull.keys) - dot(u, point)
    return point, u, gap


@about_hulls("id:gap", farther)
def _(case: Case) -> Pairs:
    _, u, gap = _dual(case, case.alpha)
    primal = norm(axpy(mpf(-1), case.delta, case.hull.residual)) ** 2 / 2
    # The Lagrangian at its minimiser x = q − u, and above that elsewhere.
    best = max(dot(u, k) for k in case.hull.keys)
    yield gap, primal - (dot(u, u) / 2 + dot(u, axpy(mpf(-1), u, case.hull.query)) - best)


@about_hulls("ineq:gap", of_changed(lambda c: dataclasses.replace(c, mu=[m + 5 for m in c.mu])))
def _(case: Case) -> Pairs:
    for alpha in _trials(case):
        point, _, gap = _dual(case, alpha)
        moved = axpy(mpf(-1), case.hull.point, point)
        yield dot(moved, moved) + dot(alpha, case.mu), gap


@about_hulls("id:fixedpoint", hotter, cases=every_case)
def _(case: Case) -> Pairs:
    logits = [
        -(m + dot(case.delta, v)) / case.epsilon for m, v in zip(case.mu, case.v, strict=True)
    ]
    c = logsumexp(logits)
    yield from ((mp.log(a), x - c) for a, x in zip(case.alpha, logits, strict=True))


@about_hulls("id:entropy, of the optimum", less_entropy, cases=every_case)
def _(case: Case) -> Pairs:
    yield case.h, entropy(case.optimal)


@of_changed
def _even(case: Case) -> Case:
    """An optimum that knows nothing of the keys."""
    return dataclasses.replace(case, optimal=[mpf(1) / len(case.v)] * len(case.v))


@about_hulls("id:entropy, what is optimal", _even, cases=every_case)
def _(case: Case) -> Pairs:
    yield norm(combine(case.optimal, case.v)), mpf(0)


@about_hulls("id:entropy, of the dual", less_entropy, cases=every_case)
def _(case: Case) -> Pairs:
    face = [case.v[j] for j in case.hull.face]
    w = list(case.tangent)
    if case.hull.margin is not None:  # the infimum is approached along −y
        w = axpy(mpf(-300), case.hull.margin, w)
    yield case.h, logsumexp([dot(w, v) for v in face])


# ---------------------------------------------------------------- (★) and T1


def _tilts(case: Case) -> list[list[mpf]]:
    draw = random.Random(7)
    made = [[mpf(draw.gauss(0, 2)) for _ in case.delta] for _ in range(2)]
    return [[mpf(0)] * len(case.delta), case.tangent, *made]


@about_hulls("id:star", hotter, cases=every_case)
def _(case: Case) -> Pairs:
    for w in _tilts(case):
        logits = case.logits(w)
        kl = divergence(case.optimal, case.alpha) + divergence(case.alpha, softmax(logits))
        left = dot(case.delta, case.delta) + case.epsilon * (dot(w, case.delta) + kl)
        yield left, case.epsilon * (logsumexp(logits) - case.h)


def _constant(case: Case) -> mpf:
    """C of the fixed point: log Σ exp(−μ/ε − ⟨δ, v⟩/ε)."""
    return logsumexp(case.logits([-x / case.epsilon for x in case.delta]))


@about_hulls("id:c", less_entropy, cases=every_case)
def _(case: Case) -> Pairs:
    yield divergence(case.optimal, case.alpha), _constant(case) - case.h


def _log_n(case: Case) -> mpf:
    return mp.log(len(case.v))


def _b(case: Case) -> mpf:
    return mp.sqrt(max(mpf(0), case.epsilon * (logsumexp(case.logits([mpf(0)] * 3)) - case.h)))


@about_hulls("ineq:T1a", farther, times("0.74"), cases=every_case)
def _(case: Case) -> Pairs:
    yield norm(case.delta), _b(case)


@about_hulls("ineq:T1a, by n", times("0.99"), cases=every_case)
def _(case: Case) -> Pairs:
    yield _b(case), mp.sqrt(max(mpf(0), case.epsilon * (_log_n(case) - case.h)))


@about_hulls("ineq:T1b", heavier, times("0.57"), cases=every_case)
def _(case: Case) -> Pairs:
    if case.hull.off:
        yield case.mass, case.epsilon * (_log_n(case) - case.h) / case.hull.gap


def _t1_weights(case: Case) -> list[mpf]:
    b = _b(case)
    rows = zip(case.v, case.mu, strict=True)
    return [(norm(v) * b - m) / case.epsilon - case.h for v, m in rows]


@about_hulls("ineq:T1c", heavier, plus("-0.01"), cases=every_case)
def _(case: Case) -> Pairs:
    yield from ((mp.log(a), b) for a, b in zip(case.alpha, _t1_weights(case), strict=True))


@about_hulls("id:value", hotter, cases=every_case)
def _(case: Case) -> Pairs:
    left = dot(case.alpha, case.mu) + dot(case.delta, case.delta)
    left += case.epsilon * divergence(case.optimal, case.alpha)
    yield left, case.epsilon * (entropy(case.alpha) - case.h)


_THETAS = (mpf(1) / 4, mpf(1) / 2, mpf(9) / 10)


def _end_of_the_range(hull: planted.Hull, theta: mpf) -> mpf:
    kappa = min(hull.mu[i] / norm(hull.v[i]) for i in hull.off)
    return theta**2 * kappa**2 / (mp.log(len(hull.v)) - hull.entropy)


def _at_the_end_of_the_range() -> Iterable[Case]:
    for hull in planted.strict_hulls():
        if hull.off:
            limits = [_end_of_the_range(hull, theta) for theta in _THETAS]
            yield from (relax(hull, limit) for limit in (limits[0] / 10, *limits))
    yield from (case for case in planted.extreme_cases() if case.hull.off)


@about_hulls("ineq:T1p", heavier, plus("-0.3"), cases=_at_the_end_of_the_range)
def _(case: Case) -> Pairs:
    for theta in _THETAS:
        if case.epsilon <= _end_of_the_range(case.hull, theta):
            for i in case.hull.off:
                yield mp.log(case.alpha[i]), -case.h - (1 - theta) * case.mu[i] / case.epsilon


@about_hulls("inline: mass by T1′", heavier, times("0.7"), cases=_at_the_end_of_the_range)
def _(case: Case) -> Pairs:
    if case.epsilon <= _end_of_the_range(case.hull, mpf(1) / 2):
        factor = len(case.hull.off) * mp.exp(-case.h)
        yield case.mass, factor * mp.exp(-case.hull.gap / (2 * case.epsilon))


def _wide() -> Iterable[Case]:
    for part in (45, 60, 120):
        epsilon = mpf(1) / part
        yield relax(planted.wide_hull(1 + 2 / epsilon), epsilon)


@of_changed
def _narrow(case: Case) -> Case:
    return relax(planted.wide_hull(mpf(2)), case.epsilon)


@about_hulls("ineq:outside", _narrow, times("0.22"), cases=_wide)
def _(case: Case) -> Pairs:
    yield 1 / (10 * (1 + 2 / case.epsilon)), case.alpha[2]


@about_hulls("ineq:outside, by the temperature", times("0.96"), cases=_wide)
def _(case: Case) -> Pairs:
    yield case.epsilon / 21, 1 / (10 * (1 + 2 / case.epsilon))


@about_hulls("ineq:outside, what T1′ would claim", _narrow, cases=_wide)
def _(case: Case) -> Pairs:
    # For every θ up to 9/10 it lies below at these ε: it is violated.
    yield mp.exp(-case.h - 1 / (2 * case.epsilon)), case.alpha[2]


# ---------------------------------------------------------------- T2, T3


def _excess(case: Case) -> mpf:
    """Σ: the summed e^(⟨w₀, v⟩ − h − μ/ε) off the face."""
    logits = case.logits(case.tangent)
    return mp.fsum(mp.exp(logits[i] - case.h) for i in case.hull.off)


def _r(case: Case) -> mpf:
    return min(_excess(case) / mp.e, mp.log(1 + _excess(case)))


def half(case: Case) -> mpf:
    slope = case.epsilon * norm(case.tangent)
    return mp.sqrt(slope**2 / 4 + case.epsilon * _r(case))


@about_hulls("ineq:T2core", farther, times("0.99"))
def _(case: Case) -> Pairs:
    moved = dot(case.delta, case.delta) + case.epsilon * dot(case.tangent, case.delta)
    yield moved, case.epsilon * _r(case)


@about_hulls("ineq:T2ball", farther, times("0.99"))
def _(case: Case) -> Pairs:
    yield norm(axpy(case.epsilon / 2, case.tangent, case.delta)), half(case)


def _two_terms(case: Case) -> mpf:
    return case.epsilon * norm(case.tangent) / 2 + half(case)


@about_hulls("ineq:T2", farther, times("0.99"))
def _(case: Case) -> Pairs:
    yield norm(case.delta), _two_terms(case)


@about_hulls("ineq:T2, simpler", times("0.99"))
def _(case: Case) -> Pairs:
    yield _two_terms(case), case.epsilon * norm(case.tangent) + mp.sqrt(case.epsilon * _r(case))


def _t3_weights(case: Case) -> list[mpf]:
    root = mp.sqrt(dot(case.tangent, case.tangent) / 4 + _r(case) / case.epsilon)
    rows = zip(case.v, case.mu, strict=True)
    tilted = ((dot(case.tangent, v) / 2 + norm(v) * root, m) for v, m in rows)
    return [tilt - m / case.epsilon - case.h for tilt, m in tilted]


def weight_bounds(case: Case) -> list[mpf]:
    """b: the smaller of T1 and T3, and no weight is more than one."""
    pairs = zip(_t1_weights(case), _t3_weights(case), strict=True)
    return [min(a, b, mpf(0)) for a, b in pairs]


def reach(case: Case) -> mpf:
    """A: the summed ‖v‖ e^b off the face."""
    bounds = weight_bounds(case)
    return mp.fsum(norm(case.v[i]) * mp.exp(bounds[i]) for i in case.hull.off)


def _with_reach(case: Case, share: str) -> Pairs:
    slope, off = case.epsilon * norm(case.tangent), mpf(share) * reach(case)
    yield norm(case.delta), mp.sqrt(slope**2 + off**2)


@about_hulls("ineq:T2boot", farther, times("0.99"), lambda _, case: _with_reach(case, "0.9"))
def _(case: Case) -> Pairs:
    yield from _with_reach(case, "1")


@about_hulls("ineq:T2boot, simpler", times("0.99"))
def _(case: Case) -> Pairs:
    slope, off = case.epsilon * norm(case.tangent), reach(case)
    yield mp.sqrt(slope**2 + off**2), slope + off


def _something_off() -> Iterable[Case]:
    return (case for case in strict_cases() if case.hull.off)


@about_hulls("ineq:cells", less_entropy, plus("-0.001"), cases=_something_off)
def _(case: Case) -> Pairs:
    excess, mass = _excess(case), case.mass
    pi = softmax(case.logits(case.tangent))
    kept = mp.log(1 + excess) - divergence(case.optimal, case.alpha) - divergence(case.alpha, pi)
    yield kept, mass * mp.log(excess * (1 - mass) / mass)


@about_hulls("ineq:cells, without the face", times("0.99"), cases=_something_off)
def _(case: Case) -> Pairs:
    excess, mass = _excess(case), case.mass
    yield mass * mp.log(excess * (1 - mass) / mass), mass * mp.log(excess / mass)


@about_hulls("ineq:cells, at the maximum", times("0.99"), cases=_something_off)
def _(case: Case) -> Pairs:
    yield case.mass * mp.log(_excess(case) / case.mass), _excess(case) / mp.e


def _ends(case: Case) -> tuple[list[mpf], list[mpf]]:
    """δ off the face, and −ε w₀."""
    off = [case.alpha[i] if i in case.hull.off else mpf(0) for i in range(len(case.v))]
    return combine(off, case.v), [-case.epsilon * x for x in case.tangent]


def _halves(case: Case) -> mpf:
    leaked, end = _ends(case)
    return (norm(axpy(mpf(1), end, leaked)) + norm(axpy(mpf(-1), end, leaked))) / 2


@about_hulls("ineq:monotone", heavier)
def _(case: Case) -> Pairs:
    leaked, end = _ends(case)
    yield dot(axpy(mpf(-1), leaked, case.delta), axpy(mpf(-1), end, case.delta)), mpf(0)


@about_hulls("ineq:monotone, the ball", farther, times("0.99"))
def _(case: Case) -> Pairs:
    yield norm(case.delta), _halves(case)


@about_hulls("ineq:monotone, its radius", times("0.99"))
def _(case: Case) -> Pairs:
    leaked, end = _ends(case)
    yield _halves(case), mp.sqrt(dot(leaked, leaked) + dot(end, end))


@about_hulls("ineq:T3", heavier, plus("-0.01"))
def _(case: Case) -> Pairs:
    bounds = _t3_weights(case)
    yield from ((mp.log(case.alpha[i]), bounds[i]) for i in case.hull.off)


@about_hulls("ineq:newton", hotter, times("0.99"), cases=every_case)
def _(case: Case) -> Pairs:
    for w in _tilts(case):
        alpha = softmax(case.logits(w))
        slope = axpy(case.epsilon, w, combine(alpha, case.v))
        yield norm(axpy(case.epsilon, w, case.delta)), norm(slope)

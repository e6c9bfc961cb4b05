"""What each labelled display of Sections 2, 3 and 5 says, evaluated on planted hulls.

A statement takes a case and returns pairs: left ≤ right for an inequality, left = right for an
identity. Its control falsifies the case; then some pair must fail.
"""

import dataclasses
import random
from collections.abc import Callable, Iterable
from itertools import chain

from mpmath import mp, mpf

from tests.paper import planted
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

Pairs = Iterable[tuple[mpf, mpf]]


@dataclasses.dataclass(frozen=True)
class Statement:
    """A labelled display: what it says, of which cases, and how to make it false."""

    says: Callable[[Case], Pairs]
    cases: Callable[[], Iterable[Case]]
    control: Callable[[Case], Case]


STATEMENTS: dict[str, Statement] = {}


def statement(
    label: str,
    control: Callable[[Case], Case],
    cases: Callable[[], Iterable[Case]] = planted.cases,
) -> Callable[[Callable[[Case], Pairs]], Callable[[Case], Pairs]]:
    def register(says: Callable[[Case], Pairs]) -> Callable[[Case], Pairs]:
        assert label not in STATEMENTS, label
        STATEMENTS[label] = Statement(says, cases, control)
        return says

    return register


def every_case() -> Iterable[Case]:
    return chain(planted.cases(), planted.degenerate_cases())


# ---------------------------------------------------------------- ways to be wrong


def hotter(case: Case) -> Case:
    """The weights of twenty times the temperature."""
    other = relax(case.hull, 20 * case.epsilon)
    return dataclasses.replace(case, alpha=other.alpha, delta=other.delta)


def farther(case: Case) -> Case:
    """A displacement ten times as long."""
    return dataclasses.replace(case, delta=[10 * x for x in case.delta])


def heavier(case: Case) -> Case:
    """Weights that know nothing of the keys."""
    n = len(case.alpha)
    alpha = [mpf(1) / n] * n
    return dataclasses.replace(case, alpha=alpha, delta=combine(alpha, case.v))


def less_entropy(case: Case) -> Case:
    return dataclasses.replace(case, h=case.h - 1)


def other_tangent(case: Case) -> Case:
    return dataclasses.replace(case, tangent=[x + 2 for x in case.tangent])


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


@statement("id:gap", farther)
def _(case: Case) -> Pairs:
    _, u, gap = _dual(case, case.alpha)
    primal = norm(axpy(mpf(-1), case.delta, case.hull.residual)) ** 2 / 2
    # The Lagrangian at its minimiser x = q − u, and above that elsewhere.
    best = max(dot(u, k) for k in case.hull.keys)
    yield gap, primal - (dot(u, u) / 2 + dot(u, axpy(mpf(-1), u, case.hull.query)) - best)


@statement("ineq:gap", control=lambda c: dataclasses.replace(c, mu=[m + 5 for m in c.mu]))
def _(case: Case) -> Pairs:
    for alpha in _trials(case):
        point, _, gap = _dual(case, alpha)
        moved = axpy(mpf(-1), case.hull.point, point)
        yield dot(moved, moved) + dot(alpha, case.mu), gap


@statement("id:fixedpoint", hotter, every_case)
def _(case: Case) -> Pairs:
    logits = [
        -(m + dot(case.delta, v)) / case.epsilon for m, v in zip(case.mu, case.v, strict=True)
    ]
    c = logsumexp(logits)
    yield from ((mp.log(a), x - c) for a, x in zip(case.alpha, logits, strict=True))


@statement("id:entropy", less_entropy, every_case)
def _(case: Case) -> Pairs:
    yield case.h, entropy(case.optimal)
    yield norm(combine(case.optimal, case.v)), mpf(0)
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


@statement("id:star", hotter, every_case)
def _(case: Case) -> Pairs:
    for w in _tilts(case):
        logits = case.logits(w)
        kl = divergence(case.optimal, case.alpha) + divergence(case.alpha, softmax(logits))
        left = dot(case.delta, case.delta) + case.epsilon * (dot(w, case.delta) + kl)
        yield left, case.epsilon * (logsumexp(logits) - case.h)


def _constant(case: Case) -> mpf:
    """C of the fixed point: log Σ exp(−μ/ε − ⟨δ, v⟩/ε)."""
    return logsumexp(case.logits([-x / case.epsilon for x in case.delta]))


@statement("id:c", less_entropy, every_case)
def _(case: Case) -> Pairs:
    yield divergence(case.optimal, case.alpha), _constant(case) - case.h


def _log_n(case: Case) -> mpf:
    return mp.log(len(case.v))


def _b(case: Case) -> mpf:
    return mp.sqrt(max(mpf(0), case.epsilon * (logsumexp(case.logits([mpf(0)] * 3)) - case.h)))


@statement("ineq:T1a", farther, every_case)
def _(case: Case) -> Pairs:
    yield norm(case.delta), _b(case)
    yield _b(case), mp.sqrt(max(mpf(0), case.epsilon * (_log_n(case) - case.h)))


@statement("ineq:T1b", heavier, every_case)
def _(case: Case) -> Pairs:
    if case.hull.off:
        yield case.mass, case.epsilon * (_log_n(case) - case.h) / case.hull.gap


def _t1_weight(case: Case, i: int) -> mpf:
    reach = norm(case.v[i]) * _b(case)
    return (reach - case.mu[i]) / case.epsilon - case.h


@statement("ineq:T1c", heavier, every_case)
def _(case: Case) -> Pairs:
    yield from ((mp.log(a), _t1_weight(case, i)) for i, a in enumerate(case.alpha))


@statement("id:value", hotter, every_case)
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


@statement("ineq:T1p", heavier, _at_the_end_of_the_range)
def _(case: Case) -> Pairs:
    for theta in _THETAS:
        if case.epsilon <= _end_of_the_range(case.hull, theta):
            for i in case.hull.off:
                yield mp.log(case.alpha[i]), -case.h - (1 - theta) * case.mu[i] / case.epsilon


def _wide() -> Iterable[Case]:
    for part in (45, 60, 120):
        epsilon = mpf(1) / part
        yield relax(planted.wide_hull(1 + 2 / epsilon), epsilon)


def _narrow(case: Case) -> Case:
    return relax(planted.wide_hull(mpf(2)), case.epsilon)


@statement("ineq:outside", _narrow, _wide)
def _(case: Case) -> Pairs:
    epsilon = case.epsilon
    yield 1 / (10 * (1 + 2 / epsilon)), case.alpha[2]
    yield epsilon / 21, 1 / (10 * (1 + 2 / epsilon))
    # What T1′ would claim, for every θ up to 9/10 at these ε, lies below: it is violated.
    yield mp.exp(-case.h - 1 / (2 * epsilon)), case.alpha[2]


# ---------------------------------------------------------------- T2, T3


def _excess(case: Case) -> mpf:
    """Σ: the summed e^(⟨w₀, v⟩ − h − μ/ε) off the face."""
    logits = case.logits(case.tangent)
    return mp.fsum(mp.exp(logits[i] - case.h) for i in case.hull.off)


def _r(case: Case) -> mpf:
    return min(_excess(case) / mp.e, mp.log(1 + _excess(case)))


def _half(case: Case) -> mpf:
    slope = case.epsilon * norm(case.tangent)
    return mp.sqrt(slope**2 / 4 + case.epsilon * _r(case))


@statement("ineq:T2core", farther)
def _(case: Case) -> Pairs:
    moved = dot(case.delta, case.delta) + case.epsilon * dot(case.tangent, case.delta)
    yield moved, case.epsilon * _r(case)


@statement("ineq:T2ball", farther)
def _(case: Case) -> Pairs:
    yield norm(axpy(case.epsilon / 2, case.tangent, case.delta)), _half(case)


@statement("ineq:T2", farther)
def _(case: Case) -> Pairs:
    slope = case.epsilon * norm(case.tangent)
    middle = slope / 2 + _half(case)
    yield norm(case.delta), middle
    yield middle, slope + mp.sqrt(case.epsilon * _r(case))


def _t3_weight(case: Case, i: int) -> mpf:
    root = mp.sqrt(dot(case.tangent, case.tangent) / 4 + _r(case) / case.epsilon)
    tilt = dot(case.tangent, case.v[i]) / 2
    return -case.mu[i] / case.epsilon - case.h + tilt + norm(case.v[i]) * root


def _weight_bound(case: Case, i: int) -> mpf:
    return min(_t1_weight(case, i), _t3_weight(case, i), mpf(0))


def _reach(case: Case) -> mpf:
    """A: the summed ‖v‖ e^b off the face."""
    return mp.fsum(norm(case.v[i]) * mp.exp(_weight_bound(case, i)) for i in case.hull.off)


@statement("ineq:T2boot", farther)
def _(case: Case) -> Pairs:
    slope, reach = case.epsilon * norm(case.tangent), _reach(case)
    yield norm(case.delta), mp.sqrt(slope**2 + reach**2)
    yield mp.sqrt(slope**2 + reach**2), slope + reach


@statement("ineq:cells", less_entropy)
def _(case: Case) -> Pairs:
    excess, mass = _excess(case), case.mass
    if not case.hull.off:
        return
    pi = softmax(case.logits(case.tangent))
    kept = mp.log(1 + excess) - divergence(case.optimal, case.alpha) - divergence(case.alpha, pi)
    yield kept, mass * mp.log(excess * (1 - mass) / mass)
    yield mass * mp.log(excess * (1 - mass) / mass), mass * mp.log(excess / mass)
    yield mass * mp.log(excess / mass), excess / mp.e


@statement("ineq:monotone", heavier)
def _(case: Case) -> Pairs:
    off = [case.alpha[i] if i in case.hull.off else mpf(0) for i in range(len(case.v))]
    leaked, end = combine(off, case.v), [-case.epsilon * x for x in case.tangent]
    yield dot(axpy(mpf(-1), leaked, case.delta), axpy(mpf(-1), end, case.delta)), mpf(0)
    halves = (norm(axpy(mpf(1), end, leaked)) + norm(axpy(mpf(-1), end, leaked))) / 2
    yield norm(case.delta), halves
    yield halves, mp.sqrt(dot(leaked, leaked) + dot(end, end))


@statement("ineq:T3", heavier)
def _(case: Case) -> Pairs:
    yield from ((mp.log(case.alpha[i]), _t3_weight(case, i)) for i in case.hull.off)


@statement("ineq:newton", hotter, every_case)
def _(case: Case) -> Pairs:
    for w in _tilts(case):
        alpha = softmax(case.logits(w))
        slope = axpy(case.epsilon, w, combine(alpha, case.v))
        yield norm(axpy(case.epsilon, w, case.delta)), norm(slope)

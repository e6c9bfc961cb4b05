"""What each labelled display about small temperatures says (T4, T5, the form with factor one).

A limit is tested as one: the distance from it, at falling temperatures, falls as the proof says.
"""

import dataclasses
import functools
from collections.abc import Iterable

from mpmath import mp, mpf

from tests.paper import planted
from tests.paper.about_hulls import about_hulls, farther, hotter, less_entropy, other_tangent
from tests.paper.planted import Case, axpy, dot, logsumexp, norm, relax
from tests.paper.statement import Pairs, of_changed, times
from tests.paper.statements_hull import half, reach, weight_bounds


@functools.cache
def cold() -> tuple[Case, ...]:
    """Hulls with something off the face, at Δ/ε = 10⁴ and 10⁶."""
    hulls = [hull for hull in planted.strict_hulls() if hull.off]
    return tuple(relax(hull, hull.gap / ratio) for hull in hulls for ratio in (10**4, 10**6))


def _colder(case: Case) -> Case:
    """The same, with the same falsehood in tangent or entropy, at a tenth of the temperature."""
    other = relax(case.hull, case.epsilon / 10)
    return dataclasses.replace(other, h=case.h, tangent=case.tangent)


def _errors(case: Case) -> list[mpf]:
    """T4's limit by key: log α + μ/ε − ⟨w₀, v⟩ + h."""
    return [
        mp.log(a) + m / case.epsilon - dot(case.tangent, v) + case.h
        for a, m, v in zip(case.alpha, case.mu, case.v, strict=True)
    ]


def _falls(before: mpf, after: mpf, factor: str) -> tuple[mpf, mpf]:
    # Below 1e-25 both are rounding of 50 digits.
    return abs(after), max(abs(before) * mpf(factor), mpf(10) ** -25)


@about_hulls("lim:T4", other_tangent, less_entropy, cases=cold)
def _(case: Case) -> Pairs:
    nearest = [i for i in case.hull.off if case.mu[i] <= case.hull.gap * (1 + mpf(10) ** -30)]
    constant = logsumexp([dot(case.tangent, case.v[i]) - case.h for i in nearest])

    def error(at: Case) -> mpf:
        return mp.log(at.mass) + case.hull.gap / at.epsilon - constant

    # First order in ε, so a tenth; a fifth leaves room for the second order.
    yield _falls(error(case), error(_colder(case)), "0.2")


@about_hulls("lim:T4, of each key", other_tangent, less_entropy, cases=cold)
def _(case: Case) -> Pairs:
    for before, after in zip(_errors(case), _errors(_colder(case)), strict=True):
        yield _falls(before, after, "0.2")


@about_hulls("lim:T4first", other_tangent, cases=cold)
def _(case: Case) -> Pairs:
    axes = case.hull.axes
    covariance = mp.matrix(max(1, len(axes)), max(1, len(axes)))
    for a, i in enumerate(axes):
        for b, j in enumerate(axes):
            terms = (p * v[i] * v[j] for p, v in zip(case.optimal, case.v, strict=True))
            covariance[a, b] = mp.fsum(terms)
    curved = [mpf(0)] * len(case.tangent)
    if axes:
        solved = mp.lu_solve(covariance, mp.matrix([case.tangent[k] for k in axes]))
        for a, k in enumerate(axes):
            curved[k] = solved[a]

    def remainders(at: Case) -> list[mpf]:
        errors = zip(_errors(at), at.v, strict=True)
        return [e + at.epsilon * dot(curved, v) for e, v in errors]

    # Second order in ε, so a hundredth; a fiftieth leaves room for the third.
    for before, after in zip(remainders(case), remainders(_colder(case)), strict=True):
        yield _falls(before, after, "0.02")


def _tilt_bound(case: Case) -> tuple[mpf, mpf, mpf, mpf] | None:
    """x, D + A, A and M of T4, or None where it says nothing."""
    axes = case.hull.axes
    leaked, bounds = reach(case), weight_bounds(case)
    mass = mp.fsum(mp.exp(bounds[i]) for i in case.hull.off)
    moved = case.epsilon * norm(case.tangent) / 2 + half(case) + leaked
    if not axes:
        return (mpf(0), moved, leaked, mass) if mass < 1 else None
    covariance = mp.matrix(len(axes), len(axes))
    for a, i in enumerate(axes):
        for b, j in enumerate(axes):
            terms = (p * v[i] * v[j] for p, v in zip(case.optimal, case.v, strict=True))
            covariance[a, b] = mp.fsum(terms)
    least = min(mp.eigsy(covariance, eigvals_only=True))
    on_face = [case.v[j] for j in case.hull.face]
    diameter = max(norm(axpy(mpf(-1), u, v)) for u in on_face for v in on_face)
    if mass >= 1 or diameter * moved >= least * (1 - mass):
        return None
    share = diameter * moved / (least * (1 - mass))
    return -mp.log(1 - share) / diameter, moved, leaked, mass


@about_hulls("ineq:tilt", hotter, times("0.9"), cases=cold)
def _(case: Case) -> Pairs:
    found = _tilt_bound(case)
    if found is not None:
        axes = case.hull.axes
        w = [-case.delta[k] / case.epsilon - case.tangent[k] for k in axes]
        yield (norm(w) if axes else mpf(0)), found[0]


@about_hulls("ineq:T4", hotter, times("0.9"), cases=cold)
def _(case: Case) -> Pairs:
    found = _tilt_bound(case)
    if found is None:
        return
    x, moved, leaked, mass = found
    for error, v in zip(_errors(case), case.v, strict=True):
        bound = norm(v) * (x + leaked / case.epsilon) + x * moved / (1 - mass) - mp.log(1 - mass)
        yield abs(error), bound


# ---------------------------------------------------------------- the form with factor one


def _three_keys() -> Iterable[Case]:
    hull = planted.wide_hull(mpf(10))
    # The tangent ½ log 19 and the entropy of (1/20, 19/20), by hand.
    tangent = [mp.log(19) / 2, mpf(0)]
    entropy = planted.entropy([mpf(1) / 20, mpf(19) / 20])
    for ratio in (100, 1000):
        yield dataclasses.replace(relax(hull, mpf(1) / ratio), tangent=tangent, h=entropy)


def _limit(case: Case) -> mpf:
    return mp.log(19) / 2 * (10 - mpf("0.9")) - case.h


@about_hulls("lim:factor", less_entropy, cases=_three_keys)
def _(case: Case) -> Pairs:
    def error(at: Case) -> mpf:
        return mp.log(at.alpha[2]) + 1 / at.epsilon - _limit(at)

    yield _falls(error(case), error(_colder(case)), "0.2")


@about_hulls("lim:factor, more than e^13", times("0.98"), cases=_three_keys)
def _(case: Case) -> Pairs:
    yield mpf(13), _limit(case)


@about_hulls("lim:factor, as T4 has it", other_tangent, cases=_three_keys)
def _(case: Case) -> Pairs:
    yield abs(dot(case.tangent, case.v[2]) - case.h - _limit(case)), mpf(10) ** -40


# ---------------------------------------------------------------- T5


@functools.cache
def degenerate() -> tuple[Case, ...]:
    """The three examples of T5 at temperatures that only many digits reach."""
    hulls = [
        planted.degenerate_hull(),
        planted.degenerate_hull(height="0.5"),
        planted.degenerate_hull(sideways="-0.2"),
    ]
    return tuple(_far_down(hull, power) for hull in hulls for power in (10, 40, 160))


def _far_down(hull: planted.Hull, power: int) -> Case:
    with mp.workdps(60 + 2 * power):
        epsilon = mpf(10) ** -power
        assert hull.margin is not None
        start = axpy(mp.log(epsilon), hull.margin, hull.tangent)
        return relax(hull, epsilon, start)


def _log(case: Case) -> mpf:
    return -mp.log(case.epsilon)


def _tilted(case: Case) -> list[mpf]:
    """w_G − y log(1/ε), at which the proof reads (★)."""
    assert case.hull.margin is not None
    return axpy(-_log(case), case.hull.margin, case.tangent)


def _excess_of_tilted(case: Case) -> mpf:
    return logsumexp(case.logits(_tilted(case))) - case.hull.entropy


@about_hulls("ineq:T5", farther, cases=degenerate)
def _(case: Case) -> Pairs:
    with mp.workdps(400):
        moved = dot(case.delta, case.delta) + case.epsilon * dot(_tilted(case), case.delta)
        yield moved, case.epsilon * _excess_of_tilted(case)


@about_hulls("ineq:T5, the constant", times("0.49"), cases=degenerate)
def _(case: Case) -> Pairs:
    with mp.workdps(400):
        # C₁ of the proof: what N adds, and as much again for the keys off F.
        beside = [j for j in case.hull.face if j not in case.hull.inner]
        constant = 2 * mp.fsum(mp.exp(dot(case.tangent, case.v[j]) - case.h) for j in beside)
        yield _excess_of_tilted(case), constant * case.epsilon


def _slowness(case: Case) -> mpf:
    """What log-log convergence leaves: (1 + log log(1/ε))/log(1/ε), and lengths of order one."""
    return 4 * (1 + mp.log(_log(case))) / _log(case)


def _scaled(case: Case) -> list[mpf]:
    return [x / (case.epsilon * _log(case)) for x in case.delta]


@about_hulls("lim:T5", farther, cases=degenerate)
def _(case: Case) -> Pairs:
    assert case.hull.margin is not None
    yield norm(axpy(mpf(-1), case.hull.margin, _scaled(case))), _slowness(case)


@about_hulls("lim:T5, its length", farther, cases=degenerate)
def _(case: Case) -> Pairs:
    assert case.hull.margin is not None
    yield abs(norm(_scaled(case)) - norm(case.hull.margin)), _slowness(case)


@of_changed
def _doubled(case: Case) -> Case:
    return dataclasses.replace(case, mu=[2 * m for m in case.mu])


@about_hulls("lim:T5weights", _doubled, cases=degenerate)
def _(case: Case) -> Pairs:
    assert case.hull.margin is not None
    with mp.workdps(400):  # μ/ε has 160 digits before the point
        for a, m, v in zip(case.alpha, case.mu, case.v, strict=True):
            power = -(mp.log(a) + m / case.epsilon) / _log(case)
            yield abs(power - dot(case.hull.margin, v)), _slowness(case)

"""Each theorem is a property: it holds for every family and for inputs made to break it."""

import math

import hypothesis
import numpy as np
import pytest
from hypothesis import event, given

import vashista_theory as vt
from tests.hull import checks
from tests.hull.strategies import UNIT, Solved, problems, solve, solved_families

ACCURACY = 1e-12
TRUSTED = (vt.Result.successful, vt.Result.inside_hull)


def is_(result: vt.Result, *members: vt.Result) -> bool:
    return any(bool(result == member) for member in members)


def check_kkt(solved: Solved) -> None:
    defects = checks.kkt_defects(*solved.problem[1:], solved.projection)
    worst = max(defects)
    assert worst <= ACCURACY, (solved.problem.name, defects)


def check_relaxation_solved(solved: Solved) -> None:
    """The fixed point itself: log α = ⟨q − p, k⟩/ε − log Z, with p from the weights."""
    relaxation, epsilons = solved.relaxation, solved.epsilons
    assert bool((relaxation.result == vt.Result.successful).all()), solved.problem.name
    mass = np.exp(np.asarray(relaxation.log_weights)).sum(axis=1)
    np.testing.assert_allclose(mass, 1.0, atol=1e-12)
    assert epsilons.shape == np.asarray(relaxation.displacement).shape


def check_identity(solved: Solved) -> None:
    """(★) to 1e-12 of its largest term or of the scale, whichever is more.

    At w₀ each ⟨w₀, v_i⟩ has a rounding of its own, which counts where keys of very different
    lengths make ‖w₀‖ √scale as large as 1e7.
    """
    scale = solved.problem.scale or 1.0
    tangents = (False, True) if bool(solved.stability.strict) else (False,)
    reported = {t: solved.stability.identity_defect(solved.relaxation, at_tangent=t)
                for t in tangents}  # fmt: skip
    for index, epsilon in enumerate(solved.epsilons):
        for at_tangent in tangents:
            terms = checks.identity_terms(
                solved,
                np.asarray(solved.relaxation.log_weights[index]),
                epsilon,
                at_tangent=at_tangent,
            )
            largest = max(float(np.abs(terms).max()), scale)
            where = (solved.problem.name, epsilon / scale, at_tangent, terms)
            slope = float(np.linalg.norm(solved.stability.tangent)) if at_tangent else 0.0
            allowed = ACCURACY * largest + 16 * UNIT * epsilon * slope * scale**0.5
            assert abs(float(terms.sum())) <= allowed, where
            assert abs(float(reported[at_tangent][index])) <= allowed, where


def check_bounds(solved: Solved) -> None:
    """T1 to T3 in all their forms are never exceeded, and are the formulas they claim to be."""
    scale, epsilons = solved.problem.scale or 1.0, solved.epsilons
    stability, relaxation, name = solved.stability, solved.relaxation, solved.problem.name
    log_displacement = np.asarray(relaxation.log_displacement)
    displacement = stability.displacement_bounds(epsilons)
    for field, log_bound in displacement._asdict().items():
        exceeded = checks.exceeds_length(log_displacement, np.asarray(log_bound), scale)
        assert not exceeded.any(), (name, field, epsilons[exceeded] / scale)
    least = np.exp(np.min(np.stack(list(map(np.asarray, displacement))), axis=0))
    # XLA flushes subnormal numbers to zero.
    np.testing.assert_allclose(
        stability.displacement_bound(epsilons), least, rtol=1e-12, atol=np.finfo(float).tiny
    )

    off = ~np.asarray(solved.projection.face)
    log_weights = np.asarray(relaxation.log_weights)
    for field, log_bound in stability.log_weight_bounds(epsilons)._asdict().items():
        keys = off if field == "t3" else np.ones_like(off)
        exceeded = checks.exceeds(
            log_weights[:, keys], np.asarray(log_bound)[:, keys], scale, epsilons
        )
        assert not exceeded.any(), (name, field, np.argwhere(exceeded))

    if not math.isnan(float(stability.gap)):
        log_mass = np.asarray(relaxation.log_off_face_mass)
        leakage = stability.leakage_bounds(epsilons)._asdict()
        for field, log_bound in leakage.items():
            exceeded = checks.exceeds(log_mass, np.asarray(log_bound), scale, epsilons)
            assert not exceeded.any(), (name, field, epsilons[exceeded] / scale)
        least = np.minimum(np.minimum(*map(np.asarray, leakage.values())), 0.0)
        np.testing.assert_array_equal(stability.log_leakage_bound(epsilons), least)


def check_formulas(solved: Solved) -> None:
    """Each bound equals theory.md's formula, so that a looser one cannot pass for it."""
    stability, epsilons = solved.stability, solved.epsilons
    strict, scale = bool(stability.strict), solved.problem.scale or 1.0
    expected = checks.statements(solved)
    seen = checks.view(solved)
    displacement = stability.displacement_bounds(epsilons)
    # T1 rounds log|F| − h up by 8 u (1 + log|F|): compare squares, where that is one number.
    ours, theirs = (np.exp(2 * np.asarray(b)) / epsilons for b in (displacement.t1, expected.t1))
    # h and w₀ have an error of rounding over the smallest weight; μ/ε rounds by itself.
    rounding = checks.ROUNDINGS * scale / epsilons
    close = np.abs(ours - theirs) <= 64 * UNIT + (1e-9 + rounding) * theirs
    assert close.all(), (solved.problem.name, "t1")
    pairs = []
    if strict:
        small = math.log(1e-9 * math.sqrt(scale)) + np.minimum(0.0, np.log(epsilons / scale))
        for field in ("t2", "bootstrap"):
            ours, theirs = getattr(displacement, field), getattr(expected, field)
            pairs.append((field, np.logaddexp(ours, small), np.logaddexp(theirs, small)))
    for field, ours, theirs in pairs:
        apart = np.abs(np.asarray(ours) - theirs)
        allowed = 1e-6 + rounding + 1e-12 * np.abs(theirs)
        assert (apart <= allowed).all(), (solved.problem.name, field, apart.max())
    if not strict:
        infinite = [displacement.t2, displacement.bootstrap, stability.log_weight_bounds(1.0).t3]
        assert all(np.isposinf(np.asarray(b)).all() for b in infinite)
        return
    off = ~seen.face
    t3 = np.asarray(stability.log_weight_bounds(epsilons).t3)[:, off]
    apart = np.abs(t3 - expected.weights_t3[:, off])
    allowed = 1e-6 + rounding[:, None] + 1e-6 * seen.lengths[off][None] / scale**0.5
    assert (apart <= allowed + 1e-12 * np.abs(t3)).all(), (solved.problem.name, "t3", apart.max())


def check_steps(solved: Solved) -> None:
    """Fewer than 10 Newton steps at each of 33 temperatures (families; not mixed scales)."""
    steps = np.asarray(solved.relaxation.steps)
    assert int(steps.max()) < 10, (solved.problem.name, steps)


def check_everything(solved: Solved) -> None:
    check_kkt(solved)
    if not is_(solved.projection.result, *TRUSTED):
        event(f"projection: {vt.Result[solved.projection.result][:40]}")
        return
    check_relaxation_solved(solved)
    check_identity(solved)
    check_bounds(solved)
    check_formulas(solved)


@pytest.mark.parametrize(
    "check",
    [check_kkt, check_relaxation_solved, check_steps, check_identity, check_bounds, check_formulas],
)
def test_every_family(check) -> None:
    for solved in solved_families():
        check(solved)


@given(problems())
@hypothesis.settings(max_examples=25)
def test_adversarial(problem) -> None:
    event(problem.name)
    check_everything(solve(problem))

"""Theory.md's numbers, T4 to T6, the published T1′ and its counterexamples, the safe temperature.

That T1 to T3 hold everywhere is in test_properties.py.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

import vashista_theory as vt
from tests.hull import checks
from tests.hull.strategies import LENGTH_OF_PATH, UNIT, Problem, Solved, solve, solved_families
from vashista_theory.hull import instances
from vashista_theory.hull.stability import face_stability_by_steps


def strict_with_gap() -> list[Solved]:
    return [
        s for s in solved_families()
        if bool(s.stability.strict) and math.isfinite(float(s.stability.gap))
    ]  # fmt: skip


def padded(*epsilons: float) -> np.ndarray:
    """Temperatures in front of a list of the usual length, which is compiled already."""
    return np.concatenate([epsilons, np.geomspace(1, 1e-3, LENGTH_OF_PATH - len(epsilons))])


# ------------------------------------------------------------------ numbers given in theory.md


def reference_instance() -> Problem:
    rng = np.random.default_rng(0)
    keys = rng.normal(size=(1024, 64))
    return Problem("reference", keys, 1.5 * rng.normal(size=64))


def test_reference_values() -> None:
    problem = reference_instance()
    projection = vt.project(problem.keys, problem.query)
    stability = vt.face_stability(projection)
    relaxation = vt.relax(projection, padded(0.01, 1e-3))
    # Half a unit of the last digit given, but for Δ, whose tolerance is given, and ‖w₀‖, whose
    # last digit is cut off and not rounded: 50 digits give 0.451108167229559.
    assert abs(float(projection.gap) - 0.28012510083585) <= 1e-13
    assert int(projection.face.sum()) == 14
    least = math.exp(float(np.asarray(stability.log_optimal_weights)[projection.face].min()))
    assert abs(least - 0.01266756) <= 0.5e-8
    assert abs(float(stability.tangent_norm) - 0.45110816) <= 1e-8
    assert abs(float(stability.tangent_norm) - 0.451108167229559) <= 1e-14
    log_mass = np.asarray(relaxation.log_off_face_mass)
    assert abs(log_mass[0] - -30.48302) <= 0.5e-5
    assert abs(log_mass[1] - -282.5986) <= 0.5e-4
    assert abs(float(relaxation.displacement[0]) / 0.01 - 0.445477945) <= 0.5e-9
    # T3 exceeds the true log m by 1.8 there; the form with ‖v_i‖‖w₀‖ by 3.7.
    excess = float(stability.log_leakage_bound(padded(0.01, 1e-3))[0]) - log_mass[0]
    assert abs(excess - 1.8) <= 0.05


# ------------------------------------------------------------------ T5

EXAMPLES = {"positive_power": (1.0, 0.2), "negative_power": (1.0, -0.2), "half_margin": (0.5, 0.4)}
"""ρ, and the power of ε that multiplies e^{−μ_3/ε} at the nearest off-face key."""


@pytest.mark.parametrize("variant", EXAMPLES)
def test_degenerate_law(variant: str) -> None:
    """‖δ‖ ~ (ε/ρ) log(1/ε) and log α_i ~ −μ_i/ε − ⟨y, v_i⟩ log(1/ε), fitted below ε = 1e-4.

    With L = log(1/ε), ρ‖δ‖/ε = L − log L + O(1): its slope against L is 1 − 1/L, that is 0.93 in
    the middle of the range, so 0.1 is allowed; a linear law would have slope 0.
    """
    margin, power = EXAMPLES[variant]
    made = instances.make("degenerate", variant=variant)
    projection = vt.project(made.keys, made.query)
    stability = vt.face_stability(projection)
    assert bool(stability.result == vt.Result.degenerate_face)
    np.testing.assert_allclose(projection.point, [0.4, 0, 0], atol=1e-15)
    np.testing.assert_allclose(projection.multipliers, [0, 0, 0, 0.4, 0.7], atol=1e-15)
    np.testing.assert_array_equal(stability.minimal_face, [True, True, False, False, False])
    assert abs(float(stability.degeneracy_distance) - margin) <= 1e-14
    np.testing.assert_allclose(stability.margin, [0, 1 / margin, 0], atol=1e-13)
    assert abs(float(stability.entropy) + 0.6 * math.log(0.6) + 0.4 * math.log(0.4)) <= 1e-14
    assert np.isnan(np.asarray(stability.tangent)).all()

    epsilons = np.geomspace(1e-4, 1e-8, LENGTH_OF_PATH)
    relaxation = vt.relax(projection, epsilons)
    logs = np.log(1 / epsilons)
    displacement = np.asarray(relaxation.displacement)
    law = np.polyfit(np.log(epsilons * logs), np.log(displacement), 1)[0]
    # With L + c for L the slope is off by about c/L²; a linear law would have 1 + 1/L = 1.08.
    assert abs(law - 1) <= 0.04, law
    slope = np.polyfit(logs, margin * displacement / epsilons, 1)[0]
    assert abs(slope - 1) <= 0.1, slope
    log_weights = np.asarray(relaxation.log_weights)
    fitted = -np.polyfit(logs, log_weights[:, 3] + 0.4 / epsilons, 1)[0]
    assert abs(fitted - power) <= 0.1 * abs(power), fitted
    assert fitted * power > 0


@pytest.mark.slow
def test_degenerate_faces_get_t1_and_nothing_else() -> None:
    for solved in solved_families():
        if bool(solved.stability.strict):
            continue
        bounds = solved.stability.displacement_bounds(1.0)
        assert math.isfinite(float(bounds.t1))
        assert float(bounds.t2) == float(bounds.bootstrap) == math.inf
        assert math.isnan(float(solved.stability.log_leakage_asymptote(0.1)))
        assert math.isnan(float(solved.stability.log_asymptote_constant))


# ------------------------------------------------------------------ T1′, the published form


def counterexample(x: float) -> Solved:
    """Theory.md's keys (−1, 0), (1, 0), (X, −1) and q = (.9, 1), in six dimensions."""
    keys, query = np.zeros((3, 6)), np.zeros(6)
    keys[:, :2], query[:2] = [(-1, 0), (1, 0), (x, -1)], (0.9, 1)
    return solve(Problem(f"X = {x}", keys, query))


def test_published_form_fails_outside_its_range() -> None:
    """α₃ e^{1/ε} → e^{½ log 19 (X − .9) − h}, e^{13.2} for X = 10, not at most 1 or e^{−h}."""
    stability = counterexample(10.0).stability
    projection = stability.projection
    np.testing.assert_allclose(np.asarray(projection.point)[:2], [0.9, 0], atol=1e-14)
    assert abs(float(projection.gap) - 1) <= 1e-13
    entropy = -0.95 * math.log(0.95) - 0.05 * math.log(0.05)
    constant = 0.5 * math.log(19) * 9.1 - entropy
    assert round(constant, 1) == 13.2
    assert abs(float(stability.log_asymptote_constant) - constant) <= 1e-10

    # κ = 1/√(9.1² + 1), log n = log 3.
    limit = 0.25 / (9.1**2 + 1) / (math.log(3) - entropy)
    assert abs(float(stability.published_range()) - limit) <= 1e-12 * limit
    half = float(stability.published_range(0.25))
    assert abs(half - limit / 4) <= 1e-12 * limit

    epsilons = np.geomspace(1, 1e-4, LENGTH_OF_PATH)
    log_weight = np.asarray(vt.relax(projection, epsilons).log_weights)[:, 2]
    # The factor-1 form fails at every small temperature: the constant is not at most −h.
    assert abs(log_weight[-1] + 1 / epsilons[-1] - constant) <= 0.01
    published = np.asarray(stability.log_published_bound(epsilons))[:, 2]
    np.testing.assert_allclose(published, -entropy - 0.5 / epsilons, rtol=1e-12)
    violated = log_weight > published + 1e-9
    assert violated.any(), "the published form must fail somewhere"
    assert (epsilons[violated] > limit).all(), "and only outside its range"
    # With X larger it fails by more: without limit.
    worse = counterexample(40.0).stability
    log_worse = np.asarray(vt.relax(worse.projection, epsilons).log_weights)[:, 2]
    excess = [float(np.max(w + 0.5 / epsilons)) for w in (log_weight, log_worse)]
    assert excess[1] > excess[0] + 5


def test_published_form_holds_within_its_range() -> None:
    for solved in solved_families():
        stability = solved.stability
        if not math.isfinite(float(stability.gap)):
            assert not math.isfinite(float(stability.published_range()))
            continue
        off = ~np.asarray(solved.projection.face)
        for theta in (0.2, 0.5, 0.8):
            limit = float(stability.published_range(theta))
            epsilons = limit * np.geomspace(1, 1e-3, LENGTH_OF_PATH)
            log_weights = np.asarray(vt.relax(solved.projection, epsilons).log_weights)[:, off]
            bound = np.asarray(stability.log_published_bound(epsilons, theta))[:, off]
            exceeded = checks.exceeds(log_weights, bound, solved.problem.scale, epsilons)
            assert not exceeded.any(), (solved.problem.name, theta)


def test_factor_one_form_without_prefactor_is_violated() -> None:
    """α_i ≤ e^{−μ_i/ε} is false: a check that the checks can fail."""
    violations = 0
    for solved in strict_with_gap():
        seen, epsilons = checks.view(solved), solved.epsilons
        bound = -seen.multipliers[None] / epsilons[:, None]
        log_weights = np.asarray(solved.relaxation.log_weights)
        exceeded = checks.exceeds(log_weights, bound, seen.scale, epsilons)
        violations += int(exceeded[:, ~seen.face].sum())
    assert violations > 0


@pytest.mark.parametrize("theta", [0.0, 1.0, -0.5, math.nan])
def test_theta_outside_its_interval(theta: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        solved_families()[0].stability.published_range(theta)


# ------------------------------------------------------------------ T4


def test_leakage_tends_to_its_asymptote() -> None:
    """The difference shrinks with ε, and faster with the first-order term.

    Looked at between ε = Δ/5 and Δ/2000; near-degenerate faces, whose covariance has a direction
    of 1e-6, come last.
    """
    for solved in strict_with_gap():
        stability, gap = solved.stability, float(solved.stability.gap)
        epsilons = np.geomspace(gap / 5, gap / 2000, LENGTH_OF_PATH)
        relaxation = vt.relax(solved.projection, epsilons)
        log_mass = np.asarray(relaxation.log_off_face_mass)
        plain = np.abs(log_mass - np.asarray(stability.log_leakage_asymptote(epsilons)))
        refined = np.abs(
            log_mass - np.asarray(stability.log_leakage_asymptote(epsilons, first_order=True))
        )
        name = solved.problem.name
        floor = 1e-10 + 64 * UNIT * solved.problem.scale / epsilons[-1]
        assert plain[-1] <= max(0.2 * plain[0], floor), (name, plain[[0, -1]])
        assert refined[-1] <= max(0.5 * plain[-1], floor), (name, plain[-1], refined[-1])
        # The constant: at the bottom the whole sum is that of the nearest keys.
        constant = float(stability.log_asymptote_constant)
        expected = checks.view(solved)
        tied = expected.multipliers <= gap * (1 + 1e-9) + 64 * UNIT * solved.problem.scale
        tied &= ~expected.face
        tilts = expected.shifted @ np.asarray(stability.tangent).astype(np.longdouble)
        total = float(checks.log_sum_exp((tilts - float(stability.entropy))[tied]))
        assert abs(constant - total) <= 1e-9 * max(1, abs(total)), name


def test_quantified_asymptote_is_a_bound() -> None:
    """|log α_i + μ_i/ε − ⟨w₀, v_i⟩ + h| is at most what T4 quantified says, and not vacuously."""
    informative = 0
    for solved in strict_with_gap():
        stability, epsilons = solved.stability, solved.epsilons
        seen = checks.view(solved)
        tilts = seen.shifted @ np.asarray(stability.tangent).astype(np.longdouble)
        log_weights = np.asarray(solved.relaxation.log_weights)
        asymptote = tilts - float(stability.entropy) - seen.multipliers / epsilons[:, None]
        actual = np.abs(log_weights - asymptote)
        bound = np.asarray(stability.log_weight_asymptote_error(epsilons))
        informative += int((bound < 1).sum())
        # ⟨w₀, v⟩ and h carry rounding over the smallest weight; μ/ε its own.
        error = 1e-9 + 64 * UNIT * seen.scale / epsilons[:, None]
        assert (actual <= bound * (1 + 1e-9) + error).all(), solved.problem.name
    assert informative > 1000


def test_quantified_asymptote_of_an_edge_by_hand() -> None:
    """Keys (±1, 0) and one far below: σ² = 1 − q², w₀ = artanh q, and nothing leaks.

    For the diameter stands twice the distance of the furthest key of the face, 1 + q.
    """
    place, epsilon = 0.5, 0.01
    twice = 2 * (1 + place)
    keys = np.array([[-1.0, 0.0], [1.0, 0.0], [0.0, -50.0]])
    stability = vt.face_stability(vt.project(keys, np.array([place, 1.0])))
    moved = epsilon * math.atanh(place)
    shift = -math.log1p(-twice * moved / (1 - place**2)) / twice
    expected = np.array([1 + place, 1 - place]) * shift + shift * moved
    found = np.asarray(stability.log_weight_asymptote_error(padded(epsilon)))[0]
    np.testing.assert_allclose(found[:2], expected, rtol=1e-9)


def test_quantified_asymptote_of_a_vertex_says_something() -> None:
    """A point has no diameter and no curvature: what is left is what leaks."""
    keys = np.array([[0.0, 0.0], [-1.0, -1.0], [1.0, -3.0]])
    stability = vt.face_stability(vt.project(keys, np.array([0.0, 2.0])))
    found = np.asarray(stability.log_weight_asymptote_error(padded(0.1)))[0]
    # Multipliers 2 and 6: the mass off the vertex is e^−20, and the nearest such key √2 away.
    assert found[0] <= 1.01 * math.exp(-20)
    assert found[1] <= 1.01 * (math.exp(-20) + math.sqrt(2) * 2 * math.exp(-20) / 0.1)


# ------------------------------------------------------------------ T6


def test_softmax_is_the_far_query_limit() -> None:
    """Query q/γ at temperature ε/γ against softmax(Kq/ε): TV ≤ tanh(γ osc⟨p, k⟩/(4 ε))."""
    rng = np.random.default_rng(5)
    keys, query, epsilon = rng.normal(size=(24, 12)), rng.normal(size=12), 0.7
    scores = keys @ query / epsilon
    softmax = np.exp(scores - scores.max())
    softmax /= softmax.sum()
    previous = math.inf
    for coupling in (1.0, 0.1, 0.01, 1e-3, 1e-5):
        projection = vt.project(keys, query / coupling)
        relaxation = vt.relax(projection, padded(epsilon / coupling))
        weights = np.exp(np.asarray(relaxation.log_weights[0]))
        distance = 0.5 * float(np.abs(weights - softmax).sum())
        oscillation = float(np.ptp(keys @ np.asarray(relaxation.point[0])))
        assert distance <= math.tanh(coupling * oscillation / (4 * epsilon)) + 1e-12
        assert distance < previous
        previous = distance
    # γ = 1e-5 and an oscillation of order 1: the limit is reached to that order.
    assert previous <= 1e-4


def test_softmax_gap_is_the_score_gap() -> None:
    """For γ → 0 the face is the arg max of the scores, and γΔ the gap between scores."""
    rng = np.random.default_rng(6)
    keys, query, coupling = rng.normal(size=(24, 12)), rng.normal(size=12), 1e-7
    projection = vt.project(keys, query / coupling)
    scores = np.sort(keys @ query)
    np.testing.assert_array_equal(np.flatnonzero(projection.face), [np.argmax(keys @ query)])
    # The next order is γ⟨p*, p* − k⟩, about 1e-6.
    assert abs(coupling * float(projection.gap) - (scores[-1] - scores[-2])) <= 1e-5


# ------------------------------------------------------------------ the safe temperature


@pytest.mark.parametrize("mass", [0.5, 1e-2, 1e-6])
def test_safe_epsilon_is_safe_and_useful(mass: float) -> None:
    """At and below it the true leakage is at most `mass`; just above, the bound says so no more.

    Not absurdly small: one key at the gap and n − 1 beside it would allow Δ/(log n + log(1/mass)),
    and the bound reaches 0.4 of that on every family here.
    """
    tolerated = math.log(mass)
    for solved in strict_with_gap():
        stability, name = solved.stability, solved.problem.name
        safe = float(stability.largest_safe_epsilon(tolerated))
        assert 0 < safe < math.inf, name
        epsilons = safe * np.geomspace(1, 1e-4, LENGTH_OF_PATH)
        log_mass = np.asarray(vt.relax(solved.projection, epsilons).log_off_face_mass)
        assert (log_mass <= tolerated + 1e-9).all(), name
        bound = np.asarray(stability.log_leakage_bound(epsilons))
        assert (bound <= tolerated + 1e-9).all(), name
        above = np.asarray(stability.log_leakage_bound(safe * np.linspace(1, 1.01, LENGTH_OF_PATH)))
        assert above.max() > tolerated, name
        gap, n = float(stability.gap), len(solved.problem.keys)
        assert safe >= 0.4 * gap / (math.log(n) - tolerated), name


def test_safe_epsilon_where_there_is_nothing_to_leak() -> None:
    for solved in solved_families():
        gap = float(solved.stability.gap)
        safe = float(solved.stability.largest_safe_epsilon(math.log(0.01)))
        if math.isnan(gap):
            assert math.isnan(safe)
        elif gap == math.inf:
            assert safe == math.inf
        else:
            assert 0 < safe < math.inf
            assert float(solved.stability.largest_safe_epsilon(0.0)) == math.inf


@pytest.mark.parametrize("log_mass", [math.nan, math.inf])
def test_safe_epsilon_refuses_what_is_no_mass(log_mass: float) -> None:
    with pytest.raises(ValueError, match="logarithm of a mass"):
        solved_families()[0].stability.largest_safe_epsilon(log_mass)


# ------------------------------------------------------------------ answers known by construction


def test_known_entropy_tangent_and_strictness() -> None:
    """Planted, duplicated, polytope and degenerate instances know h, w₀ and G beforehand."""
    cases = [
        ("planted", 1, {}), ("duplicates", 1, {"copies": 2}), ("near_degenerate", 1, {}),
        ("degenerate", 1, {}), ("cross_polytope", 3, {"query_scale": 1.0}), ("far_query", 0, {}),
    ]  # fmt: skip
    for name, seed, parameters in cases:
        made = instances.make(name, seed=seed, n=24, d=12, **parameters)
        known, stability = made.known, vt.face_stability(vt.project(made.keys, made.query))
        assert known.entropy is not None, name
        assert known.min_weight is not None, name
        assert bool(stability.strict) == known.strict_complementarity, name
        np.testing.assert_array_equal(stability.projection.face, known.face, err_msg=name)
        assert abs(float(stability.entropy) - known.entropy) <= 1e-13, name
        weights = np.exp(np.asarray(stability.log_optimal_weights))
        np.testing.assert_allclose(weights, known.weights, atol=1e-13, err_msg=name)
        if known.tangent is not None:
            error = np.abs(np.asarray(stability.tangent) - known.tangent).max()
            assert error <= 256 * UNIT / known.min_weight, (name, error)
        if known.margin is not None:
            assert abs(float(stability.degeneracy_distance) - known.margin) <= 1e-13
            exponents = (made.keys - known.point) @ np.asarray(stability.margin)
            np.testing.assert_allclose(exponents, known.exponents, atol=1e-11)


def test_steps_are_those_of_the_whole_and_no_more_than_are_needed() -> None:
    """Only a face of which a key carries no weight is asked about, by another projection."""
    for solved in solved_families():
        taken: list[str] = []

        def noted(step: Callable[..., Any], taken: list[str] = taken) -> Callable[..., Any]:
            taken.append(step.__name__)
            return step

        found = face_stability_by_steps(solved.projection, noted)
        jax.tree.map(np.testing.assert_array_equal, found, solved.stability)
        projection = solved.projection
        asked = np.any(np.asarray(projection.face) & ~(np.asarray(projection.weights) > 0))
        assert ("project_quietly" in taken) == asked, solved.problem.name

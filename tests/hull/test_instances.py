"""Every family gives what it promises: the known answers are checked by KKT, not by a solver."""

import math
from fractions import Fraction

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from scipy.optimize import nnls

from tests.hull import reference
from vashista_theory.hull import instances
from vashista_theory.hull.instances import Instance, make

SEEDS = st.integers(0, 2**31)
WITH_ANSWERS = [
    name
    for name in instances.families()
    if any(make(name, seed=seed).known.point is not None for seed in range(3))
]
# A rule shows at one of these.
WITH_A_RULE_OF_SHAPES = [
    name
    for name in instances.families()
    if any(instances.nearest_shape(name, n=n, d=d) != (n, d) for n, d in ((1, 1), (9, 5), (5, 9)))
]


def scale(instance: Instance) -> float:
    return float(np.max(np.sum((instance.keys - instance.query) ** 2, axis=1)))


def check_kkt(instance: Instance):
    """Sufficient and necessary: feasible weights, their point, μ ≥ 0 and zero on the weights."""
    keys, query, known = instance.keys, instance.query, instance.known
    # The answers are known to the rounding of keys and query: a few units of 1.1e-16 a
    # component, of sums over up to 64 components.
    tolerance = 1e-14
    length = math.sqrt(scale(instance)) + float(np.max(np.abs(keys)))
    residual = query - known.point
    multipliers = (known.point - keys) @ residual
    np.testing.assert_allclose(multipliers, known.multipliers, rtol=0, atol=tolerance * length**2)
    assert known.multipliers.min() >= 0.0
    np.testing.assert_array_equal(known.face, known.multipliers == 0.0)
    if known.weights is not None:
        assert known.weights.min() >= 0.0
        assert not known.weights[~known.face].any()
        np.testing.assert_allclose(known.weights.sum(), 1.0, rtol=1e-14)
        np.testing.assert_allclose(
            known.weights @ keys, known.point, rtol=0, atol=tolerance * length
        )
    else:
        system = np.vstack([keys.T, np.full(len(keys), length)])
        _, away = nnls(system, np.append(known.point, length))
        assert away <= 1e-12 * length, "the point is in the hull, to what nnls leaves"
    off = known.multipliers[~known.face]
    if not math.isnan(known.gap):
        assert known.gap == off.min(initial=math.inf)


@pytest.mark.parametrize("name", WITH_ANSWERS)
@given(seed=SEEDS)
def test_known_answers_satisfy_kkt(name: str, seed: int):
    instance = make(name, seed=seed)
    if instance.known.point is None:
        return  # as in far_query, where the nearest vertex is not the answer
    check_kkt(instance)


@given(seed=SEEDS)
def test_inside_is_inside(seed: int):
    known = make("inside", seed=seed, n=40, d=5).known
    np.testing.assert_array_equal(known.point, make("inside", seed=seed, n=40, d=5).query)
    assert known.face.all()
    assert math.isnan(known.gap)
    check_kkt(make("inside", seed=seed, n=40, d=5))


@pytest.mark.parametrize("name", WITH_ANSWERS)
@given(seed=SEEDS)
def test_tangent_and_entropy_solve_their_equations(name: str, seed: int):
    instance = make(name, seed=seed)
    known, keys = instance.known, instance.keys
    if known.weights is None:
        return
    weights = known.weights[known.weights > 0.0]
    np.testing.assert_allclose(known.entropy, -np.sum(weights * np.log(weights)), rtol=1e-13)
    assert known.min_weight == weights.min()
    if not known.strict_complementarity:
        assert known.tangent is None
        return
    around = keys[known.face] - known.point
    # α_j = e^{⟨w₀, v_j⟩ − h}: v_j carries the rounding of keys, w₀ is at most log(1/min α)/½.
    rounding = 1e-13 * (1.0 + np.linalg.norm(known.tangent)) * math.sqrt(scale(instance))
    np.testing.assert_allclose(
        around @ known.tangent - known.entropy, np.log(weights), rtol=0, atol=rounding
    )
    # In the span of the face: what lstsq leaves of w₀ is rounding (v_j of length ≥ ½ or none).
    left = known.tangent - around.T @ np.linalg.lstsq(around.T, known.tangent)[0]
    assert np.linalg.norm(left) <= rounding


@pytest.mark.parametrize("name", ["planted", "duplicates", "degenerate", "near_degenerate"])
@given(seed=SEEDS, n=st.integers(4, 8), d=st.integers(4, 5))
def test_known_answers_agree_with_exact_rationals(name: str, seed: int, n: int, d: int):
    sizes = {
        "planted": {"face_size": 3},
        "duplicates": {"face_size": 2, "copies": 2},
        "degenerate": {"minimal_face_size": 2, "boundary_size": 1},
        "near_degenerate": {"face_size": 3, "min_weight": 1e-6},
    }[name]
    instance = make(name, seed=seed, n=n, d=d, **sizes)
    exact = reference.project(instance.keys, instance.query)
    known, unit = instance.known, scale(instance)
    # Without strict complementarity rounding of size u moves p* by about u, and weights too.
    np.testing.assert_allclose(
        reference.floats(exact.point), known.point, rtol=0, atol=1e-14 * math.sqrt(unit) + 1e-14
    )
    np.testing.assert_allclose(
        reference.floats(exact.multipliers), known.multipliers, rtol=0, atol=2e-14 * (1.0 + unit)
    )


@pytest.mark.parametrize(
    ("variant", "margin", "power"),
    # theory.md's three: ρ and the power of ε carried by key 4, by hand from v_4 = (.1, ±.2, −.4).
    [("positive_power", 1.0, 0.2), ("negative_power", 1.0, -0.2), ("half_margin", 0.5, 0.4)],
)
def test_worked_degenerate_examples(variant: str, margin: float, power: float):
    instance = make("degenerate", variant=variant)
    check_kkt(instance)
    assert instance.known.margin == margin
    assert instance.known.exponents[3] == pytest.approx(power)
    exact = reference.project(instance.keys, instance.query)
    assert not exact.strict
    np.testing.assert_array_equal(exact.face, instance.known.face)
    np.testing.assert_array_equal(exact.minimal_face, instance.known.weights > 0)
    # The law itself, at 50 digits, by its local slope: ‖δ‖/ε grows by 1/ρ for each e-fold of
    # 1/ε, up to O(1/log) = 2.5 % between 1e-25 and 1e-35 (log log terms of the weights on N).
    low, high = (reference.relax(exact, 10.0**-k) for k in (25, 35))
    ratio = float(high.displacement) * 1e35 - float(low.displacement) * 1e25
    assert ratio / (10 * math.log(10)) == pytest.approx(1 / margin, rel=0.025)
    # And the power of key 4 with it: log α_4 + μ_4/ε = −⟨y, v_4⟩ log(1/ε) + o(log).
    mu = Fraction(exact.multipliers[3])
    with reference.mp.workdps(70):
        tilted = [
            relaxed.log_weights[3]
            + reference.mp.mpf(mu.numerator) / mu.denominator / reference.mp.mpf(10.0**-k)
            for relaxed, k in ((low, 25), (high, 35))
        ]
    slope = float(tilted[1] - tilted[0]) / (10 * math.log(10))
    assert slope == pytest.approx(-power, abs=0.01)


@given(seed=SEEDS)
def test_random_degenerate_margin_is_the_distance_of_the_boundary_keys(seed: int):
    instance = make(
        "degenerate", seed=seed, n=8, d=5, minimal_face_size=2, boundary_size=3, margin=0.7
    )
    known = instance.known
    around = instance.keys - known.point
    inner = around[known.weights > 0.0]
    axis = inner[0] / np.linalg.norm(inner[0])  # two keys around p*: one line
    border = around[known.face & (known.weights == 0.0)]
    border = border - np.outer(border @ axis, axis)
    nearest = reference.project(border, np.zeros(5))
    distance = math.sqrt(sum(float(x) ** 2 for x in nearest.point))
    assert distance == pytest.approx(0.7, rel=1e-13)  # rounding of O(1) keys
    y = reference.floats(nearest.point) / distance**2
    np.testing.assert_allclose(around @ y, known.exponents, atol=1e-12)


def test_reference_instance_is_the_written_formula():
    rng = np.random.default_rng(0)
    keys = rng.normal(size=(1024, 64))
    query = 1.5 * rng.normal(size=64)
    instance = make("gaussian", seed=0, n=1024, d=64)
    np.testing.assert_array_equal(instance.keys, keys)
    np.testing.assert_array_equal(instance.query, query)


@pytest.mark.parametrize("name", instances.families())
def test_same_arguments_same_bits_and_other_seeds_differ(name: str):
    first, again, other = make(name, seed=5), make(name, seed=5), make(name, seed=6)
    np.testing.assert_array_equal(first.keys, again.keys)
    np.testing.assert_array_equal(first.query, again.query)
    assert not all(
        np.array_equal(*pair) for pair in ((first.keys, other.keys), (first.query, other.query))
    )
    assert first.keys.dtype == first.query.dtype == np.float64
    assert (first.family, first.seed) == (name, 5)
    assert len(instances.describe(name)) > 80


def test_families_draw_from_separate_streams():
    sphere, low_rank = make("inside", seed=3, n=9, d=4), make("far_query", seed=3, n=9, d=4)
    assert not np.array_equal(sphere.keys, low_rank.keys)


@pytest.mark.parametrize("name", WITH_A_RULE_OF_SHAPES)
@given(n=st.integers(1, 40), d=st.integers(1, 20))
def test_the_nearest_shape_is_possible(name: str, n: int, d: int):
    near = instances.nearest_shape(name, n=n, d=d)
    if name == "heads":
        assert near == (None, None)
    else:
        assert make(name, n=near[0], d=near[1]).keys.shape == near


@pytest.mark.parametrize("name", ["gaussian", "sphere", "inside", "far_query", "simplex"])
def test_one_key_in_one_dimension(name: str):
    assert make(name, n=1, d=1).keys.shape == (1, 1)


def test_prescribed_numbers_are_the_ones_asked_for():
    weights = [0.7, 0.2, 0.1]
    known = make("planted", face_size=3, weights=weights, gap=0.25, ties=4, n=50, d=6).known
    assert sorted(known.weights[known.face]) == sorted(weights)
    assert np.count_nonzero(known.multipliers == 0.25) == 4
    tiny = make("near_degenerate", min_weight=1e-12, gap=1e-10).known
    assert (tiny.min_weight, tiny.gap) == (1e-12, 1e-10)
    repeated = make("duplicates", copies=4, face_size=3, n=20, d=5)
    assert len(np.unique(repeated.keys, axis=0)) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "gausian"}, r"unknown family 'gausian' \(did you mean 'gaussian'\?\).*planted"),
        ({"name": "planted", "face": 3}, r"no parameter 'face' \(did you mean 'face_size'"),
        ({"name": "planted", "face_size": 20, "d": 16}, "d >= 20, not 16"),
        ({"name": "planted", "face_size": 9, "n": 8}, "9 keys of 8"),
        ({"name": "planted", "weights": [0.5, 0.6], "face_size": 2}, "sum 1"),
        ({"name": "planted", "gap": 0.0}, "gap = 0.0"),
        ({"name": "planted", "gap": math.nan}, "gap = nan"),
        ({"name": "planted", "ties": 0}, "ties = 0"),
        ({"name": "near_degenerate", "min_weight": 0.5}, "min_weight = 0.5"),
        ({"name": "degenerate", "variant": "other"}, "variant = 'other'.*'half_margin'"),
        ({"name": "degenerate", "variant": "half_margin", "n": 6}, "n = 5 at seed 0, not n = 6"),
        ({"name": "simplex", "n": 5, "d": 4}, "n <= d"),
        ({"name": "cross_polytope", "n": 5, "d": 4}, "n = 2d = 8"),
        ({"name": "low_rank", "rank": 17, "d": 16}, "rank = 17"),
        ({"name": "far_query", "coupling": 0.0}, "coupling = 0.0"),
        ({"name": "heads", "seed": 504}, "seed 504 of 504"),
        ({"name": "heads", "n": 3}, "n = 1024 at seed 0, not n = 3"),
        ({"name": "gaussian", "n": 0}, "n must be an integer of at least 1, not 0"),
        ({"name": "gaussian", "seed": -1}, "seed must be an integer of at least 0, not -1"),
    ],
)
def test_bad_requests_are_refused_with_the_remedy(arguments: dict, message: str):
    arguments = dict(arguments)
    with pytest.raises(ValueError, match=message):
        make(arguments.pop("name"), **arguments)


def test_a_taken_name_is_refused():
    with pytest.raises(ValueError, match="'planted' is registered already"):
        instances.family("planted")(instances.make)

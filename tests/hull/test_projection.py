"""The projection: invariance, transformations, warm starts, precision, outcomes."""

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

import vashista_theory as vt
from tests.hull import checks, reference
from tests.hull.strategies import (
    UNIT,
    Problem,
    family_problems,
    problems,
    solved_families,
)
from tests.thinned import spread
from vashista_theory.hull import instances

ACCURACY = 1e-12


@pytest.fixture(scope="module")
def batch() -> tuple[np.ndarray, np.ndarray]:
    """Seven instances of (24, 12): the last two have the query inside and on a vertex."""
    made = [instances.make("gaussian", seed=s, n=24, d=12) for s in range(5)]
    made.append(instances.make("inside", seed=0, n=24, d=12))
    made.append(dataclasses.replace(made[0], query=made[0].keys[3]))
    return np.stack([m.keys for m in made]), np.stack([m.query for m in made])


def assert_same(ours: vt.Projection, theirs: vt.Projection, scale: float, name: str) -> None:
    """What is unique agrees to design's tolerance; the face exactly."""
    np.testing.assert_array_equal(ours.face, theirs.face, err_msg=name)
    assert np.abs(np.asarray(ours.multipliers) - theirs.multipliers).max() <= ACCURACY * scale
    np.testing.assert_allclose(ours.gap, theirs.gap, rtol=0, atol=ACCURACY * scale, err_msg=name)
    assert np.abs(np.asarray(ours.point) - theirs.point).max() <= ACCURACY * math.sqrt(scale), name


def rotation(d: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(d).normal(size=(d, d)))[0]


# ------------------------------------------------------------------ invariance


@pytest.mark.parametrize("factor", spread([1e-8, 1e-3, 7.0, 1e8], 2))
def test_scaling(factor: float) -> None:
    for problem in family_problems():
        base = vt.project(problem.keys, problem.query)
        scaled = vt.project(factor * problem.keys, factor * problem.query)
        np.testing.assert_array_equal(scaled.face, base.face, err_msg=problem.name)
        back = eqx.tree_at(
            lambda p: (p.point, p.multipliers, p.gap),
            scaled,
            (scaled.point / factor, scaled.multipliers / factor**2, scaled.gap / factor**2),
        )
        assert_same(back, base, problem.scale, problem.name)


@pytest.mark.parametrize("length", [1.0, 1e3])
def test_translation(length: float) -> None:
    """To 1e-12 × (1 + ‖shift‖²/scale) × scale: the shift's own rounding moves the input."""
    for solved in solved_families():
        problem, base = solved.problem, solved.projection
        d = problem.query.size
        shift = length * math.sqrt(problem.scale) * np.ones(d) / math.sqrt(d)
        moved = vt.project(problem.keys + shift[None], problem.query + shift, throw=False)
        tolerated = ACCURACY * (1 + length**2)
        apart = np.abs(np.asarray(moved.multipliers) - base.multipliers).max()
        assert apart <= tolerated * problem.scale, problem.name
        away = np.asarray(moved.point) - shift - base.point
        assert np.abs(away).max() <= tolerated * math.sqrt(problem.scale), problem.name
        if bool(moved.result == vt.Result.successful):
            np.testing.assert_array_equal(moved.face, base.face, err_msg=problem.name)
            np.testing.assert_allclose(moved.gap, base.gap, rtol=0, atol=tolerated * problem.scale)


def test_rotation() -> None:
    for solved in solved_families():
        problem, base = solved.problem, solved.projection
        turn = rotation(problem.query.size)
        turned = vt.project(problem.keys @ turn, problem.query @ turn)
        back = eqx.tree_at(lambda p: p.point, turned, turned.point @ turn.T)
        assert_same(back, base, problem.scale, problem.name)


def test_permutation() -> None:
    for solved in solved_families():
        problem, base = solved.problem, solved.projection
        order = np.random.default_rng(1).permutation(len(problem.keys))
        mixed = vt.project(problem.keys[order], problem.query)
        inverse = np.argsort(order)
        back = eqx.tree_at(
            lambda p: (p.multipliers, p.face),
            mixed,
            (mixed.multipliers[inverse], mixed.face[inverse]),
        )
        assert_same(back, base, problem.scale, problem.name)


# ------------------------------------------------------------------ exact answers


@given(problems(((2, 3), (3, 6), (5, 3))))
@settings(max_examples=40)
def test_against_rational_arithmetic(problem: Problem) -> None:
    """Point and multipliers of adversarial problems, the truth being exact rational numbers.

    ‖p − p*‖ ≤ √(duality gap), and the gap is rounding × scale: half the digits of a length are
    all that holds for keys that differ in scale by many orders of magnitude. Multipliers then
    change by as much as ‖p − p*‖ times the reach.
    """
    projection = vt.project(problem.keys, problem.query, throw=False)
    exact = reference.project(problem.keys, problem.query)
    scale = problem.scale or 1.0
    away = np.linalg.norm(np.asarray(projection.point) - reference.floats(exact.point))
    magnitude = float(np.abs(problem.query).max())
    allowed = math.sqrt(float(projection.duality_gap)) + math.sqrt(1e-14 * scale) + UNIT * magnitude
    assert away <= allowed
    ordinary = "mixed" not in problem.name and "flat" not in problem.name
    if ordinary and bool(projection.result == vt.Result.successful):
        np.testing.assert_array_equal(projection.face, exact.face)
        multipliers = reference.floats(exact.multipliers)
        rounding = ACCURACY * scale + 1e-14 * magnitude**2
        assert np.abs(np.asarray(projection.multipliers) - multipliers).max() <= rounding
        assert away <= ACCURACY * math.sqrt(scale) + 64 * UNIT * magnitude


def test_reported_evidence_is_measured_on_the_answer() -> None:
    """Residuals and duality gap as reported equal those computed from the arrays."""
    for solved in solved_families():
        projection, scale = solved.projection, solved.problem.scale
        defects = checks.kkt_defects(*solved.problem[1:], projection)
        reported = projection.residuals
        assert abs(float(reported.primal) - defects.primal) <= 4 * UNIT
        assert abs(float(reported.dual) / scale - max(defects.dual, 0)) <= 64 * UNIT
        assert abs(float(reported.complementarity) / scale - defects.complementarity) <= 64 * UNIT
        length = math.sqrt(scale) + np.linalg.norm(solved.problem.query)
        assert float(reported.stationarity) <= 64 * UNIT * length
        assert float(projection.duality_gap) >= 0
        assert math.isclose(float(projection.scale), scale, rel_tol=1e-13)


def test_special_gaps() -> None:
    """NaN inside or on the hull; +inf where all keys are exposed and the query is off the hull."""
    square = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [0.5, 0.5, 0]])
    above = vt.project(square, [0.5, 0.5, 2.0])
    assert bool(above.result == vt.Result.successful)
    assert float(above.gap) == math.inf
    assert bool(above.face.all())
    for query in ([0.5, 0.5, 0.0], [0.0, 0.0, 0.0], [0.25, 1.0, 0.0]):
        within = vt.project(square, query)
        assert bool(within.result == vt.Result.inside_hull), query
        assert math.isnan(float(within.gap))
        assert not np.asarray(within.multipliers).any()
        assert bool(within.face.all())


# ------------------------------------------------------------------ transformations


def test_loop_map_vmap_jit_and_project_many_agree(batch: tuple[np.ndarray, np.ndarray]) -> None:
    keys, queries = jnp.asarray(batch[0]), jnp.asarray(batch[1])
    loop = [vt.project(k, q) for k, q in zip(keys, queries, strict=True)]
    one = lambda pair: vt.project(*pair, throw=False)  # noqa: E731
    mapped = jax.jit(lambda k, q: jax.lax.map(one, (k, q)))(keys, queries)
    lanes = jax.jit(jax.vmap(lambda k, q: one((k, q))))(keys, queries)
    many = vt.project_many(keys, queries)
    few = vt.project_many(keys[:1], queries[:1])
    assert few.point.shape == (1, 12)
    for projections in (mapped, lanes, many):
        assert projections.point.shape == (7, 12)
        for index, single in enumerate(loop):
            ours = jax.tree.map(lambda leaf, i=index: leaf[i], projections)
            scale = float(single.scale)
            assert_same(ours, single, scale, f"lane {index}")
            assert bool(ours.result == single.result)
            np.testing.assert_allclose(ours.weights, single.weights, atol=1e-13)
            assert float(ours.residuals.dual) <= ACCURACY * scale


def test_every_batch_size_is_covered_once(batch: tuple[np.ndarray, np.ndarray]) -> None:
    """Batches are cut in equal, overlapping parts: no instance is lost or doubled."""
    keys, queries = batch
    everything = vt.project_many(keys, queries)
    part = vt.project_many(keys[:5], queries[:5])
    np.testing.assert_allclose(part.point, everything.point[:5], atol=1e-14)
    assert part.steps.shape == (5,)


@pytest.mark.parametrize("start", ["own", "none", "all", "wrong", "random"])
def test_warm_start_changes_steps_and_not_the_answer(start: str) -> None:
    for problem in family_problems()[:8]:
        cold = vt.project(problem.keys, problem.query)
        n = len(problem.keys)
        face = {
            "own": np.asarray(cold.face),
            "none": np.zeros(n, bool),
            "all": np.ones(n, bool),
            "wrong": ~np.asarray(cold.face),
            "random": np.random.default_rng(2).random(n) < 0.3,
        }[start]
        warm = vt.project(problem.keys, problem.query, initial_face=face)
        assert_same(warm, cold, problem.scale, problem.name)
        assert max(checks.kkt_defects(*problem[1:], warm)) <= ACCURACY
        if start == "own":
            assert int(warm.steps) <= 1, problem.name


@pytest.mark.slow
def test_warm_start_in_float32() -> None:
    made = instances.make("gaussian", seed=0, n=24, d=12)
    keys, query = made.keys.astype(np.float32), made.query.astype(np.float32)
    cold = vt.project(keys, query)
    warm = vt.project(keys, query, initial_face=cold.face)
    assert warm.point.dtype == jnp.float32
    np.testing.assert_array_equal(warm.face, cold.face)


# ------------------------------------------------------------------ precision


def test_float32_to_its_own_tolerance() -> None:
    """Multipliers to 1e-6 × scale, as the docstring says, against float64 on the same numbers."""
    for name in ("gaussian", "sphere", "planted", "cross_polytope"):
        made = instances.make(name, seed=1, n=24, d=12)
        keys, query = made.keys.astype(np.float32), made.query.astype(np.float32)
        single = vt.project(keys, query)
        double = vt.project(keys.astype(float), query.astype(float))
        assert single.point.dtype == single.multipliers.dtype == jnp.float32
        scale = float(double.scale)
        error = np.abs(np.asarray(single.multipliers, float) - np.asarray(double.multipliers)).max()
        assert error <= 1e-6 * scale, (name, error / scale)
        apart = np.abs(np.asarray(single.point, float) - np.asarray(double.point)).max()
        assert apart <= 1e-6 * math.sqrt(scale), name
        np.testing.assert_array_equal(single.face, double.face, err_msg=name)


def test_double_precision_needs_to_be_switched_on() -> None:
    keys, query = np.eye(3), np.ones(3)
    with jax.enable_x64(False):
        with pytest.raises(ValueError, match="float64 but JAX's 64-bit mode is off"):
            vt.project(keys, query)
        with pytest.raises(ValueError, match="jax_enable_x64"):
            vt.project(keys.astype(np.float32), query)
        single = vt.project(keys.astype(np.float32), query.astype(np.float32))
        assert single.point.dtype == "float32"
        # Lists have no precision of their own.
        assert vt.project(keys.tolist(), query.tolist()).point.dtype == "float32"


def test_double_precision_within_a_context(batch: tuple[np.ndarray, np.ndarray]) -> None:
    """`jax.enable_x64(True)` holds for one thread; the batch runs on several."""
    with jax.enable_x64(False), jax.enable_x64(True):
        many = vt.project_many(*batch)
    assert many.point.dtype == many.gap.dtype == jnp.float64
    assert float(np.max(np.asarray(many.residuals.dual / many.scale))) <= ACCURACY


# ------------------------------------------------------------------ outcomes


def starved(keys: jax.Array, query: jax.Array, *, throw: bool) -> vt.Projection:
    return vt.project(keys, query, max_steps=1, throw=throw)


def test_failure_is_returned_or_raised() -> None:
    made = instances.make("gaussian", seed=0, n=24, d=12)
    keys, query = jnp.asarray(made.keys), jnp.asarray(made.query)
    quiet = starved(keys, query, throw=False)
    assert bool(quiet.result == vt.Result.max_steps_reached)
    assert int(quiet.steps) == 1
    assert float(quiet.duality_gap) > 0
    with pytest.raises(RuntimeError, match="Raise `max_steps`") as raised:
        starved(keys, query, throw=True)
    assert "duality gap" in str(raised.value)
    assert "throw=False" in str(raised.value)


def test_failure_under_jit() -> None:
    made = instances.make("gaussian", seed=0, n=24, d=12)
    keys, query = jnp.asarray(made.keys), jnp.asarray(made.query)
    quiet = jax.jit(lambda k, q: starved(k, q, throw=False))(keys, query)
    assert bool(quiet.result == vt.Result.max_steps_reached)
    with pytest.raises(Exception, match="Raise `max_steps`"):
        jax.block_until_ready(eqx.filter_jit(lambda k, q: starved(k, q, throw=True))(keys, query))


def test_inside_is_a_fact_and_not_a_failure(batch: tuple[np.ndarray, np.ndarray]) -> None:
    projections = vt.project_many(*batch)
    inside = np.asarray(projections.result == vt.Result.inside_hull)
    np.testing.assert_array_equal(inside, [False] * 5 + [True, True])


def test_nonfinite_numbers_under_jit_are_a_result() -> None:
    keys = jnp.asarray(instances.make("gaussian", seed=0, n=24, d=12).keys)
    project = jax.jit(lambda k, q: vt.project(k, q, throw=False).result)
    result = project(keys.at[3, 4].set(jnp.nan), keys[0])
    assert bool(result == vt.Result.nonfinite_input)
    result = project(keys.at[3, 4].set(jnp.inf), keys[0])
    assert bool(result == vt.Result.nonfinite_input)
    # Finite, but its square is not.
    result = project(keys.at[3, 4].set(1e200), keys[0])
    assert bool(result == vt.Result.nonfinite_input)


def test_a_worked_edge_and_a_worked_vertex_in_every_order() -> None:
    """Weights ¼ and ¾ on (−1, 0) and (1, 0); a copy of the vertex lies on the face with it."""
    edge = np.array([[-1.0, 0], [1, 0], [0, -3], [0, -4]]), np.array([0.25, 0.75, 0, 0])
    vertex = np.array([[0.5, 0], [0.5, 0], [0, -3], [0, -4]]), np.array([0.5, 0.5, 0, 0])
    for turn in range(4):
        keys, weights = (np.roll(array, turn, axis=0) for array in edge)
        found = vt.project(keys, np.array([0.5, 1.0]))
        np.testing.assert_allclose(found.weights, weights, atol=1e-15)
        np.testing.assert_array_equal(found.face, weights > 0)
        keys, weights = (np.roll(array, turn, axis=0) for array in vertex)
        found = vt.project(keys, np.array([0.5, 1.0]))
        assert float(np.sum(found.weights)) == 1.0
        np.testing.assert_array_equal(found.face, weights > 0)
        assert float(found.gap) == 3.0


@pytest.mark.parametrize("where", [(0, 1), (1, 0), (1, 1), None])
def test_what_processors_take_for_zero_is_not_taken_for_a_key(where) -> None:
    """A key or a query that differs from zero, in a number below the normal ones alone."""
    keys, query = np.zeros((2, 2)), np.zeros(2)
    for array, differs in zip((keys[1], query), where or (0, 0), strict=True):
        array[0] = np.finfo(np.float64).smallest_subnormal if differs else 0.0
    expected = vt.Result.inside_hull if where is None else vt.Result.nonfinite_input
    assert bool(vt.project(keys, query, throw=False).result == expected)


def test_loose_tolerance_stops_early_and_is_kept() -> None:
    problem = next(p for p in family_problems() if p.keys.shape == (1024, 64))
    full = vt.project(problem.keys, problem.query)
    loose = vt.project(problem.keys, problem.query, tolerance=1e-2, throw=False)
    assert int(loose.steps) <= int(full.steps)
    assert float(loose.duality_gap) <= 1e-2 * problem.scale
    away = np.linalg.norm(np.asarray(loose.point) - full.point)
    assert away <= math.sqrt(float(loose.duality_gap))

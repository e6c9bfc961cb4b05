"""The relaxation against 50 digits, and the promises of its interface."""

import math

import jax
import mpmath as mp
import numpy as np
import pytest

import vashista_theory as vt
from tests.hull import reference
from tests.hull.strategies import UNIT, Problem, path, solve, solved_families
from vashista_theory.hull import instances

EXAMPLES = ("positive_power", "negative_power", "half_margin")
STEPS_TRIED = (0, 12, 18, 24, 29, 32)
"""Places on the path of 33: ε/scale of 1e3, 0.075, 1e-3, 2.7e-6, 1e-7 and 1e-8 about."""


def small_problems() -> list[Problem]:
    rng = np.random.default_rng(7)
    generic = [
        Problem(f"generic {k}", rng.normal(size=(5, 3)), 2 * rng.normal(size=3)) for k in range(3)
    ]
    edge = Problem(
        "uneven edge and a near key",
        np.array([[0.0, 0, 0], [1, 0, 0], [0.4, 0.3, -0.01], [0.5, 2, -1], [-1, 0, -0.5]]),
        np.array([0.3, 0.0, 1.0]),
    )
    vertex = Problem(
        "vertex",
        np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0], [-1, 0, 0.5], [0, -1, 0.25]]),
        np.array([0.1, 0.2, 3.0]),
    )
    two = Problem("two keys", np.array([[0.0, 0, 0], [3, 1, 2]]), np.array([1.0, 1, 0.5]))
    examples = [instances.make("degenerate", variant=v) for v in EXAMPLES]
    return [
        *generic, edge, vertex, two,
        *(Problem(v, i.keys, i.query) for v, i in zip(EXAMPLES, examples, strict=True)),
    ]  # fmt: skip


def log_vertex_displacement(exact: reference.ReferenceProjection, log_weights: list) -> float:
    """Log ‖Σ_{i∉F} α_i v_i‖ at a vertex, where the sum over the face vanishes."""
    with mp.workdps(60):
        total = [mp.mpf(0)] * len(exact.query)
        for i in np.flatnonzero(~exact.face):
            for k, (x, p) in enumerate(zip(exact.keys[i], exact.point, strict=True)):
                step = x - p
                total[k] += mp.exp(log_weights[i]) * mp.mpf(step.numerator) / step.denominator
        return float(mp.log(mp.norm(total)))


@pytest.mark.parametrize("problem", small_problems(), ids=lambda p: p.name)
def test_fifty_digits(problem: Problem) -> None:
    """Relative accuracy 1e-12 × max(1, scale/Δ), as promised; logarithms where it underflows.

    A displacement below the rounding of p* itself, 4 u √scale, cannot be had in float64.
    """
    solved = solve(problem)
    exact = reference.project(problem.keys, problem.query)
    np.testing.assert_array_equal(solved.projection.face, exact.face)
    scale, gap = problem.scale, exact.gap if math.isfinite(exact.gap) else problem.scale
    promised = 1e-12 * max(1.0, scale / gap)
    floor = 4 * UNIT * math.sqrt(scale)
    at_vertex = int(exact.face.sum()) == 1
    for index in STEPS_TRIED:
        epsilon = solved.epsilons[index]
        found = jax.tree.map(lambda leaf, i=index: np.asarray(leaf)[i], solved.relaxation)
        true = reference.relax(exact, float(epsilon))
        where = f"ε = {epsilon / scale:.1e} scale"
        log_mass = float(true.log_off_face_mass)
        if math.isfinite(log_mass):
            allowed = promised * max(1.0, abs(log_mass))
            assert abs(found.log_off_face_mass - log_mass) <= allowed, where
        else:
            assert found.log_off_face_mass == -math.inf
        log_weights = np.array([float(x) for x in true.log_weights])
        allowed = promised * np.maximum(1.0, np.abs(log_weights))
        assert (np.abs(found.log_weights - log_weights) <= allowed).all(), where
        point = reference.floats(true.point)
        assert np.linalg.norm(found.point - point) <= promised * math.sqrt(scale), where
        if at_vertex:
            log_displacement = log_vertex_displacement(exact, true.log_weights)
            allowed = promised * max(1.0, abs(log_displacement))
            assert abs(found.log_displacement - log_displacement) <= allowed, where
        else:
            displacement = float(true.displacement)
            apart = abs(found.displacement - displacement)
            assert apart <= promised * displacement + floor, where
            # And the logarithm is its logarithm.
            assert math.isclose(math.exp(found.log_displacement), found.displacement, rel_tol=1e-12)


def test_slope_of_the_displacement_at_the_smallest_temperature() -> None:
    """‖δ‖/ε has its digits where ‖δ‖ itself is 1e-8: δ is never a difference of two points."""
    for problem in small_problems()[:4]:
        exact = reference.project(problem.keys, problem.query)
        if not exact.strict or int(exact.face.sum()) < 2:
            continue
        solved = solve(problem)
        true = reference.relax(exact, float(solved.epsilons[-1]))
        ratio = float(solved.relaxation.displacement[-1]) / float(true.displacement)
        slope = float(np.linalg.norm(np.asarray(solved.stability.tangent)))
        # The error of w₀ is some roundings over ‖w₀‖ √scale.
        assert abs(ratio - 1) <= 64 * UNIT * max(1.0, 1 / (slope * problem.scale**0.5)), (
            problem.name, ratio
        )  # fmt: skip


def test_order_of_epsilon_is_the_callers() -> None:
    problem = small_problems()[0]
    projection = vt.project(problem.keys, problem.query)
    epsilons = path(problem.scale)
    shuffled = np.random.default_rng(0).permutation(len(epsilons))
    descending = vt.relax(projection, epsilons)
    mixed = vt.relax(projection, epsilons[shuffled])
    np.testing.assert_array_equal(mixed.epsilon, epsilons[shuffled])
    for field in ("log_weights", "point", "displacement", "log_off_face_mass", "steps"):
        ours, theirs = np.asarray(getattr(mixed, field)), np.asarray(getattr(descending, field))
        np.testing.assert_array_equal(ours, theirs[shuffled], err_msg=field)


def test_scalar_epsilon_has_no_leading_axis() -> None:
    problem = small_problems()[0]
    projection = vt.project(problem.keys, problem.query)
    relaxation = vt.relax(projection, 0.1)
    assert relaxation.epsilon.shape == relaxation.displacement.shape == ()
    assert relaxation.log_weights.shape == (5,)
    assert relaxation.point.shape == (3,)
    assert bool(relaxation.result == vt.Result.successful)
    # Temperature 0.1 on its own and within a path: the same numbers to rounding.
    among = vt.relax(projection, np.append(path(problem.scale)[:-1], 0.1))
    np.testing.assert_allclose(relaxation.log_weights, among.log_weights[-1], rtol=1e-13)
    np.testing.assert_allclose(float(relaxation.displacement), float(among.displacement[-1]))


def test_residual_bounds_the_error_of_the_point() -> None:
    """p^ε from the reported weights is within the reported residual of the reported point."""
    for solved in solved_families():
        weights = np.exp(np.asarray(solved.relaxation.log_weights))
        centre = np.asarray(solved.projection.point)
        point = (weights / weights.sum(axis=1, keepdims=True)) @ (
            solved.problem.keys - centre[None]
        ) + centre[None]
        apart = np.linalg.norm(point - np.asarray(solved.relaxation.point), axis=1)
        rounding = 64 * UNIT * math.sqrt(solved.problem.scale) + 4 * UNIT * np.linalg.norm(centre)
        allowed = np.asarray(solved.relaxation.residual) + rounding
        assert (apart <= allowed).all(), solved.problem.name


def test_inside_jit_and_map() -> None:
    problem = small_problems()[1]
    epsilons = path(problem.scale)

    @jax.jit
    def displacement(keys: jax.Array, query: jax.Array) -> jax.Array:
        return vt.relax(vt.project(keys, query, throw=False), epsilons, throw=False).displacement

    expected = np.asarray(solve(problem).relaxation.displacement)
    np.testing.assert_allclose(displacement(problem.keys, problem.query), expected, rtol=1e-12)


def test_a_batch_is_refused_with_the_remedy() -> None:
    projections = vt.project_many(np.zeros((4, 2, 3)), np.ones((4, 3)))
    with pytest.raises(ValueError, match=r"one projection, got a batch .*\(4, 2, 3\).*lax\.map"):
        vt.relax(projections, 0.1)

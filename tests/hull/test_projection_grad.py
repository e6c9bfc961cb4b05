"""The derivative three ways: implicit, through a dense solve on the fixed face, by differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vashista_theory as vt
from tests.hull.strategies import Problem
from tests.thinned import spread
from vashista_theory.hull import instances

Outputs = tuple[jax.Array, jax.Array, jax.Array, jax.Array]


def outputs(keys: jax.Array, query: jax.Array) -> Outputs:
    p = vt.project(keys, query, throw=False)
    return p.point, p.weights, p.multipliers, p.gap


def dense_formula(face: np.ndarray):
    """The same four on the affine hull of a fixed face, by its bordered KKT matrix."""
    support, off = np.flatnonzero(face), np.flatnonzero(~face)
    m = len(support)

    def formula(keys: jax.Array, query: jax.Array) -> Outputs:
        rows = keys[support]
        ones = jnp.ones((m, 1))
        matrix = jnp.block([[rows @ rows.T, ones], [ones.T, jnp.zeros((1, 1))]])
        weights = jnp.linalg.solve(matrix, jnp.append(rows @ query, 1.0))[:m]
        point = weights @ rows
        multipliers = (point[None] - keys) @ (query - point)
        gap = jnp.min(multipliers[off]) if len(off) else jnp.asarray(jnp.inf)
        return point, jnp.zeros(len(face)).at[support].set(weights), multipliers, gap

    return formula


def small(seed: int) -> Problem:
    rng = np.random.default_rng(seed)
    return Problem(f"seed {seed}", rng.normal(size=(5, 3)), 2.5 * rng.normal(size=3))


def vertex() -> Problem:
    keys = np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0], [-1, 0, 0.5], [0, -1, 0.25]])
    return Problem("vertex", keys, np.array([0.1, 0.2, 3.0]))


PROBLEMS = [small(0), small(1), small(2), vertex()]


@pytest.fixture(scope="module")
def jacobians():
    forward = jax.jit(jax.jacfwd(outputs, argnums=(0, 1)))
    reverse = jax.jit(jax.jacrev(outputs, argnums=(0, 1)))
    return forward, reverse


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.name)
def test_three_ways(problem: Problem, jacobians) -> None:
    keys, query = jnp.asarray(problem.keys), jnp.asarray(problem.query)
    projection = vt.project(keys, query)
    face = np.asarray(projection.face)
    assert face.sum() == (np.asarray(projection.weights) > 0).sum(), "a simplex, or not unique"
    dense = dense_formula(face)
    for ours, theirs in zip(outputs(keys, query), dense(keys, query), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-13)
    expected = jax.jacfwd(dense, argnums=(0, 1))(keys, query)
    for jacobian in jacobians:
        found = jacobian(keys, query)
        for name, ours, theirs in zip(
            ("point", "weights", "multipliers", "gap"), found, expected, strict=True
        ):
            for argument, a, b in zip(("keys", "query"), ours, theirs, strict=True):
                # The bordered Gram matrix squares the condition number: about 1e2 squared here.
                np.testing.assert_allclose(
                    a, b, rtol=1e-10, atol=1e-10, err_msg=f"{name} by {argument}"
                )


def central_difference(problem: Problem, dk: np.ndarray, dq: np.ndarray, step: float) -> list:
    ends = [
        outputs(jnp.asarray(problem.keys + s * dk), jnp.asarray(problem.query + s * dq))
        for s in (step, -step)
    ]
    return [(np.asarray(a) - np.asarray(b)) / (2 * step) for a, b in zip(*ends, strict=True)]


def wide(name: str, seed: int) -> Problem:
    made = instances.make(name, seed=seed, n=24, d=12)
    return Problem(name, made.keys, made.query)


@pytest.mark.parametrize(
    "problem",
    [*PROBLEMS, *spread([wide("planted", 1), wide("gaussian", 0)], 1)],
    ids=lambda p: p.name,
)
def test_finite_differences(problem: Problem) -> None:
    """Central differences: error h² times the third derivative plus u/h; 1e-8 at h = 1e-5."""
    rng = np.random.default_rng(3)
    dk, dq = rng.normal(size=problem.keys.shape), rng.normal(size=problem.query.shape)
    primals = (jnp.asarray(problem.keys), jnp.asarray(problem.query))
    _, tangents = jax.jvp(outputs, primals, (jnp.asarray(dk), jnp.asarray(dq)))
    differences = central_difference(problem, dk, dq, 1e-5)
    for name, ours, theirs in zip(
        ("point", "weights", "multipliers", "gap"), tangents, differences, strict=True
    ):
        size = 1.0 + np.abs(theirs).max()
        np.testing.assert_allclose(ours, theirs, atol=1e-7 * size, err_msg=name)
    # Reverse mode is the transpose of forward mode.
    _, pullback = jax.vjp(outputs, *primals)
    cotangents = tuple(jnp.asarray(rng.normal(size=np.shape(t))) for t in tangents)
    keys_bar, query_bar = pullback(cotangents)
    forward = sum(float(jnp.vdot(c, t)) for c, t in zip(cotangents, tangents, strict=True))
    reverse = float(jnp.vdot(keys_bar, dk) + jnp.vdot(query_bar, dq))
    assert abs(forward - reverse) <= 1e-10 * (1 + abs(forward))


def test_inside_the_hull_the_point_follows_the_query() -> None:
    keys = jnp.asarray([[0.0, 0, 0], [3, 0, 0], [0, 3, 0], [0, 0, 3], [3, 3, 3]])
    query = jnp.asarray([1.0, 1, 0.9])
    jacobian = jax.jacfwd(lambda q: vt.project(keys, q, throw=False).point)(query)
    np.testing.assert_allclose(jacobian, np.eye(3), atol=1e-12)
    multipliers = jax.jacfwd(lambda q: vt.project(keys, q, throw=False).multipliers)(query)
    np.testing.assert_array_equal(multipliers, np.zeros((5, 3)))


def test_half_squared_distance_has_gradient_r() -> None:
    """Moreau: the gradient of ½ dist² is q − p*, whatever the face, degenerate ones included."""
    for variant in ("positive_power", "negative_power"):
        made = instances.make("degenerate", variant=variant)
        keys = jnp.asarray(made.keys)

        def half(query: jax.Array, keys: jax.Array = keys) -> jax.Array:
            return 0.5 * jnp.sum((query - vt.project(keys, query, throw=False).point) ** 2)

        gradient = jax.grad(half)(jnp.asarray(made.query))
        np.testing.assert_allclose(gradient, made.query - made.known.point, atol=1e-13)

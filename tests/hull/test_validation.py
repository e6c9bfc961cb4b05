"""Bad input: the message names the value and the remedy, and nothing of JAX's inside shows."""

import traceback

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vashista_theory as vt

KEYS = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, -1]])
QUERY = np.array([2.0, 1.0, 0.5])


def replaced(array: np.ndarray, index: tuple[int, ...], value: float) -> np.ndarray:
    changed = array.copy()
    changed[index] = value
    return changed


def check(call, *fragments: str, kind: type[Exception] = ValueError) -> None:
    """`call` raises `kind`, its message has every fragment, and no frame below is JAX's."""
    with pytest.raises(kind) as raised:
        call()
    message = str(raised.value)
    for fragment in fragments:
        assert fragment in message, message
    assert len(message) < 500, "a message is read by a person"
    assert raised.value.__cause__ is None
    assert "jax/" not in traceback.format_tb(raised.value.__traceback__)[-1]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("project", [vt.project, "many"])
def test_nonfinite_numbers_are_located(value: float, project) -> None:
    bad, bad_query = replaced(KEYS, (3, 1), value), replaced(QUERY, (2,), value)
    if project == "many":
        check(lambda: vt.project_many(np.stack([KEYS, bad]), np.stack([QUERY] * 2)),
              "keys[1, 3, 1]", str(value), "must be finite")  # fmt: skip
        return
    check(lambda: vt.project(bad, QUERY), "keys[3, 1]", str(value), "must be finite", "Remove")
    check(lambda: vt.project(KEYS, bad_query), "query[2]", str(value), "must be finite")


def test_several_nonfinite_numbers_are_counted() -> None:
    bad = replaced(replaced(KEYS, (3, 1), np.nan), (4, 0), np.inf)
    check(lambda: vt.project(bad, QUERY), "keys[3, 1]", "2 such")


def test_squares_that_overflow() -> None:
    check(lambda: vt.project(1e200 * KEYS, QUERY), "overflow", "power of two", kind=RuntimeError)


@pytest.mark.parametrize(
    ("keys", "query", "fragments"),
    [
        (np.zeros((0, 3)), QUERY, ("(0, 3)", "empty")),
        (np.zeros((5, 0)), np.zeros(0), ("(5, 0)", "empty")),
        ([], QUERY, ("(0,)", "keys (n, d)")),
        (KEYS[0], QUERY, ("(3,)", "keys (n, d)")),
        (KEYS[None], QUERY, ("(1, 5, 3)", "keys (n, d)")),
        (KEYS, QUERY[None], ("(1, 3)", "query (d,)")),
        (KEYS, 1.0, ("()", "query (d,)")),
        (KEYS, QUERY[:2], ("(5, 3)", "(2,)", "same lengths")),
        (KEYS.astype(complex), QUERY, ("`keys`", "complex128", "real")),
        (KEYS, QUERY.astype(np.complex64), ("`query`", "complex64", "real")),
        ([[1.0, 2.0, 3.0], [4.0, 5.0]], QUERY, ("`keys`", "rectangular")),
        ([["a", "b", "c"]], QUERY, ("`keys`", "real numbers")),
    ],
)
def test_wrong_arrays(keys, query, fragments: tuple[str, ...]) -> None:
    check(lambda: vt.project(keys, query), *fragments)


@pytest.mark.parametrize(
    ("keys", "queries", "fragments"),
    [
        (KEYS, QUERY, ("(5, 3)", "keys (b, n, d)")),
        (np.stack([KEYS] * 2), QUERY, ("(3,)", "queries (b, d)")),
        (np.stack([KEYS] * 2), np.stack([QUERY] * 3), ("(2, 5, 3)", "(3, 3)")),
        (np.zeros((0, 5, 3)), np.zeros((0, 3)), ("(0, 5, 3)", "empty")),
    ],
)
def test_wrong_batches(keys, queries, fragments: tuple[str, ...]) -> None:
    check(lambda: vt.project_many(keys, queries), *fragments)


def test_wrong_shapes_under_jit_are_found_while_tracing() -> None:
    with pytest.raises(ValueError, match=r"\(5, 3\).*\(2,\)"):
        jax.jit(lambda k, q: vt.project(k, q).point)(KEYS, QUERY[:2])


def test_integers_booleans_lists_and_half_precision_are_converted() -> None:
    expected = vt.project(KEYS, QUERY)
    integers = KEYS.astype(int)
    lists = (integers.tolist(), KEYS.tolist(), tuple(map(tuple, KEYS)))
    for keys in (integers, jnp.asarray(integers), *lists):
        found = vt.project(keys, QUERY)
        assert found.keys.dtype == jnp.float64
        np.testing.assert_array_equal(found.point, expected.point)
    cube = vt.project(np.array([[True, False, False], [False, True, False]] * 3)[:5], QUERY)
    assert cube.keys.dtype == jnp.float64
    half = vt.project(KEYS.astype(np.float16), QUERY.astype(np.float16))
    assert half.point.dtype == jnp.float32
    brain = vt.project(jnp.asarray(KEYS, jnp.bfloat16), jnp.asarray(QUERY, jnp.bfloat16))
    assert brain.point.dtype == jnp.float32


def test_unequal_precisions_are_computed_in_the_higher_one() -> None:
    # Under strict promotion too, which these tests run with.
    for keys, query in ((KEYS.astype(np.float32), QUERY), (KEYS, QUERY.astype(np.float32))):
        found = vt.project(keys, query)
        assert found.point.dtype == jnp.float64
        expected = vt.project(keys.astype(np.float64), query.astype(np.float64))
        np.testing.assert_array_equal(found.point, expected.point)


@pytest.mark.parametrize("tolerance", [0.0, -1e-3, np.nan, np.inf])
def test_tolerance(tolerance: float) -> None:
    check(lambda: vt.project(KEYS, QUERY, tolerance=tolerance), "`tolerance`", str(tolerance))


@pytest.mark.parametrize("max_steps", [0, -5])
def test_max_steps(max_steps: int) -> None:
    check(lambda: vt.project(KEYS, QUERY, max_steps=max_steps), "`max_steps`", str(max_steps))


@pytest.mark.parametrize(
    ("face", "fragments"),
    [
        (np.ones(4, bool), ("(5,)", "(4,)")),
        (np.ones(5), ("bool", "float64")),
        ([0, 1], ("bool", "int")),
        (np.ones((5, 1), bool), ("(5, 1)",)),
    ],
)
def test_initial_face(face, fragments: tuple[str, ...]) -> None:
    check(lambda: vt.project(KEYS, QUERY, initial_face=face), "`initial_face`", *fragments)


def test_everything_after_the_arrays_is_by_keyword() -> None:
    for call in (
        lambda: vt.project(KEYS, QUERY, 1e-6),
        lambda: vt.relax(vt.project(KEYS, QUERY), 0.1, False),
    ):
        with pytest.raises(TypeError):
            call()


# ------------------------------------------------------------------ temperatures


@pytest.mark.parametrize(
    ("epsilon", "fragments"),
    [
        (0.0, ("`epsilon`", "0.0", "positive")),
        (-1.0, ("`epsilon`", "-1.0", "positive")),
        (np.nan, ("`epsilon`", "nan", "positive")),
        (np.inf, ("`epsilon`", "inf", "finite")),
        ([0.1, 0.2, -0.3], ("epsilon[2]", "-0.3")),
        ([1, 0], ("epsilon[1]", "0")),
        ([], ("`epsilon`", "(0,)")),
        ([[0.1]], ("`epsilon`", "(1, 1)")),
        (1j, ("`epsilon`", "complex")),
        ("cold", ("`epsilon`", "positive number")),
        (True, ("`epsilon`", "bool")),
    ],
)
@pytest.mark.parametrize("use", ["relax", "bound"])
def test_epsilon(epsilon, fragments: tuple[str, ...], use: str) -> None:
    projection = vt.project(KEYS, QUERY)
    if use == "relax":
        check(lambda: vt.relax(projection, epsilon), *fragments)
    else:
        stability = vt.face_stability(projection)
        check(lambda: stability.displacement_bound(epsilon), *fragments)


def test_integer_epsilon_is_converted() -> None:
    stability = vt.face_stability(vt.project(KEYS, QUERY))
    assert float(stability.displacement_bound(1)) == float(stability.displacement_bound(1.0))


def test_stability_of_a_batch_is_refused_with_the_remedy() -> None:
    many = vt.project_many(np.stack([KEYS] * 2), np.stack([QUERY] * 2))
    check(lambda: vt.face_stability(many), "(2, 5, 3)", "jax.lax.map")

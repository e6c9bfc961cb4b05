"""What cannot be drawn by its sketch is read, or fails in sight: never a small error by silence."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vashista_theory import Result
from vashista_theory.attention import PagedKV, Policy, vashista_attention
from vashista_theory.attention.bounds import sampling as bounds
from vashista_theory.attention.step import drawing, two_stages


def alone(numbers: jax.Array) -> jax.Array:
    return numbers[None]


def step(
    query: np.ndarray, keys: np.ndarray, values: np.ndarray, policy: Policy, **options: Any
) -> tuple[np.ndarray, Any, np.ndarray]:
    """Output and report of a read, and the errors of its heads."""
    cache = PagedKV.from_tokens(keys, values)
    output, info = vashista_attention(query, cache, policy, **options)
    dense, _ = vashista_attention(query, cache, Policy.dense())
    return np.asarray(output), info, np.linalg.norm(np.asarray(output) - np.asarray(dense), axis=-1)


@pytest.mark.parametrize(
    ("superpages", "confidence", "tolerance"),
    [
        pytest.param(None, None, None, marks=pytest.mark.slow),
        (None, 0.999, 0.05),
        pytest.param(4, None, None, marks=pytest.mark.slow),
        pytest.param(4, None, 0.05, marks=pytest.mark.slow),
    ],
)
def test_a_sketch_that_overflows_spoils_no_row(
    superpages: int | None, confidence: float | None, tolerance: float | None
) -> None:
    # Keys that no true score overflows by: the query is 0 there. Grid and means are not finite.
    tokens = 1024 if superpages is None else 8192
    rng = np.random.default_rng(0)
    keys = rng.normal(size=(1, 1, tokens, 16)).astype(np.float32)
    values = rng.normal(size=(1, 1, tokens, 16)).astype(np.float32)
    query = rng.normal(size=(1, 2, 16)).astype(np.float32)
    query[..., 0] = 0
    keys[0, 0, 500:516, 0] = 2e38
    keys[0, 0, 501, 0] = -2e38
    policy = Policy.sampled(
        128, tolerance=tolerance, confidence=confidence, dense_below=0, superpages=superpages
    )
    cache = PagedKV.from_tokens(keys, values)
    drawn = two_stages.draws_superpages(cache, policy, superpages or 0)
    assert drawn == (superpages is not None)
    _, info, error = step(query, keys, values, policy)
    assert bool(info.result == Result.successful)
    assert np.all(error < 1e-4)
    assert np.all(np.asarray(info.tokens_read) == tokens)


def test_a_proxy_that_underflowed_is_never_out_of_reach() -> None:
    proxy = np.zeros((1, 32, 16), np.float32)
    proxy[0, 0], proxy[0, 1] = 1.0, np.exp(-80.0)
    tail = drawing.Tail(jnp.ones((1, 32), bool), jnp.asarray(proxy), jnp.array([512]))
    expected = jnp.array([224.0], jnp.float32)
    inverse = drawing.inverse_threshold(tail, expected, alone)
    probability = np.asarray(drawing.inclusion(tail, expected, inverse))
    assert np.all(probability[0, :2] == 1)
    assert np.all(probability[0, 2:] == 2.0**-24)
    _, shared = drawing.thresholds(
        drawing.Tail(*(jnp.repeat(part, 2, axis=0) for part in tail)),
        jnp.array([224, 224]), alone, 2,
    )  # fmt: skip
    assert not np.isnan(np.asarray(shared)).any()


def test_what_is_no_number_counts_as_the_worst() -> None:
    nan, inf = np.float32(np.nan), np.float32(np.inf)
    mass = np.array([[[0.0, nan, -inf]]], np.float32)
    inclusion = np.log(np.array([[[0.5, 0.5, 0.5]]], np.float32))
    ones, one = np.ones((1, 1, 3), np.float32), jnp.ones(1, jnp.float32)
    for above, log_pi in ((mass, inclusion), (np.zeros_like(mass), inclusion * nan)):
        moments = bounds.tail_moments(jnp.asarray(above), jnp.asarray(log_pi), jnp.asarray(ones))
        error = bounds.confident_error(moments, 1e-3, one, one * jnp.inf)
        assert np.all(np.asarray(error) == np.inf)


def test_a_draw_of_nothing_is_no_sign_of_a_small_error() -> None:
    rng = np.random.default_rng(1)
    keys = (0.1 * rng.normal(size=(16, 1, 512, 8))).astype(np.float32)
    values = rng.normal(size=(16, 1, 512, 8)).astype(np.float32)
    query = rng.normal(size=(16, 1, 8)).astype(np.float32)
    policy = Policy.sampled(33, dense_below=0)  # one token is expected beside the sure ones
    _, info, _ = step(query, keys, values, policy, key=jax.random.key(1))
    nothing = np.asarray(info.tokens_read) == 32
    assert 0 < nothing.sum() < nothing.size
    assert np.all(np.isinf(np.asarray(info.error_estimate)[nothing]))
    careful = Policy.sampled(33, tolerance=0.2, dense_below=0)
    _, info, _ = step(query, keys, values, careful, key=jax.random.key(1))
    assert np.all(np.asarray(info.tokens_read) > 32)


@pytest.mark.parametrize("implementation", ["xla", None])
@pytest.mark.parametrize("superpages", [None, 24])
def test_sure_tokens_are_no_sign_of_a_small_error(
    implementation: str | None, superpages: int | None
) -> None:
    # Of 96 tokens to draw 93 are sure by the sketch, and three come of some 8,000 equal ones.
    rng = np.random.default_rng(4)
    copies, tokens, sure = 64, 8192, 93
    keys = np.zeros((1, 1, tokens, 8), np.float32)
    places = 16 + rng.choice(tokens - 32, size=sure, replace=False)
    if superpages is not None:  # in superpages that are sure to be opened
        places = 16 + 16 * 16 + np.arange(sure)
    keys[0, 0, places, 0] = 12.0
    keys[..., 1:] = 0.01 * rng.normal(size=keys[..., 1:].shape)
    values = rng.normal(size=keys.shape).astype(np.float32)
    query = np.zeros((copies, 1, 8), np.float32)
    query[..., 0] = np.sqrt(8)
    keys, values = (np.broadcast_to(a, (copies, *a.shape[1:])) for a in (keys, values))
    policy = Policy.sampled(32 + 96, dense_below=0, superpages=superpages)
    given: dict[str, Any] = {"key": jax.random.key(2), "implementation": implementation}
    _, info, _ = step(query, keys, values, policy, **given)
    number, estimate = np.asarray(info.tokens_read)[:, 0], np.asarray(info.error_estimate)[:, 0]
    nothing = number == 32 + sure
    assert 0 < nothing.sum() < copies / 4
    assert np.all(np.isinf(estimate[nothing]))
    assert np.all(np.isfinite(estimate[~nothing]))
    assert np.all(estimate > 0)
    careful = Policy.sampled(32 + 96, tolerance=0.5, dense_below=0, superpages=superpages)
    _, info, _ = step(query, keys, values, careful, **given)
    assert np.all(np.asarray(info.tokens_read)[nothing] > 32 + sure)


@pytest.mark.parametrize("implementation", ["xla", None])
def test_a_rest_without_weight_needs_no_sample(implementation: str | None) -> None:
    keys = np.zeros((1, 1, 1024, 8), np.float32)
    keys[0, 0, 100:150, 0] = 200.0  # e^-200 underflows: these hold all, and 224 are asked for
    values = np.ones(keys.shape, np.float32)
    query = np.zeros((1, 1, 8), np.float32)
    query[..., 0] = np.sqrt(8)
    policy = Policy.sampled(256, dense_below=0)
    _, info, error = step(query, keys, values, policy, implementation=implementation)
    assert 32 + 50 <= int(info.tokens_read[0, 0]) < 256
    assert float(info.error_estimate[0, 0]) == 0.0
    assert error[0, 0] < 1e-6


def test_a_row_that_read_everything_says_so() -> None:
    rng = np.random.default_rng(2)
    keys = rng.normal(size=(1, 2, 320, 8)).astype(np.float32)
    keys[0, 1] *= 0.01  # a head that is spread out draws more than its part: all there are
    values = rng.normal(size=(1, 2, 320, 8)).astype(np.float32)
    query = (4 * rng.normal(size=(1, 2, 8))).astype(np.float32)
    _, info, error = step(query, keys, values, Policy.sampled(256, dense_below=0))
    read = np.asarray(info.tokens_read)[0]
    assert read[1] == 320 > read[0]
    assert np.asarray(info.certified)[0].tolist() == [False, True]
    assert np.asarray(info.gap)[0, 1] == np.inf
    assert error[0, 1] < 1e-5


def test_a_failed_step_estimates_nothing() -> None:
    rng = np.random.default_rng(3)
    keys = rng.normal(size=(1, 1, 512, 8)).astype(np.float32)
    keys[0, 0, 200] = 3e38  # its true score overflows: dense attention fails as well
    values = rng.normal(size=(1, 1, 512, 8)).astype(np.float32)
    query = np.full((1, 1, 8), 1e3, np.float32)
    cache = PagedKV.from_tokens(keys, values)
    policy = Policy.sampled(128, confidence=0.999, dense_below=0)
    _, info = vashista_attention(query, cache, policy)
    assert bool(info.result == Result.nonfinite_input)
    assert np.isnan(np.asarray(info.error_estimate)).all()
    assert not np.asarray(info.certified).any()

"""Sampled reads (T8) of several kv heads, which share the tokens that they may draw."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.attention.sampled_reference import Expected, expected
from vashista_theory import Result
from vashista_theory.attention import PagedKV, Policy, SummarySpec, vashista_attention

HEADS, GROUP, TOKENS, SIZE, D, DRAWS, ASKED = 3, 2, 203, 4, 8, 1500, 40
SPREADS = {
    "alike": (1.0, 1.0, 1.0),
    "one needs few": (6.0, 0.5, 0.7),  # at six times the spread a few tokens hold everything
    "one needs many": (6.0, 6.0, 0.2),
}


@functools.cache
def drawn(name: str):
    """What every kv head should draw by, and many draws of it."""
    rng = np.random.default_rng(len(name))
    keys = rng.normal(size=(HEADS, TOKENS, D))
    values = rng.normal(size=(HEADS, TOKENS, D)) + 1.0
    query = np.reshape(SPREADS[name], (HEADS, 1, 1)) * rng.normal(size=(HEADS, GROUP, D))
    given = {"tokens": ASKED, "bits": 2, "size": SIZE}
    exact = expected(query, keys, values, **given)
    apart = expected(query, keys, values, **given, together=False)

    pages = -(-TOKENS // SIZE)
    room = np.zeros((2, HEADS, pages, SIZE, D))
    room.reshape(2, HEADS, -1, D)[:, :, :TOKENS] = keys, values
    table = np.broadcast_to(np.arange(pages), (DRAWS, pages))
    spec = SummarySpec(sketch_bits=2, dtype="float64")
    cache = PagedKV.from_pages(*jnp.asarray(room), table, np.full(DRAWS, TOKENS), spec=spec)
    queries = np.broadcast_to(query.reshape(-1, D), (DRAWS, HEADS * GROUP, D))
    policy = Policy.sampled(ASKED, dense_below=0)
    output, info = vashista_attention(queries, cache, policy, key=jax.random.key(0))
    assert bool(info.result == Result.successful)
    output = np.asarray(output).reshape(DRAWS, HEADS, GROUP, D)
    return exact, apart, output, jax.tree.map(np.asarray, info)


def z_scores(samples: np.ndarray, mean) -> np.ndarray:
    return (samples.mean(axis=0) - mean) / (samples.std(axis=0) / np.sqrt(len(samples)) + 1e-15)


@pytest.mark.parametrize("name", SPREADS)
def test_each_head_has_the_mean_and_the_variance_of_its_own_number(name):
    exact, _, output, info = drawn(name)
    log_mass = info.log_mass.reshape(DRAWS, HEADS, GROUP)
    for k, head in enumerate(exact):
        ratio = np.exp(log_mass[:, k] - head.log_mass)
        error = (output[:, k] - head.output) * ratio[..., None]
        assert np.abs(z_scores(ratio, 1.0)).max() < 4.5
        assert np.abs(z_scores(error, 0.0)).max() < 4.5
        assert np.abs(z_scores((error**2).sum(axis=-1), head.variance)).max() < 4.5
        assert np.abs(z_scores(info.tokens_read[:, k * GROUP], head.pi.sum())) < 4.5
        scaled = info.error_estimate.reshape(log_mass.shape)[:, k] ** 2 * ratio**2
        mean = scaled.mean(axis=0) / head.variance
        assert np.all((mean > 0.75) & (mean < 1.15)), "each head knows its own error"


def variances(heads: list[Expected]) -> float:
    return sum(float(head.variance.sum()) for head in heads)


def test_heads_read_as_many_on_average_as_asked_for_and_together_err_less():
    for name in SPREADS:
        exact, apart, _, info = drawn(name)
        assert sum(head.pi.sum() for head in exact) == pytest.approx(HEADS * ASKED)
        assert abs(z_scores(info.tokens_read.mean(axis=1), ASKED)) < 4.5
        numbers = [head.pi.sum() for head in exact]
        sure = 2 * SIZE - 1  # the first page and the last, which lacks a token
        for number in numbers:
            assert (ASKED - sure) / 2 - 1e-6 <= number - sure <= 1.5 * (ASKED - sure) + 1e-6
        assert variances(exact) <= 1.001 * variances(apart)
    few = drawn("one needs few")
    assert variances(few[0]) < 0.9 * variances(few[1])

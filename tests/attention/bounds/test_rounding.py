"""Sketches that are rounded for queries: whose logits err less, at what cost to the bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vashista_theory.attention import PagedKV, SummarySpec
from vashista_theory.attention.bounds import sketch
from vashista_theory.attention.bounds.page_bounds import as_query, sketched_tokens
from vashista_theory.attention.bounds.summaries import corners

KV, GROUP, D, SIZE, PAGES = 2, 3, 16, 8, 40


def problem(seed: int = 0) -> tuple[np.ndarray, ...]:
    """Keys (1, KV, T, D), values, and queries (1, H, Q, D) that share a direction by kv head."""
    rng = np.random.default_rng(seed)
    keys, values = rng.normal(size=(2, 1, KV, PAGES * SIZE, D))
    common = np.repeat(rng.normal(size=(1, KV, 1, D)), GROUP, axis=1)
    return keys, values, 1.5 * common + 0.5 * rng.normal(size=(1, KV * GROUP, 64, D))


def cache_of(keys, values, bits, queries=None) -> PagedKV:
    spec = SummarySpec(sketch_bits=bits, dtype="float64")
    return PagedKV.from_tokens(keys, values, page_size=SIZE, spec=spec, queries=queries)


def logit_errors(cache: PagedKV, keys, query) -> tuple[np.ndarray, np.ndarray]:
    """Errors of the sketched logits of one query a head (H, D), and what bounds them."""
    rows = jnp.asarray(query.reshape(KV, GROUP, D))
    used = jax.tree.map(lambda a: a[:, cache.page_table[0]], cache.summaries)
    logits, bounds = sketched_tokens(as_query(rows, jnp.float64(1.0)), used, cache.spec, proof=True)
    exact = np.einsum("kgd,ktd->kgt", query.reshape(KV, GROUP, D), keys[0])
    return np.abs(np.asarray(logits) - exact.reshape(logits.shape)), np.asarray(bounds)


@pytest.mark.parametrize("bits", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_queries_like_those_expected_err_less_and_all_are_bounded(bits):
    keys, values, queries = problem()
    told, new = queries[:, :, :48], queries[0, :, 60]
    nearest, aimed = (cache_of(keys, values, bits, asked) for asked in (None, told))
    before, _ = logit_errors(nearest, keys, new)
    after, bounds = logit_errors(aimed, keys, new)
    assert (after**2).mean() < 0.6 * (before**2).mean()
    assert np.all(after <= bounds)
    # The worst query of a key is its own error: what half a step of the grid would not bound.
    used = jax.tree.map(lambda a: a[:, aimed.page_table[0]], aimed.summaries)
    lower, upper = corners(used.box, jnp.float64)
    rebuilt = sketch.dequantise(sketch.unpack(used.codes, bits), lower, upper, bits)
    apart = keys[0].reshape(KV, PAGES, SIZE, D) - np.asarray(rebuilt)
    step = np.asarray(upper - lower)[:, :, None] / (2**bits - 1)
    half = 0.5 * (np.abs(apart) * step).sum(axis=-1)
    assert np.any((apart**2).sum(axis=-1) > half * (1 + 1e-6))
    worst = apart.reshape(KV, -1, D)
    for token in range(0, PAGES * SIZE, 23):
        query = np.repeat(worst[:, token], GROUP, axis=0)
        errors, bounds = logit_errors(aimed, keys, query)
        assert np.all(errors <= bounds)
    stranger = np.random.default_rng(1).normal(size=(KV * GROUP, D))
    errors, bounds = logit_errors(aimed, keys, stranger)
    assert np.all(errors <= bounds)


def test_codes_that_prove_are_the_nearest_whatever_is_expected():
    keys, values, queries = problem()
    for bits in (4, 8):
        plain, told = (cache_of(keys, values, bits, asked) for asked in (None, queries))
        np.testing.assert_array_equal(plain.summaries.codes, told.summaries.codes)


def test_codes_are_those_of_the_same_steps_by_hand():
    """Least squares instead of a Cholesky factor: what the later dimensions take over."""
    rng = np.random.default_rng(2)
    keys, queries = rng.normal(size=(1, 3, SIZE, 5)), rng.normal(size=(1, 40, 5)) * [3, 1, 2, 1, 1]
    lower, upper = keys.min(axis=2), keys.max(axis=2)
    rounding = sketch.rounding_for(jnp.asarray(queries))
    found = sketch.quantise_in_turn(*map(jnp.asarray, (keys, lower, upper)), 2, rounding)
    moment = queries[0].T @ queries[0]
    cost = moment / (np.trace(moment) / 5) + np.eye(5)
    order = np.argsort(-np.diag(cost))
    for page in range(3):
        step = (upper[0, page] - lower[0, page]) / 3
        left = keys[0, page].copy()
        for n, i in enumerate(order):
            code = np.clip(np.round((left[:, i] - lower[0, page, i]) / step[i]), 0, 3)
            np.testing.assert_array_equal(np.asarray(found)[0, page, i], code)
            error = left[:, i] - (lower[0, page, i] + code * step[i])
            later = order[n + 1 :]
            if later.size:
                taken = np.linalg.solve(cost[np.ix_(later, later)], cost[later, i])
                left[:, later] += error[:, None] * taken


def test_tokens_that_follow_are_rounded_as_the_prompt_was():
    keys, values, queries = problem()
    whole = cache_of(keys, values, 2, queries)
    half = keys.shape[2] // 2
    spec = SummarySpec(sketch_bits=2, dtype="float64")
    grown = PagedKV.from_tokens(
        keys[:, :, :half], values[:, :, :half], page_size=SIZE, spec=spec, queries=queries,
        pages=PAGES,
    )  # fmt: skip
    grown, _ = grown.append(keys[:, :, half:], values[:, :, half:])
    table = np.asarray(whole.page_table[0]), np.asarray(grown.page_table[0])
    codes = [
        np.asarray(c.summaries.codes)[:, t] for c, t in zip((whole, grown), table, strict=True)
    ]
    np.testing.assert_array_equal(*codes)
    for changed in (grown.grow(pages=PAGES + 3), grown.select([0])):
        assert changed.rounding is not None


def test_queries_of_zeros_round_to_the_nearest():
    keys, values, queries = problem()
    plain, told = (cache_of(keys, values, 2, asked) for asked in (None, 0 * queries))
    np.testing.assert_array_equal(plain.summaries.codes, told.summaries.codes)


@pytest.mark.parametrize(
    ("queries", "words"),
    [
        (np.ones((1, 3, 4, D)), "a multiple of the 2 kv heads"),
        (np.ones((1, 4, D)), r"shape \(1, 4, 16\)"),
        (np.full((1, 2, 4, D), np.nan), "queries"),
    ],
)
def test_bad_queries_are_refused_by_name(queries, words):
    keys, values, _ = problem()
    with pytest.raises(ValueError, match=words):
        cache_of(keys, values, 2, queries)

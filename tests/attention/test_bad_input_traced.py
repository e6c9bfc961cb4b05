"""Bad input under jit: told when traced where it can be, and in the result where it cannot."""

import functools

import equinox as eqx
import jax
import numpy as np
import pytest

from tests.attention.refusals import (
    BARE,
    BLOCK,
    DENSE,
    KEYS,
    NAN,
    PAGE,
    QUERY,
    TOKENS,
    filled_cache,
    new_cache,
    refused,
    with_one,
)
from vashista_theory import Result
from vashista_theory.attention import (
    PagedKV,
    Policy,
    SummarySpec,
    dense_attention,
    vashista_attention,
)

pytestmark = pytest.mark.usefixtures("as_users_run_it")


def equal(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.mark.parametrize(
    ("append", "sizes"),
    [
        (PagedKV.append, {"pages": 3, "spec": SummarySpec()}),
        (
            jax.jit(PagedKV.append, static_argnames="throw"),
            {"pages": 9, "pages_per_sequence": 2},
        ),
    ],
    ids=["pool, eager", "row of the table, jit"],
)
def test_a_full_pool_loses_nothing_and_is_usable_after_free(append, sizes):
    cache, result = append(new_cache(**sizes), BLOCK, BLOCK, counts=np.array([6, 3]))
    assert bool(result == Result.successful)
    before = jax.tree.map(np.array, cache)
    cache, result = append(cache, BLOCK, BLOCK, counts=np.array([0, 6]), throw=False)
    assert bool(result == Result.pool_full)
    assert "Free a sequence" in Result[result]
    equal(before, jax.tree.map(np.array, cache))
    cache = cache.free(1)
    cache, result = append(cache, BLOCK, BLOCK, counts=np.array([1, 4]))
    assert bool(result == Result.successful)
    np.testing.assert_array_equal(cache.lengths, [7, 4])
    output, _ = vashista_attention(QUERY, cache, DENSE)
    seen = np.concatenate([BLOCK, BLOCK[:, :, :1]], axis=2)
    expected = dense_attention(QUERY[:1], seen[:1], seen[:1])
    np.testing.assert_allclose(output[:1], expected, rtol=0, atol=1e-14)  # 7 products, reordered


@jax.jit
def decode_dense(query, cache, scale=0.3):
    return vashista_attention(query, cache, DENSE, scale=scale)[1].result


@jax.jit
def decode_certified(query, cache, scale=0.3):
    return vashista_attention(query, cache, Policy.certified(0.1, dense_below=0), scale=scale)[
        1
    ].result


@pytest.mark.parametrize("decode", [decode_dense, decode_certified], ids=["dense", "certified"])
def test_results_under_jit(decode):
    cache = filled_cache()
    assert bool(decode(QUERY, cache) == Result.successful)
    for value in (NAN, np.inf):
        bad = with_one(QUERY, (1, 2, 3), value)
        assert bool(decode(bad, cache) == Result.nonfinite_input)
        poisoned = eqx.tree_at(lambda c: c.keys, cache, cache.keys.at[1, 0, 0, 0].set(value))
        assert bool(decode(QUERY, poisoned) == Result.nonfinite_input)
    for scale in (NAN, np.inf, 0.0, -1.0):
        assert bool(decode(QUERY, cache, scale) == Result.nonfinite_input)
    for page in (-1, 10, 2**31 - 1):
        table = cache.page_table.at[1, 2].set(page)
        assert bool(
            decode(QUERY, eqx.tree_at(lambda c: c.page_table, cache, table)) == Result.invalid_page
        )
    for length in (-1, 21, 2**31 - 1):
        lengths = cache.lengths.at[1].set(length)
        assert bool(
            decode(QUERY, eqx.tree_at(lambda c: c.lengths, cache, lengths)) == Result.invalid_page
        )


def test_misuse_under_jit_is_told_when_traced():
    cache = filled_cache()
    given = (QUERY, cache, DENSE)
    refused(
        lambda: jax.jit(lambda g: vashista_attention(*given, coupling=g))(1.0),
        "coupling is traced", "known before tracing", "static_argnums",
    )  # fmt: skip
    refused(
        lambda: jax.jit(lambda s: vashista_attention(*given, scale=s))(np.ones(2)),
        "scale is", "one floating-point number",
    )  # fmt: skip
    refused(
        lambda: jax.jit(lambda q: vashista_attention(q, cache, DENSE))(QUERY[:, :3]),
        "3 query heads", "multiple of Hkv",
    )  # fmt: skip
    refused(lambda: jax.jit(PagedKV.free)(cache, 1.0), "`sequence` is", "one integer")
    refused(lambda: jax.jit(lambda n: new_cache(pages=n))(3), "`pages` is", "positive integer")
    refused(
        lambda: jax.jit(lambda k: PagedKV.from_tokens(k, k, page_size=PAGE, pages=3))(KEYS),
        "`pages` is 3", "pages=10 or more",
    )  # fmt: skip


def test_appending_nan_under_jit_changes_nothing():
    cache, _ = new_cache().append(BLOCK, BLOCK)
    before = jax.tree.map(np.array, cache)
    for place in (0, 1):
        arrays = [BLOCK, BLOCK]
        arrays[place] = with_one(BLOCK, (1, 0, 2, 3), NAN)
        append = jax.jit(functools.partial(PagedKV.append, throw=False))
        after, result = append(cache, *arrays)
        assert bool(result == Result.nonfinite_input)
        equal(before, jax.tree.map(np.array, after))


def test_filling_with_nan_under_jit_raises_when_it_runs():
    fill = eqx.filter_jit(lambda k: PagedKV.from_tokens(k, k, page_size=PAGE, spec=BARE))
    assert np.all(np.asarray(fill(KEYS).lengths) == TOKENS)
    with pytest.raises(RuntimeError, match="The input holds a NaN"):
        jax.block_until_ready(fill(with_one(KEYS, (0, 0, 3, 0), NAN)))


def test_traced_sequences_out_of_range_change_nothing():
    """An index beyond the end used to free the pages of the last sequence, but not its length."""
    cache = filled_cache()
    before = jax.tree.map(np.array, cache)
    free, fork = (functools.partial(jax.jit(f), cache) for f in (PagedKV.free, PagedKV.fork))
    for sequence in (-1, 2, 7):
        equal(before, free(sequence))
        equal(before, fork(sequence, 0))
        equal(before, fork(0, sequence))
    equal(before, fork(1, 1))
    equal(cache.free(1), free(1))
    equal(cache.fork(0, 1), fork(0, 1))

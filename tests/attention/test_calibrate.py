"""Calibration: the cheapest policy on the sample, its dropped mass recomputed without the code."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.attention.dense_reference import attend
from tests.thinned import spread
from vashista_theory.attention import PagedKV, Policy, SummarySpec, calibrate, vashista_attention
from vashista_theory.hull.heads import load_heads

# Most time goes into compiling candidates: the small tests share one shape, summary and tolerance.
BOXES = SummarySpec(ball=False, sketch_bits=None)


def measure(cache, tokens, queries, policy, scale):
    """True dropped mass (Q, B, H), with read pages found by marking them in the values; bytes."""
    keys = np.asarray(tokens, np.float64)
    _, kv_heads, count, d = keys.shape
    page = np.arange(count) // cache.page_size
    assert page[-1] < d, "a page needs a coordinate to be marked in"
    marks = np.zeros(keys.shape, tokens.dtype)
    marks[:, :, np.arange(count), page] = 1.0
    marked = PagedKV.from_tokens(tokens, marks, page_size=cache.page_size, spec=cache.spec)

    @jax.jit  # with what is not asked for left out, it compiles faster
    def decode(query):
        output, info = vashista_attention(query, marked, policy, scale=scale)
        return output, info.bytes_read

    dropped, spent = np.zeros(queries.shape[:3]), []
    for i, query in enumerate(queries):
        output, bytes_read = decode(query)
        chosen = np.asarray(output) > 0
        spent.append(np.mean(bytes_read))
        for b, h in np.ndindex(*dropped.shape[1:]):
            seen = keys[b, h // (queries.shape[2] // kv_heads)]
            weights = attend(query[b, h], seen, seen, scale).weights
            dropped[i, b, h] = weights[~chosen[b, h][page]].sum()
    return dropped, float(np.mean(spent))


@pytest.mark.slow
def test_real_heads_stay_within_the_tolerance_and_looser_ones_cost_no_more():
    heads, count = load_heads(), 256
    layers = np.array([0, 3])  # one diffuse, one less so
    keys, values = (a[layers, :, :count].astype(np.float32) for a in (heads.keys, heads.values))
    queries = np.moveaxis(heads.queries[layers, :, :4].astype(np.float32), 2, 0)
    cache = PagedKV.from_tokens(keys, values, page_size=32, spec=SummarySpec(ball=False))
    spent = []
    for tolerance, share in ((0.05, 0.9), (0.4, 0.9), (0.4, 0.5)):
        policy = calibrate(cache, queries, tolerance, share=share, scale=heads.scale)
        dropped, cost = measure(cache, keys, queries, policy, heads.scale)
        # Float32 logits of size 30 by sums of 64 products: masses to a few 1e-6.
        within = dropped <= tolerance + 1e-5
        assert np.mean(within) >= (1.0 if policy.tolerance else share)
        spent.append(cost)
    assert spent == sorted(spent, reverse=True)
    dense = 2 * count * 64 * 4  # keys and values of every token in float32
    assert spent[0] <= dense
    assert spent[-1] < 0.5 * dense  # half the heads may lose two fifths of their mass


def small(keys, *, lengths=(32, 32)):
    return PagedKV.from_tokens(keys, keys, lengths=np.array(lengths), page_size=4, spec=BOXES)


@functools.cache
def peaked():
    """The first key holds all mass for the first query; the second query sees all keys alike."""
    keys = np.random.default_rng(0).normal(size=(2, 1, 32, 8))
    keys[:, :, 0] = 0.0
    keys[:, :, 0, 0] = 40.0
    queries = np.zeros((2, 2, 2, 8))
    queries[0, :, :, 0] = 3.0
    return keys, queries


@pytest.mark.parametrize("lengths", spread([(32, 0), (32, 32)], 1))
def test_the_share_counts_query_heads_of_sequences_that_are_not_empty(lengths):
    keys, queries = peaked()
    cache = small(keys, lengths=lengths)
    assert calibrate(cache, queries, 0.01, share=0.5) == Policy(pages=2, summary="box")
    # Two pages lose everything of the second query: only a proof follows the difference.
    certified = Policy.certified(0.01, summary="box", dense_below=0)
    assert calibrate(cache, queries, 0.01, share=0.51) == certified
    assert calibrate(cache, queries[[0, 0]], 0.01, share=1.0) == Policy(pages=2, summary="box")


def test_diffuse_keys_are_read_densely():
    """Where every page matters alike, no budget suffices and no proof pays."""
    keys = np.random.default_rng(1).normal(size=(2, 1, 32, 8))
    queries = 0.1 * np.random.default_rng(2).normal(size=(2, 2, 2, 8))
    assert calibrate(small(keys), queries, 0.01) == Policy.dense()


@pytest.mark.slow
def test_two_levels_are_cheaper_in_a_long_context():
    keys, queries = peaked()
    long = np.concatenate([keys[:1], np.zeros((1, 1, 96, 8))], axis=2)
    cache = PagedKV.from_tokens(long, long, page_size=1, spec=BOXES)
    found = calibrate(cache, queries[:1, :1], 0.01)
    assert found == Policy(pages=2, summary="box", superpages=4)


def test_without_summaries_everything_is_read():
    keys, queries = peaked()
    bare = SummarySpec(box=False, ball=False, sketch_bits=None)
    cache = PagedKV.from_tokens(keys, keys, page_size=4, spec=bare)
    assert calibrate(cache, queries, 0.5, share=0.1) == Policy.dense()


def test_bad_input():
    keys, queries = peaked()
    cache = small(keys)
    for tolerance in (0.0, 1.0, -0.5, float("nan")):
        with pytest.raises(ValueError, match=rf"tolerance is {tolerance}.*for example 0\.05"):
            calibrate(cache, queries, tolerance)
    for share in (0.0, 1.5):
        with pytest.raises(ValueError, match=rf"share is {share}.*1 included.*for example 0\.95"):
            calibrate(cache, queries, 0.1, share=share)
    for bad in (queries[0], queries[:0]):
        with pytest.raises(ValueError, match=r"`queries` has shape .*\(Q, B, H, D\) is expected"):
            calibrate(cache, bad, 0.1)
    with pytest.raises(ValueError, match=r"shape \(2, 2, 4\); this cache expects \(2, H, 8\)"):
        calibrate(cache, queries[..., :4], 0.1)
    with pytest.raises(ValueError, match=r"`queries` is int64.*\.astype\('float32'\)"):
        calibrate(cache, queries.astype(int), 0.1)
    poisoned = queries.copy()
    poisoned[1, 0, 1, 2] = np.nan
    with pytest.raises(ValueError, match=r"queries\[1, 0, 1, 2\] is nan.*Remove"):
        calibrate(cache, poisoned, 0.1)
    with pytest.raises(ValueError, match=r"scale is -1\.0; one positive"):
        calibrate(cache, queries, 0.1, scale=-1.0)
    with pytest.raises(ValueError, match="cannot be traced; call it outside jit"):
        jax.jit(lambda q: jnp.float32(calibrate(cache, q, 0.1).pages))(queries)
    with pytest.raises(ValueError, match=r"every sequence of this cache is empty.*Append"):
        calibrate(cache.free(0).free(1), queries, 0.1)

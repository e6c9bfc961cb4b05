"""Sparse decoding against dense attention in float64: equal when complete, bounded when not."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.attention.dense_reference import attend
from tests.attention.specs import keeping_all
from tests.thinned import spread
from vashista_theory import Result
from vashista_theory.attention import (
    PagedKV,
    Policy,
    dense_attention,
    vashista_attention,
)
from vashista_theory.attention.step import plain_backend

U = np.finfo(np.float64).eps


@dataclass(frozen=True)
class Shape:
    """Sizes of a problem; few of them, because each is compiled for each policy."""

    batch: int
    kv_heads: int
    group: int
    d: int
    page: int
    width: int


SHAPES = (
    Shape(1, 1, 1, 16, 4, 50),
    Shape(2, 1, 3, 64, 4, 12),
    Shape(3, 2, 4, 16, 2, 40),
    Shape(4, 1, 8, 128, 16, 6),
)
POLICIES = (
    Policy(pages=4, tolerance=0.05, sink=1, recent=1),
    Policy(pages=4, tolerance=0.05, summary="box", sink=0, recent=2),
    Policy(pages=3, tolerance=0.05, summary="ball", sink=0, recent=0, superpages=1),
    Policy(pages=5, tolerance=0.3, otherwise="dense"),
    Policy.certified(0.05, dense_below=0),
    Policy(pages=3, tolerance=0.5, summary="ball", otherwise="widen", sink=2, recent=0),
)


def make(shape: Shape, seed: int, bits: int = 4) -> tuple[PagedKV, list[np.ndarray], np.ndarray]:
    """A cache of ragged, forked and repeated pages, the tokens (2, Hkv, T, D), and queries."""
    rng = np.random.default_rng(seed)
    room = shape.page * shape.width
    s = shape.page
    edges = [0, 1, s - 1, s, s + 1, room, room - 1, 17 * s, *rng.integers(1, room, size=8)]
    lengths = np.minimum(rng.choice(edges, size=shape.batch), room)
    blocks = rng.normal(size=(2, shape.batch, shape.kv_heads, room, shape.d))
    blocks[0] *= rng.choice([0.3, 1.0, 3.0])
    query = rng.normal(size=(shape.batch, shape.kv_heads * shape.group, shape.d))
    spec = keeping_all(sketch_bits=bits)
    if rng.random() < 0.3:  # adopted pools, with pages named more than once
        # As many as `from_tokens` and `_with_page_marks` have: one shape, compiled once.
        pools = rng.normal(size=(2, shape.kv_heads, shape.batch * shape.width, s, shape.d))
        table = rng.integers(0, shape.width, size=(shape.batch, shape.width))
        cache = PagedKV.from_pages(*pools, table, lengths, spec=spec)
        tokens = [
            pools[:, :, row].reshape(2, shape.kv_heads, -1, shape.d)[:, :, :length]
            for row, length in zip(table, lengths, strict=True)
        ]
        return cache, tokens, query
    cache = PagedKV.from_tokens(*blocks, lengths=lengths, page_size=s, spec=spec)
    tokens = [blocks[:, b, :, :n] for b, n in enumerate(lengths)]
    if shape.batch > 1 and rng.random() < 0.5:
        length = int(rng.integers(0, lengths[0] + 1))
        cache = cache.fork(0, 1, length=length)
        tokens[1] = tokens[0][:, :, :length]
    return cache, tokens, query


def reference(tokens: list[np.ndarray], query: np.ndarray, group: int) -> np.ndarray:
    scale = query.shape[-1] ** -0.5
    return np.stack(
        [
            np.stack([attend(q, *t[:, h // group], scale).output for h, q in enumerate(row)])
            for row, t in zip(query, tokens, strict=True)
        ]
    )


def longest_value(tokens: list[np.ndarray]) -> float:
    return max(1.0, *(float(np.abs(t[1]).max(initial=0.0)) for t in tokens))


@given(shape=st.sampled_from(SHAPES), seed=st.integers(0, 2**20))
def test_reading_all_pages_is_dense_attention(shape, seed):
    cache, tokens, query = make(shape, seed)
    exact = reference(tokens, query, shape.group)
    output, info = vashista_attention(query, cache, Policy.dense())
    # A softmax of T logits of size ≤ 100 in float64; sums of T products.
    noise = 256 * shape.d * U * longest_value(tokens)
    np.testing.assert_allclose(output, exact, rtol=0, atol=noise)
    assert bool(jnp.all(info.certified))
    assert not np.any(info.dropped_mass_bound)
    assert not np.any(info.error_bound)
    assert np.all(np.isinf(info.gap))
    assert bool(info.result == Result.successful)


@pytest.mark.parametrize("policy", spread(POLICIES, 2), ids=lambda p: f"{p.summary}-{p.otherwise}")
@given(shape=st.sampled_from(SHAPES), seed=st.integers(0, 2**20))
def test_dropped_mass_and_error_stay_below_their_bounds(policy, shape, seed):
    cache, tokens, query = make(shape, seed)
    exact = reference(tokens, query, shape.group)
    output, info = vashista_attention(query, cache, policy)
    error = np.linalg.norm(np.asarray(output) - exact, axis=-1)
    noise = 256 * shape.d * U * longest_value(tokens)
    assert np.all(error <= np.asarray(info.error_bound) + noise)
    dropped = dropped_mass(cache, tokens, query, policy, shape)
    lower, bound = np.asarray(info.dropped_mass_lower), np.asarray(info.dropped_mass_bound)
    assert np.all(dropped <= bound + 1e-9)  # the mass is recovered by least squares, see there
    assert np.all(dropped >= lower - 1e-9)
    np.testing.assert_array_equal(info.certified, bound <= policy.tolerance)
    if policy.otherwise != "keep":
        assert bool(jnp.all(info.certified))
    pages = -(-np.asarray(cache.lengths) // shape.page)
    assert np.all(np.asarray(info.pages_read) <= pages[:, None])
    assert bool(info.result == Result.successful)


def chosen_pages(cache, query, policy) -> np.ndarray:
    """The pages that a read averages over, found without asking the code what it read.

    Values are replaced by the indicator of a token's page, a coordinate for each page: the output
    of the sparse read then names the pages.
    """
    width, d = cache.pages_per_sequence, cache.head_size
    chosen = np.zeros((*query.shape[:2], width), bool)
    for first in range(0, width, d):
        found = np.asarray(vashista_attention(query, _with_page_marks(cache, first), policy)[0])
        chosen[:, :, first : first + d] = found[:, :, : width - first] > 0
    return chosen


def dropped_mass(cache, tokens, query, policy, shape) -> np.ndarray:
    chosen = chosen_pages(cache, query, policy)
    dropped = np.zeros(query.shape[:2])
    for b, held in enumerate(tokens):
        for h in range(query.shape[1]):
            weights = attend(query[b, h], *held[:, h // shape.group], shape.d**-0.5).weights
            page = np.arange(len(weights)) // shape.page
            dropped[b, h] = weights[~chosen[b, h][page]].sum()
    return dropped


def _with_page_marks(cache: PagedKV, first: int) -> PagedKV:
    """The same keys, each sequence on pages of its own, with values that mark logical pages."""
    batch, width = cache.page_table.shape
    heads, size, d = cache.kv_heads, cache.page_size, cache.head_size
    table = np.asarray(cache.page_table)
    keys = np.asarray(cache.keys)[:, table].reshape(heads, batch * width, size, d)
    marks = np.zeros((heads, batch, width, size, d))
    for page in range(first, min(first + d, width)):
        marks[:, :, page, :, page - first] = 1.0
    own = np.arange(batch * width).reshape(batch, width)
    return PagedKV.from_pages(
        keys, marks.reshape(keys.shape), own, np.asarray(cache.lengths), spec=cache.spec
    )


@given(shape=st.sampled_from(SHAPES[:3]), seed=st.integers(0, 2**20))
def test_exact_identities_of_a_sparse_read(shape, seed):
    """T6: total variation = dropped mass, and error = mass × distance of the two means."""
    policy = POLICIES[0]
    cache, tokens, query = make(shape, seed)
    output = np.asarray(vashista_attention(query, cache, policy)[0])
    chosen = chosen_pages(cache, query, policy)
    for b, held in enumerate(tokens):
        for h in range(query.shape[1]):
            row = attend(query[b, h], *held[:, h // shape.group], shape.d**-0.5)
            kept = chosen[b, h][np.arange(len(row.weights)) // shape.page]
            mass = row.weights[~kept].sum()
            if not 0 < mass < 1:
                continue
            sparse = np.where(kept, row.weights, 0.0) / row.weights[kept].sum()
            assert abs(0.5 * np.abs(sparse - row.weights).sum() - mass) <= 64 * U
            values = held[1, h // shape.group]
            means = (row.weights[~kept] @ values[~kept] / mass, sparse @ values)
            error = np.linalg.norm(output[b, h] - row.output)
            expected = mass * np.linalg.norm(means[0] - means[1])
            assert abs(error - expected) <= 256 * shape.d * U * longest_value(tokens)


def test_contiguous_dense_attention():
    rng = np.random.default_rng(3)
    keys, values = rng.normal(size=(2, 2, 2, 37, 16))
    query = rng.normal(size=(2, 6, 16))
    lengths = np.array([37, 0])
    tokens = [np.stack([keys, values])[:, b, :, :n] for b, n in enumerate(lengths)]
    found = dense_attention(query, keys, values, lengths=lengths)
    np.testing.assert_allclose(found, reference(tokens, query, 3), atol=1e-14)  # 37 products


def test_decoding_and_appending_inside_a_scan():
    rng = np.random.default_rng(4)
    keys, values = rng.normal(size=(2, 1, 2, 60, 16))
    cache = PagedKV.from_tokens(
        keys[:, :, :20], values[:, :, :20], page_size=4, pages=20, pages_per_sequence=20
    )
    query = rng.normal(size=(1, 4, 16))
    policy = Policy.certified(0.2, dense_below=0)

    @jax.jit
    def decode(cache, keys, values):
        def step(cache, new):
            cache, result = cache.append(*new)
            output, info = vashista_attention(query, cache, policy)
            return cache, (output, info.certified, result)

        return jax.lax.scan(step, cache, (keys, values))

    later = (np.moveaxis(a[:, :, 20:], 2, 0) for a in (keys, values))
    cache, (outputs, certified, results) = decode(cache, *later)
    assert bool(jnp.all(results == Result.successful))
    assert bool(jnp.all(certified))
    alone, _ = vashista_attention(query, cache, policy)
    np.testing.assert_allclose(outputs[-1], alone, atol=1e-13)  # another order of summation


def test_a_short_context_is_read_densely_unless_asked_otherwise():
    keys, values = np.random.default_rng(5).normal(size=(2, 1, 1, 96, 16))
    cache = PagedKV.from_tokens(keys, values, page_size=4)
    query = np.ones((1, 1, 16))
    _, info = vashista_attention(query, cache, Policy.certified(0.3))
    assert int(info.pages_read[0, 0]) == 24
    assert bool(info.certified[0, 0])
    assert not bool(info.fell_back[0, 0]), "nothing failed: sparse could not win"
    for made in (partial(Policy.certified, 0.3), partial(Policy.budget, 4)):
        _, info = vashista_attention(query, cache, made(dense_below=95))
        assert int(info.pages_read[0, 0]) < 24
        _, info = vashista_attention(query, cache, made(dense_below=96))
        assert int(info.pages_read[0, 0]) == 24


@pytest.mark.parametrize(
    "policy",
    spread([*POLICIES, Policy.dense(), Policy.sampled(24, tolerance=0.2, dense_below=0)], 2),
)
def test_without_a_report_the_output_and_the_outcome_are_the_same(policy):
    cache, _, query = make(SHAPES[2], 3)
    output, info = vashista_attention(query, cache, policy)
    alone, result = vashista_attention(query, cache, policy, report=False)
    # Compiled without the report, sums may be fused, and so rounded, in another way.
    np.testing.assert_allclose(alone, output, atol=64 * U)
    assert isinstance(result, Result)
    assert bool(result == info.result)
    _, result = vashista_attention(1e308 * np.sign(query), cache, policy, report=False)
    assert bool(result == Result.nonfinite_input)


def test_without_a_report_nothing_is_computed_for_it():
    cache, _, query = make(SHAPES[2], 3)

    def cost(**options: bool) -> float:
        step = jax.jit(lambda q, c: vashista_attention(q, c, POLICIES[2], **options))
        return step.lower(query, cache).compile().cost_analysis()["flops"]

    # Two bounds, an error and a gap over all judged pages.
    assert cost(report=False) < 0.9 * cost()


def test_pieces_of_any_size_are_dense_attention(monkeypatch):
    """Eight pages a piece, the least there is: six pieces of ragged, forked rows."""
    monkeypatch.setattr(plain_backend, "_NEAR", 1)
    shape = Shape(3, 1, 2, 16, 4, 45)  # of no other test: compiled anew
    for seed in range(6):
        cache, tokens, query = make(shape, seed)
        output, _ = vashista_attention(query, cache, Policy.dense(), implementation="jax")
        noise = 256 * shape.d * U * longest_value(tokens)  # as above
        exact = reference(tokens, query, shape.group)
        np.testing.assert_allclose(output, exact, rtol=0, atol=noise)

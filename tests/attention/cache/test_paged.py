"""The cache against a model of it in plain Python, and what appending costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.extend.core import jaxprs_in_params

from vashista_theory import Result
from vashista_theory.attention import PagedKV, SummarySpec

BATCH, HEADS, PAGE, D, PAGES, WIDTH = 3, 2, 4, 8, 12, 9


def new_cache() -> PagedKV:
    return PagedKV.create(
        batch=BATCH,
        kv_heads=HEADS,
        head_size=D,
        pages=PAGES,
        pages_per_sequence=WIDTH,
        page_size=PAGE,
        dtype=jnp.float64,
    )


def tokens_of(cache: PagedKV, sequence: int, pool: jax.Array) -> np.ndarray:
    row = np.asarray(pool)[:, np.asarray(cache.page_table[sequence])]
    return row.reshape(HEADS, -1, D)[:, : int(cache.lengths[sequence])]


def used_pages(cache: PagedKV) -> list[int]:
    counts = -(-np.asarray(cache.lengths) // cache.page_size)
    table = np.asarray(cache.page_table)
    return [int(page) for row, count in zip(table, counts, strict=True) for page in row[:count]]


def check_accounts(cache: PagedKV) -> None:
    expected = np.bincount(np.asarray(used_pages(cache), int), minlength=PAGES)
    np.testing.assert_array_equal(cache.reference_counts, expected)
    free = np.asarray(cache.free_pages)[: int(cache.free_count)]
    assert sorted(free) == list(np.flatnonzero(expected == 0))


sequence = st.integers(0, BATCH - 1)
operation = st.one_of(
    st.tuples(st.just("append"), st.tuples(*[st.integers(0, 7)] * BATCH)),
    # One token at most to each: written as a row, not as a page.
    st.tuples(st.just("append"), st.tuples(*[st.integers(0, 1)] * BATCH)),
    st.tuples(st.just("fork"), st.tuples(sequence, sequence, st.floats(0, 1))),
    st.tuples(st.just("free"), sequence),
    st.tuples(st.just("truncate"), st.tuples(*[st.integers(0, WIDTH * PAGE)] * BATCH)),
    st.tuples(st.just("select"), st.tuples(*[sequence] * BATCH)),
)


@given(operations=st.lists(operation, min_size=3, max_size=12), seed=st.integers(0, 2**16))
def test_equals_a_list_of_tokens_for_each_sequence(operations, seed):
    rng = np.random.default_rng(seed)
    cache = new_cache()
    model = [(np.zeros((HEADS, 0, D)),) * 2 for _ in range(BATCH)]
    for name, detail in operations:
        if name == "append":
            keys, values = rng.normal(size=(2, BATCH, HEADS, 1 if max(detail) < 2 else 7, D))
            before = jax.tree.map(np.array, cache)
            cache, result = cache.append(keys, values, counts=np.asarray(detail), throw=False)
            if bool(result == Result.successful):
                for b, n in enumerate(detail):
                    blocks = keys[b, :, :n], values[b, :, :n]
                    model[b] = tuple(
                        np.concatenate(pair, axis=1) for pair in zip(model[b], blocks, strict=True)
                    )
            else:
                assert bool(result == Result.pool_full)
                jax.tree.map(np.testing.assert_array_equal, before, cache)
        elif name == "fork" and detail[0] != detail[1]:
            source, target, share = detail
            length = int(share * int(cache.lengths[source]))
            cache = cache.fork(source, target, length=length)
            model[target] = tuple(part[:, :length] for part in model[source])
        elif name == "free":
            cache = cache.free(detail)
            model[detail] = (np.zeros((HEADS, 0, D)),) * 2
        elif name == "truncate":
            cache = cache.truncate(detail)
            model = [
                tuple(part[:, :n] for part in parts) for parts, n in zip(model, detail, strict=True)
            ]
        elif name == "select":
            cache = cache.select(detail)
            model = [model[b] for b in detail]
        for b in range(BATCH):
            np.testing.assert_array_equal(tokens_of(cache, b, cache.keys), model[b][0])
            np.testing.assert_array_equal(tokens_of(cache, b, cache.values), model[b][1])
        check_accounts(cache)


def test_a_grown_cache_equals_one_that_was_as_large_from_the_start():
    rng = np.random.default_rng(5)
    keys, values = rng.normal(size=(2, 2, HEADS, 80, D))
    spec = SummarySpec(ball=False, sketch_bits=None)
    sizes = {"batch": 2, "kv_heads": HEADS, "head_size": D, "page_size": PAGE, "spec": spec}
    small = PagedKV.create(**sizes, pages=24, pages_per_sequence=12, dtype=jnp.float64)
    large = PagedKV.create(**sizes, pages=48, pages_per_sequence=24, dtype=jnp.float64)
    counts = np.array([48, 29])
    first, second = (slice(None), slice(None), slice(48)), (slice(None), slice(None), slice(48, 80))
    small, result = small.append(keys[first], values[first], counts=counts)
    assert bool(result == Result.successful)
    small = small.grow(pages=48, pages_per_sequence=24)
    for start, taken in ((first, counts), (second, np.array([32, 32]))):
        large, result = large.append(keys[start], values[start], counts=taken)
        assert bool(result == Result.successful)
    small, result = small.append(keys[second], values[second], counts=np.array([32, 32]))
    assert bool(result == Result.successful)
    for b in range(2):
        for pool in ("keys", "values"):
            np.testing.assert_array_equal(
                tokens_of(small, b, getattr(small, pool)),
                tokens_of(large, b, getattr(large, pool)),
            )
    # Sequence 0 has 20 full pages: one superpage, which ends beyond the old table of 12 pages.
    jax.tree.map(np.testing.assert_array_equal, small.superpages, large.superpages)
    assert float(small.superpages.value_bound[0, 0, 0]) > 0
    used = used_pages(small)
    assert len(set(used)) == len(used)
    assert int(small.free_count) == 48 - len(used)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda c: c.grow(pages=5), "`pages` is 5, but the cache has 12"),
        (lambda c: c.grow(pages_per_sequence=0), "positive integer"),
        (lambda c: c.truncate([1, 2]), r"shape \(3,\)"),
        (lambda c: c.truncate([1, 2, -1]), r"`lengths\[2\]` is -1"),
        (lambda c: c.select([]), "a list of sequence indices"),
        (lambda c: c.select([0, 3]), r"`sequences\[1\]` is 3; sequences are 0 to 2"),
    ],
)
def test_sizes_and_sequences_that_are_not_possible(call, words):
    with pytest.raises(ValueError, match=words):
        call(new_cache())


def test_full_pool_reports_and_room_remains_usable():
    cache = new_cache()
    rng = np.random.default_rng(0)
    block = rng.normal(size=(BATCH, HEADS, WIDTH * PAGE, D))
    cache, result = cache.append(block, block, counts=np.array([WIDTH * PAGE, 8, 0]))
    assert bool(result == Result.successful)
    counts = np.array([0, 8, 0])
    cache, result = cache.append(block[:, :, :8], block[:, :, :8], counts=counts, throw=False)
    assert bool(result == Result.pool_full)
    np.testing.assert_array_equal(cache.lengths, [WIDTH * PAGE, 8, 0])
    cache = cache.free(0)
    cache, result = cache.append(block[:, :, :8], block[:, :, :8], counts=np.array([0, 8, 8]))
    assert bool(result == Result.successful)
    check_accounts(cache)


def test_token_by_token_in_a_scan_equals_one_block():
    rng = np.random.default_rng(1)
    keys, values = rng.normal(size=(2, 2, 2, 150, 16))
    spec = SummarySpec(sketch_bits=6)
    block = PagedKV.from_tokens(keys, values, page_size=4, spec=spec)
    cache = PagedKV.create(
        batch=2, kv_heads=2, head_size=16, pages=80, page_size=4, dtype=jnp.float64, spec=spec,
        pages_per_sequence=38,
    )  # fmt: skip

    @jax.jit
    def fill(cache, keys, values):
        return jax.lax.scan(lambda c, kv: c.append(*kv), cache, (keys, values))

    cache, results = fill(cache, np.moveaxis(keys, 2, 0), np.moveaxis(values, 2, 0))
    assert bool(jnp.all(results == Result.successful))
    jax.tree.map(np.testing.assert_array_equal, cache.superpages, block.superpages)
    for b in range(2):
        full = 150 // 4
        one, other = (
            jax.tree.map(lambda a, row=c.page_table[b, :full]: a[:, row], c.summaries)
            for c in (cache, block)
        )
        jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.slow
def test_rows_that_complete_pages_at_different_steps_under_vmap_equal_blocks():
    """Two caches of three sequences; some step completes a page, or a superpage, of only one."""
    rng = np.random.default_rng(3)
    lengths, room = np.array([[3, 0, 62], [64, 17, 1]]), 40
    keys, values = rng.normal(size=(2, 2, BATCH, HEADS, 128, D))
    counts = rng.integers(0, 2, size=(room, 2, BATCH))
    sizes = {"page_size": PAGE, "pages": 100, "pages_per_sequence": 32}
    starts = [
        PagedKV.from_tokens(k[:, :, :64], v[:, :, :64], lengths=n, **sizes)
        for k, v, n in zip(keys, values, lengths, strict=True)
    ]
    caches = jax.tree.map(lambda *parts: jnp.stack(parts), *starts)

    @jax.jit
    @jax.vmap
    def append(cache, keys, values, count):
        row = cache.lengths[:, None, None, None]
        token = [jnp.take_along_axis(part, row, axis=2)[:, :, 0] for part in (keys, values)]
        return cache.append(*token, counts=count)

    for step in range(room):
        caches, result = append(caches, keys, values, counts[step])
        assert bool(jnp.all(result == Result.successful))
    for i, (k, v) in enumerate(zip(keys, values, strict=True)):
        cache = jax.tree.map(lambda part, i=i: part[i], caches)
        held = lengths[i] + counts.sum(0)[i]
        np.testing.assert_array_equal(cache.lengths, held)
        block = PagedKV.from_tokens(k, v, lengths=held, **sizes)
        for b, n in enumerate(held):
            np.testing.assert_array_equal(tokens_of(cache, b, cache.keys), k[b, :, :n])
            one, other = (
                jax.tree.map(
                    lambda a, c=c, b=b, n=n: a[:, c.page_table[b, : n // PAGE]], c.summaries
                )
                for c in (cache, block)
            )
            jax.tree.map(np.testing.assert_array_equal, one, other)
            one, other = (
                jax.tree.map(lambda a, b=b, n=n: a[b, :, : n // (16 * PAGE)], c.superpages)
                for c in (cache, block)
            )
            jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_token_that_completes_no_page_computes_no_summary():
    """Every step writes one row a sequence; the rest is in conditionals and empty loops."""
    cache = PagedKV.create(batch=2, kv_heads=2, head_size=64, pages=64)
    token = np.ones((2, 2, 64), np.float32)
    graph = jax.make_jaxpr(lambda c: c.append(token, token))(cache).jaxpr
    sizes = [v.aval.size for v in _every_step(graph) if v.aval.dtype == jnp.float32]
    page, pool = cache.page_size * cache.head_size, cache.keys.size
    assert sizes
    assert all(size < page or size == pool for size in sizes), sorted(set(sizes))


def _every_step(graph):
    for equation in graph.eqns:
        yield from equation.outvars
        if equation.primitive.name not in ("cond", "while"):
            for inner in jaxprs_in_params(equation.params):
                yield from _every_step(inner)


@pytest.mark.parametrize("bits", [None, 1, 2, 4, 6, 8])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_bytes_of_summaries_equal_the_formula(bits, dtype):
    pages, heads, d, size, batch, width = 40, 3, 16, 16, 2, 33
    spec = SummarySpec(sketch_bits=bits, dtype=dtype)
    cache = PagedKV.create(
        batch=batch, kv_heads=heads, head_size=d, pages=pages, pages_per_sequence=width, spec=spec
    )
    number = 2 if dtype == "bfloat16" else 4
    # Box, mean, then mean error, radius and value bound; by token codes, residual, value length.
    one = 2 * d * number + d * number + 3 * number
    sketch = 0 if bits is None else size * (d * bits // 8 + number + 1)
    held = cache.summary_bytes()
    assert held["pages"] == heads * pages * (one + sketch)
    assert held["superpages"] == batch * heads * (width // 16) * one
    assert sum(spec.bytes_by_part(size, d).values()) == one + sketch


def test_appending_writes_in_place_whatever_the_size_of_the_pool():
    token = np.ones((1, 2, 64), np.float32)

    def scratch(pages: int) -> tuple[int, int]:
        cache = PagedKV.create(batch=1, kv_heads=2, head_size=64, pages=pages)
        append = jax.jit(lambda c, t: c.append(t, t), donate_argnums=0)
        memory = append.lower(cache, token).compile().memory_analysis()
        return memory.temp_size_in_bytes, cache.keys.nbytes

    small, _ = scratch(64)
    large, pool = scratch(4096)
    # Everything but the pools and their summaries is of one page's size; a copy of the pool would
    # be 33 MB here. The page table and the free list are 16 KB each.
    assert large - small < 0.01 * pool


def test_eager_append_reuses_the_buffer():
    cache = PagedKV.create(batch=1, kv_heads=2, head_size=64, pages=64)
    token = np.ones((1, 2, 64), np.float32)
    cache, _ = cache.append(token, token)
    place = cache.keys.unsafe_buffer_pointer()
    cache, _ = cache.append(token, token)
    assert cache.keys.unsafe_buffer_pointer() == place


@pytest.mark.parametrize("name", ["fork", "free", "truncate", "select"])
def test_what_writes_no_token_copies_no_pool(name):
    numbers = np.random.default_rng(0).normal(size=(2, 3, 2, 20, 8))
    cache = PagedKV.from_tokens(*numbers, page_size=4)
    asked = {"fork": (0, 1), "free": (2,), "truncate": ([3, 4, 5],), "select": ([2, 0, 0, 1],)}
    changed = getattr(cache, name)(*asked[name])
    for before, after in (
        (cache.keys, changed.keys),
        (cache.values, changed.values),
        (cache.summaries.codes, changed.summaries.codes),
    ):
        assert after is before
    assert changed.page_table.shape[0] == (4 if name == "select" else 3)

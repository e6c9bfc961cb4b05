"""Tests that need several devices: `test_sharded_backend.py` runs them where there are some.

Everything is held against a `PagedKV` on one device. Not collected by itself.
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from tests.attention.dense_reference import attend
from vashista_theory import Result
from vashista_theory.attention import (
    DecodeInfo,
    PagedKV,
    Policy,
    ShardedKV,
    SummarySpec,
    vashista_attention,
)

if "SHARDED_PROCESS" in os.environ:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        os.environ["SHARDED_COORDINATOR"],
        num_processes=2,
        process_id=int(os.environ["SHARDED_PROCESS"]),
        initialization_timeout=60,
    )

HEADS, PAGE, D = 2, 2, 16
POLICIES = {
    "dense": (Policy.dense(), 3),
    "two_levels": (Policy(pages=40, tolerance=0.05, summary="box", superpages=4), 3),
    "published": (Policy.published(20), 1),
    "certified": (Policy.certified(0.05, dense_below=0), 3),
    "else_dense": (Policy(pages=40, tolerance=0.02, otherwise="dense", recent=0), 1),
}


def mesh_of(devices: int) -> Mesh:
    return Mesh(np.array(jax.devices()[:devices]), ("pages",))


def check_equal_info(found: DecodeInfo, expected: DecodeInfo) -> None:
    """Decisions and bytes are equal, bounds to rounding: sums of partial sums, 400 tokens."""
    for name in ("pages_read", "certified", "fell_back", "bytes_read"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    for name in ("mass_bound", "mass_lower", "mass_estimate"):
        pair = (getattr(info, f"dropped_{name}") for info in (found, expected))
        np.testing.assert_allclose(*pair, rtol=1e-11, atol=0, err_msg=name)
    # The error bound divides by the mass read: where boxes allow the unread pages e^14 times that,
    # its rounding grows by as much.
    np.testing.assert_allclose(found.error_bound, expected.error_bound, rtol=1e-8)
    np.testing.assert_allclose(found.gap, expected.gap, rtol=1e-11, atol=1e-12)
    assert bool(found.result == Result.successful)
    assert bool(expected.result == Result.successful)


def check_equal_decode(query, cache, one, policy, **options) -> DecodeInfo:
    output, info = vashista_attention(query, cache, policy, **options)
    expected, expected_info = vashista_attention(query, one, policy, **options)
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-13)
    check_equal_info(info, expected_info)
    return expected_info


@pytest.fixture(scope="module")
def caches():
    """Ragged sequences that end in every kind of place, from one superpage to two rounds."""
    width = 199
    room = PAGE * width
    span = 16 * PAGE
    lengths = np.array([0, 1, PAGE - 1, PAGE, PAGE + 1, 3 * span + 5, room, 9 * span])
    keys, values = np.random.default_rng(0).normal(size=(2, 8, HEADS, room, D))
    kept = {"lengths": lengths, "page_size": PAGE, "spec": SummarySpec(sketch_bits=4)}
    one = PagedKV.from_tokens(keys, values, **kept)
    many = ShardedKV.from_tokens(keys, values, mesh=mesh_of(len(jax.devices())), **kept)
    np.testing.assert_array_equal(many.lengths, lengths)
    return one, many


@pytest.mark.parametrize("name", POLICIES)
def test_decode_equals_one_device(caches, name):
    one, many = caches
    policy, group = POLICIES[name]
    query = 2 * np.random.default_rng(1).normal(size=(8, HEADS * group, D))
    info = check_equal_decode(query, many, one, policy)
    pages = -(-np.asarray(one.lengths) // PAGE)
    if policy.summary is not None:  # or the comparison would say little
        assert np.any(np.asarray(info.pages_read) < pages[:, None])
    assert np.any(info.fell_back) == (name == "else_dense")


@pytest.mark.parametrize(
    ("name", "given"),
    [("two_levels", "both"), ("certified", "softcap"), ("sampled", "both")],
)
def test_sinks_and_caps_equal_one_device(caches, name, given):
    one, many = caches
    policy, group = (POLICIES | {"sampled": (Policy.sampled(40, dense_below=0), 3)})[name]
    query = 2 * np.random.default_rng(1).normal(size=(8, HEADS * group, D))
    options = {"softcap": 2.0}
    if given == "both":
        options["sinks"] = np.linspace(-2.0, 6.0, HEADS * group)
    output, info = vashista_attention(query, many, policy, **options)
    expected, whole = vashista_attention(query, one, policy, **options)
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-12)
    for read in ("tokens_read", "pages_read", "bytes_read", "certified", "fell_back"):
        np.testing.assert_array_equal(getattr(info, read), getattr(whole, read), err_msg=read)
    for told in ("log_mass", "error_estimate", "error_bound"):
        found = getattr(info, told), getattr(whole, told)
        np.testing.assert_allclose(*found, rtol=1e-8, atol=1e-12, err_msg=told)
    without, _ = vashista_attention(query, many, policy)
    assert np.any(np.abs(np.asarray(without) - np.asarray(output)) > 1e-3)


@pytest.mark.parametrize(
    "given", [{}, {"tolerance": 0.15, "confidence": 0.99, "sink": 0, "recent": 3}]
)
def test_devices_draw_the_tokens_that_one_device_draws(caches, given):
    one, many = caches
    query = 2 * np.random.default_rng(6).normal(size=(8, 3 * HEADS, D))
    policy = Policy.sampled(40, dense_below=0, **given)
    for key in (None, jax.random.key(2)):
        output, info = vashista_attention(query, many, policy, key=key)
        expected, whole = vashista_attention(query, one, policy, key=key)
        np.testing.assert_allclose(output, expected, rtol=0, atol=1e-12)
        for name in ("tokens_read", "pages_read", "bytes_read", "certified", "fell_back"):
            found = getattr(info, name), getattr(whole, name)
            np.testing.assert_array_equal(*found, err_msg=name)
        for name in ("log_mass", "error_estimate", "error_bound"):
            found = getattr(info, name), getattr(whole, name)
            np.testing.assert_allclose(*found, rtol=1e-9, atol=1e-12, err_msg=name)
        read = np.asarray(info.tokens_read)
        assert np.any(read < np.asarray(one.lengths)[:, None])
        assert not given or np.any(info.fell_back)
        assert bool(info.result == Result.successful)


def test_devices_open_the_superpages_that_one_device_opens():
    span, lengths = 16 * PAGE, np.array([31 * 16 * PAGE, 27 * 16 * PAGE + 5])
    keys, values = np.random.default_rng(0).normal(size=(2, 2, HEADS, lengths[0], D))
    keys += np.repeat(np.random.default_rng(1).normal(size=(2, HEADS, 31, D)), span, axis=2)
    kept = {"lengths": lengths, "page_size": PAGE, "spec": SummarySpec(sketch_bits=2)}
    one = PagedKV.from_tokens(keys, values, **kept)
    many = ShardedKV.from_tokens(keys, values, mesh=mesh_of(len(jax.devices())), **kept)
    query = np.random.default_rng(6).normal(size=(2, 2 * HEADS, D))
    policy = Policy.sampled(40, superpages=2, dense_below=0)
    output, info = vashista_attention(query, many, policy, key=jax.random.key(2))
    expected, whole = vashista_attention(query, one, policy, key=jax.random.key(2))
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-12)
    assert bool(info.result == Result.successful)
    for name in ("tokens_read", "pages_read", "bytes_read", "log_mass", "error_estimate"):
        found = getattr(info, name), getattr(whole, name)
        np.testing.assert_allclose(*found, rtol=1e-9, err_msg=name)
    assert np.all(np.asarray(info.bytes_read) < np.asarray(one.summary_bytes()["pages"]) / 8)


def test_kernels_on_each_device_equal_plain_jax_on_one(caches):
    def single(a):
        return a.astype(jnp.float32) if a.dtype == jnp.float64 else a

    one, many = jax.tree.map(single, caches)
    query = np.random.default_rng(4).normal(size=(8, 3 * HEADS, D)).astype(np.float32)
    policy = Policy(pages=40, summary="box", superpages=4)
    output, info = vashista_attention(query, many, policy, implementation="xla")
    expected, plain = vashista_attention(query, one, policy)
    np.testing.assert_allclose(output, expected, rtol=0, atol=2e-5)  # float32
    np.testing.assert_array_equal(info.pages_read, plain.pages_read)
    np.testing.assert_allclose(info.log_mass, plain.log_mass, rtol=2e-6, atol=2e-5)
    np.testing.assert_allclose(info.dropped_mass_estimate, plain.dropped_mass_estimate, rtol=1e-3)
    assert bool(info.result == Result.successful)


@pytest.mark.parametrize(
    ("of_keys", "of_query", "right"), [(1e30, 1e-30, True), (1e25, 1e25, False)]
)
def test_what_overflows_proves_nothing_on_several_devices_either(of_keys, of_query, right):
    rng = np.random.default_rng(5)
    keys = (of_keys * rng.normal(size=(1, 1, 80, D))).astype(np.float32)
    values = rng.normal(size=keys.shape).astype(np.float32)
    query = (of_query * rng.normal(size=(1, 1, D))).astype(np.float32)
    spec = SummarySpec(ball=False, sketch_bits=None)
    many = ShardedKV.from_tokens(keys, values, mesh=mesh_of(2), page_size=PAGE, spec=spec)
    policy = Policy(pages=4, tolerance=0.1, summary="box")
    output, info = vashista_attention(query, many, policy)
    assert bool(info.result == Result.successful) == right
    assert not np.any(info.certified)
    assert np.all(np.asarray(info.dropped_mass_bound) == 1)
    exact = attend(*(a.astype(np.float64)[0, 0] for a in (query, keys, values)), D**-0.5).output
    error = np.linalg.norm(np.asarray(output)[0, 0] - exact)
    assert not error > float(info.error_bound[0, 0])  # NaN, where it is not right, is not either


def test_coupling_gathers_the_pages_of_a_fixed_number(caches):
    one, many = caches
    query = np.random.default_rng(2).normal(size=(8, HEADS, D))
    policy = Policy(pages=8, summary="box")
    output, info = vashista_attention(query, many, policy, coupling=0.5)
    expected, expected_info = vashista_attention(query, one, policy, coupling=0.5)
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-10)  # Newton's tolerance
    np.testing.assert_array_equal(info.pages_read, expected_info.pages_read)
    with pytest.raises(NotImplementedError, match="Read fewer pages"):
        vashista_attention(query, many, Policy.dense(), coupling=0.5)


def test_growing_forking_and_freeing_equal_one_device():
    rng = np.random.default_rng(3)
    shape = {"batch": 3, "kv_heads": HEADS, "head_size": D, "page_size": PAGE, "dtype": "float64"}
    devices = min(3, len(jax.devices()))
    one = PagedKV.create(pages=450, pages_per_sequence=150, **shape)
    many = ShardedKV.create(
        mesh=mesh_of(devices), pages=144 * devices, pages_per_sequence=150, **shape
    )

    def both(change):
        nonlocal one, many
        (one, result), (many, other) = change(one), change(many)
        assert bool(result == Result.successful)
        assert bool(other == Result.successful)
        np.testing.assert_array_equal(many.lengths, one.lengths)

    def append(tokens, counts):
        block = rng.normal(size=(2, 3, HEADS, tokens, D))
        both(lambda cache: cache.append(*block, counts=np.array(counts)))

    append(110, [110, 3, 0])
    for _ in range(3):  # a token at a time, across the end of a page
        block = rng.normal(size=(2, 3, HEADS, D))
        both(lambda cache, block=block: cache.append(*block))
    both(lambda cache: (cache.fork(0, 2, length=101), Result.successful))
    append(110, [20, 61, 45])
    both(lambda cache: (cache.fork(2, 1), Result.successful))
    both(lambda cache: (cache.free(0), Result.successful))
    append(110, [0, 110, 7])
    query = rng.normal(size=(3, HEADS, D))
    policy = Policy(pages=30, tolerance=0.5, summary="box", superpages=2, sink=0)
    check_equal_decode(query, many, one, policy)
    info = check_equal_decode(query, many, one, Policy.certified(0.5, dense_below=0))
    assert np.any(np.asarray(info.pages_read) < 60)  # of 83 in the longest sequence
    if jax.process_count() == 1:  # or a process does not see all parts
        check_accounts(many)
        check_contents(many, one)


def check_accounts(cache: ShardedKV) -> None:
    """Each device counts and stacks its own pages, all of them places of its own tables."""
    for rank in range(cache.dealing.count):
        part = jax.tree.map(lambda a, rank=rank: np.asarray(a)[rank], cache.parts)
        covered = np.arange(part.page_table.shape[1]) * PAGE < part.lengths[:, None]
        named = np.bincount(part.page_table[covered], minlength=len(part.free_pages))
        np.testing.assert_array_equal(part.reference_counts, named)
        free = part.free_pages[: part.free_count]
        assert sorted(free) == list(np.flatnonzero(named == 0))
    np.testing.assert_array_equal(np.asarray(cache.parts.lengths).sum(axis=0), cache.lengths)


def check_contents(cache: ShardedKV, one: PagedKV) -> None:
    cache, one = (jax.tree.map(np.asarray, held) for held in (cache, one))
    for sequence, length in enumerate(one.lengths):
        for logical in range(-(-length // PAGE)):
            rank = logical // 16 % cache.dealing.count
            place = logical // (16 * cache.dealing.count) * 16 + logical % 16
            page = cache.parts.page_table[rank, sequence, place]
            tokens = min(PAGE, length - logical * PAGE)
            expected = one.keys[:, one.page_table[sequence, logical], :tokens]
            np.testing.assert_array_equal(cache.parts.keys[rank, :, page, :tokens], expected)


def test_one_full_device_stops_all():
    mesh = jax.make_mesh((2, 3), ("copies", "pages"))
    cache = ShardedKV.create(
        mesh=mesh, axis="pages", batch=2, kv_heads=HEADS, head_size=D, pages=3 * 17,
        pages_per_sequence=40, page_size=PAGE, dtype="float64",
    )  # fmt: skip
    block = np.random.default_rng(4).normal(size=(2, 2, HEADS, 40 * PAGE, D))
    cache, result = cache.append(*block, counts=np.array([16 * PAGE, 0]))
    assert bool(result == Result.successful)
    before = jax.tree.map(np.array, cache)
    # Two more pages on the first device, which has one, although the others are empty.
    cache, result = cache.append(*block, counts=np.array([0, 2 * PAGE]), throw=False)
    assert bool(result == Result.pool_full)
    jax.tree.map(np.testing.assert_array_equal, cache, before)
    # Beyond the row of the page table, although devices hold whole superpages.
    cache, result = cache.append(*block, counts=np.array([24 * PAGE + 1, 0]), throw=False)
    assert bool(result == Result.pool_full)
    bad = block.copy()
    bad[1, 0, 0, 20 * PAGE, 0] = np.nan  # a token of the third device
    counts = np.array([24 * PAGE, 1])
    append = jax.jit(lambda c, kv: c.append(*kv, counts=counts, throw=False))
    cache, result = append(cache, bad)
    assert bool(result == Result.nonfinite_input)
    jax.tree.map(np.testing.assert_array_equal, cache, before)
    cache, result = cache.append(*block, counts=np.array([24 * PAGE, PAGE]))
    assert bool(result == Result.successful)
    check_accounts(cache)


def test_pools_are_written_in_place_and_never_copied():
    shape = {"batch": 2, "kv_heads": HEADS, "head_size": D, "pages": 64, "dtype": "float64"}
    cache = ShardedKV.create(mesh=mesh_of(8), **shape)
    token = np.ones((2, HEADS, D))
    cache, _ = cache.append(token, token)

    def places() -> list[int]:
        shards = cache.parts.keys.addressable_shards
        return [shard.data.unsafe_buffer_pointer() for shard in shards]

    before = places()
    cache, _ = cache.append(token, token)
    cache = cache.fork(0, 1).free(0)
    cache, result = cache.append(token, token)
    assert bool(result == Result.successful)
    assert places() == before
    one = PagedKV.create(**shape)
    assert cache.summary_bytes() == {
        "pages": one.summary_bytes()["pages"],
        # Every device has places for whole superpages: 8 here, of which a sequence could use 4.
        "superpages": 2 * one.summary_bytes()["superpages"],
    }


def test_decoding_and_appending_inside_a_scan():
    rng = np.random.default_rng(5)
    keys, values = rng.normal(size=(2, 1, HEADS, 80, D))
    query = jax.device_put(rng.normal(size=(1, 4, D)), jax.devices()[5])
    mesh = jax.make_mesh((8,), ("pages",))
    cache = ShardedKV.from_tokens(
        keys, values, mesh=mesh, lengths=np.array([60]), page_size=PAGE, pages_per_sequence=40
    )

    @jax.jit
    def decode(cache, query, keys, values):
        def step(cache, new):
            cache, result = cache.append(*new)
            return cache, (*vashista_attention(query, cache, Policy.dense()), result)

        return jax.lax.scan(step, cache, (keys, values))

    later = [np.moveaxis(a[:, :, 60:], 2, 0) for a in (keys, values)]
    cache, (output, info, result) = decode(cache, np.asarray(query), *later)
    assert bool(jnp.all(result == Result.successful))
    assert bool(jnp.all(info.result == Result.successful))
    exact = [
        [attend(q, keys[0, h // 2, :n], values[0, h // 2, :n], D**-0.5).output
         for h, q in enumerate(np.asarray(query[0]))]
        for n in range(61, 81)
    ]  # fmt: skip
    np.testing.assert_allclose(output[:, 0], exact, rtol=0, atol=1e-13)
    # A query that an earlier step left on one of the devices is brought to all of them.
    again, _ = vashista_attention(query, cache, Policy.dense())
    np.testing.assert_allclose(again[0], exact[-1], rtol=0, atol=1e-13)

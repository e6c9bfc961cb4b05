"""The kernels for CPUs: stages against the float64 reference, draws against plain JAX."""

import concurrent.futures
import functools
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from tests.attention.kernels import problems
from tests.attention.kernels.conformance import SMALL
from tests.attention.kernels.together import Together
from tests.thinned import diagonal, spread
from vashista_theory.attention import PagedKV, Policy, SummarySpec, vashista_attention
from vashista_theory.attention.bounds.random_bits import threefry
from vashista_theory.attention.kernels import api

pytest.importorskip("numba")

FLOAT16 = {"llama3_8b_float16"}


class TestNumba(Together):
    implementation = "numba"
    cannot: ClassVar = {"attend": FLOAT16, "attend_tokens": FLOAT16}


def cache_of(
    rng, *, kv_heads=2, d=16, lengths=(400, 173), dtype="float32", equal=False, short=0, **options
):
    """Sequences of some lengths in pages of 16, with room for 27; of equal tokens, if wanted.

    Values are up to so many powers of ten shorter than the others.
    """
    room = max(420, *lengths)
    width, shape = -(-room // 16), (len(lengths), kv_heads, 1 if equal else room, d)
    keys, values = (
        np.broadcast_to(rng.normal(size=shape), (*shape[:2], room, d)) for _ in range(2)
    )
    values = values * 10.0 ** -rng.uniform(0, short, size=(*values.shape[:3], 1))
    spec = SummarySpec(**{"sketch_bits": 4, **options})
    numbers = (jnp.asarray(a, dtype) for a in (keys, values))
    return PagedKV.from_tokens(
        *numbers, lengths=np.array(lengths), pages_per_sequence=width, spec=spec
    )


def both(query, cache, policy, **options):
    """By the kernels, and in plain JAX."""
    return tuple(
        vashista_attention(query, cache, policy, implementation=name, **options)
        for name in ("numba", "jax")
    )


def check_equal(found, plain) -> None:
    """Equal to rounding; a token whose random number lies on the threshold may be in one alone."""
    (output, info), (expected, told) = found, plain
    assert info.result == told.result
    differing = np.abs(np.asarray(info.tokens_read) - np.asarray(told.tokens_read))
    assert differing.max() <= 1
    # A token more or less of one kv head is no matter to the others.
    assert np.count_nonzero(differing) <= output.shape[1]
    heads = differing == 0
    # Float32 sums in another order; probabilities err by as much, and are divided by.
    np.testing.assert_allclose(output[heads], expected[heads], rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(info.log_mass[heads], told.log_mass[heads], rtol=2e-5, atol=1e-4)
    estimates = info.error_estimate[heads], told.error_estimate[heads]
    np.testing.assert_allclose(*estimates, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("kv_heads", "group", "bits", "packed", "tokens"),
    [(1, 1, 4, True, 64), (3, 3, 2, True, 40), (2, 5, 1, False, 64), (1, 2, 8, True, 300)],
)
def test_a_draw_is_that_of_plain_jax(kv_heads, group, bits, packed, tokens):
    policy = Policy.sampled(tokens, dense_below=0)
    compiled = {
        name: jax.jit(
            functools.partial(vashista_attention, policy=policy, implementation=name),
        )
        for name in ("numba", "jax")
    }

    @hypothesis.given(
        seed=st.integers(0, 99),
        lengths=st.tuples(st.integers(0, 420), st.integers(0, 420)),
        width=st.sampled_from([0.0, 0.3, 3.0, 30.0]),
        equal=st.booleans(),
        short=st.sampled_from([0, 6]),
    )
    def check(seed, lengths, width, equal, short):
        rng = np.random.default_rng(seed)
        spec = {"sketch_bits": bits, "packed": packed, "short": short}
        cache = cache_of(rng, kv_heads=kv_heads, lengths=lengths, equal=equal, **spec)
        query = (width * rng.normal(size=(2, kv_heads * group, 16))).astype(np.float32)
        check_equal(*(read(query, cache) for read in compiled.values()))

    check()


OTHERS = [
    (Policy.sampled(64, dense_below=0, sink=0, recent=3), {}),
    (Policy.sampled(48, dense_below=0, tolerance=0.05), {}),
    (Policy.sampled(64, dense_below=0), {"sinks": np.linspace(-2, 9, 4, dtype=np.float32)}),
    (Policy.sampled(64, dense_below=0), {"scale": 3.0}),
]


@pytest.mark.parametrize(("other", "dtype"), diagonal(OTHERS, ["float32", "bfloat16"], 2))
def test_a_draw_of_other_policies_is_that_of_plain_jax(other, dtype):
    policy, options = other
    rng = np.random.default_rng(5)
    cache = cache_of(rng, dtype=dtype)
    query = (2 * rng.normal(size=(2, 4, 16))).astype(np.float32)
    check_equal(*both(query, cache, policy, **options))


@pytest.mark.parametrize(
    "policy",
    [
        Policy.budget(8, dense_below=0),
        Policy.budget(8, summary="box", dense_below=0),
        Policy.published(8),
        Policy.certified(0.3, dense_below=0),
        Policy(pages=6, summary="ball", tolerance=0.2),
        Policy.sampled(64, dense_below=0, superpages=4),
    ],
    ids=["sketch", "box", "mean", "certified", "ball", "two stages"],
)
def test_pages_are_chosen_as_in_plain_jax(policy):
    rng = np.random.default_rng(12)
    cache = cache_of(rng, lengths=(1300, 173), sketch_bits=8)
    query = (2 * rng.normal(size=(2, 4, 16))).astype(np.float32)
    found, plain = both(query, cache, policy)
    if policy.tokens is not None:
        check_equal(found, plain)
        return
    np.testing.assert_array_equal(found[1].tokens_read, plain[1].tokens_read)
    # Sums in another order, of some hundred terms.
    np.testing.assert_allclose(found[0], plain[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[1].log_mass, plain[1].log_mass, rtol=1e-5, atol=1e-5)


CANNOT = [{"page": 8}, {"sketch_bits": 6}, {"dtype": "float32"}]


def cache_that_is_not_drawn_from(rng, page=16, **spec):
    tokens = (jnp.asarray(rng.normal(size=(1, 2, 320, 16)), jnp.float32) for _ in range(2))
    return PagedKV.from_tokens(*tokens, page_size=page, spec=SummarySpec(**spec))


@pytest.mark.parametrize("change", CANNOT)
def test_what_the_draw_cannot_do_is_left_to_plain_jax(change):
    rng = np.random.default_rng(6)
    cache = cache_that_is_not_drawn_from(rng, **change)
    query = rng.normal(size=(1, 4, 16)).astype(np.float32)
    step = functools.partial(vashista_attention, policy=Policy.sampled(48, dense_below=0))
    assert "vashista_draw_tokens" not in str(jax.make_jaxpr(step)(query, cache))


@pytest.mark.parametrize("change", spread(CANNOT, 1))
def test_what_plain_jax_draws_is_read_alike(change):
    rng = np.random.default_rng(6)
    cache = cache_that_is_not_drawn_from(rng, **change)
    query = rng.normal(size=(1, 4, 16)).astype(np.float32)
    check_equal(*both(query, cache, Policy.sampled(48, dense_below=0)))


@pytest.mark.parametrize("bad", ["key", "value", "query"])
def test_numbers_that_are_none_are_told_as_in_plain_jax(bad):
    rng = np.random.default_rng(7)
    keys, values = rng.normal(size=(2, 1, 2, 320, 16)).astype(np.float32)
    query = rng.normal(size=(1, 4, 16)).astype(np.float32)
    # Finite all of them; products are not.
    {"key": keys, "value": values, "query": query}[bad][0, 1, 7 % query.shape[2]] = 3e38
    cache = PagedKV.from_tokens(keys, values)
    found, plain = both(query, cache, Policy.sampled(48, dense_below=0))
    assert found[1].result == plain[1].result
    np.testing.assert_array_equal(np.isfinite(found[0]), np.isfinite(plain[0]))


@pytest.mark.parametrize("policy", [Policy.dense(), Policy.sampled(48, dense_below=0)])
def test_a_score_below_all_numbers_is_not_a_weight_of_zero(policy):
    rng = np.random.default_rng(7)
    keys, values = rng.normal(size=(2, 1, 2, 320, 16)).astype(np.float32)
    query = np.full((1, 4, 16), 2, np.float32)
    keys[0, 0, 5, 3] = -3e38  # in the first page, which every policy reads
    found, plain = both(query, PagedKV.from_tokens(keys, values), policy)
    assert found[1].result == plain[1].result
    assert not np.isfinite(found[0][0, :2]).any()


def test_it_is_what_a_cpu_takes_by_itself_and_nothing_else_does():
    rng = np.random.default_rng(8)
    cache = cache_of(rng)
    query = rng.normal(size=(2, 4, 16)).astype(np.float32)
    policy = Policy.sampled(48, dense_below=0)
    text = str(jax.make_jaxpr(functools.partial(vashista_attention, policy=policy))(query, cache))
    assert "vashista_draw_tokens" in text
    assert "vashista_attend_tokens_float32" in text
    with jax.enable_x64(True):
        wide = np.asarray(query, np.float64)
        asked = functools.partial(vashista_attention, policy=policy)
        assert "ffi_call" not in str(jax.make_jaxpr(asked)(wide, cache))


def test_under_vmap_and_scan():
    rng = np.random.default_rng(9)
    cache = cache_of(rng)
    queries = rng.normal(size=(3, 2, 4, 16)).astype(np.float32)
    policy = Policy.sampled(48, dense_below=0)

    def read(query):
        return vashista_attention(query, cache, policy)[0]

    one_by_one = np.stack([read(query) for query in queries])
    np.testing.assert_allclose(jax.vmap(read)(queries), one_by_one, rtol=1e-5, atol=1e-6)
    _, scanned = jax.lax.scan(lambda carry, query: (carry, read(query)), 0, queries)
    np.testing.assert_allclose(scanned, one_by_one, rtol=1e-5, atol=1e-6)


def test_threads_that_call_at_once_get_what_one_gets():
    rng = np.random.default_rng(10)
    cache = cache_of(rng, lengths=(2000, 1700, 900, 1999))
    queries = rng.normal(size=(16, 4, 4, 16)).astype(np.float32)
    policy = Policy.sampled(64, dense_below=0)
    read = jax.jit(lambda query: vashista_attention(query, cache, policy)[0])
    alone = [np.asarray(read(query)) for query in queries]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda query: np.asarray(read(query)), queries))
    np.testing.assert_array_equal(together, alone)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere XLA lends its threads")
def test_each_thread_of_our_own_has_a_processor():
    test_a_draw_twice_is_equal_bit_for_bit()  # which starts them
    bound = {
        frozenset(os.sched_getaffinity(thread.native_id))
        for thread in threading.enumerate()
        if thread.name.startswith("vashista-") and thread.native_id is not None
    }
    assert bound == {frozenset({processor}) for processor in os.sched_getaffinity(os.getpid())}


ELSEWHERE = """
import numpy as np
from numba import types
from vashista_theory.attention.kernels.cpu import sharing
sharing.OWN_THREADS = False  # as where the C library lacks what they need
sharing._current_processor = types.ExternalFunction("no_such_function", types.int32())
from vashista_theory.attention import PagedKV, Policy, vashista_attention
rng = np.random.default_rng(0)
keys, values = rng.normal(size=(2, 1, 2, 2000, 16)).astype(np.float32)
query = rng.normal(size=(1, 4, 16)).astype(np.float32)
cache, policy = PagedKV.from_tokens(keys, values), Policy.sampled(64, dense_below=0)
read = [vashista_attention(query, cache, policy, implementation=i)[0] for i in ("numba", "jax")]
np.testing.assert_allclose(*read, rtol=2e-4, atol=2e-5)
"""


def test_where_there_are_no_such_threads_xla_lends_its_own(tmp_path: Path):
    # In a process of its own, which an unknown function of the C library would end.
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE], env=environment, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


def test_all_threads_flush_subnormal_numbers_or_none_does():
    rng = np.random.default_rng(0)
    options = {"sketch_bits": 1, "packed": False, "short": 6}
    cache = cache_of(rng, kv_heads=2, lengths=(181, 272), **options)
    query = (30 * rng.normal(size=(2, 10, 16))).astype(np.float32)
    policy = Policy.sampled(64, dense_below=0)
    read = jax.jit(lambda: vashista_attention(query, cache, policy)[1].error_estimate)
    first = np.asarray(read())
    for _ in range(100):
        np.testing.assert_array_equal(np.asarray(read()), first)


def test_a_draw_twice_is_equal_bit_for_bit():
    rng = np.random.default_rng(11)
    cache = cache_of(rng)
    query = rng.normal(size=(2, 4, 16)).astype(np.float32)
    policy = Policy.sampled(48, dense_below=0)
    first, second = (vashista_attention(query, cache, policy)[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_long_lists_are_read_in_pieces():
    small = replace(SMALL["smollm2_135m"], lengths=(3000, 1), listed=200)
    shape = small.attend()
    call = problems.attend_call(shape, np.full((shape.batch, shape.kv_heads), 2997))
    TestNumba().check_attend(call)


def test_exponentials_and_random_bits():
    from vashista_theory.attention.kernels.cpu import arithmetic
    from vashista_theory.attention.kernels.cpu.native import compiled

    @compiled()
    def each(x, found):
        for i in range(x.size):
            found[i] = arithmetic.exponential(x[i])

    x = np.concatenate([np.linspace(-87.3, 0, 200_001), -np.logspace(-40, 1, 999)])
    x = x.astype(np.float32)
    found = np.empty_like(x)
    each(x, found)
    exact = np.exp(x.astype(np.float64))
    assert np.abs(found / exact - 1).max() <= 2.5 * np.finfo(np.float32).eps
    edge = np.array([-88, -np.inf, 0, np.nan], np.float32)
    each(edge, edge)
    np.testing.assert_array_equal(edge, [0, 0, 1, np.nan])

    words = np.random.default_rng(0).integers(0, 2**32, size=(4, 50), dtype=np.uint32)
    wide = [jnp.asarray(row) for row in words]
    first, second = threefry((wide[0], wide[1]), (wide[2], wide[3]))
    for i in range(50):
        assert arithmetic.threefry(*words[:, i]) == (int(first[i]), int(second[i]))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("group", [1, 2, 3, 4, 7])
def test_sums_of_codes(bits, group):
    from vashista_theory.attention.bounds.sketch import pack
    from vashista_theory.attention.kernels.cpu.sketch_sums import add_codes

    rng = np.random.default_rng(bits)
    codes = rng.integers(0, 2**bits, size=(24, 32)).astype(np.uint8)
    coefficients = rng.integers(-50, 50, size=(group, 24)).astype(np.float32)
    sums = np.ones((group, 32), np.float32)
    add_codes(np.asarray(pack(jnp.asarray(codes), bits)), coefficients, sums)
    # Whole numbers below 2^24: exact in any order.
    np.testing.assert_array_equal(sums, 1 + coefficients @ codes.astype(np.float32))


def test_records_of_another_layout_are_refused(monkeypatch, tmp_path: Path):
    from vashista_theory.attention.kernels.cpu import foreign

    assert foreign.layout_is_known()
    header = tmp_path / "xla/ffi/api/c_api.h"
    header.parent.mkdir(parents=True)
    real = (Path(jax.ffi.include_dir()) / "xla/ffi/api/c_api.h").read_text("utf-8")
    monkeypatch.setattr(jax.ffi, "include_dir", lambda: str(tmp_path))
    assert not foreign.layout_is_known(), "no header"
    schedule = "  _XLA_FFI_API_STRUCT_FIELD(XLA_FFI_ThreadPool_Schedule);\n"
    assert schedule in real
    for other in (
        real.replace("XLA_FFI_API_MAJOR 0", "XLA_FFI_API_MAJOR 1"),
        real.replace(schedule, ""),
        real.replace(schedule, 2 * schedule),
    ):
        header.write_text(other, encoding="utf-8")
        assert not foreign.layout_is_known()
    header.write_text(real, encoding="utf-8")
    assert foreign.layout_is_known()


def test_what_cannot_be_kept_is_compiled_all_the_same(monkeypatch):
    from numba import types

    from vashista_theory.attention.kernels.cpu import native

    real = native.numba.cfunc

    def nowhere(signature, *, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return real(signature, **options)

    monkeypatch.setattr(native.numba, "cfunc", nowhere)
    one = native.as_c(types.int64(types.int64))(lambda x: x + 1)
    assert one.ctypes(41) == 42


def test_without_numba_a_cpu_takes_plain_jax(monkeypatch):
    real = api.importlib.import_module

    def without(name: str):
        if name.endswith("cpu.stages"):
            raise ModuleNotFoundError("No module named 'numba'", name="numba")
        return real(name)

    monkeypatch.setattr(api.importlib, "import_module", without)
    assert api.best_here() == api.PLAIN
    with pytest.raises(NotImplementedError, match=r"'numba'.*vashista-theory\[cpu\]"):
        api.load("numba")

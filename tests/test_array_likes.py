"""Arrays as people have them: each entry point answers as for a plain array, or refuses by name."""

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from jax.experimental.sparse import BCOO

import vashista_theory as vt
from tests.array_likes import (
    BARE,
    DENSE,
    ENTRIES,
    KV,
    ON_DISK,
    PAIR,
    PLANE,
    POINT,
    TOKENS,
    WORKS,
    Entry,
    check_same,
    filled,
    memory_mapped,
)
from tests.thinned import diagonal
from vashista_theory._checks import as_float64, as_float_array, as_numbers
from vashista_theory.attention import (
    PagedKV,
    kernels,
    vashista_attention,
)

pytestmark = pytest.mark.usefixtures("as_users_run_it")


@pytest.mark.parametrize(("name", "kind"), diagonal(ENTRIES, WORKS, 6))
def test_answers_are_those_of_a_plain_array(name: str, kind: str) -> None:
    check_same(ENTRIES[name], WORKS[kind])


@pytest.mark.parametrize("order", ON_DISK.values(), ids=ON_DISK)
@pytest.mark.parametrize("name", ENTRIES)
def test_answers_from_a_file_are_those_of_a_plain_array(name: str, order: Any, tmp_path) -> None:
    count = iter(range(3))

    def convert(array: np.ndarray) -> np.ndarray:
        folder = tmp_path / str(next(count))
        folder.mkdir()
        return memory_mapped(array, folder, order and array.dtype.newbyteorder(order))

    check_same(ENTRIES[name], convert)


def masked(array: np.ndarray) -> Any:
    held = np.ma.array(array, mask=False)
    held[(0,) * array.ndim] = np.ma.masked
    return held


def sparse(array: np.ndarray) -> Any:
    return scipy.sparse.csr_array(array.reshape(array.shape[0], -1))


REFUSED: dict[str, tuple[Callable[[np.ndarray], Any], str]] = {
    "masked": (masked, "masked array"),
    "masked, none of it": (np.ma.asarray, "masked array"),
    "a list of masked rows": (lambda a: [masked(row) if row.ndim else np.ma.masked for row in a],
                              "masked array"),
    "objects": (lambda a: a.astype(object), "object"),
    "integers beyond 64 bits": (lambda a: np.full(a.shape, 2**70, object).tolist(), "object"),
    "text": (lambda a: a.astype(str), "<U"),
    "bytes": (lambda a: a.astype("S"), "|S"),
    "complex": (lambda a: a + 0j, "complex128"),
    "complex, big-endian": (lambda a: (a + 0j).astype(">c16"), "complex"),
    "complex, of JAX": (lambda a: jnp.asarray(a + 0j), "complex128"),
    "dates": (lambda a: np.zeros(a.shape, "M8[s]"), "datetime64"),
    "records": (lambda a: np.zeros(a.shape, [("x", float)]), "[('x'"),
    "ragged": (lambda a: [*a.tolist(), [[[[1.0]]]]], "rectangular"),
    "sparse": (sparse, "sparse"),
    "sparse, of JAX": (BCOO.fromdense, "sparse"),
    "None": (lambda _: None, "None"),
    "a dictionary": (lambda a: {"keys": a}, "a dict"),
    "a projection": (lambda _: vt.project(PLANE, POINT), "a Projection"),
    "a cache": (lambda _: filled(), "a PagedKV"),
    "random keys": (lambda _: jax.random.key(0), "key<fry>"),
}  # fmt: skip


def refuse(entry: Entry, place: int, value: Any, words: str) -> None:
    arrays: list[Any] = list(entry.arrays)
    arrays[place] = value
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        entry.call(*arrays)
    message = str(caught.value)
    assert f"`{entry.names[place]}`" in message, message
    assert "vashista_theory" in str(caught.traceback[-1].path), "raised elsewhere?"
    assert not isinstance(caught.value, TypeError | jax.errors.JAXTypeError)


@pytest.mark.parametrize(("name", "kind"), diagonal(ENTRIES, REFUSED, 3))
def test_what_is_no_array_of_numbers_is_refused_by_name(name: str, kind: str) -> None:
    convert, words = REFUSED[kind]
    entry = ENTRIES[name]
    if kind == "None" and entry.names == ("lengths",):
        return  # which is all of them
    for place, array in enumerate(entry.arrays):
        refuse(entry, place, convert(array), words)


@pytest.mark.parametrize("call", [lambda p: vt.relax(p, 0.1), vt.face_stability])
@pytest.mark.parametrize("value", [PLANE, PLANE.tolist(), None, filled])
def test_keys_where_a_projection_is_expected(call, value) -> None:
    with pytest.raises(ValueError, match=r"takes what `project` returns, got a \w+. Call `\w+\(v"):
        call(value)


# ---------------------------------------------------------------- types and precision


@given(
    kind=st.sampled_from(["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"]),
    order=st.sampled_from("<>="),
    numbers=st.lists(st.integers(-100, 100), min_size=1, max_size=5),
)
def test_every_real_type_in_every_byte_order_is_converted_exactly(kind, order, numbers) -> None:
    given = np.abs(numbers) if kind[0] in "u?" else np.array(numbers)
    given = given.astype(np.dtype(kind).newbyteorder(order))
    found = as_float_array(given, "keys")
    assert found.dtype == (np.float32 if kind in ("f2", "f4") else np.float64)
    np.testing.assert_array_equal(found, [float(number) for number in given.tolist()])
    kept = as_numbers(given, "keys")
    assert kept.dtype == np.dtype(kind)
    assert kept.dtype.isnative
    np.testing.assert_array_equal(as_float64(given, "keys"), found)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.int4])
def test_types_that_only_jax_knows(dtype) -> None:
    found = as_float_array(np.array([1, 2, -3]).astype(dtype), "keys")
    np.testing.assert_array_equal(found, [1.0, 2.0, -3.0])


@given(st.fractions(-10, 10), st.integers(1, 1000))
def test_longdouble_is_rounded_to_the_nearest_float64(number, divisor) -> None:
    held = np.longdouble(number.numerator) / number.denominator / divisor
    exact = Fraction(*held.as_integer_ratio())
    assert as_float64(np.array([held]), "keys")[0] == float(exact)  # which Python rounds correctly


def test_a_certificate_is_about_the_numbers_given() -> None:
    held = PLANE[:3].astype(np.longdouble)
    exact = vt.certify(held, POINT)
    assert exact.gap_lower == vt.certify(PLANE[:3], POINT).gap_lower
    with pytest.raises(ValueError, match="cannot hold it exactly"):
        vt.certify(held + np.longdouble(2) ** -60, POINT)
    # JAX would take these for zeros: then the query would be a key, and inside.
    tiny = np.array([[1e-40, 0.0], [0.0, 1e-40]], np.float32)
    assert np.all(tiny.max(axis=1) > 0)
    assert vt.certify(tiny, np.zeros(2)).result == vt.Result.successful


@pytest.mark.parametrize(
    "keys",
    [
        PLANE,
        PLANE.astype(">f8"),
        PLANE.astype(np.longdouble),
        list(PLANE),
        [list(row) for row in PLANE],
        pd.DataFrame(PLANE),
    ],
    ids=["plain", "big-endian", "longdouble", "rows", "numbers", "pandas"],
)
def test_float64_is_not_rounded_silently(keys: Any) -> None:
    with jax.enable_x64(False):
        for call in (
            lambda: vt.project(keys, POINT.tolist()),
            lambda: vashista_attention(POINT[None, None], filled(), DENSE),
        ):
            with pytest.raises(ValueError, match=r"is float64 .* 64-bit mode is off"):
                call()
        assert vt.project(PLANE.tolist(), POINT.tolist()).keys.dtype == np.float32


def test_integers_are_not_rounded_silently() -> None:
    for x64, most in ((False, 2**24), (True, 2**53)):
        with jax.enable_x64(x64):
            for integers in ([[most + 1]], np.array([[-most - 1]]), jnp.array([[most + 1]])):
                with pytest.raises(ValueError, match=r"`keys` is u?int\d+ with integers that"):
                    vt.project(integers, [0.0])
            exact = vt.project([[4 * most], [most]], [0.0])
            assert float(exact.point[0]) == most
    with pytest.raises(ValueError, match="cannot hold"):
        vt.oracle.project_qp([[2**53 + 1]], [0.0])


@pytest.mark.parametrize("dtype", ["u1", "u2", "i1", ">i2", "u8"])
def test_short_and_unsigned_lengths_do_not_wrap_around(dtype: str) -> None:
    # −(−5 // 2) pages: in uint8, −5 would be 251.
    pool = TOKENS[0].reshape(2, 4, 2, 4)
    table, lengths = np.array([[0, 1, 2]]), np.array([5])
    found = PagedKV.from_pages(pool, pool, table.astype(dtype), lengths.astype(dtype), spec=BARE)
    np.testing.assert_array_equal(found.reference_counts, [1, 1, 1, 0])
    filled = PagedKV.from_tokens(*KV, lengths=lengths.astype(dtype), page_size=2, spec=BARE)
    assert int(filled.free_count) == 1


# ---------------------------------------------------------------- tensors, files, memory


@pytest.mark.torch
def test_tensors_of_torch() -> None:
    torch = pytest.importorskip("torch", reason="the extra `lm` is not installed")
    keys = torch.tensor(PLANE)
    expected = vt.project(PLANE.astype(np.float32), POINT.astype(np.float32)).point
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        found = vt.project(keys.to(dtype), torch.tensor(POINT).to(dtype)).point
        if dtype != torch.bfloat16:  # in which these numbers are not exact
            np.testing.assert_array_equal(found, expected)
        assert found.dtype == np.float32
    kept = PagedKV.from_tokens(*[torch.tensor(a).bfloat16() for a in KV], page_size=2, spec=BARE)
    assert kept.dtype == jnp.bfloat16
    np.testing.assert_array_equal(
        np.asarray(kept.keys[:, :4]).reshape(2, 8, 4), TOKENS[0].astype(ml_dtypes.bfloat16)
    )
    for tensor in (keys.requires_grad_(), keys.detach().to_sparse(), keys.detach() * 1j):
        with pytest.raises(ValueError, match=r"`keys` is"):
            vt.project(tensor, POINT)


def test_a_reader_that_yields_masked_rows_is_refused() -> None:
    """As netCDF's variables do, whose own type says nothing of it."""

    class Variable:
        shape, dtype = PLANE.shape, PLANE.dtype

        def __getitem__(self, rows: slice) -> Any:
            return masked(PLANE)[rows]

    with pytest.raises(ValueError, match="`keys` is a masked array"):
        vt.project_blocks(Variable(), POINT)


@pytest.mark.slow
def test_big_endian_files_from_the_command_line(tmp_path, capsys) -> None:
    from vashista_theory.diagnose import main

    pages = []
    for order in "=>":
        names = [str(tmp_path / f"{name}{order == '>'}.npy") for name in ("keys", "query")]
        for path, array in zip(names, PAIR, strict=True):
            np.save(path, array.astype(array.dtype.newbyteorder(order)))
        assert main([*names, "--format", "json"]) == 0
        pages.append(capsys.readouterr().out)
    assert pages[0] == pages[1]
    np.save(tmp_path / "complex.npy", PLANE + 0j)
    assert main([str(tmp_path / "complex.npy"), names[1]]) == 2
    assert "`keys` is complex128" in capsys.readouterr().err


def test_the_caller_may_write_to_its_array_again() -> None:
    """JAX copies an array that does not lie on a boundary of 16 bytes in the background."""
    for _ in range(40):
        held = np.zeros(2**20 + 1)[1:]
        found = as_float_array(held, "keys")
        held[:] = 1.0
        assert not np.any(found)


def test_the_back_ends_take_arrays_as_they_come() -> None:
    priority = np.array([[[1.0, 3.0, 2.0]]], np.float32)
    expected = kernels.select_pages(priority, 2).pages
    found = kernels.select_pages(priority.astype(">f4"), 2)
    np.testing.assert_array_equal(found.pages, expected)
    with pytest.raises(ValueError, match="`priority` is a masked array"):
        kernels.select_pages(masked(priority), 2)

"""Every entry point that takes arrays, and every kind of array that people have."""

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from jax.sharding import Mesh

import vashista_theory as vt
from vashista_theory.attention import (
    PagedKV,
    Policy,
    ShardedKV,
    SummarySpec,
    dense_attention,
    vashista_attention,
)

RNG = np.random.default_rng(0)
# Multiples of 1/64 below 16 in size: exact in every type here but float8, so that only the kind of
# array can make a difference.
PLANE = np.round(64 * RNG.normal(size=(12, 2))) / 64
POINT = np.array([3.0, -2.5])
TOKENS = np.round(64 * RNG.normal(size=(1, 2, 8, 4))) / 64
QUERY = np.round(64 * RNG.normal(size=(1, 4, 4))) / 64
LENGTHS = np.array([7])
EPSILON = np.array([0.5, 0.25])
BARE = SummarySpec(box=True, ball=False, sketch_bits=None)
DENSE = Policy.dense()


@functools.cache
def filled() -> PagedKV:
    return PagedKV.from_tokens(TOKENS, TOKENS, page_size=2, spec=BARE)


def appended(keys: Any, values: Any) -> jax.Array:
    empty = PagedKV.create(
        batch=1, kv_heads=2, head_size=4, pages=8, page_size=2, dtype="float64", spec=BARE
    )
    return empty.append(keys, values)[0].keys


def sharded(keys: Any, values: Any) -> jax.Array:
    mesh = Mesh(np.array(jax.devices()[:1]), ("pages",))
    return ShardedKV.from_tokens(keys, values, mesh=mesh, page_size=2, spec=BARE).parts.keys


class Entry(NamedTuple):
    """A function of one or two arrays, the plain arrays, and the names of its arguments."""

    call: Callable[..., Any]
    arrays: tuple[np.ndarray, ...]
    names: tuple[str, ...]


PAIR, KV = (PLANE, POINT), (TOKENS, TOKENS)
ENTRIES: dict[str, Entry] = {
    "project": Entry(lambda k, q: vt.project(k, q).multipliers, PAIR, ("keys", "query")),
    "relax": Entry(
        lambda e: vt.relax(vt.project(PLANE, POINT), e).displacement, (EPSILON,), ("epsilon",)
    ),
    "bounds": Entry(
        lambda e: vt.face_stability(vt.project(PLANE, POINT)).log_leakage_bound(e),
        (EPSILON,),
        ("epsilon",),
    ),
    "bounds proved": Entry(
        lambda e: vt.certify(PLANE[:4], POINT).log_leakage_bound(e), (EPSILON,), ("epsilon",)
    ),
    "project_many": Entry(
        lambda k, q: vt.project_many(k, q).gap, (PLANE[None], POINT[None]), ("keys", "query")
    ),
    "project_blocks": Entry(lambda k, q: vt.project_blocks(k, q).gap, PAIR, ("keys", "query")),
    "certify": Entry(
        lambda k, q: vt.certify(k, q).gap_lower, (PLANE[:4], POINT), ("keys", "query")
    ),
    "diagnose": Entry(lambda k, q: vt.diagnose(k, q).gap, PAIR, ("keys", "query")),
    "oracle": Entry(lambda k, q: vt.oracle.project_qp(k, q).point, PAIR, ("keys", "query")),
    "look": Entry(lambda k, q: vt.explore.look(k, q).gap, PAIR, ("keys", "query")),
    "from_tokens": Entry(
        lambda k, v: PagedKV.from_tokens(k, v, page_size=2, spec=BARE).keys, KV, ("keys", "values")
    ),
    "append": Entry(appended, KV, ("keys", "values")),
    "from_pages": Entry(
        lambda k, v: PagedKV.from_pages(k, v, [[0]], [3], spec=BARE).keys,
        (TOKENS[0, :, None], TOKENS[0, :, None]),
        ("keys", "values"),
    ),
    "sharded": Entry(sharded, KV, ("keys", "values")),
    "vashista_attention": Entry(
        lambda q: vashista_attention(q, filled(), DENSE)[0], (QUERY,), ("query",)
    ),
    "dense_attention": Entry(dense_attention, (QUERY, *KV), ("query", "keys", "values")),
    "lengths": Entry(
        lambda n: dense_attention(QUERY, *KV, lengths=n), (LENGTHS,), ("lengths",)
    ),
    "counts": Entry(
        lambda n: PagedKV.from_tokens(*KV, lengths=n, page_size=2, spec=BARE).lengths,
        (LENGTHS,),
        ("lengths",),
    ),
    "page_table": Entry(
        lambda t: PagedKV.from_pages(
            TOKENS[0, :, None], TOKENS[0, :, None], t, [3], spec=BARE
        ).lengths,
        (np.array([[0]]),),
        ("page_table",),
    ),
}  # fmt: skip


def unaligned(array: np.ndarray) -> np.ndarray:
    """One byte off, as in packed records."""
    held = np.zeros(array.nbytes + 1, np.uint8)
    view = held[1:].view(np.uint8)[: array.nbytes].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def memory_mapped(array: np.ndarray, folder: Path, dtype: Any = None) -> np.ndarray:
    np.save(folder / "array.npy", array.astype(dtype or array.dtype))
    return np.load(folder / "array.npy", mmap_mode="r")


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


def matrix(array: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        return np.asmatrix(array) if array.ndim == 2 else array


def frame(array: np.ndarray) -> Any:
    kinds = {1: pd.Series, 2: pd.DataFrame}
    return kinds[array.ndim](array) if array.ndim in kinds else array


def tensor(array: np.ndarray) -> Any:
    return pytest.importorskip("torch", reason="the extra `lm` is not installed").tensor(array)


def own_class(array: np.ndarray) -> Any:
    class Own:
        def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
            return array

    return Own()


def longdouble(array: np.ndarray) -> np.ndarray:
    return array.astype(np.longdouble if array.dtype.kind == "f" else array.dtype)


WORKS: dict[str, Callable[..., Any]] = {
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "longdouble": longdouble,
    "read-only": read_only,
    "strided": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "backwards": lambda a: a[..., ::-1].copy()[..., ::-1],
    "columns first": np.asfortranarray,
    "unaligned": unaligned,
    "nested lists": lambda a: a.tolist(),
    "a list of arrays": list,
    "a tuple of JAX arrays": lambda a: tuple(map(jnp.asarray, a)),
    "matrix": matrix,
    "pandas": frame,
    "xarray": xr.DataArray,
    "torch": tensor,
    "its own class": own_class,
    "JAX": jnp.asarray,
}
ON_DISK: dict[str, Any] = {"memory-mapped": None, "memory-mapped, big-endian": ">"}


def check_same(entry: Entry, convert: Callable[[np.ndarray], Any]) -> None:
    found = entry.call(*map(convert, entry.arrays))
    np.testing.assert_array_equal(found, plain(entry.call, *entry.arrays))


@functools.cache
def _plain(call: Callable[..., Any], *numbers: bytes) -> np.ndarray:
    arrays = next(e.arrays for e in ENTRIES.values() if e.call is call)
    assert tuple(a.tobytes() for a in arrays) == numbers
    return np.asarray(call(*arrays))


def plain(call: Callable[..., Any], *arrays: np.ndarray) -> np.ndarray:
    return _plain(call, *(a.tobytes() for a in arrays))

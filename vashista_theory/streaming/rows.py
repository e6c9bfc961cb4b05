"""Keys that stay where they are stored: checked once, read a block of rows at a time."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np

from vashista_theory.hull.problem import is_traced

BLOCK_BYTES = 2**25
"""Bytes of a block in float64 by default: 65,536 rows at d = 64, some milliseconds of reading."""


@runtime_checkable
class RowSource(Protocol):
    """An array on disk: `numpy.memmap`, `zarr.Array`, `h5py.Dataset`, or one in memory."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, d)."""
        ...

    @property
    def dtype(self) -> Any:
        """A real type."""
        ...

    def __getitem__(self, rows: slice, /) -> Any:
        """Rows, read now."""
        ...


class Rows(NamedTuple):
    """A checked source and how it is cut."""

    source: RowSource
    n: int
    d: int
    block_rows: int

    @property
    def blocks(self) -> int:
        """How many blocks there are; the last may be shorter."""
        return -(-self.n // self.block_rows)

    @property
    def nbytes(self) -> int:
        """Bytes of a whole pass, as stored (uncompressed)."""
        return self.n * self.d * np.dtype(self.source.dtype).itemsize

    def block(self, number: int) -> tuple[int, np.ndarray]:
        """The first row of a block, and its rows in the type they are stored in."""
        start = number * self.block_rows
        return start, self.read(start, min(start + self.block_rows, self.n))

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop).

        Raises:
            OSError: they could not be read; the message says which.
        """
        try:
            return np.asarray(self.source[start:stop])
        except OSError as error:
            raise OSError(
                f"rows {start} to {stop - 1} of `keys` cannot be read: {error}"
            ) from error

    def take(self, index: np.ndarray) -> np.ndarray:
        """Some rows in float64, one read each."""
        return np.concatenate([self.read(i, i + 1).astype(np.float64) for i in index.tolist()])


def as_rows(keys: object, query: object, block_rows: int | None) -> tuple[Rows, np.ndarray]:
    """Check keys ``(n, d)`` without reading them, and a finite query ``(d,)``.

    Raises:
        ValueError: what was given, what was expected and what to do.
    """
    if isinstance(keys, (list, tuple)):
        keys = np.asarray(keys)
    if not isinstance(keys, RowSource):
        raise ValueError(
            f"`keys` is {_named(keys)}; expected an array (n, d) that is read by slices of rows: "
            "`numpy.load(path, mmap_mode='r')`, `zarr.open_array(path, mode='r')` or a NumPy array."
        )
    shape = tuple(int(length) for length in keys.shape)
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"expected keys (n, d) with n and d at least 1, got shape {shape}.")
    dtype = np.dtype(keys.dtype)
    if dtype.kind not in "fiub" and not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"`keys` has dtype {dtype}; real numbers are expected.")
    n, d = shape
    query_ = _query(query, d)
    if block_rows is None:
        block_rows = _default_block(keys, n, d)
    if block_rows < 1:
        raise ValueError(f"`block_rows` must be an integer of at least 1, got {block_rows!r}.")
    return Rows(keys, n, d, min(block_rows, n)), query_


def _query(query: object, d: int) -> np.ndarray:
    if is_traced(query):
        raise ValueError("`project_blocks` reads files and cannot be traced; use `vt.project`.")
    given = np.asarray(query)
    if given.dtype.kind not in "fiub" and not jnp.issubdtype(given.dtype, jnp.floating):
        raise ValueError(f"`query` has dtype {given.dtype}; real numbers are expected.")
    if given.shape != (d,):
        raise ValueError(
            f"keys have d = {d} coordinates, so a query of shape ({d},) is expected, got "
            f"{given.shape}."
        )
    query_ = given.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(query_))
    if len(bad):
        raise ValueError(f"`query` must be finite, but query[{bad[0]}] is {query_[bad[0]]}.")
    return query_


def _default_block(keys: RowSource, n: int, d: int) -> int:
    """Rows of about `BLOCK_BYTES`; whole chunks where the store has chunks."""
    rows = max(1, BLOCK_BYTES // (8 * d))
    chunks: Any = getattr(keys, "shards", None) or getattr(keys, "chunks", None)
    if isinstance(chunks, tuple) and isinstance(chunks[0], int):
        rows = max(1, rows // chunks[0]) * chunks[0]
    return min(rows, n)


def _named(value: object) -> str:
    return repr(value) if isinstance(value, str) else f"a {type(value).__name__}"

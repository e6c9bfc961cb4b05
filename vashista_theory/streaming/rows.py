"""Keys that stay where they are stored: checked once, read a block of rows at a time."""

import math
import os
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from vashista_theory._checks import as_float64, as_numbers, check_finite, is_integer, is_traced
from vashista_theory._types import ArrayLike

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
            ValueError: what was read is masked, or no rows of real numbers.
        """
        try:
            return np.asarray(as_numbers(self.source[start:stop], "keys", most_bytes=math.inf))
        except OSError as error:
            raise OSError(
                f"rows {start} to {stop - 1} of `keys` cannot be read: {error}"
            ) from error

    def take(self, index: np.ndarray) -> np.ndarray:
        """Some rows in float64, one read each."""
        return np.concatenate([self.read(i, i + 1).astype(np.float64) for i in index.tolist()])


def as_rows(keys: Any, query: ArrayLike, block_rows: int | None) -> tuple[Rows, np.ndarray]:
    """Check keys ``(n, d)`` without reading them, and a finite query ``(d,)``.

    Raises:
        ValueError: what was given, what was expected and what to do.
    """
    # Inside jit, what is computed of constants is traced too.
    if is_traced(keys, query, jnp.zeros(())):
        raise ValueError("`project_blocks` reads files and cannot be traced; use `vt.project`.")
    source = _as_source(keys)
    shape = tuple(int(length) for length in source.shape)
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"expected keys (n, d) with n and d at least 1, got shape {shape}.")
    n, d = shape
    if block_rows is None:
        block_rows = _default_block(source, n, d)
    if not is_integer(block_rows, least=1):
        raise ValueError(f"`block_rows` must be an integer of at least 1, got {block_rows!r}.")
    rows = Rows(source, n, d, min(block_rows, n))
    rows.read(0, 1)  # what is masked or no number is refused before any work
    query_ = as_float64(query, "query")
    if query_.shape != (d,):
        raise ValueError(
            f"keys have d = {d} coordinates, so a query of shape ({d},) is expected, got "
            f"{query_.shape}."
        )
    check_finite(query_, "query")
    return rows, query_


def _as_source(keys: Any) -> RowSource:
    """What is read block by block: a file's array as it is, anything else in memory."""
    if isinstance(keys, str | os.PathLike):
        raise ValueError(
            f"`keys` is {str(keys)!r}; expected an array (n, d) that is read by slices of rows: "
            "`numpy.load(path, mmap_mode='r')`, `zarr.open_array(path, mode='r')` or a NumPy array."
        )
    stored = isinstance(keys, RowSource) and isinstance(keys.dtype, np.dtype)
    if stored and not isinstance(keys, jax.Array):
        return keys
    return np.asarray(as_numbers(keys, "keys", most_bytes=math.inf))


def _default_block(keys: RowSource, n: int, d: int) -> int:
    """Rows of about `BLOCK_BYTES`; whole chunks where the store has chunks."""
    rows = max(1, BLOCK_BYTES // (8 * d))
    chunks: Any = getattr(keys, "shards", None) or getattr(keys, "chunks", None)
    if isinstance(chunks, tuple) and isinstance(chunks[0], int):
        rows = max(1, rows // chunks[0]) * chunks[0]
    return min(rows, n)

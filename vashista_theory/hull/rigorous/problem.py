"""Keys and query as the exact binary numbers they are: integers times one power of two."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int

from vashista_theory.hull.rigorous.balls import Integer, IntegerMatrix, flint


class ExactProblem(NamedTuple):
    """The distinct keys seen from the query.

    Attributes:
        rows: distinct k_i − q in units of 2^exponent, integers (rows, d).
        exponent: of the unit of length.
        row_of_key: for every key, its distinct row.
        counts: how many keys are equal to each row.
        query: q in the same unit.
    """

    rows: IntegerMatrix
    exponent: int
    row_of_key: Int[np.ndarray, " n"]
    counts: list[int]
    query: list[Integer]

    @property
    def size(self) -> int:
        """How many distinct keys there are."""
        return self.rows.nrows()

    @property
    def dimension(self) -> int:
        """Length of a row."""
        return self.rows.ncols()

    def row(self, index: int) -> list[Integer]:
        """One row as integers."""
        return [self.rows[index, column] for column in range(self.dimension)]

    def gather(self, indices: list[int]) -> IntegerMatrix:
        """Some of the rows."""
        return flint.fmpz_mat([self.row(index) for index in indices])


def exact_problem(
    keys: Float64[np.ndarray, "n d"], query: Float64[np.ndarray, " d"]
) -> ExactProblem:
    """Merge equal keys and write the rest, relative to the query, as integers."""
    distinct, row_of_key = np.unique(keys + 0.0, axis=0, return_inverse=True)
    row_of_key = row_of_key.reshape(-1)
    numbers, exponent = _integers(np.concatenate([query[None], distinct]))
    d = len(query)
    origin, rest = numbers[:d], numbers[d:]
    relative = [number - origin[i % d] for i, number in enumerate(rest)]
    rows = flint.fmpz_mat(len(distinct), d, relative)
    counts = np.bincount(row_of_key, minlength=len(distinct)).tolist()
    return ExactProblem(rows, exponent, row_of_key, counts, origin)


def _integers(values: Float64[np.ndarray, "n d"]) -> tuple[list[int], int]:
    """Integers and the exponent of their common unit, the largest power of two that serves."""
    mantissa, exponent = np.frexp(values.ravel())
    whole = np.ldexp(mantissa, 53).astype(np.int64)
    # Trailing zeros are taken off, so that short numbers stay short in rational arithmetic.
    trailing = np.frexp((whole & -whole).astype(np.float64))[1] - 1
    trailing = np.where(whole == 0, 0, trailing)
    whole = whole >> trailing
    exponent = exponent - 53 + trailing
    unit = int(exponent[whole != 0].min()) if whole.any() else 0
    shift = np.where(whole == 0, 0, exponent - unit).tolist()
    return [w << s for w, s in zip(whole.tolist(), shift, strict=True)], unit

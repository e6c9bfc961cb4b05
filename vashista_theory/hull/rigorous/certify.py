"""`certify`: a float solution proposed, a proof found, and its numbers enclosed."""

import jax
import numpy as np
from jaxtyping import Float64

from vashista_theory._types import ArrayLike
from vashista_theory.hull.problem import as_problem, check_finite, is_traced
from vashista_theory.hull.projection import project
from vashista_theory.hull.rigorous.assembly import inside, nothing, outside
from vashista_theory.hull.rigorous.certificate import Certificate
from vashista_theory.hull.rigorous.problem import exact_problem
from vashista_theory.hull.rigorous.search import prove
from vashista_theory.hull.rigorous.support import Undecided


def certify(keys: ArrayLike, query: ArrayLike) -> Certificate:
    """Prove face, gap and strict complementarity, and enclose what the theorem is made of.

    The numbers given are taken as exact. `project` proposes a support; ball arithmetic, with its
    precision raised as needed, and rational arithmetic for exact ties prove it or correct it.

    Args:
        keys: (n, d), at least one key.
        query: (d,).

    Returns:
        A `Certificate`. `inside_hull` and `degenerate_face` are proved facts; `ambiguous_face`
        means that no proof was found, and `reason` says what is open.

    Raises:
        ImportError: python-flint is missing (the extra `rigorous`).
        ValueError: shapes that do not fit, a NaN or an infinity, numbers that float64 cannot hold,
            or a call under jit, vmap or grad.
    """
    if is_traced(keys, query):
        raise ValueError(
            "`certify` proves a statement about given numbers and cannot run inside jit, vmap or "
            "grad. Call it on concrete arrays."
        )
    _check_exact(keys, "keys")
    _check_exact(query, "query")
    with jax.enable_x64(True):
        checked = as_problem(keys, query)
        check_finite(checked[0], "keys")
        check_finite(checked[1], "query")
        keys_, query_ = (np.asarray(array, np.float64) for array in checked)
    problem = exact_problem(keys_, query_)
    try:
        proved = prove(problem, _proposal(keys_, query_, problem.row_of_key))
    except Undecided as open_:
        return nothing(keys_, query_, f"Not settled: {open_}.")
    assemble = inside if proved.inside else outside
    return assemble(keys_, query_, problem, proved)


def _check_exact(value: ArrayLike, name: str) -> None:
    """Refuse what conversion to float64 would round."""
    array = value if isinstance(value, jax.Array) else np.asarray(value)
    kind, size = np.dtype(array.dtype).kind, np.dtype(array.dtype).itemsize
    rounded = kind == "f" and size > 8
    if kind in "iu" and size == 8:
        whole = np.asarray(array)
        rounded = bool(np.any(whole.astype(np.float64).astype(object) != whole.astype(object)))
    if rounded:
        raise ValueError(
            f"`{name}` has dtype {array.dtype} and float64 cannot hold it exactly. Round it to "
            "float64 yourself, so that the certificate is about numbers you have."
        )


def _proposal(
    keys: Float64[np.ndarray, "n d"], query: Float64[np.ndarray, " d"], row_of_key: np.ndarray
) -> dict[int, float]:
    """Weights by distinct row from the float solver, at a size where nothing overflows."""
    largest = max(float(np.max(np.abs(keys))), float(np.max(np.abs(query))))
    shrink = -int(np.frexp(largest)[1])
    with jax.enable_x64(True):
        found = project(np.ldexp(keys, shrink), np.ldexp(query, shrink), throw=False)
        weights = np.asarray(found.weights)
    rows: dict[int, float] = {}
    for index in np.flatnonzero(weights > 0):
        row = int(row_of_key[index])
        rows[row] = rows.get(row, 0.0) + float(weights[index])
    return rows

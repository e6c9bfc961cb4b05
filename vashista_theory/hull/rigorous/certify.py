"""`certify`: a float solution proposed, a proof found, and its numbers enclosed."""

import jax
import numpy as np
from jaxtyping import Float64

from vashista_theory._checks import as_float64, check_finite, is_traced
from vashista_theory._types import ArrayLike
from vashista_theory.hull.problem import as_problem
from vashista_theory.hull.projection import project
from vashista_theory.hull.rigorous.certificate import Certificate
from vashista_theory.hull.rigorous.certificate_of_support import inside, nothing, outside
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
    keys_, query_ = _exact(keys, "keys"), _exact(query, "query")
    with jax.enable_x64(True), jax.ensure_compile_time_eval():
        as_problem(keys_, query_)
    check_finite(keys_, "keys")
    check_finite(query_, "query")
    problem = exact_problem(keys_, query_)
    try:
        proved = prove(problem, _proposal(keys_, query_, problem.row_of_key))
    except Undecided as open_:
        return nothing(keys_, query_, f"Not settled: {open_}.")
    assemble = inside if proved.inside else outside
    return assemble(keys_, query_, problem, proved)


def _exact(value: ArrayLike, name: str) -> Float64[np.ndarray, "..."]:
    """In float64, by NumPy: JAX would take the smallest float32 for zero. Nothing is rounded."""
    array, given = as_float64(value, name), np.asarray(value)
    if given.dtype.kind == "f" and np.any((array != given) & np.isfinite(given)):
        raise ValueError(
            f"`{name}` has dtype {given.dtype} and float64 cannot hold it exactly. Round it to "
            "float64 yourself, so that the certificate is about numbers you have."
        )
    return array


def _proposal(
    keys: Float64[np.ndarray, "n d"], query: Float64[np.ndarray, " d"], row_of_key: np.ndarray
) -> dict[int, float]:
    """Weights by distinct row from the float solver, at a size where nothing overflows."""
    largest = max(float(np.max(np.abs(keys))), float(np.max(np.abs(query))))
    shrink = -int(np.frexp(largest)[1])
    with jax.enable_x64(True), jax.ensure_compile_time_eval():
        found = project(np.ldexp(keys, shrink), np.ldexp(query, shrink), throw=False)
        weights = np.asarray(found.weights)
    rows: dict[int, float] = {}
    for index in np.flatnonzero(weights > 0):
        row = int(row_of_key[index])
        rows[row] = rows.get(row, 0.0) + float(weights[index])
    return rows

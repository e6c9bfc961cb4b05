"""The projection problem: what a user may pass, made into arrays the solvers can trust."""

import functools
from typing import TypeVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from vashista_theory._checks import as_float_array, is_traced
from vashista_theory._results import Result
from vashista_theory._types import ArrayLike

Tree = TypeVar("Tree")


def as_problem(keys: ArrayLike, query: ArrayLike, *, batched: bool = False) -> tuple[Array, Array]:
    """Check keys ``(n, d)`` and query ``(d,)`` (with a leading batch axis if `batched`).

    Raises:
        ValueError: wrong ranks, no keys, no dimensions, or lengths that differ; the message has
            the shape that was given and the one that was expected.
    """
    keys_, query_ = as_float_array(keys, "keys"), as_float_array(query, "query")
    rank = 3 if batched else 2
    names = ("keys (b, n, d)", "queries (b, d)") if batched else ("keys (n, d)", "query (d,)")
    if keys_.ndim != rank:
        raise ValueError(f"expected {names[0]}, got `keys` of shape {keys_.shape}.")
    if query_.ndim != rank - 1:
        raise ValueError(f"expected {names[1]}, got a query of shape {query_.shape}.")
    if 0 in keys_.shape:
        raise ValueError(
            f"`keys` of shape {keys_.shape} is empty: the hull of no keys, or of keys without "
            f"coordinates, has no points. Expected {names[0]} with every length at least 1."
        )
    if keys_.shape[-1] != query_.shape[-1] or keys_.shape[: rank - 2] != query_.shape[: rank - 2]:
        raise ValueError(
            f"keys of shape {keys_.shape} and query of shape {query_.shape} do not belong "
            f"together: expected {names[0]} and {names[1]} with the same lengths."
        )
    if keys_.dtype == query_.dtype:
        return keys_, query_
    # NumPy's rule, which JAX's strict promotion setting does not forbid.
    dtype = np.promote_types(keys_.dtype, query_.dtype)
    return keys_.astype(dtype), query_.astype(dtype)


def no_projection(value: object, doing: str) -> ValueError:
    """The error for something else where a `Projection` was expected."""
    return ValueError(
        f"`{doing}` takes what `project` returns, got a {type(value).__name__}. Call "
        f"`{doing}(vashista_theory.project(keys, query), ...)`."
    )


def settle(
    value: Tree, result: Result, *, failures: tuple[Result, ...], doing: str, detail: str = ""
) -> Tree:
    """Return `value`, or raise the advice of the first outcome that counts as a failure.

    Outside transformations this is an ordinary `RuntimeError`; under jit, vmap or grad it goes
    through `equinox.error_if`.
    """
    failed = functools.reduce(jnp.logical_or, [result == failure for failure in failures])
    if is_traced(failed):
        return result.error_if(value, failed)
    if not bool(jnp.any(failed)):
        return value
    for failure in failures:
        hits = np.atleast_1d(np.asarray(result == failure))
        if hits.any():
            where = f" (batch index {int(hits.argmax())})" if hits.size > 1 else ""
            raise RuntimeError(
                f"{doing}{where}: {Result[failure]}{' ' + detail if detail else ''} "
                "Pass `throw=False` to get the answer as it is, with this outcome as `.result`."
            )
    return value

"""The projection problem: what a user may pass, made into arrays the solvers can trust."""

import functools
from typing import TypeVar

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from vashista_theory._results import Result
from vashista_theory._types import ArrayLike

_REAL_KINDS = "fiub"

_LOADED_UNASKED = 2**30
"""Bytes (1 GiB) up to which an array on disk is read into memory without being asked."""

Tree = TypeVar("Tree")


def is_traced(*values: object) -> bool:
    """Whether any value is abstract, that is inside jit, vmap or grad."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(values))


def as_float_array(value: ArrayLike, name: str) -> Array:
    """Convert an array-like of real numbers to a float array of the precision JAX is set to.

    Integers and lists take JAX's default precision, half precisions are computed in float32.

    Raises:
        ValueError: complex or non-numeric input, float64 while x64 is switched off, or an array on
            disk that is larger than 1 GiB.
    """
    _refuse_to_load(value, name)
    if isinstance(value, jax.Array):
        array = value
    else:
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise ValueError(f"`{name}` is not a rectangular array of numbers: {error}") from None
    kind = "f" if jnp.issubdtype(array.dtype, jnp.floating) else np.dtype(array.dtype).kind
    if kind not in _REAL_KINDS:
        raise ValueError(
            f"`{name}` has dtype {array.dtype}; real numbers are expected. "
            "Pass the real part, or convert with `.astype(float)`."
        )
    from_numpy = isinstance(value, np.ndarray | np.generic)
    if array.dtype == np.float64 and from_numpy and jnp.result_type(float) != np.float64:
        raise ValueError(
            f"`{name}` is float64 but JAX's 64-bit mode is off, so it would be rounded to float32 "
            "silently. Call `jax.config.update('jax_enable_x64', True)` first, or pass "
            f"`{name}.astype('float32')` to compute in float32."
        )
    if kind != "f" or (not from_numpy and not isinstance(value, jax.Array)):
        return jnp.asarray(array, dtype=jnp.result_type(float))
    if jnp.finfo(array.dtype).bits < 32:
        return jnp.asarray(array, dtype=jnp.float32)
    return jnp.asarray(array)


def _refuse_to_load(value: object, name: str) -> None:
    """Raise for a large `numpy.memmap`, Zarr, HDF5 or Dask array: nothing loads 50 GB unasked."""
    if isinstance(value, jax.Array):
        return
    in_memory = isinstance(value, np.ndarray) and not isinstance(value, np.memmap)
    if in_memory or not (isinstance(value, np.memmap) or hasattr(value, "chunks")):
        return
    nbytes = getattr(value, "nbytes", 0)
    if nbytes > _LOADED_UNASKED:
        raise ValueError(
            f"`{name}` is an array on disk of {nbytes / 2**30:.1f} GiB, which would be read into "
            "memory. Use `vashista_theory.project_blocks`, which passes over it block by block, or "
            f"pass `numpy.array({name})` to have it loaded."
        )


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


def check_finite(array: Array, name: str) -> None:
    """Raise for a concrete array with a NaN or an infinity, naming the first place."""
    values = np.asarray(array)
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        place = tuple(int(i) for i in bad[0])
        raise ValueError(
            f"`{name}` must be finite, but {name}{list(place)} is {values[place]} "
            f"({len(bad)} such value(s) in all). Remove these rows or mask them before the call."
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

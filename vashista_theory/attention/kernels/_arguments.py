"""Checks of single arguments, whose errors name the value, what was expected and what to do."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from vashista_theory._checks import as_array, is_integer

Sizes = dict[str, tuple[int, str]]
"""Size of each axis by its name, and the argument that it was first seen in."""


def fit(
    sizes: Sizes,
    name: str,
    value: Any,
    axes: tuple[str, ...],
    dtypes: tuple[str, ...],
) -> Array:
    """The array, if its type and every axis fit what came before; new axes are noted in `sizes`."""
    if not isinstance(value, jax.Array | np.ndarray):
        raise ValueError(
            f"{name} is {type(value).__name__}; an array is expected. Use jnp.asarray."
        )
    value = as_array(value, name)
    if str(value.dtype) not in dtypes:
        raise ValueError(
            f"{name} has type {value.dtype}; expected {' or '.join(dtypes)}. Convert it: "
            f"{name}.astype({dtypes[-1]!r})."
        )
    expected = f"({', '.join(axes)})"
    if value.ndim != len(axes):
        raise ValueError(f"{name} has shape {value.shape}; expected {expected}.")
    for axis, size in zip(axes, value.shape, strict=True):
        known, source = sizes.setdefault(axis, (size, name))
        if size != known:
            raise ValueError(
                f"{name} has shape {value.shape}, where {expected} is expected: {axis} is {size} "
                f"here and {known} in {source}."
            )
        if size == 0:
            raise ValueError(f"{name} has shape {value.shape}: {axis} must be at least 1.")
    return jnp.asarray(value)


def check_groups(sizes: Sizes) -> None:
    """Raise unless the query heads share the kv heads equally."""
    heads, kv_heads = sizes["H"][0], sizes["Hkv"][0]
    if heads % kv_heads:
        raise ValueError(
            f"query has {heads} heads, which cannot share {kv_heads} kv heads equally. H must be a "
            "multiple of Hkv."
        )


def check_whole(name: str, value: object, *, least: int) -> None:
    """Raise unless the value is a whole number of at least that."""
    if not is_integer(value, least=least):
        raise ValueError(f"{name} is {value!r}; a whole number of at least {least} is expected.")


def as_scale(scale: Any, d: int) -> Float[Array, ""]:
    """The scale as a float32; a traced one that is not positive becomes NaN."""
    if scale is None:
        return jnp.asarray(d**-0.5, jnp.float32)
    if isinstance(scale, Tracer):
        if scale.shape != () or not jnp.issubdtype(scale.dtype, jnp.floating):
            raise ValueError(f"scale is {scale!r}; one floating-point number is expected.")
        # A negative one would turn every bound around; NaN shows.
        return jnp.where((scale > 0) & jnp.isfinite(scale), scale, jnp.nan).astype(jnp.float32)
    try:
        number = float(np.asarray(scale))
    except (TypeError, ValueError):
        number = math.nan
    if not 0.0 < number < math.inf:
        raise ValueError(
            f"scale is {scale!r}; one positive, finite number is expected, or None for D^(-1/2)."
        )
    return jnp.asarray(number, jnp.float32)

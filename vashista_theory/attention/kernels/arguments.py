"""Checks of single arguments, whose errors name the value, what was expected and what to do."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from vashista_theory._checks import as_array, is_integer

Sizes = dict[str, tuple[int, str]]
"""Size of each axis by its name, and the argument that it was first seen in."""


def fit(
    sizes: Sizes, name: str, value: Any, axes: tuple[str, ...], dtypes: tuple[str, ...]
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

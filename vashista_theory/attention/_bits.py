"""Half-precision summaries as bare bits.

Where hardware lacks bfloat16, XLA widens a whole array before it slices or updates a part of it:
writing the summary of one page would cost as much as the pool is long. Integers of the same width
are moved as they are.
"""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Shaped


def as_bits(numbers: Float[Array, "*n"]) -> Shaped[Array, "*n"]:
    """bfloat16 as unsigned integers, other numbers as they are."""
    if numbers.dtype == jnp.bfloat16:
        return jax.lax.bitcast_convert_type(numbers, jnp.uint16)
    return numbers


def from_bits(held: Shaped[Array, "*n"], dtype: DTypeLike) -> Float[Array, "*n"]:
    """The numbers behind `as_bits`, in another type that holds them."""
    numbers = jax.lax.bitcast_convert_type(held, jnp.bfloat16) if held.dtype == jnp.uint16 else held
    return numbers.astype(dtype)

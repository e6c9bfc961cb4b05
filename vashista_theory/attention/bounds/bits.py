"""Half-precision summaries as bare bits.

Where hardware lacks bfloat16, XLA widens a whole array before it slices or updates a part of it:
writing the summary of one page would cost as much as the pool is long. Integers of the same width
are moved as they are.
"""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Shaped


def as_bits(numbers: Shaped[Array, "*n"]) -> Shaped[Array, "*n"]:
    """bfloat16 as unsigned integers, other numbers as they are."""
    if numbers.dtype == jnp.bfloat16:
        return jax.lax.bitcast_convert_type(numbers, jnp.uint16)
    return numbers


def from_bits(stored: Shaped[Array, "*n"], dtype: DTypeLike) -> Float[Array, "*n"]:
    """The numbers behind `as_bits`, in another type that holds them."""
    numbers = (
        jax.lax.bitcast_convert_type(stored, jnp.bfloat16) if stored.dtype == jnp.uint16 else stored
    )
    return numbers.astype(dtype)


def widened(numbers: Float[Array, "*n"], dtype: DTypeLike) -> Float[Array, "*n"]:
    """The same numbers in a type that holds them, the least ones too.

    Processors take what is below the normal numbers of float32 for 0 when they convert it, though
    float64 holds it with ease.
    """
    if jnp.dtype(dtype) != jnp.float64 or numbers.dtype not in (jnp.float32, jnp.bfloat16):
        return numbers.astype(dtype)
    if numbers.dtype == jnp.bfloat16:
        bits = as_bits(numbers).astype(jnp.uint32) << jnp.uint32(16)
    else:
        bits = jax.lax.bitcast_convert_type(numbers, jnp.uint32)
    least = (bits & jnp.uint32(0x007FFFFF)).astype(dtype) * 2.0**-149
    least = jnp.where(bits >> jnp.uint32(31) == 0, least, -least)
    normal = jax.lax.bitcast_convert_type(bits, jnp.float32).astype(dtype)
    return jnp.where((bits & jnp.uint32(0x7F800000)) == 0, least, normal)


def pair_as_bits(first: Float[Array, "*n d"], second: Float[Array, "*n d"]) -> Shaped[Array, "..."]:
    """Two arrays that are always read together as one.

    Pairs of bfloat16 share an unsigned integer of 32 bits (*n, d), the second in the upper half:
    where pages are picked one by one, that halves the picking. Other numbers stack to (*n, 2, d).
    """
    if first.dtype == jnp.bfloat16:
        low, high = (as_bits(numbers).astype(jnp.uint32) for numbers in (first, second))
        return low | (high << jnp.uint32(16))
    return jnp.stack([first, second], axis=-2)


def pair_from_bits(
    stored: Shaped[Array, "..."], dtype: DTypeLike
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """The two arrays behind `pair_as_bits`, in another type that holds them."""
    if stored.dtype != jnp.uint32:
        return stored[..., 0, :].astype(dtype), stored[..., 1, :].astype(dtype)
    # A bfloat16 is the upper half of the float32 of the same value.
    halves = stored << jnp.uint32(16), stored & jnp.uint32(0xFFFF0000)
    first, second = (jax.lax.bitcast_convert_type(half, jnp.float32) for half in halves)
    return first.astype(dtype), second.astype(dtype)

"""Keys in a few bits a dimension, on a grid between the corners of their page's box."""

import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

BITS = (1, 2, 4, 6, 8)


def check_packable(bits: int, d: int) -> None:
    """Raise unless rows of d codes fill whole bytes.

    Raises:
        ValueError: naming d and the remedy.
    """
    codes_per_group = {1: 8, 2: 4, 4: 2, 6: 4, 8: 1}[bits]
    if d % codes_per_group:
        raise ValueError(
            f"a packed {bits}-bit sketch needs a head size divisible by {codes_per_group}, got "
            f"{d}. Use `packed=False` (one byte a code) or another `sketch_bits`."
        )


def row_bytes(bits: int, d: int, *, packed: bool) -> int:
    """Bytes of one key's codes."""
    return d * bits // 8 if packed else d


def grid_step(
    lower: Float[Array, "*n d"], upper: Float[Array, "*n d"], bits: int
) -> Float[Array, "*n d"]:
    """Distance between neighbouring grid points, by dimension."""
    return (upper - lower) / (2.0**bits - 1.0)


def quantise(
    keys: Float[Array, "*n s d"],
    lower: Float[Array, "*n d"],
    upper: Float[Array, "*n d"],
    bits: int,
) -> UInt8[Array, "*n s d"]:
    """Nearest grid point of each coordinate, as a code from 0 to 2^bits − 1."""
    step = grid_step(lower, upper, bits)[..., None, :]
    safe = jnp.where(step > 0, step, 1.0)
    codes = jnp.round((keys - lower[..., None, :]) / safe)
    return jnp.clip(codes, 0, 2**bits - 1).astype(jnp.uint8)


def dequantise(
    codes: UInt8[Array, "*n s d"],
    lower: Float[Array, "*n d"],
    upper: Float[Array, "*n d"],
    bits: int,
) -> Float[Array, "*n s d"]:
    """The grid points that the codes name."""
    step = grid_step(lower, upper, bits)[..., None, :]
    return lower[..., None, :] + codes.astype(lower.dtype) * step


def pack(codes: UInt8[Array, "*n d"], bits: int) -> UInt8[Array, "*n bytes"]:
    """Codes into whole bytes, by planes: a byte holds dimensions that lie d/planes apart.

    Planes unpack to contiguous runs, so that unpacking is shifts and masks without a shuffle.
    """
    if bits == 8:
        return codes
    if bits == 6:
        first, second, third, fourth = jnp.split(codes, 4, axis=-1)
        parts = [
            part | (((fourth >> jnp.uint8(2 * i)) & jnp.uint8(3)) << jnp.uint8(6))
            for i, part in enumerate((first, second, third))
        ]
        return jnp.concatenate(parts, axis=-1)
    planes = jnp.split(codes, 8 // bits, axis=-1)
    packed = planes[0]
    for i, plane in enumerate(planes[1:], start=1):
        packed = packed | (plane << jnp.uint8(bits * i))
    return packed


def planes(packed: UInt8[Array, "*n bytes"], bits: int) -> list[UInt8[Array, "*n part"]]:
    """Codes by planes: equal consecutive runs of the dimensions, never put together again."""
    if bits == 8:
        return [packed]
    if bits == 6:
        parts = jnp.split(packed, 3, axis=-1)
        fourth = parts[0] >> jnp.uint8(6)
        for i, part in enumerate(parts[1:], start=1):
            fourth = fourth | ((part >> jnp.uint8(6)) << jnp.uint8(2 * i))
        return [*(part & jnp.uint8(63) for part in parts), fourth]
    mask = jnp.uint8(2**bits - 1)
    return [(packed >> jnp.uint8(bits * i)) & mask for i in range(8 // bits)]


def unpack(packed: UInt8[Array, "*n bytes"], bits: int) -> UInt8[Array, "*n d"]:
    """Inverse of `pack`."""
    return jnp.concatenate(planes(packed, bits), axis=-1)

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
) -> UInt8[Array, "*n d s"]:
    """Nearest grid point of each coordinate, as a code from 0 to 2^bits − 1, dimension-major."""
    step = grid_step(lower, upper, bits)[..., None]
    safe = jnp.where(step > 0, step, 1.0)
    codes = jnp.round((jnp.swapaxes(keys, -1, -2) - lower[..., None]) / safe)
    return jnp.clip(codes, 0, 2**bits - 1).astype(jnp.uint8)


def dequantise(
    codes: UInt8[Array, "*n d s"],
    lower: Float[Array, "*n d"],
    upper: Float[Array, "*n d"],
    bits: int,
) -> Float[Array, "*n s d"]:
    """The grid points that the codes name."""
    step = grid_step(lower, upper, bits)[..., None]
    return jnp.swapaxes(lower[..., None] + codes.astype(lower.dtype) * step, -1, -2)


def pack(codes: UInt8[Array, "*n d s"], bits: int) -> UInt8[Array, "*n bytes s"]:
    """Codes into whole bytes: one byte holds the codes of dimensions that lie d/2, d/4, … apart."""
    if bits == 8:
        return codes
    if bits == 6:
        first, second, third, fourth = jnp.split(codes, 4, axis=-2)
        parts = [
            part | (((fourth >> jnp.uint8(2 * i)) & jnp.uint8(3)) << jnp.uint8(6))
            for i, part in enumerate((first, second, third))
        ]
        return jnp.concatenate(parts, axis=-2)
    planes = jnp.split(codes, 8 // bits, axis=-2)
    packed = planes[0]
    for i, plane in enumerate(planes[1:], start=1):
        packed = packed | (plane << jnp.uint8(bits * i))
    return packed


def rows(
    stored: UInt8[Array, "*n bytes s"], bits: int, *, packed: bool
) -> list[UInt8[Array, "*n s"]]:
    """The codes of all tokens, dimension by dimension.

    Tokens lie side by side, so that whoever adds the dimensions up works on whole vectors.
    """
    count = stored.shape[-2]
    single = [stored[..., i, :] for i in range(count)]
    if bits == 8 or not packed:
        return single
    if bits == 6:
        third = count // 3
        low = [byte & jnp.uint8(63) for byte in single]
        high = [byte >> jnp.uint8(6) for byte in single]
        fourth = [
            high[i] | (high[i + third] << jnp.uint8(2)) | (high[i + 2 * third] << jnp.uint8(4))
            for i in range(third)
        ]
        return low + fourth
    mask = jnp.uint8(2**bits - 1)
    return [
        (byte >> jnp.uint8(bits * plane)) & mask for plane in range(8 // bits) for byte in single
    ]


def unpack(stored: UInt8[Array, "*n bytes s"], bits: int) -> UInt8[Array, "*n d s"]:
    """Inverse of `pack`, in a few operations on whole arrays whatever the head size."""
    if bits == 8:
        return stored
    if bits == 6:
        low, high = stored & jnp.uint8(63), stored >> jnp.uint8(6)
        first, second, third = jnp.split(high, 3, axis=-2)
        fourth = first | (second << jnp.uint8(2)) | (third << jnp.uint8(4))
        return jnp.concatenate([low, fourth], axis=-2)
    mask = jnp.uint8(2**bits - 1)
    planes = [(stored >> jnp.uint8(bits * plane)) & mask for plane in range(8 // bits)]
    return jnp.concatenate(planes, axis=-2)

"""Boxes whose corners are codes: a byte or two a dimension in place of two floats.

A page's own least and greatest coordinate, over all dimensions, span a grid. The lower corner is
the grid point at or below the least key; the width above it is coded likewise on a grid up to the
greatest width. Both err outward. Nothing beyond the page is needed, so a page is coded when it is
complete, like every other summary.

The grids start and step at bfloat16 numbers, and the steps are never so small beside the
coordinates that a corner would need more digits than float32 has: every precision decodes the same
box, without rounding.
"""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, UInt8

from vashista_theory._numerics import unit_roundoff
from vashista_theory.attention.rounding import round_down, round_up

CORNER_BITS = (4, 8)
"""Bits a corner. At 4 the two share a byte, five bits for the place and three for the width: keys
of one page differ less than the dimensions do."""

_PLACE_BITS = {4: 5, 8: 8}
_WIDTH_BITS = {4: 3, 8: 8}
_FRAME_BYTES = 6  # start, step of the places, step of the widths
_LEAST_STEP = 2.0**-100  # well above the numbers that hardware takes for zero


def coded_bytes(bits: int, d: int) -> int:
    """Bytes of one box."""
    return 2 * bits // 8 * d + _FRAME_BYTES


def row_shape(bits: int, d: int) -> tuple[int, int]:
    """Rows of one box, and bytes of a row: d codes and a part of the frame."""
    rows = 2 * bits // 8
    return rows, d + _FRAME_BYTES // rows


def bits_of(coded: UInt8[Array, "*n w b"]) -> int:
    """Bits a corner."""
    return 4 * coded.shape[-2]


def encode(
    lower: Float[Array, "*n d"], upper: Float[Array, "*n d"], bits: int
) -> UInt8[Array, "*n w b"]:
    """Code a box, outward.

    Args:
        lower: Least coordinates, float32 or float64.
        upper: Greatest coordinates.
        bits: One of `CORNER_BITS`.

    Returns:
        w = 1 row (4 bits) or 2 rows (8 bits) of d codes, the frame behind them.
    """
    u = unit_roundoff(lower.dtype)
    start = round_down(jnp.min(lower, axis=-1), jnp.bfloat16)
    frame = start.astype(lower.dtype)[..., None]
    longest = jnp.maximum(jnp.max(jnp.abs(lower), axis=-1), jnp.max(jnp.abs(upper), axis=-1))

    def step_over(extent: Float[Array, "*n"], intervals: int) -> Array:
        enough = extent / intervals * (1.0 + 8 * u)
        # A sum of bfloat16 numbers that lie within 2^16 of each other fits in float32.
        return round_up(jnp.maximum(enough, longest * 2.0**-15 + _LEAST_STEP), jnp.bfloat16)

    places = 2 ** _PLACE_BITS[bits] - 1
    step = step_over(jnp.max(lower - frame, axis=-1), places)
    grid = step.astype(lower.dtype)[..., None]
    place = jnp.clip(jnp.floor((lower - frame) / grid), 0, places)
    place = jnp.where(frame + place * grid > lower, jnp.maximum(place - 1, 0), place)
    low = frame + place * grid

    widths = 2 ** _WIDTH_BITS[bits]
    stretch = step_over(jnp.max(upper - low, axis=-1), widths)
    unit = stretch.astype(lower.dtype)[..., None]
    width = jnp.clip(jnp.ceil((upper - low) / unit) - 1, 0, widths - 1)
    width = jnp.where(low + (width + 1) * unit < upper, jnp.minimum(width + 1, widths - 1), width)

    held = jax.lax.bitcast_convert_type(jnp.stack([start, step, stretch], axis=-1), jnp.uint8)
    held = held.reshape(*held.shape[:-2], _FRAME_BYTES)
    place, width = place.astype(jnp.uint8), width.astype(jnp.uint8)
    if bits == 8:
        rows = jnp.stack([place, width], axis=-2)
        frames = held.reshape(*held.shape[:-1], 2, _FRAME_BYTES // 2)
    else:
        rows = (place | (width << jnp.uint8(_PLACE_BITS[bits])))[..., None, :]
        frames = held[..., None, :]
    return jnp.concatenate([rows, frames], axis=-1)


def decode(
    coded: UInt8[Array, "*n w b"], dtype: DTypeLike
) -> tuple[Float[Array, "*n d"], Float[Array, "*n d"]]:
    """Lower and upper corner, exact in float32 and above."""
    bits = bits_of(coded)
    d = coded.shape[-1] - _FRAME_BYTES // coded.shape[-2]
    codes, held = coded[..., :d], coded[..., d:]
    held = held.reshape(*held.shape[:-2], 3, 2)
    frame = jax.lax.bitcast_convert_type(held, jnp.bfloat16).astype(dtype)
    start, step, stretch = (frame[..., i, None] for i in range(3))
    if bits == 8:
        place, width = codes[..., 0, :], codes[..., 1, :]
    else:
        place = codes[..., 0, :] & jnp.uint8(2 ** _PLACE_BITS[bits] - 1)
        width = codes[..., 0, :] >> jnp.uint8(_PLACE_BITS[bits])
    lower = start + place.astype(dtype) * step
    return lower, lower + (width.astype(dtype) + 1) * stretch


def empty(leading: tuple[int, ...], bits: int, d: int) -> UInt8[Array, "*n w b"]:
    """Codes of no box, in the shape of `encode`."""
    return jnp.zeros((*leading, *row_shape(bits, d)), jnp.uint8)

"""Keys in a few bits a dimension, on a grid between the corners of their page's box.

One or two bits route or draw, and prove little: their codes may be chosen for the queries that are
to be expected (`Rounding`). More bits prove, coordinate by coordinate, so that each of theirs is
the nearest.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

BITS = (1, 2, 4, 6, 8)
EXPECTED_QUERIES = 256
"""Last ones of a prompt for which a language model's sketches are rounded."""
_RIDGE = 1.0
"""Of the mean over all directions, added to what was seen: other queries will come."""


def aimed(bits: int | None) -> bool:
    """Whether codes of so many bits may be other than the nearest."""
    return bits is not None and bits <= 2


class Rounding(NamedTuple):
    """How codes are chosen for queries that are to be expected, by kv head.

    Attributes:
        order: Dimensions in the order in which they are rounded.
        passed: What the error of one dimension, the row, passes on to each later one.
    """

    order: Int[Array, "Hkv D"]
    passed: Float[Array, "Hkv D D"]


def rounding_for(queries: Float[Array, "Hkv N D"]) -> Rounding:
    r"""The rounding under which the logits of such queries err little.

    The error e of a key costs :math:`e^\top M e` with M = Σ q qᵀ. Once some dimensions are rounded,
    the others do best to take over −M₂₂⁻¹M₂₁ e₁ of their error; dimension by dimension these
    numbers are rows of a Cholesky factor of M⁻¹ over their diagonal (Frantar et al., 2023, GPTQ).

    Args:
        queries: Of each kv head's group, of any number; zeros count nothing.
    """
    exact = jax.lax.Precision.HIGHEST
    moment = jnp.einsum("knd,kne->kde", queries, queries, precision=exact)
    d = moment.shape[-1]
    mean = jnp.trace(moment, axis1=-2, axis2=-1)[:, None, None] / d
    known = (mean > 0) & jnp.isfinite(mean)
    unit = jnp.eye(d, dtype=moment.dtype)[None]
    cost = jnp.where(known, moment / jnp.where(known, mean, 1.0), 0.0) + _RIDGE * unit
    order = jnp.argsort(-jnp.diagonal(cost, axis1=-2, axis2=-1), axis=-1).astype(jnp.int32)
    heads = jnp.arange(order.shape[0], dtype=jnp.int32)[:, None, None]
    cost = cost[heads, order[:, :, None], order[:, None, :]]
    upper = jnp.swapaxes(jnp.linalg.cholesky(jnp.linalg.inv(cost)), -1, -2)
    return Rounding(order, upper / jnp.diagonal(upper, axis1=-2, axis2=-1)[..., None])


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


def levels(bits: int) -> int:
    """Steps of the grid from one corner of the box to the other: the greatest code."""
    return 2**bits - 1


def grid_step(
    lower: Float[Array, "*n d"], upper: Float[Array, "*n d"], bits: int
) -> Float[Array, "*n d"]:
    """Distance between neighbouring grid points, by dimension."""
    return (upper - lower) / float(levels(bits))


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


def quantise_in_turn(
    keys: Float[Array, "Hkv *n s d"],
    lower: Float[Array, "Hkv *n d"],
    upper: Float[Array, "Hkv *n d"],
    bits: int,
    rounding: Rounding,
) -> UInt8[Array, "Hkv *n d s"]:
    """Codes chosen one dimension after another, each passing its error on to those that follow."""
    dtype = keys.dtype

    def of_head(
        keys: Float[Array, "*n s d"],
        lower: Float[Array, "*n d"],
        upper: Float[Array, "*n d"],
        order: Int[Array, " d"],
        passed: Float[Array, "d d"],
    ) -> UInt8[Array, "*n d s"]:
        low = jnp.moveaxis(lower[..., order], -1, 0)[..., None]
        step = jnp.moveaxis(grid_step(lower, upper, bits)[..., order], -1, 0)[..., None]
        left = jnp.moveaxis(keys[..., order], -1, 0)

        def round_one(left: Array, one: tuple[Array, ...]) -> tuple[Array, Array]:
            number, low, step, passed = one
            value = left[number]
            codes = jnp.round((value - low) / jnp.where(step > 0, step, 1.0))
            codes = jnp.clip(codes, 0, 2**bits - 1)
            error = value - (low + codes * step)
            later = jnp.where(jnp.arange(passed.size, dtype=jnp.int32) > number, passed, 0.0)
            return left - later.reshape(-1, *(1,) * error.ndim) * error[None], codes.astype(
                jnp.uint8
            )

        numbers = jnp.arange(order.size, dtype=jnp.int32)
        _, codes = jax.lax.scan(round_one, left, (numbers, low, step, passed.astype(dtype)))
        return jnp.moveaxis(jnp.zeros_like(codes).at[order].set(codes), 0, -2)

    return jax.vmap(of_head)(keys, lower, upper, *rounding)


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

"""Selecting pages on TPU, by threshold search; device body and wrapper, both short.

Letters in shapes: P entries of a row, K places, both padded to whole registers.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float, Int

from vashista_theory.attention.kernels.portable import as_ordered
from vashista_theory.attention.kernels.spec import SelectCall, Selected, SelectShape
from vashista_theory.attention.kernels.tpu.grid import LANES, on_grid

ROWS = 8  # searched at once: those of a register
_AT_ONCE = 8  # places counted in one pass
NOTHING = -(2**31)  # what `as_ordered` makes of −inf and NaN


def select(call: SelectCall, config: None = None, *, interpret: Any = False) -> Selected:
    """The best entries of eight rows at a time; a row stays in the core's memory throughout."""
    del config
    return _select(call.shape, interpret, call.priority)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _select(shape: SelectShape, interpret: Any, priority: Float[Array, "B Hkv P"]) -> Selected:
    rows = shape.batch * shape.kv_heads
    width, places = _padded(shape.pages), _padded(shape.count)

    def block(last: int) -> pl.BlockSpec:
        return pl.BlockSpec((ROWS, last), lambda i: (i, 0))

    def result(last: int) -> tuple[pl.BlockSpec, jax.ShapeDtypeStruct]:
        return block(last), jax.ShapeDtypeStruct((rows, last), jnp.int32)

    pages, number = on_grid(
        functools.partial(select_kernel, entries=shape.pages, count=shape.count),
        (pl.cdiv(rows, ROWS),),
        name="select_pages",
        arrays=[(block(width), priority.reshape(rows, shape.pages))],
        results=[result(places), result(LANES)],
        scratch=[pltpu.VMEM((ROWS, width), jnp.int32), pltpu.VMEM((ROWS, width), jnp.float32)],
        interpret=interpret,
    )
    of_rows = (shape.batch, shape.kv_heads)
    return Selected(
        pages[:, : shape.count].reshape(*of_rows, shape.count), number[:, 0].reshape(of_rows)
    )


def _padded(entries: int) -> int:
    """Lanes that so many entries take."""
    return -(-entries // LANES) * LANES


def select_kernel(
    priority_ref: Any,  # (ROWS, P) float32
    pages_ref: Any,  # (ROWS, K) int32
    number_ref: Any,  # (ROWS, LANES) int32, the same in every lane
    order_ref: Any,  # (ROWS, P) int32
    chosen_ref: Any,  # (ROWS, P) float32: entries chosen up to each one
    *,
    entries: int,
    count: int,
) -> None:
    """Find the threshold a bit at a time, number what reaches it, and look up each number.

    Counts are sums of float32, which hold them exactly up to 2^24.
    """
    place = jax.lax.broadcasted_iota(jnp.int32, order_ref.shape, 1)
    order_ref[...] = jnp.where(place < entries, as_ordered(priority_ref[...]), NOTHING)
    number = _number_chosen(order_ref, chosen_ref, _threshold(order_ref, count), count)
    number_ref[...] = jnp.broadcast_to(number.astype(jnp.int32), number_ref.shape)
    lane = jax.lax.broadcasted_iota(jnp.int32, (ROWS, LANES), 1)
    nothing = jnp.zeros((ROWS, LANES), jnp.float32)
    for start in range(0, pages_ref.shape[1], LANES):

        def look_up(i: Any, found: Float[Array, "ROWS LANES"], start: int = start) -> Array:
            first = i * jnp.int32(_AT_ONCE)
            for j, index in enumerate(_entries_of(chosen_ref, first + np.int32(start))):
                found = jnp.where(lane == first + np.int32(j), index, found)
            return found

        passes = -(-min(LANES, count - start) // _AT_ONCE)
        found = jax.lax.fori_loop(jnp.int32(0), jnp.int32(passes), look_up, nothing)
        exists = (lane + np.int32(start)).astype(jnp.float32) < number
        pages_ref[:, start : start + LANES] = jnp.where(exists, found, 0.0).astype(jnp.int32)


def _threshold(order_ref: Any, count: int) -> Int[Array, "ROWS 1"]:
    """The greatest integer that at least `count` entries of a row reach."""

    def reach(threshold: Int[Array, "ROWS 1"]) -> Bool[Array, "ROWS 1"]:
        return _count(order_ref[...] >= threshold) >= count

    def refine(i: Any, least: Int[Array, "ROWS 1"]) -> Int[Array, "ROWS 1"]:
        higher = least + jnp.left_shift(jnp.int32(1), jnp.int32(30) - i)
        return jnp.where(reach(higher), higher, least)

    zero = jnp.zeros((ROWS, 1), jnp.int32)
    least = jnp.where(reach(zero), zero, jnp.full_like(zero, NOTHING))
    return jax.lax.fori_loop(jnp.int32(0), jnp.int32(31), refine, least)


def _number_chosen(
    order_ref: Any, chosen_ref: Any, threshold: Int[Array, "ROWS 1"], count: int
) -> Float[Array, "ROWS 1"]:
    """Write how many entries are chosen up to each one; how many there are in all."""
    room = np.float32(count) - _count(order_ref[...] > threshold)
    # Ones up to each lane: what they multiply is summed up to there.
    row, column = (jax.lax.broadcasted_iota(jnp.int32, (LANES, LANES), axis) for axis in (0, 1))
    ones = (row <= column).astype(jnp.float32)

    def of_block(i: Any, so_far: tuple[Array, Array]) -> tuple[Array, Array]:
        equals, chosen = so_far
        at = _block(i)
        order = order_ref[:, at]
        equal = order == threshold
        equal_up_to = equals + _running(equal, ones)
        # Of equal entries the first ones, as many as there is room for.
        taken = (order > threshold) | (equal & (equal_up_to <= room))
        chosen_up_to = chosen + _running(taken & (order > NOTHING), ones)
        chosen_ref[:, at] = chosen_up_to
        return equal_up_to[:, LANES - 1 :], chosen_up_to[:, LANES - 1 :]

    none = jnp.zeros((ROWS, 1), jnp.float32)
    blocks = order_ref.shape[1] // LANES
    return jax.lax.fori_loop(jnp.int32(0), jnp.int32(blocks), of_block, (none, none))[1]


def _entries_of(chosen_ref: Any, first: Int[Array, ""]) -> list[Float[Array, "ROWS 1"]]:
    """Indices of the chosen entries from the first on: those up to which fewer were chosen."""
    bounds = [(first + np.int32(j)).astype(jnp.float32) for j in range(_AT_ONCE)]

    def of_block(i: Any, before: tuple[Array, ...]) -> tuple[Array, ...]:
        chosen = chosen_ref[:, _block(i)]
        return tuple(
            so_far + (chosen <= bound).astype(jnp.float32)
            for so_far, bound in zip(before, bounds, strict=True)
        )

    nothing = (jnp.zeros((ROWS, LANES), jnp.float32),) * _AT_ONCE
    blocks = chosen_ref.shape[1] // LANES
    before = jax.lax.fori_loop(jnp.int32(0), jnp.int32(blocks), of_block, nothing)
    return [jnp.sum(passed, axis=1, keepdims=True) for passed in before]


def _block(i: Any) -> Any:
    return pl.ds(pl.multiple_of(i * jnp.int32(LANES), LANES), LANES)


def _count(where: Bool[Array, "ROWS P"]) -> Float[Array, "ROWS 1"]:
    return jnp.sum(where.astype(jnp.float32), axis=1, keepdims=True)


def _running(
    where: Bool[Array, "ROWS LANES"], ones: Float[Array, "LANES LANES"]
) -> Float[Array, "ROWS LANES"]:
    """How many up to each lane: zeros and ones are exact in any precision of the product."""
    return jnp.dot(where.astype(jnp.float32), ones, preferred_element_type=jnp.float32)

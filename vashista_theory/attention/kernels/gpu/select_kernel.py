"""Device body for Hopper that selects the best entries of a row, without a sort.

Mosaic GPU has no sort, no prefix sum and no scatter. So a threshold is searched bit by bit, and the
indices are put together by products of matrices of zeros and ones on the tensor cores, which are
exact: entries lie in a matrix of 64 rows, whose prefix sums are a product with a triangle of ones,
and the row of each wanted entry is picked by a product with a matrix that has a one for it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from vashista_theory.attention.kernels.gpu.attend_kernel import device_kernel, load, swizzled
from vashista_theory.attention.kernels.gpu.tiles import GPU_REDUCTION_BYTES
from vashista_theory.attention.kernels.gpu.tiles import GPU_ROWS as ROWS
from vashista_theory.attention.kernels.portable import NOTHING, as_ordered

WIDTHS = (64, 128)
"""Columns of the matrix; prefix sums of a row, at most 128, are whole numbers in bfloat16."""


@dataclass(frozen=True)
class SelectGeometry:
    """Sizes that the kernel is compiled for.

    Attributes:
        rows: Rows to select from.
        segments: Parts of a row, each with a selection of its own.
        width: Columns of the matrix of a segment.
        count: Entries wanted of each segment.
    """

    rows: int
    segments: int
    width: int
    count: int

    @property
    def blocks(self) -> int:
        """Blocks of 64 places in each segment's list."""
        return -(-self.count // ROWS)


def select_segments(entries: jax.Array, *, geometry: SelectGeometry) -> tuple[jax.Array, jax.Array]:
    """Select the best entries of every segment.

    Args:
        entries: [rows, segments, 64, width], float32; −inf where there is none.
        geometry: Sizes; they agree with the array.

    Returns:
        Indices within the segment, ascending, [rows, segments, blocks × 64], and how many there are
        [rows, segments], int32.
    """
    g = geometry
    run = device_kernel(
        _body(g),
        out_type=jax.ShapeDtypeStruct((g.rows, g.segments, (g.blocks + 1) * ROWS), jnp.int32),
        scratch_types=(
            plgpu.SMEM((ROWS, g.width), jnp.float32),
            plgpu.SMEM((ROWS, g.width), jnp.bfloat16, transforms=swizzled(16)),
            plgpu.SMEM((g.width, g.width), jnp.bfloat16, transforms=swizzled(16)),
            plgpu.SMEM((ROWS, ROWS), jnp.bfloat16, transforms=swizzled(16)),
            plgpu.SMEM((ROWS, ROWS), jnp.bfloat16, transforms=swizzled(16)),
            plgpu.SMEM((ROWS,), jnp.float32),
            plgpu.SMEM((ROWS,), jnp.float32),
            plgpu.SMEM((ROWS,), jnp.int32),
            plgpu.Barrier(),
        ),
        grid=(g.rows, g.segments),
        # No thread axis: Mosaic sums whole arrays only where there is one warpgroup and no name.
        grid_names=("row", "segment"),
        compiler_params=plgpu.CompilerParams(
            reduction_scratch_bytes=GPU_REDUCTION_BYTES,
            lowering_semantics=plgpu.LoweringSemantics.Lane,
        ),
    )
    found = run(entries)
    return found[..., : g.blocks * ROWS], found[..., -1]


def _body(g: SelectGeometry) -> Callable[..., None]:
    wgmma, by_row, by_column = (
        plgpu.Layout.WGMMA,
        plgpu.Layout.WGMMA.reduce(1),
        plgpu.Layout.WGMMA.reduce(0),
    )
    shape, square = (ROWS, g.width), (ROWS, ROWS)

    def place(of: tuple[int, int], axis: int) -> jax.Array:
        return plgpu.broadcasted_iota(jnp.int32, of, axis, layout=wgmma)

    def spread(numbers: jax.Array, of: tuple[int, int], axis: int) -> jax.Array:
        return plgpu.layout_cast(lax.broadcast_in_dim(numbers, of, (axis,)), wgmma)

    def product(left_sm: Any, right_sm: Any, columns: int) -> jax.Array:
        def multiply(sums: Any) -> jax.Array:
            plgpu.wgmma(sums, left_sm, right_sm)
            return sums[...]

        return pl.run_scoped(multiply, plgpu.WGMMAAccumulatorRef((ROWS, columns), jnp.float32))

    def ones(where: jax.Array) -> jax.Array:
        return jnp.where(where, jnp.float32(1.0), jnp.float32(0.0)).astype(jnp.bfloat16)

    def select_pages_sm90(
        entries_hbm: Any,  # [rows, segments, ROWS, width]
        found_hbm: Any,  # [rows, segments, blocks × ROWS, and ROWS times the number]
        entries_sm: Any,  # [ROWS, width]
        mask_sm: Any,  # [ROWS, width]
        up_to_sm: Any,  # [width, width]: a one where row ≤ column
        before_sm: Any,  # [ROWS, ROWS]: a one where column < row
        pick_sm: Any,  # [ROWS, ROWS]
        start_sm: Any,  # [ROWS]
        end_sm: Any,  # [ROWS]
        found_sm: Any,  # [ROWS]
        entries_here: Any,  # one barrier
    ) -> None:
        row, segment = lax.axis_index("row"), lax.axis_index("segment")
        plgpu.copy_gmem_to_smem(entries_hbm.at[row, segment], entries_sm, entries_here)
        before_sm[...] = ones(place(square, 1) < place(square, 0))
        for first in range(0, g.width, ROWS):
            up_to_sm[pl.ds(first, ROWS)] = ones(
                place(shape, 0) + jnp.int32(first) <= place(shape, 1)
            )
        plgpu.barrier_wait(entries_here)

        # Side by side for counting: every thread has its part in registers throughout.
        strided = plgpu.Layout.WG_STRIDED(shape, vec_size=4)
        order = as_ordered(load(entries_sm, strided))

        def reached(threshold: jax.Array) -> jax.Array:
            ones = jnp.where(order >= threshold, jnp.int32(1), jnp.int32(0))
            return jnp.sum(ones, dtype=jnp.int32)

        def refine(i: jax.Array, least: jax.Array) -> jax.Array:
            higher = least + jnp.left_shift(jnp.int32(1), jnp.int32(30) - i)
            return jnp.where(reached(higher) >= g.count, higher, least)

        zero, nothing = jnp.int32(0), jnp.int32(NOTHING)
        least = jnp.where(reached(zero) >= g.count, zero, nothing)
        threshold = lax.fori_loop(jnp.int32(0), jnp.int32(31), refine, least)
        number = jnp.minimum(reached(nothing + 1), jnp.int32(g.count))
        # No entry is above the greatest integer, so the sum does not overflow.
        room = jnp.int32(g.count) - reached(threshold + 1)

        def ordered() -> jax.Array:
            """Read anew wherever it is used: held throughout, it would spill."""
            return as_ordered(load(entries_sm, wgmma))

        def ranks(where: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            """Of the marked entries how many lie in a row up to each, before a row, and in it."""
            mask_sm[...] = ones(where)
            plgpu.commit_smem()
            start = jnp.sum(product(before_sm, mask_sm, g.width), axis=1)
            within = product(mask_sm, up_to_sm, g.width)
            return within, start, jnp.max(within, axis=1)

        within, start, _ = ranks(ordered() == threshold)
        early = within + spread(start, shape, 0) <= room.astype(jnp.float32)
        order = ordered()
        chosen = ((order > threshold) | ((order == threshold) & early)) & (order > nothing)
        within, start, held = ranks(chosen)
        mask_sm[...] = within.astype(jnp.bfloat16)
        start_sm[...] = start
        end_sm[...] = start + held
        plgpu.commit_smem()
        start = spread(load(start_sm, by_column), square, 1)
        end = spread(load(end_sm, by_column), square, 1)

        def write(block: jax.Array, found: jax.Array) -> None:
            plgpu.wait_smem_to_gmem(0)
            found_sm[...] = found
            plgpu.commit_smem()
            places = pl.ds(block * jnp.int32(ROWS), ROWS)
            plgpu.copy_smem_to_gmem(found_sm, found_hbm.at[row, segment, places])

        def list_block(block: jax.Array, none: jax.Array) -> jax.Array:
            wanted = place(square, 0) + (block * jnp.int32(ROWS) + jnp.int32(1))
            wanted = wanted.astype(jnp.float32)
            here = (start < wanted) & (wanted <= end)
            pick_sm[...] = ones(here)
            plgpu.commit_smem()
            of_row = product(pick_sm, mask_sm, g.width)
            rank = jnp.sum(jnp.where(here, wanted - start, 0.0), axis=1)
            behind = ones(of_row < spread(rank, shape, 0)).astype(jnp.float32)
            column = jnp.sum(behind, axis=1)
            line = jnp.sum(jnp.where(here, place(square, 1).astype(jnp.float32), 0.0), axis=1)
            index = (line * float(g.width) + column).astype(jnp.int32)
            # Behind the last entry nothing is picked: rank 0, and no column lies below it.
            write(block, index)
            return none

        lax.fori_loop(jnp.int32(0), jnp.int32(g.blocks), list_block, jnp.int32(0))
        write(jnp.int32(g.blocks), plgpu.layout_cast(jnp.full((ROWS,), number, jnp.int32), by_row))
        plgpu.wait_smem_to_gmem(0)

    return select_pages_sm90

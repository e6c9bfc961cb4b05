"""Device body for Hopper that judges pages: a ring of summaries, and what is done with each tile.

One block of threads (a warpgroup) takes one kv head of one sequence and one share of its pages. It
judges them a tile at a time by all query heads of the group, so each summary is read once, whatever
the size of the group. The copy engine gathers summaries through the page table into a ring of slots
in shared memory; while one tile is judged, the others are on their way.

All arithmetic is in float32 on the ordinary units (`score_tile`): on the tensor cores a
query would have to be cut into parts of 16 bits, once for each page of a sketch.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from vashista_theory.attention.kernels.gpu import score_tile as judge
from vashista_theory.attention.kernels.gpu.attend_kernel import ceil_div, device_kernel
from vashista_theory.attention.kernels.gpu.tiles import GPU_REDUCTION_BYTES

_THREAD = "warpgroup"
ROW = 32
"""Words that the copy engine takes at a time: rows of 16 bytes would go one by one."""


def score_tiles(
    query: jax.Array,
    norms: jax.Array,
    parts: tuple[jax.Array, ...],
    page_table: jax.Array,
    lengths: jax.Array,
    scale: jax.Array,
    *,
    geometry: judge.ScoreGeometry,
) -> tuple[jax.Array, ...]:
    """Judge the full pages of every sequence.

    Args:
        query: [B, Hkv, rows, D], float32, the group padded to whole `judge.heads_at_once`.
        norms: Lengths of the queries from above [B, Hkv, rows].
        parts: Box: corners [Hkv, N, D] uint32. Ball: means [Hkv, N, D] uint16, and the radii of
            each sequence's own pages [B, Hkv, tiles, tile] float32. Sketch: corners, codes as words
            [Hkv, N, words / 32, 32] uint32, and the residuals of each sequence's own pages
            [B, Hkv, tiles, 4, tile, S / 4] float32, of the i-th token of all words together.
        page_table: Physical pages [B, P], int32.
        lengths: Tokens [B], int32.
        scale: Factor of the scores, [1], float32.
        geometry: Sizes; they agree with the arrays.

    Returns:
        Upper bounds, estimates and of a sketch the greatest bounds of a key, each [B, Hkv, group,
        tiles × tile] float32; −inf for what is no full page. By token its logits, of the i-th token
        of all words together: [B × Hkv × tiles, group, 4, tile, S / 4] float32.
    """
    g = geometry
    rows = query.shape[2]
    slots, copies = _slots(g)
    scores = jax.ShapeDtypeStruct((g.batch, g.kv_heads, g.group, g.tiles * g.tile), jnp.float32)
    staged = plgpu.SMEM((rows, g.tile), jnp.float32)
    if g.by_token:
        of_tile = (4, g.tile, g.page_size // 4)
        # The copy engine takes no more than five axes.
        leading = g.batch * g.kv_heads * g.tiles
        scores = jax.ShapeDtypeStruct((leading, g.group, *of_tile), jnp.float32)
        staged = plgpu.SMEM((rows, *of_tile), jnp.float32)
    run = device_kernel(
        _body(g, len(parts)),
        out_type=(scores,) * g.outputs,
        scratch_types=(
            plgpu.SMEM((rows, g.d), jnp.float32),
            (staged,) * g.outputs,
            slots,
            judge.scratch(g),
            plgpu.Barrier(),
            plgpu.Barrier(num_arrivals=copies, num_barriers=g.stages),
        ),
        grid=(g.batch, g.kv_heads, g.splits),
        grid_names=("sequence", "head", "split"),
        num_threads=1,
        thread_name=_THREAD,
        compiler_params=plgpu.CompilerParams(
            approx_math=True,
            reduction_scratch_bytes=GPU_REDUCTION_BYTES,
            # Every layout is stated: the other semantics would infer swizzles for what is indexed
            # by rows here, and fail at it.
            lowering_semantics=plgpu.LoweringSemantics.Lane,
        ),
    )
    return run(query, norms, page_table, lengths, scale, *parts)


def _slots(g: judge.ScoreGeometry) -> tuple[tuple[Any, ...], int]:
    """Slots of the ring for every part, and how many copies fill one."""
    ring = (g.stages, g.tile)
    corners = plgpu.SMEM((*ring, g.d), jnp.uint32)
    if g.kind == "box":
        return (corners,), g.tile
    if g.kind == "ball":
        means, radii = plgpu.SMEM((*ring, g.d), jnp.uint16), plgpu.SMEM(ring, jnp.float32)
        return (means, radii), g.tile + 1
    codes = plgpu.SMEM((*ring, g.words // ROW, ROW), jnp.uint32)
    if g.by_token:
        return (corners, codes), 2 * g.tile
    residuals = plgpu.SMEM((g.stages, 4, g.tile, g.page_size // 4), jnp.float32)
    return (corners, codes, residuals), 2 * g.tile + 1


def _body(g: judge.ScoreGeometry, parts: int) -> Callable[..., None]:
    ahead, has_own = g.stages - 1, g.kind != "box" and not g.by_token

    def score_pages_sm90(
        query_hbm: Any,  # [B, Hkv, rows, D]
        norms_hbm: Any,  # [B, Hkv, rows]
        table_hbm: Any,  # [B, P]
        lengths_hbm: Any,  # [B]
        scale_hbm: Any,  # [1]
        *rest: Any,
    ) -> None:
        parts_hbm, rest = rest[:parts], rest[parts:]
        query_sm: Any  # [rows, D]
        scores_sm: tuple[Any, ...]  # [rows, tile] for each output, [rows, 4, tile, words] by token
        slots_sm: tuple[Any, ...]  # [stages, tile, ...] for each part
        scratch_sm: Any  # of the judge
        query_here: Any  # one barrier
        arrived: Any  # a barrier for each slot
        scores_hbm, rest = rest[: g.outputs], rest[g.outputs :]  # [B, Hkv, group, tiles × tile]
        query_sm, scores_sm, slots_sm, scratch_sm, query_here, arrived = rest
        b, h = lax.axis_index("sequence"), lax.axis_index("head")
        split = lax.axis_index("split")
        full = jnp.clip(
            lax.div(lengths_hbm[b], jnp.int32(g.page_size)), jnp.int32(0), jnp.int32(g.pages)
        )
        last = jnp.maximum(full - 1, jnp.int32(0))
        # Equal shares of the row's own tiles, so that ragged rows keep every split busy.
        tiles = ceil_div(full, g.tile)
        first = lax.div(split * tiles, jnp.int32(g.splits))
        mine = lax.div((split + 1) * tiles, jnp.int32(g.splits)) - first
        plgpu.copy_gmem_to_smem(query_hbm.at[b, h], query_sm, query_here)

        def pages_of(tile: jax.Array) -> tuple[jax.Array, ...]:
            """Physical pages; places past the last full page repeat that page."""
            place = (first + tile) * jnp.int32(g.tile)
            return tuple(
                table_hbm[b, jnp.minimum(place + jnp.int32(p), last)] for p in range(g.tile)
            )

        def fetch(tile: jax.Array, physical: tuple[jax.Array, ...]) -> None:
            slot = lax.rem(tile, jnp.int32(g.stages))
            here = arrived.at[slot]
            *pools, own = range(parts) if has_own else (*range(parts), None)
            for p, page in enumerate(physical):
                for i in pools:
                    plgpu.copy_gmem_to_smem(parts_hbm[i].at[h, page], slots_sm[i].at[slot, p], here)
            if own is not None:
                own_hbm = parts_hbm[own].at[b, h, first + tile]
                plgpu.copy_gmem_to_smem(own_hbm, slots_sm[own].at[slot], here)

        def write(tile: jax.Array) -> None:
            own = pl.ds(tile * jnp.int32(g.tile), g.tile)
            heads = pl.ds(0, g.group)
            for score_sm, score_hbm in zip(scores_sm, scores_hbm, strict=True):
                if g.by_token:
                    place = (b * jnp.int32(g.kv_heads) + h) * jnp.int32(g.tiles) + tile
                    plgpu.copy_smem_to_gmem(score_sm.at[heads], score_hbm.at[place])
                else:
                    plgpu.copy_smem_to_gmem(score_sm.at[heads], score_hbm.at[b, h, :, own])

        for tile in range(ahead):

            @pl.when(jnp.int32(tile) < mine)
            def _(tile: int = tile) -> None:
                fetch(jnp.int32(tile), pages_of(jnp.int32(tile)))

        plgpu.barrier_wait(query_here)

        def step(tile: jax.Array, physical: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            slot = lax.rem(tile, jnp.int32(g.stages))
            # The slot of tile + ahead was read by the tile before this one. Its page numbers were
            # read a step ago, and the next are read now: no one waits for them.
            pl.when(tile + ahead < mine)(lambda: fetch(tile + ahead, physical))
            physical = pages_of(tile + ahead + 1)
            plgpu.barrier_wait(arrived.at[slot])
            plgpu.wait_smem_to_gmem(0)
            judge.judge_tile(
                g,
                query_sm,
                lambda row: norms_hbm[b, h, row],
                tuple(part.at[slot] for part in slots_sm),
                scratch_sm,
                scores_sm,
                scale_hbm[0],
                full - (first + tile) * jnp.int32(g.tile),
            )
            # Also the end of all reading from the slot.
            plgpu.commit_smem()
            write(first + tile)
            return physical

        lax.fori_loop(jnp.int32(0), mine, step, pages_of(jnp.int32(ahead)))

        # What lies behind the last full page is shared out too.
        plgpu.wait_smem_to_gmem(0)
        judge.nothing(g, scores_sm)
        plgpu.commit_smem()
        spare = jnp.int32(g.tiles) - tiles
        start = tiles + lax.div(split * spare, jnp.int32(g.splits))
        end = tiles + lax.div((split + 1) * spare, jnp.int32(g.splits))

        def clear(tile: jax.Array, none: jax.Array) -> jax.Array:
            write(tile)
            return none

        lax.fori_loop(start, end, clear, jnp.int32(0))
        plgpu.wait_smem_to_gmem(0)

    return score_pages_sm90

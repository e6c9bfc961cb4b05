"""Device body for Hopper: pages by the copy engine, products on the tensor cores.

One block of threads (a warpgroup) works on one row (sequence and kv head) and one share of its
pages. All query heads of the group stand in one tile of 64 rows, so each page is read once for all
of them. Pages arrive in a ring of slots in shared memory: while one slot is multiplied, the copy
engine fills the others.

Shared memory holds the query tile, the ring and the softmax weights. The result is staged where the
ring was (the two `run_scoped` follow each other), so that two blocks fit on a multiprocessor at
D ≤ 128: what one of them waits for, the other hides.
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from vashista_theory.attention.kernels.gpu.tiles import GPU_MOST_COLUMNS, GPU_REDUCTION_BYTES
from vashista_theory.attention.kernels.gpu.tiles import GPU_ROWS as ROWS

ROW_STEP = 8
"""Query rows copied at a time: a tile of the swizzled layout."""
COLUMN_STEP = 64
"""Columns of the swizzled layout: 128 bytes in a 16-bit type."""

_LOG2_E = math.log2(math.e)
_LN_2 = math.log(2.0)
_THREAD = "warpgroup"


@dataclass(frozen=True)
class Geometry:
    """Sizes that the kernel is compiled for.

    Attributes:
        batch: Sequences.
        kv_heads: Key heads.
        rows: Query rows of a group, padded to a multiple of `ROW_STEP`.
        d: Head size.
        page_size: Tokens of a page.
        listed: Places in each row's list of pages.
        block_tokens: Tokens multiplied at once.
        stages: Slots of the ring.
        splits: Shares that the pages of a row are cut into.
        query_parts: Parts of the pool's type whose sum is the query.
    """

    batch: int
    kv_heads: int
    rows: int
    d: int
    page_size: int
    listed: int
    block_tokens: int
    stages: int
    splits: int
    query_parts: int = 1

    @property
    def columns(self) -> int:
        """Columns of the output that a block of threads sums: all of D = 256 would spill."""
        return min(self.d, GPU_MOST_COLUMNS)

    @property
    def block_pages(self) -> int:
        """Pages multiplied at once."""
        return self.block_tokens // self.page_size

    @property
    def parts(self) -> int:
        """Blocks of threads that share a row's columns; each reads all keys of its pages."""
        return self.d // self.columns


def attend_splits(
    query: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    pages: jax.Array,
    tokens: jax.Array,
    scale: jax.Array,
    *,
    geometry: Geometry,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Attend to every share of every row's pages.

    Args:
        query: [B, Hkv, parts, rows, D], of the pool's type; the parts add up to the query.
        keys: Pool [Hkv, N, S, D], of the query's type.
        values: Pool [Hkv, N, S, D], of the query's type.
        pages: Physical pages [B, Hkv, listed], int32.
        tokens: Valid tokens [B, Hkv], int32.
        scale: Factor of the scores, [1], float32.
        geometry: Sizes; they agree with the arrays.

    Returns:
        Softmax output of each share [splits, B, Hkv, rows, D], the log of its mass and its
        greatest logit [splits, B, Hkv, rows], float32; a share without tokens has output 0, and
        −inf for the two.
    """
    g = geometry
    dtype = query.dtype
    leading = (g.splits, g.batch, g.kv_heads)
    run = device_kernel(
        _body(g, dtype),
        out_type=(
            jax.ShapeDtypeStruct((*leading, g.rows, g.d), jnp.float32),
            jax.ShapeDtypeStruct((*leading, g.rows), jnp.float32),
            jax.ShapeDtypeStruct((*leading, g.rows), jnp.float32),
        ),
        scratch_types=(
            plgpu.SMEM((g.query_parts, ROWS, g.d), dtype, transforms=swizzled(16)),
            plgpu.SMEM((ROWS, g.block_tokens), dtype, transforms=swizzled(16)),
            plgpu.Barrier(num_arrivals=g.query_parts),
            plgpu.Barrier(num_arrivals=g.block_pages, num_barriers=g.stages),
            plgpu.Barrier(num_arrivals=g.block_pages, num_barriers=g.stages),
        ),
        grid=(g.batch, g.kv_heads, g.splits, g.parts),
        grid_names=("sequence", "head", "split", "part"),
        num_threads=1,
        thread_name=_THREAD,
        # Without it, `pallas_call` and its kin choose another compiler on some versions of JAX.
        compiler_params=plgpu.CompilerParams(
            approx_math=True, reduction_scratch_bytes=GPU_REDUCTION_BYTES
        ),
    )
    return run(query, keys, values, pages, tokens, scale * jnp.float32(_LOG2_E))


def device_kernel(body: Callable[..., None], **options: Any) -> Callable[..., Any]:
    """`plgpu.kernel` under the names of the installed JAX."""
    known = inspect.signature(plgpu.kernel).parameters
    if "out_type" not in known:
        options["out_shape"] = options.pop("out_type")
        options["scratch_shapes"] = options.pop("scratch_types")
    return plgpu.kernel(body, **options)


def swizzled(bits: int) -> tuple[Any, ...]:
    """The layout that the copy engine writes and the tensor cores read without bank conflicts."""
    return plgpu.TilingTransform((ROW_STEP, 1024 // bits)), plgpu.SwizzleTransform(128)


def _body(g: Geometry, dtype: Any) -> Callable[..., None]:
    wgmma, by_row = plgpu.Layout.WGMMA, plgpu.Layout.WGMMA.reduce(1)
    ahead = g.stages - 1

    def full(shape: tuple[int, ...], value: float, of: Any, layout: Any) -> jax.Array:
        return plgpu.layout_cast(jnp.full(shape, value, of), layout)

    def slot_of(block: jax.Array) -> jax.Array:
        return lax.rem(block, jnp.int32(g.stages))

    def along_rows(x: jax.Array, columns: int) -> jax.Array:
        return lax.broadcast_in_dim(x, (ROWS, columns), [0])

    def attend_pages_sm90(
        query_hbm: Any,  # [B, Hkv, parts, rows, D]
        keys_hbm: Any,  # [Hkv, N, S, D]
        values_hbm: Any,  # [Hkv, N, S, D]
        pages_hbm: Any,  # [B, Hkv, listed]
        tokens_hbm: Any,  # [B, Hkv]
        scale_hbm: Any,  # [1], of scores in units of log 2
        output_hbm: Any,  # [splits, B, Hkv, rows, D]
        mass_hbm: Any,  # [splits, B, Hkv, rows]
        top_hbm: Any,  # [splits, B, Hkv, rows]
        query_sm: Any,  # [parts, ROWS, D]
        weights_sm: Any,  # [ROWS, block_tokens]
        query_here: Any,  # one barrier
        keys_here: Any,  # a barrier for each slot
        values_here: Any,  # a barrier for each slot
    ) -> None:
        b, h = lax.axis_index("sequence"), lax.axis_index("head")
        split, part = lax.axis_index("split"), lax.axis_index("part")
        columns = pl.ds(part * jnp.int32(g.columns), g.columns)
        tokens = jnp.clip(tokens_hbm[b, h], jnp.int32(0), jnp.int32(g.listed * g.page_size))
        last_place = jnp.maximum(ceil_div(tokens, g.page_size) - 1, jnp.int32(0))
        scale = scale_hbm[0]
        # Equal shares of the row's own blocks, so that ragged rows keep every split busy.
        blocks = ceil_div(tokens, g.block_tokens)
        first = lax.div(split * blocks, jnp.int32(g.splits))
        mine = lax.div((split + 1) * blocks, jnp.int32(g.splits)) - first

        if g.rows < ROWS:  # rows beyond the group are computed and thrown away: keep them finite
            for part_of_query in range(g.query_parts):
                query_sm[part_of_query] = full((ROWS, g.d), 0.0, dtype, wgmma)
            plgpu.commit_smem()
        for part_of_query in range(g.query_parts):
            plgpu.copy_gmem_to_smem(
                query_hbm.at[b, h, part_of_query],
                query_sm.at[part_of_query, pl.ds(0, g.rows)],
                query_here,
            )

        def pages_of(block: jax.Array) -> tuple[jax.Array, ...]:
            """Physical pages of a block; places past the last used page repeat that page.

            So nothing is read through an entry that may hold anything, and the repeated page comes
            from the cache. Its tokens do not count.
            """
            place = (first + block) * jnp.int32(g.block_pages)
            return tuple(
                pages_hbm[b, h, jnp.minimum(place + jnp.int32(p), last_place)]
                for p in range(g.block_pages)
            )

        def over_ring(
            keys_sm: Any,  # [stages, block_tokens, D]
            values_sm: Any,  # [stages, block_tokens, columns]
        ) -> tuple[jax.Array, jax.Array, jax.Array]:
            def fetch(block: jax.Array, physical: tuple[jax.Array, ...]) -> None:
                slot = slot_of(block)
                places = [pl.ds(p * g.page_size, g.page_size) for p in range(g.block_pages)]
                for page, place in zip(physical, places, strict=True):
                    plgpu.copy_gmem_to_smem(
                        keys_hbm.at[h, page], keys_sm.at[slot, place], keys_here.at[slot]
                    )
                for page, place in zip(physical, places, strict=True):
                    plgpu.copy_gmem_to_smem(
                        values_hbm.at[h, page, :, columns],
                        values_sm.at[slot, place],
                        values_here.at[slot],
                    )

            for block in range(ahead):

                @pl.when(jnp.int32(block) < mine)
                def _(block: int = block) -> None:
                    fetch(jnp.int32(block), pages_of(jnp.int32(block)))

            plgpu.barrier_wait(query_here)

            def attend(block: jax.Array, carry: Any) -> Any:
                output, top, mass, physical = carry
                slot = slot_of(block)
                # The slot of block + ahead was emptied by the block before this one. Its page
                # numbers were read a step ago, and the next are read now: no one waits for them.
                pl.when(block + ahead < mine)(lambda: fetch(block + ahead, physical))
                physical = pages_of(block + ahead + 1)
                token = (first + block) * jnp.int32(g.block_tokens)

                def score(sums: Any) -> jax.Array:  # [ROWS, block_tokens]
                    for part_of_query in range(g.query_parts):
                        of_part = query_sm.at[part_of_query]
                        plgpu.wgmma(sums, of_part, keys_sm.at[slot].transpose((1, 0)))
                    return sums[...]

                plgpu.barrier_wait(keys_here.at[slot])
                scores = pl.run_scoped(
                    score, plgpu.WGMMAAccumulatorRef((ROWS, g.block_tokens), jnp.float32)
                )
                place = plgpu.broadcasted_iota(jnp.int32, (ROWS, g.block_tokens), 1, layout=wgmma)
                scores = jnp.where(place + token < tokens, scores * scale, -jnp.inf)
                # Every block has a token that counts, so the new top is finite.
                new_top = jnp.maximum(top, jnp.max(scores, axis=1))
                fade = jnp.exp2(top - new_top)
                weights = jnp.exp2(scores - along_rows(new_top, g.block_tokens))
                mass = mass * fade + jnp.sum(weights, axis=1)
                weights_sm[...] = weights.astype(dtype)
                plgpu.commit_smem()
                plgpu.barrier_wait(values_here.at[slot])
                # 0 · NaN is NaN: what stands behind the last token must not reach a product.
                pl.when(token + g.block_tokens > tokens)(
                    lambda: _zero_uncounted(values_sm.at[slot], tokens - token, g)
                )

                def weigh(sums: Any) -> jax.Array:  # [ROWS, g.columns]
                    plgpu.wgmma(sums, weights_sm, values_sm.at[slot])
                    return sums[...]

                added = pl.run_scoped(
                    weigh, plgpu.WGMMAAccumulatorRef((ROWS, g.columns), jnp.float32)
                )
                return output * along_rows(fade, g.columns) + added, new_top, mass, physical

            start = (
                full((ROWS, g.columns), 0.0, jnp.float32, wgmma),
                full((ROWS,), -jnp.inf, jnp.float32, by_row),
                full((ROWS,), 0.0, jnp.float32, by_row),
                pages_of(jnp.int32(ahead)),
            )
            return lax.fori_loop(jnp.int32(0), mine, attend, start)[:3]

        output, top, mass = pl.run_scoped(
            over_ring,
            plgpu.SMEM((g.stages, g.block_tokens, g.d), dtype, transforms=swizzled(16)),
            plgpu.SMEM((g.stages, g.block_tokens, g.columns), dtype, transforms=swizzled(16)),
            collective_axes=_THREAD,
        )

        def write(
            output_sm: Any,  # [ROWS, columns]
            mass_sm: Any,  # [ROWS]
            top_sm: Any,  # [ROWS]
        ) -> None:
            none = mass == 0.0
            divisor = jnp.where(none, 1.0, mass)
            output_sm[...] = output / along_rows(divisor, g.columns)
            mass_sm[...] = jnp.where(none, -jnp.inf, (top + jnp.log2(divisor)) * _LN_2)
            top_sm[...] = top * _LN_2
            plgpu.commit_smem()
            used = pl.ds(0, g.rows)
            plgpu.copy_smem_to_gmem(output_sm.at[used], output_hbm.at[split, b, h, :, columns])

            @pl.when(part == 0)
            def _() -> None:
                plgpu.copy_smem_to_gmem(mass_sm.at[used], mass_hbm.at[split, b, h])
                plgpu.copy_smem_to_gmem(top_sm.at[used], top_hbm.at[split, b, h])

            plgpu.wait_smem_to_gmem(0)

        pl.run_scoped(
            write,
            plgpu.SMEM((ROWS, g.columns), jnp.float32, transforms=swizzled(32)),
            plgpu.SMEM((ROWS,), jnp.float32),
            plgpu.SMEM((ROWS,), jnp.float32),
            collective_axes=_THREAD,
        )

    return attend_pages_sm90


_INDEX = inspect.signature(plgpu.load).parameters.get("idx")
_NO_INDEX = ((),) if _INDEX is not None and _INDEX.default is inspect.Parameter.empty else ()


def load(ref: Any, layout: Any) -> jax.Array:
    """Into registers in that layout, by plain loads, under the name of the installed JAX."""
    return plgpu.load(ref, *_NO_INDEX, layout=layout, optimized=False)


def ceil_div(x: jax.Array, y: int) -> jax.Array:
    """Rounded up; `pl.cdiv` would mix integers of two widths where float64 is switched on."""
    return lax.div(x + jnp.int32(y - 1), jnp.int32(y))


def _zero_uncounted(
    values_sm: Any,  # [block_tokens, columns]
    valid: jax.Array,
    g: Geometry,
) -> None:
    """Zero the values of a block behind its last valid token, a few columns at a time."""
    layout = plgpu.Layout.WGMMA
    shape = (g.block_tokens, COLUMN_STEP)
    token = plgpu.broadcasted_iota(jnp.int32, shape, 0, layout=layout)
    for column in range(0, g.columns, COLUMN_STEP):
        part = values_sm.at[:, pl.ds(column, COLUMN_STEP)]
        held = plgpu.layout_cast(part[...], layout)
        part[...] = jnp.where(token < valid, held, jnp.zeros_like(held))
    plgpu.commit_smem()

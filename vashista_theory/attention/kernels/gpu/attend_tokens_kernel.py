"""Device body for Hopper that attends to single tokens: rows by the copy engine, plain products.

One block of threads (a warpgroup) works on one row (sequence and kv head), up to four query heads
of its group and one share of its tokens, which arrive one by one in a ring of slots in shared
memory. A token is a few hundred bytes and takes a few products for each of four heads: the ordinary
units finish them in the time that the memory needs, in float32 and for every type of the pool,
where the tensor cores would want 64 query rows and whole tiles.

Work changes hands three times in a block of 32 tokens: four threads share the dimensions of a key,
then a warp has the logits of a head, and then every thread has its own dimensions of the sums.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from vashista_theory.attention.kernels.gpu.attend_kernel import ceil_div, device_kernel, load
from vashista_theory.attention.kernels.gpu.score_tile import by_dimension, spread
from vashista_theory.attention.kernels.gpu.tiles import (
    GPU_REDUCTION_BYTES,
    GPU_TOKENS,
    GPU_TOKENS_HEADS,
)

HEADS = GPU_TOKENS_HEADS
TOKENS = GPU_TOKENS
SUMS = 3
"""Of each head: log2 of the top, the mass beside it, the mass of the spread beside its square."""

_LANES = 4
_AT_ONCE = 4  # tokens whose sums are written out in the body
_LOG2_E = math.log2(math.e)
_THREAD = "warpgroup"
# By head: how much the sums so far fade, the square of that, one over the mass of the spread of
# this block, its share of all, and what the distance of its mean adds to the scatter.
_FADE, _FADE_TWICE, _UNIT, _SHARE, _BETWEEN = range(5)


@dataclass(frozen=True)
class TokensGeometry:
    """Sizes that the kernel is compiled for.

    Attributes:
        batch: Sequences.
        kv_heads: Key heads.
        parts: Blocks of threads that share a group, four query heads each.
        d: Head size.
        listed: Places in each row's list, whole blocks of them.
        stages: Slots of the ring.
        splits: Shares that the tokens of a row are cut into.
    """

    batch: int
    kv_heads: int
    parts: int
    d: int
    listed: int
    stages: int
    splits: int

    @property
    def blocks(self) -> int:
        """Blocks of a full list."""
        return self.listed // TOKENS


def attend_tokens_splits(
    query: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    places: jax.Array,
    tokens: jax.Array,
    weights: jax.Array,
    scale: jax.Array,
    *,
    geometry: TokensGeometry,
) -> tuple[jax.Array, jax.Array]:
    """Attend to every share of every row's tokens.

    Args:
        query: [B, Hkv, parts, HEADS, D], float32.
        keys: Pool of single tokens [Hkv, N S, D].
        values: Pool of single tokens [Hkv, N S, D].
        places: Tokens of the pool [B, Hkv, listed], int32.
        tokens: Valid places [B, Hkv], int32.
        weights: [B, Hkv, blocks, 2, TOKENS], float32: log 1/π, and 1 − π.
        scale: Factor of the scores, [1], float32.
        geometry: Sizes; they agree with the arrays.

    Returns:
        Of each share the sum of weighted values, the mean of the spread and its scatter by
        dimension [splits, B, Hkv, parts, 3, HEADS, D], and `SUMS` numbers [splits, B, Hkv, parts,
        SUMS, HEADS], float32. A share without tokens has −inf for the top, and 0 for the rest.
    """
    g = geometry
    leading = (g.splits, g.batch, g.kv_heads, g.parts)
    run = device_kernel(
        _body(g),
        out_type=(
            jax.ShapeDtypeStruct((*leading, 3, HEADS, g.d), jnp.float32),
            jax.ShapeDtypeStruct((*leading, SUMS, HEADS), jnp.float32),
        ),
        scratch_types=(
            plgpu.SMEM((HEADS, g.d), jnp.float32),
            plgpu.SMEM((g.stages, TOKENS, g.d), keys.dtype),
            plgpu.SMEM((g.stages, TOKENS, g.d), values.dtype),
            plgpu.SMEM((g.stages, 2, TOKENS), jnp.float32),
            plgpu.SMEM((HEADS, TOKENS), jnp.float32),
            plgpu.SMEM((2, HEADS, TOKENS), jnp.float32),
            plgpu.SMEM((5, HEADS), jnp.float32),
            plgpu.SMEM((3, HEADS, g.d), jnp.float32),
            plgpu.SMEM((SUMS, HEADS), jnp.float32),
            plgpu.Barrier(),
            plgpu.Barrier(num_arrivals=2 * TOKENS + 1, num_barriers=g.stages),
        ),
        grid=(g.batch, g.kv_heads, g.splits, g.parts),
        grid_names=("sequence", "head", "split", "part"),
        num_threads=1,
        thread_name=_THREAD,
        compiler_params=plgpu.CompilerParams(
            approx_math=True,
            reduction_scratch_bytes=GPU_REDUCTION_BYTES,
            # Every layout is stated, as in `score_kernel`.
            lowering_semantics=plgpu.LoweringSemantics.Lane,
        ),
    )
    log2_e = jnp.asarray([_LOG2_E, 1.0], jnp.float32)[None, None, None, :, None]
    return run(query, keys, values, places, tokens, weights * log2_e, scale * jnp.float32(_LOG2_E))


def _body(g: TokensGeometry) -> Callable[..., None]:
    by_key, by_head, by_column = by_dimension(TOKENS, _LANES), _by_head(), _by_column(g.d)
    of_head = by_head.reduce((1,))
    ahead, width = g.stages - 1, 4 * _LANES

    def zero(shape: tuple[int, ...], layout: Any, value: float = 0.0) -> jax.Array:
        return plgpu.layout_cast(jnp.full(shape, value, jnp.float32), layout)

    def attend_tokens_sm90(
        query_hbm: Any,  # [B, Hkv, parts, HEADS, D]
        keys_hbm: Any,  # [Hkv, N S, D]
        values_hbm: Any,  # [Hkv, N S, D]
        places_hbm: Any,  # [B, Hkv, listed]
        tokens_hbm: Any,  # [B, Hkv]
        weights_hbm: Any,  # [B, Hkv, blocks, 2, TOKENS], of logits in units of log 2
        scale_hbm: Any,  # [1], likewise
        vectors_hbm: Any,  # [splits, B, Hkv, parts, 3, HEADS, D]
        sums_hbm: Any,  # [splits, B, Hkv, parts, SUMS, HEADS]
        query_sm: Any,  # [HEADS, D]
        keys_sm: Any,  # [stages, TOKENS, D]
        values_sm: Any,  # [stages, TOKENS, D]
        weights_sm: Any,  # [stages, 2, TOKENS]
        scores_sm: Any,  # [HEADS, TOKENS]
        masses_sm: Any,  # [2, HEADS, TOKENS]: of the sums, and of the spread
        factors_sm: Any,  # [5, HEADS]
        vectors_sm: Any,  # [3, HEADS, D]
        sums_sm: Any,  # [SUMS, HEADS]
        query_here: Any,  # one barrier
        arrived: Any,  # a barrier for each slot
    ) -> None:
        b, h = lax.axis_index("sequence"), lax.axis_index("head")
        split, part = lax.axis_index("split"), lax.axis_index("part")
        tokens = jnp.clip(tokens_hbm[b, h], jnp.int32(0), jnp.int32(g.listed))
        last = jnp.maximum(tokens - 1, jnp.int32(0))
        # Equal shares of the row's own blocks, so that ragged rows keep every split busy.
        blocks = ceil_div(tokens, TOKENS)
        first = lax.div(split * blocks, jnp.int32(g.splits))
        mine = lax.div((split + 1) * blocks, jnp.int32(g.splits)) - first
        plgpu.copy_gmem_to_smem(query_hbm.at[b, h, part], query_sm, query_here)

        def places_of(block: jax.Array) -> tuple[jax.Array, ...]:
            """Tokens of a block; places past the last used one repeat that token.

            So nothing is read through an entry that may hold anything. Its weight is 0.
            """
            place = (first + block) * jnp.int32(TOKENS)
            return tuple(
                places_hbm[b, h, jnp.minimum(place + jnp.int32(t), last)] for t in range(TOKENS)
            )

        def fetch(block: jax.Array, places: tuple[jax.Array, ...]) -> None:
            slot = lax.rem(block, jnp.int32(g.stages))
            here = arrived.at[slot]
            own = weights_hbm.at[b, h, first + block]
            plgpu.copy_gmem_to_smem(own, weights_sm.at[slot], here)
            for pool_hbm, pool_sm in ((keys_hbm, keys_sm), (values_hbm, values_sm)):
                for t, place in enumerate(places):
                    plgpu.copy_gmem_to_smem(pool_hbm.at[h, place], pool_sm.at[slot, t], here)

        for block in range(ahead):

            @pl.when(jnp.int32(block) < mine)
            def _(block: int = block) -> None:
                fetch(jnp.int32(block), places_of(jnp.int32(block)))

        plgpu.barrier_wait(query_here)

        def score(slot: jax.Array) -> None:
            """Scores of a block's keys by every head, into `scores_sm`."""

            def add(i: jax.Array, sums: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
                columns = pl.ds(i * jnp.int32(width), width)
                keys = load(keys_sm.at[slot, :, columns], by_key).astype(jnp.float32)
                new: list[jax.Array] = []
                for k, so_far in enumerate(sums):
                    query = load(query_sm.at[k, columns], by_key.reduce((0,)))
                    new.append(so_far + spread(query, (TOKENS, width), 1, by_key) * keys)
                return tuple(new)

            start = (zero((TOKENS, width), by_key),) * HEADS
            sums = lax.fori_loop(jnp.int32(0), jnp.int32(g.d // width), add, start)
            for k, of_keys in enumerate(sums):
                scores_sm[k] = jnp.sum(of_keys, axis=1)
            plgpu.commit_smem()

        def weigh(block: jax.Array, slot: jax.Array, sums: Any) -> Any:
            """Masses of a block's tokens and the factors of its heads, into shared memory."""
            top, mass, total = sums
            shape = (HEADS, TOKENS)

            def of_token(i: int) -> jax.Array:
                numbers = load(weights_sm.at[slot, i], by_head.reduce((0,)))
                return spread(numbers, shape, 1, by_head)

            def of_row(numbers: jax.Array) -> jax.Array:
                return spread(numbers, shape, 0, by_head)

            place = plgpu.broadcasted_iota(jnp.int32, shape, 1, layout=by_head)
            counted = place + (first + block) * jnp.int32(TOKENS) < tokens
            logits = load(scores_sm, by_head) * scale_hbm[0] + of_token(0)
            logits = jnp.where(counted, logits, -jnp.inf)
            # Every block has a token that counts, so the new top is finite.
            new_top = jnp.maximum(top, jnp.max(logits, axis=1))
            weights = jnp.exp2(logits - of_row(new_top))
            doubtful = jnp.where(counted, weights * weights * of_token(1), 0.0)
            masses_sm[0], masses_sm[1] = weights, doubtful
            fade = jnp.exp2(top - new_top)
            before, own = total * fade * fade, jnp.sum(doubtful, axis=1)
            after = before + own
            unit = jnp.where(own == 0.0, 0.0, 1.0 / jnp.where(own == 0.0, 1.0, own))
            share = own / jnp.where(after == 0.0, 1.0, after)
            for i, factor in enumerate((fade, fade * fade, unit, share, before * share)):
                factors_sm[i] = factor
            plgpu.commit_smem()
            return new_top, mass * fade + jnp.sum(weights, axis=1), after

        def over_tokens(
            slot: jax.Array, add: Callable[[int, jax.Array, jax.Array, Any], Any], start: Any
        ) -> Any:
            """Go over the values of a block: `add(k, t, value, sums)` for every head."""

            def some(i: jax.Array, sums: tuple[Any, ...]) -> tuple[Any, ...]:
                for step in range(_AT_ONCE):
                    t = i * jnp.int32(_AT_ONCE) + jnp.int32(step)
                    value = load(values_sm.at[slot, t], by_column).astype(jnp.float32)
                    sums = tuple(add(k, t, value, of_head) for k, of_head in enumerate(sums))
                return sums

            return lax.fori_loop(jnp.int32(0), jnp.int32(TOKENS // _AT_ONCE), some, start)

        def average(k: int, t: jax.Array, value: jax.Array, sums: Any) -> Any:
            output, own = sums
            return output + value * masses_sm[0, k, t], own + value * masses_sm[1, k, t]

        def step(block: jax.Array, carry: Any) -> Any:
            vectors, sums, places = carry
            slot = lax.rem(block, jnp.int32(g.stages))
            # The slot of block + ahead was read by the block before this one. Its places were read
            # a step ago, and the next are read now: no one waits for them.
            pl.when(block + ahead < mine)(lambda: fetch(block + ahead, places))
            places = places_of(block + ahead + 1)
            plgpu.barrier_wait(arrived.at[slot])
            score(slot)
            sums = weigh(block, slot, sums)
            faded = tuple(
                (output * factors_sm[_FADE, k], zero((g.d,), by_column))
                for k, (output, _, _) in enumerate(vectors)
            )
            found = over_tokens(slot, average, faded)
            means = [own * factors_sm[_UNIT, k] for k, (_, own) in enumerate(found)]

            def scatter(k: int, t: jax.Array, value: jax.Array, so_far: jax.Array) -> jax.Array:
                away = value - means[k]
                return so_far + away * away * masses_sm[1, k, t]

            faded = tuple(old * factors_sm[_FADE_TWICE, k] for k, (_, _, old) in enumerate(vectors))
            scattered = over_tokens(slot, scatter, faded)
            new: list[tuple[jax.Array, ...]] = []
            for k, (_, mean, _) in enumerate(vectors):
                away = means[k] - mean
                between = scattered[k] + away * away * factors_sm[_BETWEEN, k]
                new.append((found[k][0], mean + away * factors_sm[_SHARE, k], between))
            # Also the end of all reading from the slot.
            plgpu.commit_smem()
            return tuple(new), sums, places

        nothing = (
            ((zero((g.d,), by_column),) * 3,) * HEADS,
            (zero((HEADS,), of_head, -jnp.inf), *(zero((HEADS,), of_head),) * 2),
            places_of(jnp.int32(ahead)),
        )
        vectors, sums, _ = lax.fori_loop(jnp.int32(0), mine, step, nothing)
        for k, of_head_k in enumerate(vectors):
            for i, vector in enumerate(of_head_k):
                vectors_sm[i, k] = vector
        for i, numbers in enumerate(sums):
            sums_sm[i] = numbers
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(vectors_sm, vectors_hbm.at[split, b, h, part])
        plgpu.copy_smem_to_gmem(sums_sm, sums_hbm.at[split, b, h, part])
        plgpu.wait_smem_to_gmem(0)

    return attend_tokens_sm90


def _by_head() -> Any:
    """[HEADS, TOKENS]: a warp has a head, a thread a token."""
    return plgpu.Layout.TILED(
        plgpu.Tiling(((HEADS, TOKENS), (1,))), warp_dims=(-3,), lane_dims=(-2,), vector_dim=-1
    )


def _by_column(d: int) -> Any:
    """[D]: a thread has its own dimensions; at D = 64 two threads have the same."""
    of_thread = max(1, d // 128)
    again = (plgpu.Replicated(2),) if d < 128 else ()
    return plgpu.Layout.TILED(
        plgpu.Tiling(((d,), (d // 4,), (of_thread,))),
        warp_dims=(-3,),
        lane_dims=(-2, *again),
        vector_dim=-1,
    )

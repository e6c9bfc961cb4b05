"""Device body for TPU that attends. The wrapper that calls it is in `stages.py`.

Letters in shapes: K pages in a list, N pages of the pool, S tokens of a page, C pages of a block,
G query heads of a group, padded to whole registers.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array

from vashista_theory.attention.kernels.tpu.grid import LANES

# Below every logit and finite: −inf − (−inf) would be NaN in the running maximum.
_LEAST = float(np.finfo(np.float32).min)
_BY_LAST = (((1,), (1,)), ((), ()))


def attend_kernel(
    pages_ref: Any,  # (B Hkv K,) int32, in scalar memory
    tokens_ref: Any,  # (B Hkv,) int32, in scalar memory
    scale_ref: Any,  # (1,) float32, in scalar memory
    query_ref: Any,  # (1, 1, G, D)
    keys_ref: Any,  # (Hkv, N, S, D), where it lies
    values_ref: Any,  # (Hkv, N, S, D), where it lies
    output_ref: Any,  # (1, 1, G, D) float32
    sums_ref: Any,  # (1, 1, G, LANES) float32: log-mass in the first half, top in the second
    key_blocks: Any,  # (2, C, S, D)
    value_blocks: Any,  # (2, C, S, D)
    arrived: Any,  # (2, 2) semaphores: of each slot keys and values
    *,
    listed: int,
) -> None:
    """One kv head of one sequence: a block of pages is multiplied while the next one arrives."""
    head = pl.program_id(1)
    row = pl.program_id(0) * pl.num_programs(1) + head
    _, block_pages, size, d = key_blocks.shape
    block = block_pages * size
    tokens = jnp.clip(tokens_ref[row], 0, listed * size)
    used = _blocks_of(tokens, size)
    blocks = _blocks_of(used, block_pages)

    def for_each_copy(slot: Any, index: Any, act: Callable[[Any], None]) -> None:
        # Numbers of 32 bits throughout: where float64 is switched on, plain ones become 64.
        keys_arrived = arrived.at[slot, np.int32(0)]
        values_arrived = arrived.at[slot, np.int32(1)]
        for p in map(np.int32, range(block_pages)):
            place = index * np.int32(block_pages) + p

            # Entries behind the pages in use may lead nowhere.
            @pl.when(place < used)
            def _(p: np.int32 = p, place: Any = place) -> None:
                page = pages_ref[row * np.int32(listed) + place]
                key, value = keys_ref.at[head, page], values_ref.at[head, page]
                act(pltpu.make_async_copy(key, key_blocks.at[slot, p], keys_arrived))
                act(pltpu.make_async_copy(value, value_blocks.at[slot, p], values_arrived))

    @pl.when(blocks > 0)
    def _() -> None:
        for_each_copy(np.int32(0), np.int32(0), lambda copy: copy.start())

    query = query_ref[0, 0]
    whole = query.dtype == key_blocks.dtype == jnp.bfloat16
    precision = jax.lax.Precision.DEFAULT if whole else jax.lax.Precision.HIGHEST
    work = query.dtype if whole else jnp.dtype("float32")
    query, scale = query.astype(work), scale_ref[0]

    def read(index: Any, sums: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        top, mass, output = sums
        slot = slot_of(index)

        @pl.when(index + 1 < blocks)
        def _() -> None:
            for_each_copy(slot_of(index + 1), index + 1, lambda copy: copy.start())

        for_each_copy(slot, index, lambda copy: copy.wait())
        keys = key_blocks[slot].reshape(block, d).astype(work)
        left = tokens - index * block
        logits = scale * jax.lax.dot_general(
            query, keys, _BY_LAST, precision=precision, preferred_element_type=jnp.float32
        )
        counted = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1) < left
        logits = jnp.where(counted, logits, -jnp.inf)
        new_top = jnp.maximum(top, jnp.max(logits, axis=1, keepdims=True))
        faded, weights = jnp.exp(top - new_top), jnp.exp(logits - new_top)
        # What lies behind the last token was never written, and 0 times NaN is not 0.
        values = value_blocks[slot].reshape(block, d).astype(jnp.float32)
        seen = jax.lax.broadcasted_iota(jnp.int32, values.shape, 0) < left
        values = jnp.where(seen, values, 0.0).astype(work)
        added = jax.lax.dot_general(
            weights.astype(work),
            values,
            (((1,), (0,)), ((), ())),
            precision=precision,
            preferred_element_type=jnp.float32,
        )
        mass = faded * mass + jnp.sum(weights, axis=1, keepdims=True)
        return new_top, mass, faded * output + added

    rows = query.shape[0]
    nothing = (
        jnp.full((rows, 1), _LEAST, jnp.float32),
        jnp.zeros((rows, 1), jnp.float32),
        jnp.zeros((rows, d), jnp.float32),
    )
    top, mass, output = jax.lax.fori_loop(jnp.int32(0), blocks, read, nothing)
    # Not `mass > 0`: a NaN has to show.
    empty = mass == 0
    output_ref[0, 0] = output / jnp.where(empty, 1.0, mass)
    log_mass = jnp.where(empty, -jnp.inf, top + jnp.log(jnp.where(empty, 1.0, mass)))
    top = jnp.where(empty, -jnp.inf, top)
    first = jax.lax.broadcasted_iota(jnp.int32, (rows, LANES), 1) < jnp.int32(LANES // 2)
    sums_ref[0, 0] = jnp.where(first, log_mass, top)


def slot_of(index: Any) -> Any:
    """Blocks take turns in the two slots."""
    return jax.lax.rem(index, jnp.int32(2))


def _blocks_of(count: Any, size: int) -> Any:
    """Rounded up; `pl.cdiv` would mix integers of two widths where float64 is switched on."""
    return jax.lax.div(count + jnp.int32(size - 1), jnp.int32(size))

"""Scoring single tokens on TPU: which blocks of the sketches a kernel gets.

The device body is `score_tokens_kernel` in `score_kernel.py`. Scores of the whole pool by the
queries of all sequences, of which `score` throws most away, would be many times as many here: so
the sketches of each sequence are put in its own order first, head by head, but for one that fills
its pool.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int

from vashista_theory.attention.kernels.spec import ScoreCall, ScoreShape, SummaryParts
from vashista_theory.attention.kernels.tpu import score_kernel as body
from vashista_theory.attention.kernels.tpu.grid import on_grid, whole_registers
from vashista_theory.attention.kernels.tpu.score import (
    box_blocks,
    code_blocks,
    pages_in_rows,
    whole_head,
)
from vashista_theory.attention.kernels.tpu.tiles import TpuScoreConfig, tpu_score_config


def score_tokens(
    call: ScoreCall, config: TpuScoreConfig | None, *, interpret: Any = False
) -> Float[Array, "B H P S"]:
    """Score every token of the full pages of each sequence, all of a group at once.

    Raises:
        ValueError: if the tiles do not fit the call.
    """
    tiles = tpu_score_config(call.shape) if config is None else config
    tiles.check(call.shape)
    return _score_tokens(call.shape, tiles, interpret, *call[1:])


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _score_tokens(
    shape: ScoreShape,
    config: TpuScoreConfig,
    interpret: Any,
    query: Float[Array, "B H D"],
    parts: SummaryParts,
    page_table: Int[Array, "B P"],
    lengths: Int[Array, " B"],
    scale: Float[Array, ""],
) -> Float[Array, "B H P S"]:
    full = jnp.arange(shape.pages, dtype=jnp.int32)[None, :] < lengths[:, None] // shape.page_size
    physical = jnp.where(full, page_table, 0)
    rows = whole_registers(shape.group, "float32")
    grouped = query.astype(jnp.float32)
    grouped = grouped.reshape(shape.batch, shape.kv_heads, shape.group, shape.head_size)
    grouped = jnp.pad(grouped, ((0, 0), (0, 0), (0, rows - shape.group), (0, 0)))
    scored = functools.partial(_scores, shape, config, scale, interpret)
    if shape.batch == 1 and shape.pool_pages <= 2 * shape.pages:
        scores = jnp.take_along_axis(scored(grouped[0], parts), physical[:, None, :, None], axis=2)
    else:
        # A kv head at a time: sixteen tokens fill an eighth of a register, and so do copied pages.
        def of_head(own: tuple[Float[Array, "B R D"], SummaryParts]) -> Float[Array, "B G P S"]:
            queries, held = own
            return scored(queries, jax.tree.map(lambda part: part[physical], held))

        by_head = jax.lax.map(of_head, (jnp.swapaxes(grouped, 0, 1), parts))
        scores = jnp.swapaxes(by_head, 0, 1)
    scores = scores.reshape(shape.batch, shape.heads, shape.pages, shape.page_size)
    return jnp.where(full[:, None, :, None], scores, -jnp.inf)


def _scores(
    shape: ScoreShape,
    config: TpuScoreConfig,
    scale: Float[Array, ""],
    interpret: Any,
    queries: Float[Array, "n R D"],
    parts: SummaryParts,
) -> Float[Array, "n G P S"]:
    """Logits of the tokens of n rows of pages, each by the queries of its own."""
    (count, rows, _), pages = queries.shape, parts.part("codes").shape[1]
    columns = config.pages_per_block
    codes, by_page, scratch = code_blocks(shape, columns, parts)
    kernel = functools.partial(
        body.score_tokens_kernel,
        held_bits=(shape.bits or 8) if shape.packed else 8,
        bits=shape.bits or 8,
        by_page=pages_in_rows(shape),
        codes_by_page=by_page,
    )
    block = (1, shape.page_size, rows, columns)
    (scores,) = on_grid(
        kernel,
        (count, pl.cdiv(pages, columns)),
        name="score_tokens",
        scalars=[jnp.zeros(1, jnp.int32), scale.reshape(1)],
        arrays=[whole_head(queries), box_blocks(shape, columns, parts), codes],
        results=[
            (
                pl.BlockSpec(block, lambda h, n, *_: (h, 0, 0, n)),
                jax.ShapeDtypeStruct((count, shape.page_size, rows, pages), jnp.float32),
            )
        ],
        scratch=scratch,
        interpret=interpret,
    )
    return jnp.transpose(scores[:, :, : shape.group], (0, 2, 3, 1))

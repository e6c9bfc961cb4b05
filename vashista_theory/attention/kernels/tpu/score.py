"""Scoring pages on TPU: which blocks of the summaries a kernel gets, and whose scores are kept.

The device bodies are in `score_kernel.py`.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float, Int, Shaped

from vashista_theory.attention.bounds.bits import from_bits
from vashista_theory.attention.bounds.rounding import norm_from_above
from vashista_theory.attention.kernels.spec import PageScores, ScoreCall, ScoreShape, SummaryParts
from vashista_theory.attention.kernels.tpu import score_kernel as body
from vashista_theory.attention.kernels.tpu.grid import LANES, on_grid, whole_registers
from vashista_theory.attention.kernels.tpu.tiles import TpuScoreConfig, tpu_score_config

Blocked = tuple[pl.BlockSpec, Shaped[Array, "..."]]


def score(call: ScoreCall, config: TpuScoreConfig | None, *, interpret: Any = False) -> PageScores:
    """Judge every page of the pool by every query of its kv head, then pick each table's own.

    Pages of one sequence lie all over the pool, and a summary is too small to be fetched by itself.
    So the pool is read once, in order, whatever the number of sequences; the products with queries
    that do not own a page are thrown away. Of these there are as many as sequences, so a few kv
    heads are done at a time.

    Raises:
        ValueError: if the tiles do not fit the call.
    """
    tiles = tpu_score_config(call.shape) if config is None else config
    tiles.check(call.shape)
    return _score(call.shape, tiles, interpret, *call[1:])


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _score(
    shape: ScoreShape,
    config: TpuScoreConfig,
    interpret: Any,
    query: Float[Array, "B H D"],
    parts: SummaryParts,
    page_table: Int[Array, "B P"],
    lengths: Int[Array, " B"],
    scale: Float[Array, ""],
) -> PageScores:
    batch, heads, group, d = shape.batch, shape.kv_heads, shape.group, shape.head_size
    rows = whole_registers(batch * group, "float32")
    grouped = query.astype(jnp.float32).reshape(batch, heads, group, d)
    grouped = jnp.swapaxes(grouped, 0, 1).reshape(heads, batch * group, d)
    grouped = jnp.pad(grouped, ((0, 0), (0, rows - batch * group), (0, 0)))
    kernel, arrays, scratch = _KINDS[shape.kind](shape, config.pages_per_block, grouped, parts)
    full = jnp.arange(shape.pages, dtype=jnp.int32)[None, :] < lengths[:, None] // shape.page_size
    physical = jnp.where(full, page_table, 0)
    at_once, columns = config.heads_at_once, config.pages_per_block
    scored = (
        pl.BlockSpec((1, rows, columns), lambda h, n, *_: (h, 0, n)),
        jax.ShapeDtypeStruct((at_once, rows, shape.pool_pages), jnp.float32),
    )

    def of_heads(first: Int[Array, ""]) -> list[Float[Array, "h B G P"]]:
        scores = on_grid(
            kernel,
            (at_once, pl.cdiv(shape.pool_pages, columns)),
            name=f"score_{shape.kind}",
            scalars=[first.reshape(1), scale.reshape(1)],
            arrays=arrays,
            results=[scored] * (3 if shape.kind == "sketch" else 2),
            scratch=scratch,
            interpret=interpret,
        )
        return jax.lax.map(lambda of_head: _own(shape, of_head, physical, full), scores)

    def joined(scores: Float[Array, "n h B G P"]) -> Float[Array, "B H P"]:
        by_head = scores.reshape(heads, batch, group, shape.pages)
        return jnp.swapaxes(by_head, 0, 1).reshape(batch, heads * group, shape.pages)

    scores = jax.lax.map(of_heads, jnp.arange(0, heads, at_once, dtype=jnp.int32))
    return PageScores(*(joined(part) for part in scores))


def _own(
    shape: ScoreShape,
    scores: Sequence[Float[Array, "R N"]],
    physical: Int[Array, "B P"],
    full: Bool[Array, "B P"],
) -> list[Float[Array, "B G P"]]:
    """Of the scores of the whole pool those of each sequence's pages.

    A head at a time: then XLA picks from them as they lie, and needs no copy in another layout.
    """
    picked: list[Array] = []
    for one in scores:
        by_sequence = one[: shape.batch * shape.group].reshape(shape.batch, shape.group, -1)
        own = jnp.take_along_axis(by_sequence, physical[:, None, :], axis=-1)
        picked.append(jnp.where(full[:, None, :], own, -jnp.inf))
    return picked


# A kernel, the arrays that it reads in blocks, and its scratch memory.
Prepared = tuple[Callable[..., None], list[Blocked], list[Any]]


def _boxes(
    shape: ScoreShape, columns: int, grouped: Float[Array, "Hkv R D"], parts: SummaryParts
) -> Prepared:
    kernel = functools.partial(
        body.score_boxes_kernel, log_tokens=math.log(shape.page_size), by_page=pages_in_rows(shape)
    )
    return kernel, [whole_head(grouped), box_blocks(shape, columns, parts)], []


def _balls(
    shape: ScoreShape, columns: int, grouped: Float[Array, "Hkv R D"], parts: SummaryParts
) -> Prepared:
    kernel = functools.partial(
        body.score_balls_kernel, log_tokens=math.log(shape.page_size), by_page=pages_in_rows(shape)
    )
    # A row of numbers a head does not make whole registers; as float32 with an axis more it does.
    radius = from_bits(parts.part("radius"), jnp.float32)[:, None]
    arrays = [
        whole_head(grouped),
        whole_head(norm_from_above(grouped)[..., None]),
        _pages(shape, columns, parts.part("mean")),
        _blocked(radius, 2, columns),
    ]
    return kernel, arrays, []


def _sketches(
    shape: ScoreShape, columns: int, grouped: Float[Array, "Hkv R D"], parts: SummaryParts
) -> Prepared:
    bits = shape.bits or 8
    codes, codes_by_page, scratch = code_blocks(shape, columns, parts)
    kernel = functools.partial(
        body.score_sketches_kernel,
        held_bits=bits if shape.packed else 8,
        bits=bits,
        by_page=pages_in_rows(shape),
        codes_by_page=codes_by_page,
    )
    arrays = [
        whole_head(grouped),
        whole_head(norm_from_above(grouped)[..., None]),
        box_blocks(shape, columns, parts),
        codes,
        _blocked(jnp.swapaxes(parts.part("residual"), 1, 2), 2, columns),
    ]
    return kernel, arrays, scratch


def code_blocks(
    shape: ScoreShape, columns: int, parts: SummaryParts
) -> tuple[Blocked, bool, list[Any]]:
    """Codes of a block of pages, whether they stand page by page, and room for what they name."""
    codes = parts.part("codes")
    by_page = _fills_lanes(codes.shape[2])
    blocked = (
        _blocked(jnp.swapaxes(codes, 2, 3), 1, columns)
        if by_page
        else _blocked(jnp.transpose(codes, (0, 2, 3, 1)), 3, columns)
    )
    of_block = (columns, shape.head_size) if by_page else (shape.head_size, columns)
    scratch = [of_block, of_block, (body.TOKENS_AT_ONCE, *of_block)]
    return blocked, by_page, [pltpu.VMEM(size, jnp.float32) for size in scratch]


_KINDS: dict[str, Callable[..., Prepared]] = {"box": _boxes, "ball": _balls, "sketch": _sketches}


def pages_in_rows(shape: ScoreShape) -> bool:
    """Whether boxes and means are held with the pages in rows."""
    return _fills_lanes(shape.head_size)


def _fills_lanes(size: int) -> bool:
    """Whether an axis of this size, and no shorter one, is what XLA puts in the lanes of a pool.

    Otherwise it puts pages there, which take no padding. Reading pools as they lie costs nothing,
    and in another order a copy of all of it.
    """
    return size % LANES == 0


def whole_head(array: Float[Array, "Hkv ..."]) -> Blocked:
    """All of a head at each of its places."""
    return _blocked(array, None, 0)


def _blocked(array: Shaped[Array, "Hkv ..."], axis: int | None, columns: int) -> Blocked:
    """Of a head a block along an axis, or all of it."""
    block = [columns if i == axis else size for i, size in enumerate(array.shape)]

    def place(h: Any, n: Any, first: Any, *_: Any) -> Sequence[Any]:
        return first[0] + h, *(n if i == axis else 0 for i in range(1, len(block)))

    return pl.BlockSpec((1, *block[1:]), place), array


def _pages(shape: ScoreShape, columns: int, array: Shaped[Array, "Hkv N D"]) -> Blocked:
    if pages_in_rows(shape):
        return _blocked(array, 1, columns)
    return _blocked(jnp.swapaxes(array, 1, 2), 2, columns)


def box_blocks(shape: ScoreShape, columns: int, parts: SummaryParts) -> Blocked:
    """Boxes of a block of pages."""
    box = parts.part("box")
    if box.ndim == 3:
        return _pages(shape, columns, box)
    if pages_in_rows(shape):
        return _blocked(box, 1, columns)
    return _blocked(jnp.transpose(box, (0, 2, 3, 1)), 3, columns)

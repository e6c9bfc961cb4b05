"""TPU back end: attention over listed pages, and scores by boxes.

The device bodies are in `mosaic_tpu_kernel.py`. Selection is left to XLA: a threshold search is
sums and comparisons, which it fuses well, and Mosaic has no scatter to put the indices together.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int, UInt32

from vashista_theory.attention.kernels import mosaic_tpu_kernel as body
from vashista_theory.attention.kernels.config import (
    TpuAttendConfig,
    TpuScoreConfig,
    tpu_attend_config,
    tpu_score_config,
)
from vashista_theory.attention.kernels.spec import (
    AttendCall,
    Attended,
    AttendShape,
    Backend,
    PageScores,
    ScoreCall,
    ScoreShape,
    StageOfBackend,
)

_HEAD_SIZES = (64, 128, 256)
_PAGE_SIZES = (16, 32, 64)
_DTYPES = ("bfloat16", "float32")
_SCALAR_MEMORY = 2**19  # bytes: half of what a core has
_MOST_ROWS = 1024


def why_not_attend(shape: AttendShape) -> str | None:
    """Why it cannot attend in such a shape."""
    if reason := _why_not_types(shape.head_size, shape.query_dtype, shape.pool_dtype):
        return reason
    if shape.page_size not in _PAGE_SIZES:
        return f"pages of {shape.page_size} tokens, where {_PAGE_SIZES} are built"
    scalars = 4 * shape.batch * shape.kv_heads * (shape.listed + 1)
    if scalars > _SCALAR_MEMORY:
        return f"lists of pages take {scalars} bytes of the {_SCALAR_MEMORY} of scalar memory"
    return None


def why_not_score(shape: ScoreShape) -> str | None:
    """Why it cannot score in such a shape."""
    if shape.kind == "sketch":
        return (
            f"a sketch, whose codes of {shape.page_size} tokens lie side by side and fill "
            f"{shape.page_size} of {body.LANES} lanes"
        )
    if shape.kind != "box" or shape.stored != "bfloat16":
        return f"a {shape.stored} {shape.kind}, where boxes in bfloat16 are built"
    if reason := _why_not_types(shape.head_size, shape.query_dtype):
        return reason
    if shape.batch * shape.group > _MOST_ROWS:
        return f"{shape.batch * shape.group} queries a kv head, at most {_MOST_ROWS}"
    return None


def _why_not_types(head_size: int, *dtypes: str) -> str | None:
    if head_size not in _HEAD_SIZES:
        return f"head size {head_size}, where {_HEAD_SIZES} are built"
    for dtype in dtypes:
        if dtype not in _DTYPES:
            return f"{dtype}, where TPUs compute in {' and '.join(_DTYPES)}"
    return None


def attend(call: AttendCall, config: TpuAttendConfig | None, *, interpret: Any = False) -> Attended:
    """Attend to the listed pages, each copied once for all query heads of its group."""
    tiles = tpu_attend_config(call.shape) if config is None else config
    tiles.check(call.shape)
    return _attend(call.shape, tiles, interpret, *call[1:])


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _attend(
    shape: AttendShape,
    config: TpuAttendConfig,
    interpret: Any,
    query: Float[Array, "B H D"],
    keys: Float[Array, "Hkv N S D"],
    values: Float[Array, "Hkv N S D"],
    pages: Int[Array, "B Hkv K"],
    tokens: Int[Array, "B Hkv"],
    scale: Float[Array, ""],
) -> Attended:
    batch, heads, d, group = shape.batch, shape.kv_heads, shape.head_size, shape.group
    rows = _whole_registers(group, shape.query_dtype)
    grouped = query.reshape(batch, heads, group, d)
    grouped = jnp.pad(grouped, ((0, 0), (0, 0), (0, rows - group), (0, 0)))

    def by_row(last: int) -> pl.BlockSpec:
        return pl.BlockSpec((1, 1, rows, last), lambda b, h, *_: (b, h, 0, 0))

    # Wherever they are: the pools are never copied as a whole.
    pool = pl.BlockSpec(memory_space=pl.ANY)
    block = (2, config.pages_per_block, shape.page_size, d)
    output, sums = pl.pallas_call(
        functools.partial(body.attend_kernel, listed=shape.listed),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=3,
            grid=(batch, heads),
            in_specs=[by_row(d), pool, pool],
            out_specs=[by_row(d), by_row(body.LANES)],
            scratch_shapes=[
                pltpu.VMEM(block, keys.dtype),
                pltpu.VMEM(block, values.dtype),
                pltpu.SemaphoreType.DMA((2, 2)),
            ],
        ),
        out_shape=[
            jax.ShapeDtypeStruct((batch, heads, rows, d), jnp.float32),
            jax.ShapeDtypeStruct((batch, heads, rows, body.LANES), jnp.float32),
        ],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel")),
        interpret=interpret,
        name="attend_pages",
    )(pages.reshape(-1), tokens.reshape(-1), scale.reshape(1), grouped, keys, values)
    return Attended(
        output[:, :, :group].reshape(query.shape),
        sums[:, :, :group, 0].reshape(query.shape[:2]),
        sums[:, :, :group, -1].reshape(query.shape[:2]),
    )


def score(call: ScoreCall, config: TpuScoreConfig | None, *, interpret: Any = False) -> PageScores:
    """Judge every box of the pool by every query of its kv head, then pick each table's own.

    Pages of one sequence lie all over the pool, and a box is too small to be fetched by itself. So
    the pool is read once, in order, whatever the number of sequences; the products with queries
    that do not own a page are thrown away, and cost less than the reading.
    """
    tiles = tpu_score_config(call.shape) if config is None else config
    tiles.check(call.shape)
    box = call.held.part("box")
    return _score(
        call.shape, tiles, interpret, call.query, box, call.page_table, call.lengths, call.scale
    )


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _score(
    shape: ScoreShape,
    config: TpuScoreConfig,
    interpret: Any,
    query: Float[Array, "B H D"],
    box: UInt32[Array, "Hkv N D"],
    page_table: Int[Array, "B P"],
    lengths: Int[Array, " B"],
    scale: Float[Array, ""],
) -> PageScores:
    batch, heads, group, d = shape.batch, shape.kv_heads, shape.group, shape.head_size
    rows = _whole_registers(batch * group, "float32")
    grouped = query.astype(jnp.float32).reshape(batch, heads, group, d)
    grouped = jnp.swapaxes(grouped, 0, 1).reshape(heads, batch * group, d)
    grouped = jnp.pad(grouped, ((0, 0), (0, rows - batch * group), (0, 0)))
    columns = config.pages_per_block
    scores = jax.ShapeDtypeStruct((heads, rows, shape.pool_pages), jnp.float32)
    scored = pl.BlockSpec((1, rows, columns), lambda h, n, *_: (h, 0, n))
    found = pl.pallas_call(
        functools.partial(body.score_boxes_kernel, log_tokens=math.log(shape.page_size)),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(heads, pl.cdiv(shape.pool_pages, columns)),
            in_specs=[
                pl.BlockSpec((1, rows, d), lambda h, *_: (h, 0, 0)),
                pl.BlockSpec((1, columns, d), lambda h, n, *_: (h, n, 0)),
            ],
            out_specs=[scored, scored],
        ),
        out_shape=[scores, scores],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel")),
        interpret=interpret,
        name="score_pages",
    )(scale.reshape(1), grouped, box)
    full = jnp.arange(shape.pages, dtype=jnp.int32)[None, :] < lengths[:, None] // shape.page_size
    physical = jnp.where(full, page_table, 0)

    def own(scores: Float[Array, "Hkv R N"]) -> Float[Array, "B H P"]:
        by_sequence = scores[:, : batch * group].reshape(heads, batch, group, -1)
        picked = jnp.take_along_axis(by_sequence, physical[None, :, None, :], axis=-1)
        picked = jnp.swapaxes(picked, 0, 1).reshape(batch, heads * group, -1)
        return jnp.where(full[:, None, :], picked, -jnp.inf)

    return PageScores(own(found[0]), own(found[1]))


def _whole_registers(rows: int, dtype: str) -> int:
    tile = 16 if dtype == "bfloat16" else 8
    return -(-rows // tile) * tile


BACKEND = Backend(
    name="mosaic_tpu",
    platforms=("tpu",),
    stages={
        "attend": StageOfBackend(attend, why_not_attend, TpuAttendConfig),
        "score": StageOfBackend(score, why_not_score, TpuScoreConfig, scans_pool=True),
    },
)

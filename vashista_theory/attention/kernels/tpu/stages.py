"""TPU back end: which calls it takes, and attention over listed pages.

Device bodies stand in `attend_kernel.py`, `score_kernel.py`, `select_kernel.py` and
`attend_tokens.py`.

A pool whose head size does not fill 128 lanes (64) is held by XLA with pages in the lanes. At the
border of a jit it is copied, padded, into the order that `attend` reads: the compile check shows it
as temporary memory. Summaries are read in the order in which XLA holds them and never copied.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from vashista_theory.attention.kernels.spec import (
    AttendCall,
    Attended,
    AttendShape,
    Implementation,
    ScoreShape,
    SelectShape,
    StageKernel,
)
from vashista_theory.attention.kernels.token_spec import AttendTokensShape
from vashista_theory.attention.kernels.tpu.attend_kernel import attend_kernel
from vashista_theory.attention.kernels.tpu.attend_tokens import attend_tokens
from vashista_theory.attention.kernels.tpu.grid import LANES, on_grid, whole_registers
from vashista_theory.attention.kernels.tpu.score import score
from vashista_theory.attention.kernels.tpu.score_tokens import score_tokens
from vashista_theory.attention.kernels.tpu.select_kernel import select
from vashista_theory.attention.kernels.tpu.tiles import (
    TPU_MEMORY,
    TpuAttendConfig,
    TpuScoreConfig,
    tpu_attend_config,
    tpu_attend_tokens_bytes,
    tpu_least_score_bytes,
    tpu_select_bytes,
)

_HEAD_SIZES = (64, 128, 256)
_PAGE_SIZES = (16, 32, 64)
_DTYPES = ("bfloat16", "float32")
_SCALAR_MEMORY = 2**19  # bytes: half of what a core has


def why_not_attend(shape: AttendShape) -> str | None:
    """Why it cannot attend in such a shape."""
    if reason := _why_not_head_size(shape.head_size) or _why_not_type(shape):
        return reason
    if shape.page_size not in _PAGE_SIZES:
        return f"pages of {shape.page_size} tokens, where {_PAGE_SIZES} are built"
    scalars = 4 * shape.batch * shape.kv_heads * (shape.listed + 1)
    if scalars > _SCALAR_MEMORY:
        return f"lists of pages take {scalars} bytes of the {_SCALAR_MEMORY} of scalar memory"
    return None


def why_not_score(shape: ScoreShape) -> str | None:
    """Why it cannot score in such a shape."""
    if reason := _why_not_head_size(shape.head_size):
        return reason
    if shape.kind == "sketch" and shape.page_size not in _PAGE_SIZES:
        return f"sketches of {shape.page_size} tokens, where {_PAGE_SIZES} are built"
    if (needed := tpu_least_score_bytes(shape)) > TPU_MEMORY:
        return (
            f"{shape.batch * shape.group} queries a kv head by the fewest pages of a block take "
            f"{needed} bytes of the {TPU_MEMORY} a core has"
        )
    return None


def why_not_select(shape: SelectShape) -> str | None:
    """Why it cannot select in such a shape."""
    if (needed := tpu_select_bytes(shape)) > TPU_MEMORY:
        return f"rows of {shape.pages} entries take {needed} bytes of the {TPU_MEMORY} a core has"
    return None


def why_not_attend_tokens(shape: AttendTokensShape) -> str | None:
    """Why it cannot attend to single tokens in such a shape."""
    if reason := _why_not_head_size(shape.head_size) or _why_not_type(shape):
        return reason
    if (needed := tpu_attend_tokens_bytes(shape)) > TPU_MEMORY:
        return f"lists of {shape.listed} tokens take {needed} bytes of the {TPU_MEMORY} a core has"
    return None


def _why_not_type(shape: AttendShape | AttendTokensShape) -> str | None:
    for dtype in (shape.query_dtype, shape.pool_dtype):
        if dtype not in _DTYPES:
            return f"{dtype}, where TPUs compute in {' and '.join(_DTYPES)}"
    return None


def _why_not_head_size(head_size: int) -> str | None:
    if head_size in _HEAD_SIZES:
        return None
    return f"head size {head_size}, where {_HEAD_SIZES} are built"


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
    rows = whole_registers(group, shape.query_dtype)
    grouped = query.reshape(batch, heads, group, d)
    grouped = jnp.pad(grouped, ((0, 0), (0, 0), (0, rows - group), (0, 0)))

    def by_row(last: int) -> pl.BlockSpec:
        return pl.BlockSpec((1, 1, rows, last), lambda b, h, *_: (b, h, 0, 0))

    def result(last: int) -> tuple[pl.BlockSpec, jax.ShapeDtypeStruct]:
        return by_row(last), jax.ShapeDtypeStruct((batch, heads, rows, last), jnp.float32)

    # Wherever they are: the pools are never copied as a whole.
    pool = pl.BlockSpec(memory_space=pl.ANY)
    block = (2, config.pages_per_block, shape.page_size, d)
    output, sums = on_grid(
        functools.partial(attend_kernel, listed=shape.listed),
        (batch, heads),
        name="attend_pages",
        scalars=[pages.reshape(-1), tokens.reshape(-1), scale.reshape(1)],
        arrays=[(by_row(d), grouped), (pool, keys), (pool, values)],
        results=[result(d), result(LANES)],
        scratch=[
            pltpu.VMEM(block, keys.dtype),
            pltpu.VMEM(block, values.dtype),
            pltpu.SemaphoreType.DMA((2, 2)),
        ],
        interpret=interpret,
    )
    return Attended(
        output[:, :, :group].reshape(query.shape),
        sums[:, :, :group, 0].reshape(query.shape[:2]),
        sums[:, :, :group, -1].reshape(query.shape[:2]),
    )


IMPLEMENTATION = Implementation(
    name="mosaic_tpu",
    platforms=("tpu",),
    stages={
        "attend": StageKernel(attend, why_not_attend, TpuAttendConfig),
        "score": StageKernel(score, why_not_score, TpuScoreConfig, scans_pool=True),
        "select": StageKernel(select, why_not_select),
        "attend_tokens": StageKernel(attend_tokens, why_not_attend_tokens),
        "score_tokens": StageKernel(score_tokens, why_not_score, TpuScoreConfig),
    },
)

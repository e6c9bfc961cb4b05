"""Attending on Hopper GPUs, by Mosaic GPU: which calls, with which tiles, and the merge of shares.

The device body is `mosaic_gpu_sm90`. The pages of a row are cut into shares so that even a single
sequence keeps every multiprocessor busy; the shares are merged here, by the log of their masses.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vashista_theory.attention.kernels import mosaic_gpu_sm90 as sm90
from vashista_theory.attention.kernels.config import GpuAttendConfig, gpu_attend_config
from vashista_theory.attention.kernels.spec import (
    AttendCall,
    Attended,
    AttendShape,
    Backend,
    StageOfBackend,
)

HEAD_SIZES = (64, 128, 256)
PAGE_SIZES = (16, 32, 64)
DTYPES = ("bfloat16", "float16")


def why_not_attend(shape: AttendShape) -> str | None:
    """Why the kernel cannot attend to such a call, or None if it can."""
    if (found := _compute_capability()) is not None and not found.startswith("9."):
        return f"the GPU has compute capability {found}, and its instructions are those of 9.x"
    return _why_not_type(shape) or _why_not_size(shape)


def _why_not_type(shape: AttendShape) -> str | None:
    if shape.pool_dtype not in DTYPES:
        return f"keys are {shape.pool_dtype}, and its products take {' or '.join(DTYPES)}"
    if shape.query_dtype != shape.pool_dtype:
        return (
            f"the query is {shape.query_dtype} and keys are {shape.pool_dtype}; it takes one type"
        )
    return None


def _why_not_size(shape: AttendShape) -> str | None:
    if shape.head_size not in HEAD_SIZES:
        return f"the head size is {shape.head_size}; it has {HEAD_SIZES}"
    if shape.page_size not in PAGE_SIZES:
        return f"pages have {shape.page_size} tokens; it has {PAGE_SIZES}"
    if shape.group > sm90.ROWS:
        return f"{shape.group} query heads share a kv head; it has room for {sm90.ROWS}"
    return None


def _compute_capability() -> str | None:
    """That of the GPU at hand; None where there is none, as when compiling for another machine."""
    if jax.default_backend() != "gpu":
        return None
    return getattr(jax.local_devices()[0], "compute_capability", None)


def attend(call: AttendCall, config: GpuAttendConfig | None) -> Attended:
    """Attend to the listed pages.

    Raises:
        ValueError: if the tiles do not fit the call.
    """
    shape = call.shape
    tiles = gpu_attend_config(shape) if config is None else config
    tiles.check(shape)
    geometry = _geometry(shape, tiles)
    grouped = call.query.reshape(shape.batch, shape.kv_heads, shape.group, shape.head_size)
    spare = geometry.rows - shape.group
    query = jnp.pad(grouped, ((0, 0), (0, 0), (0, spare), (0, 0)))
    output, log_mass, top = sm90.attend_splits(
        query,
        call.keys,
        call.values,
        call.pages,
        call.tokens,
        call.scale.reshape(1),
        geometry=geometry,
    )
    used = slice(shape.group)
    merged = merge_shares(output[..., used, :], log_mass[..., used], top[..., used])
    flat = (shape.batch, shape.heads)
    return jax.tree.map(lambda a: a.reshape(*flat, *a.shape[3:]), merged)


def _geometry(shape: AttendShape, tiles: GpuAttendConfig) -> sm90.Geometry:
    return sm90.Geometry(
        batch=shape.batch,
        kv_heads=shape.kv_heads,
        rows=-(-shape.group // sm90.ROW_STEP) * sm90.ROW_STEP,
        d=shape.head_size,
        page_size=shape.page_size,
        listed=shape.listed,
        block_tokens=tiles.block_tokens,
        stages=tiles.stages,
        splits=tiles.splits,
    )


def merge_shares(
    output: Float[Array, "n *b D"], log_mass: Float[Array, "n *b"], top: Float[Array, "n *b"]
) -> Attended:
    """Softmax over all shares from the softmax over each."""
    heaviest = jnp.max(log_mass, axis=0)
    anchor = jnp.where(jnp.isneginf(heaviest), 0.0, heaviest)
    weights = jnp.exp(log_mass - anchor[None])
    mass = jnp.sum(weights, axis=0)
    none = mass == 0  # and not "not above 0", which would hide a NaN
    divisor = jnp.where(none, 1.0, mass)
    return Attended(
        jnp.sum(output * (weights / divisor[None])[..., None], axis=0),
        jnp.where(none, -jnp.inf, anchor + jnp.log(divisor)),
        jnp.max(top, axis=0),
    )


BACKEND = Backend(
    name="mosaic_gpu",
    platforms=("cuda",),
    stages={"attend": StageOfBackend(attend, why_not_attend, GpuAttendConfig)},
)

"""Drawing tokens by a kernel: what it is asked, and what it says by row."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from vashista_theory.attention.bounds import sketch
from vashista_theory.attention.bounds.page_bounds import Query
from vashista_theory.attention.cache.paged import PagedKV
from vashista_theory.attention.kernels.spec import StageKernel
from vashista_theory.attention.kernels.token_spec import DrawCall, DrawnTokens, DrawShape
from vashista_theory.attention.step.drawing import Drawn, Listed


def draw_shape(cache: PagedKV, asked: Mapping[str, Any], room: int) -> DrawShape | None:
    """The static part of a call with such a query; None where the cache keeps no sketch."""
    held = cache.summaries
    if held.codes is None or held.box is None or held.value_codes is None:
        return None
    return DrawShape(
        **asked,
        pages=cache.pages_per_sequence,
        listed=room,
        code_bytes=held.codes.shape[2],
        levels=sketch.levels(cache.spec.sketch_bits or 8),
        stored="bfloat16" if held.box.dtype == jnp.uint32 else "float32",
    )


def draw_by(
    stage: StageKernel,
    shape: DrawShape,
    query: Query,
    cache: PagedKV,
    ends: tuple[Int[Array, " R"], Int[Array, " R"]],
    sure: Float[Array, "R G"],
    keys: UInt32[Array, "R 2"],
    expected: Int[Array, " R"],
) -> Drawn:
    """The draw of `Backend.draw` by a kernel that can do it."""
    held, kv_heads = cache.summaries, cache.kv_heads
    assert held.codes is not None
    assert held.box is not None
    assert held.value_codes is not None
    rows, group, d = query.vectors.shape
    by_row = (cache.batch, kv_heads)
    call = DrawCall(
        shape,
        query.vectors.reshape(shape.batch, shape.heads, d),
        held.box,
        held.codes,
        held.value_bound,
        held.value_codes,
        jnp.clip(cache.page_table, 0, cache.keys.shape[1] - 1),
        jnp.stack([end[::kv_heads] for end in ends], axis=1),
        sure.reshape(*by_row, group),
        expected[::kv_heads].astype(jnp.float32),
        keys.reshape(*by_row, 2),
        query.scale,
    )
    found: DrawnTokens = stage.run(call, None)
    places, log_weights, number, expected, pages, whole, undrawable = (
        a.reshape(rows, *a.shape[2:]) for a in found
    )
    exists = jnp.arange(shape.listed, dtype=jnp.int32)[None, :] < number[:, None]
    listed = Listed(places // cache.page_size, places % cache.page_size, exists)
    overflown = undrawable | (number > shape.listed)
    return Drawn(listed, -log_weights, number, expected, pages, whole, overflown)

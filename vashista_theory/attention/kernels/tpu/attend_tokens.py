"""Attending to single tokens on TPU; device body and wrapper, both short.

A row of a 16-bit pool shares its registers with its neighbours, so that no copy of a kernel could
start at it: XLA gathers the rows. They are few, and a core's memory holds all of a kv head's.

Letters in shapes: C places of a list and G query heads of a group, padded to whole registers.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int

from vashista_theory.attention.bounds.sampling import Spread
from vashista_theory.attention.kernels.portable import gather_tokens
from vashista_theory.attention.kernels.token_spec import (
    AttendedTokens,
    AttendTokensCall,
    AttendTokensShape,
    doubt,
)
from vashista_theory.attention.kernels.tpu.grid import LANES, on_grid, whole_registers

# Below every logit and finite: −inf − (−inf) would be NaN.
_LEAST = float(np.finfo(np.float32).min)
_BY_LAST = (((1,), (1,)), ((), ()))
_BY_TOKEN = (((1,), (0,)), ((), ()))
_EXACT = jax.lax.Precision.HIGHEST


def attend_tokens(
    call: AttendTokensCall, config: None = None, *, interpret: Any = False
) -> AttendedTokens:
    """Attend to the listed tokens, fetched once for all query heads of a group."""
    del config
    return _attend_tokens(call.shape, interpret, *call[1:])


@functools.partial(jax.jit, static_argnums=(0, 1))
def _attend_tokens(
    shape: AttendTokensShape,
    interpret: Any,
    query: Float[Array, "B H D"],
    keys: Float[Array, "Hkv N S D"],
    values: Float[Array, "Hkv N S D"],
    places: Int[Array, "B Hkv C"],
    tokens: Int[Array, "B Hkv"],
    log_weights: Float[Array, "B Hkv C"],
    scale: Float[Array, ""],
) -> AttendedTokens:
    batch, heads, d, group = shape.batch, shape.kv_heads, shape.head_size, shape.group
    rows, spare = whole_registers(group, shape.query_dtype), -shape.listed % LANES
    width = shape.listed + spare
    grouped = query.reshape(batch, heads, group, d)
    grouped = jnp.pad(grouped, ((0, 0), (0, 0), (0, rows - group), (0, 0)))
    counted = jnp.arange(width, dtype=jnp.int32)[None, None, :] < tokens[..., None]
    places, log_weights = (jnp.pad(a, ((0, 0), (0, 0), (0, spare))) for a in (places, log_weights))
    gathered = [gather_tokens(pool, places, counted) for pool in (keys, values)]
    log_weights = jnp.where(counted, log_weights, 0.0)
    weights = jnp.stack([log_weights, doubt(log_weights)], axis=2)

    def by_row(*last: int) -> pl.BlockSpec:
        return pl.BlockSpec((1, 1, *last), lambda b, h, *_: (b, h, 0, 0))

    def result(last: int) -> tuple[pl.BlockSpec, jax.ShapeDtypeStruct]:
        return by_row(rows, last), jax.ShapeDtypeStruct((batch, heads, rows, last), jnp.float32)

    output, mean, sums = on_grid(
        functools.partial(attend_tokens_kernel, group=group),
        (batch, heads),
        name="attend_tokens",
        scalars=[tokens.reshape(-1), scale.reshape(1)],
        arrays=[
            (by_row(rows, d), grouped),
            *((by_row(width, d), rows_of) for rows_of in gathered),
            (by_row(2, width), weights),
        ],
        results=[result(d), result(d), result(LANES)],
        interpret=interpret,
    )
    output, mean = (a[:, :, :group].reshape(query.shape) for a in (output, mean))
    log_mass, top, mass, scatter = (
        sums[:, :, :group, i * LANES // 4].reshape(query.shape[:2]) for i in range(4)
    )
    return AttendedTokens(output, log_mass, top, Spread(mass, mean, scatter))


def attend_tokens_kernel(
    tokens_ref: Any,  # (B Hkv,) int32, in scalar memory
    scale_ref: Any,  # (1,) float32, in scalar memory
    query_ref: Any,  # (1, 1, G, D)
    keys_ref: Any,  # (1, 1, C, D)
    values_ref: Any,  # (1, 1, C, D)
    weights_ref: Any,  # (1, 1, 2, C) float32: log 1/π, and 1 − π
    output_ref: Any,  # (1, 1, G, D) float32
    mean_ref: Any,  # (1, 1, G, D) float32
    sums_ref: Any,  # (1, 1, G, LANES) float32: log-mass, top, mass and scatter, a quarter each
    *,
    group: int,
) -> None:
    """All tokens of one kv head of one sequence by all its query heads.

    They are all at hand, so nothing has to fade: the top is known before the first weight, and the
    mean of the spread before the first distance from it.
    """
    row = pl.program_id(0) * pl.num_programs(1) + pl.program_id(1)
    tokens, scale = tokens_ref[row], scale_ref[0]
    query, keys = query_ref[0, 0], keys_ref[0, 0]
    whole = query.dtype == keys.dtype == jnp.bfloat16
    work = query.dtype if whole else jnp.dtype("float32")
    logits = scale * jax.lax.dot_general(
        query.astype(work),
        keys.astype(work),
        _BY_LAST,
        precision=jax.lax.Precision.DEFAULT if whole else _EXACT,
        preferred_element_type=jnp.float32,
    )
    counted = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1) < tokens
    logits = jnp.where(counted, logits + weights_ref[0, 0, :1], -jnp.inf)
    top = jnp.maximum(jnp.max(logits, axis=1, keepdims=True), _LEAST)
    weights = jnp.exp(logits - top)
    # Behind the last token lies another one's row, and 0 times infinity is not 0.
    values = values_ref[0, 0].astype(jnp.float32)
    seen = jax.lax.broadcasted_iota(jnp.int32, values.shape, 0) < tokens
    values = jnp.where(seen, values, 0.0)

    def averages(masses: Array, of: Array) -> Array:
        return jax.lax.dot_general(
            masses, of, _BY_TOKEN, precision=_EXACT, preferred_element_type=jnp.float32
        )

    mass = jnp.sum(weights, axis=1, keepdims=True)
    # Not `mass > 0`: a NaN has to show.
    empty = mass == 0
    divisor = jnp.where(empty, 1.0, mass)
    output_ref[0, 0] = averages(weights, values) / divisor
    masses = weights * weights * weights_ref[0, 0, 1:]
    total = jnp.sum(masses, axis=1, keepdims=True)
    mean = averages(masses, values) / jnp.where(total == 0, 1.0, total)
    mean_ref[0, 0] = mean
    of_row = jax.lax.broadcasted_iota(jnp.int32, mean.shape, 0)
    squares = jnp.zeros_like(mean)
    for head in range(group):
        away = values - mean[head : head + 1]
        squares = jnp.where(of_row == head, averages(masses, away * away), squares)
    log_mass = jnp.where(empty, -jnp.inf, top + jnp.log(divisor))
    top = jnp.where(empty, -jnp.inf, top)
    quarter = jax.lax.broadcasted_iota(jnp.int32, (mass.shape[0], LANES), 1) // (LANES // 4)
    sums = jnp.sum(squares, axis=1, keepdims=True)
    for i, numbers in enumerate((total, top, log_mass)):
        sums = jnp.where(quarter == 2 - i, numbers, sums)
    sums_ref[0, 0] = sums

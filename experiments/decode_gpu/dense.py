"""Dense baselines in JAX, and the published sparse algorithm: steps for `_gpu_timing`."""

from typing import Any

import jax
import jax.numpy as jnp

from experiments.decode_gpu.data import PAGE, Geometry
from experiments.decode_gpu.timing import CannotRunError, Step

_PUBLISHED_SHARPNESS = 1.2


def head_major(shape: Geometry, keys: jax.Array, values: jax.Array) -> Step:
    """Einsum over the pools as they are: contiguous by kv head and sequence."""

    def call(query: jax.Array, pools: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        size = (shape.kv_heads, shape.batch, shape.tokens, shape.head_size)
        k, v = (pool.reshape(size) for pool in pools)
        rows = query.reshape(shape.batch, shape.kv_heads, shape.group, shape.head_size)
        rows = jnp.swapaxes(rows, 0, 1)
        logits = jnp.einsum("hbgd,hbtd->hbgt", rows, k, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(shape.head_size**-0.5 * logits, axis=-1).astype(v.dtype)
        out = jnp.einsum("hbgt,hbtd->hbgd", weights, v, preferred_element_type=jnp.float32)
        return jnp.swapaxes(out, 0, 1).reshape(query.shape).astype(query.dtype), {}

    return Step(call, (keys, values))


def library(
    shape: Geometry,
    keys: jax.Array,
    values: jax.Array,
    *,
    implementation: str,
    group_as_queries: bool,
) -> Step:
    """`jax.nn.dot_product_attention` over (B, T, Hkv, D).

    Args:
        shape: The geometry.
        keys: (B, T, Hkv, D).
        values: (B, T, Hkv, D).
        implementation: "cudnn" or "xla".
        group_as_queries: Pass the heads of a group as queries of one head: the same numbers, and
            each key is read once for all of them whatever the library does with groups.
    """

    def call(query: jax.Array, pools: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        rows = query[:, None]
        if group_as_queries:
            rows = query.reshape(shape.batch, shape.kv_heads, shape.group, shape.head_size)
            rows = jnp.swapaxes(rows, 1, 2)
        out = jax.nn.dot_product_attention(rows, *pools, implementation=implementation)
        return (jnp.swapaxes(out, 1, 2) if group_as_queries else out).reshape(query.shape), {}

    return Step(call, (keys, values))


def shipped_paged(
    shape: Geometry, keys: jax.Array, values: jax.Array, *, interpret: bool = False
) -> Step:
    """JAX's own paged kernel for GPUs, over every page.

    Raises:
        CannotRunError: This JAX has none.
    """
    try:
        from jax.experimental.pallas.ops.gpu.paged_attention import paged_attention
    except ImportError as error:
        raise CannotRunError(f"this JAX has no such kernel ({error})") from error
    pages = jnp.arange(shape.batch * shape.pages, dtype=jnp.int32)

    def call(query: jax.Array, held: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        k, v, table, lengths = held
        # The kernel does not scale.
        scaled = query * jnp.asarray(shape.head_size**-0.5, query.dtype)
        out = paged_attention(scaled, k, v, table, lengths, interpret=interpret)
        return out.astype(query.dtype), {}

    lengths = jnp.full(shape.batch, shape.tokens, jnp.int32)
    return Step(call, (keys, values, pages.reshape(shape.batch, shape.pages), lengths))


def means(shape: Geometry, keys: jax.Array) -> jax.Array:
    """Mean of each page, (Hkv, N, D) in the type of the keys."""

    @jax.jit
    def of(pool: jax.Array) -> jax.Array:
        return jax.lax.map(lambda k: jnp.mean(k.astype(jnp.float32), axis=1), pool)

    return of(keys).astype(shape.dtype)


def published(shape: Geometry, keys: jax.Array, values: jax.Array, *, pages: int) -> Step:
    """The published algorithm: all page means, the best pages, softmax of 1.2 × the raw score.

    Pages are chosen by kv head from the summed scores of its group, the cheapest reading of the
    paper for grouped queries. Its cut to K_c = 128 candidate keys is not reproduced.
    """

    def call(query: jax.Array, held: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        k, v, mean = held
        b, h, d = shape.batch, shape.kv_heads, shape.head_size
        rows = jnp.swapaxes(query.reshape(b, h, shape.group, d), 0, 1)  # (Hkv, B, G, D)
        by_page = mean.reshape(h, b, shape.pages, d)
        scores = jnp.einsum("hbgd,hbpd->hbgp", rows, by_page, preferred_element_type=jnp.float32)
        scores = jnp.sum(scores, axis=2)
        _, best = jax.lax.top_k(scores, min(pages, shape.pages))
        sequence = jnp.arange(b, dtype=jnp.int32)[None, :, None] * shape.pages
        head = jnp.arange(h, dtype=jnp.int32)[:, None, None]
        flat = (h, b * shape.pages, PAGE * d)
        some_k, some_v = (
            pool.reshape(flat)[head, sequence + best].reshape(h, b, -1, d) for pool in (k, v)
        )
        raw = jnp.einsum("hbgd,hbtd->hbgt", rows, some_k, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(_PUBLISHED_SHARPNESS * raw, axis=-1).astype(v.dtype)
        out = jnp.einsum("hbgt,hbtd->hbgd", weights, some_v, preferred_element_type=jnp.float32)
        return jnp.swapaxes(out, 0, 1).reshape(query.shape).astype(query.dtype), {}

    return Step(call, (keys, values, means(shape, keys)))


def published_bytes(shape: Geometry, pages: int) -> float:
    """What the published algorithm has to read."""
    width = jnp.dtype(shape.dtype).itemsize
    by_page = shape.pages + 2 * PAGE * min(pages, shape.pages)
    return float(shape.batch * shape.kv_heads * by_page * shape.head_size * width)

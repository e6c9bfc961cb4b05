"""Pools of keys and values at a geometry, in chunks that fit beside them, and the queries.

Keys like real heads are those of `_decode_data` (captured pages and lowered copies), carried from
head size 64 to 128 by an isometry: every score, and so the pages a proof needs, stays what it was.
"""

import dataclasses
import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from experiments.shared import decode_data as data
from vashista_theory.attention import PagedKV, SummarySpec
from vashista_theory.attention.bounds.summaries import (
    PAGES_PER_SUPERPAGE,
    Summaries,
    summarise_pages,
    summarise_superpages,
    without_sketch,
)

PAGE = data.PAGE
SPEC = SummarySpec(sketch_bits=4)
_CHUNK = 4096  # pages summarised at once: 32 MB of float32 at head size 128


@dataclass(frozen=True)
class Geometry:
    """The shape of a decode step.

    Attributes:
        batch: Sequences, all of the same length.
        tokens: Length of each.
    """

    batch: int
    heads: int
    kv_heads: int
    tokens: int
    head_size: int = 128
    dtype: str = "bfloat16"

    def __post_init__(self) -> None:
        if self.tokens % (PAGE * PAGES_PER_SUPERPAGE) or self.heads % self.kv_heads:
            raise ValueError(
                f"{self}: whole superpages of {PAGE * PAGES_PER_SUPERPAGE} tokens are expected, "
                "and heads that share kv heads equally"
            )

    @property
    def key(self) -> str:
        """Its name in files."""
        return f"B{self.batch} H{self.heads} Hkv{self.kv_heads} T{self.tokens}"

    @property
    def group(self) -> int:
        """Query heads a kv head."""
        return self.heads // self.kv_heads

    @property
    def pages(self) -> int:
        """Pages of one sequence."""
        return self.tokens // PAGE

    @property
    def dense_bytes(self) -> float:
        """Keys and values, all of them."""
        width = jnp.dtype(self.dtype).itemsize
        return 2.0 * self.batch * self.kv_heads * self.tokens * self.head_size * width

    @property
    def summary_bytes(self) -> float:
        """Of all pages, and of superpages."""
        parts = SPEC.bytes_by_part(PAGE, self.head_size)
        whole = sum(parts.values())
        upper = (whole - parts["sketch"]) / PAGES_PER_SUPERPAGE
        return self.batch * self.kv_heads * self.pages * (whole + upper)


@functools.cache
def source(head_size: int, queries: int, seed: int) -> data.Source:
    """Real heads at another head size: scores under the default scale are the same."""
    held = data.real_heads(8, queries, seed)
    d = held.keys.shape[-1]
    if head_size < d:
        raise ValueError(f"head_size is {head_size}; the captured heads have {d}")
    square = np.random.default_rng(seed).normal(size=(head_size, d))
    into = np.linalg.qr(square)[0].T.astype(np.float32)  # (d, head_size), orthonormal rows
    stretch = np.float32((head_size / d) ** 0.5)
    return dataclasses.replace(
        held,
        keys=held.keys @ into,
        values=held.values @ into,
        queries=stretch * (held.queries @ into),
        away=held.away @ into,
    )


def queries_needed(shape: Geometry, count: int) -> int:
    """Distinct queries of each real head, so that every place of the batch has its own."""
    return count * shape.batch * shape.group * -(-shape.kv_heads // 8)


def real_queries(shape: Geometry, held: data.Source, count: int) -> jax.Array:
    """(count, B, H, D): heads of a group are mixtures of the same recorded queries."""
    out = np.empty((count, shape.batch, shape.heads, shape.head_size), np.float32)
    used = np.zeros(8, int)
    each = count * shape.batch
    for head in range(shape.heads):
        i = (head // shape.group) % 8
        out[:, :, head] = held.queries[i, used[i] : used[i] + each].reshape(out[:, :, head].shape)
        used[i] += each
    return jnp.asarray(out).astype(shape.dtype)


def real_pools(shape: Geometry, held: data.Source, nats: float, seed: int) -> tuple[jax.Array, ...]:
    """Keys and values (Hkv, B·P, S, D); pages of a sequence lie in order, one after another."""
    captured = held.keys.shape[1]
    rng = np.random.default_rng([seed, shape.tokens])
    first = min(captured, shape.pages) - 1
    chosen = rng.integers(captured, size=(shape.batch, shape.pages))
    chosen[:, :first], chosen[:, -1] = np.arange(first), captured - 1
    lowered = np.zeros((shape.batch, shape.pages), np.float32)
    lowered[:, first:-1] = nats
    return _real(
        jnp.asarray(held.keys, jnp.float32),
        jnp.asarray(held.values, jnp.float32),
        jnp.asarray(held.away, jnp.float32),
        jnp.asarray(chosen.reshape(-1), jnp.int32),
        jnp.asarray(lowered.reshape(-1)),
        jnp.arange(shape.kv_heads, dtype=jnp.int32) % 8,
        shape.dtype,
    )


@functools.partial(jax.jit, static_argnums=6)
def _real(
    keys: jax.Array,
    values: jax.Array,
    away: jax.Array,
    chosen: jax.Array,
    lowered: jax.Array,
    heads: jax.Array,
    dtype: str,
) -> tuple[jax.Array, jax.Array]:
    def of_head(i: jax.Array) -> tuple[jax.Array, jax.Array]:
        moved = keys[i][chosen] - lowered[:, None, None] * away[i][None, None, :]
        return moved.astype(dtype), values[i][chosen].astype(dtype)

    return jax.lax.map(of_head, heads)


def normal_pools(shape: Geometry, seed: int) -> tuple[jax.Array, jax.Array]:
    """The worst case: no key stands out."""
    pool = (shape.batch * shape.pages, PAGE, shape.head_size)
    one, two = jax.random.split(jax.random.key(seed))
    return tuple(_normal(key, shape.kv_heads, pool, shape.dtype) for key in (one, two))


def token_major(shape: Geometry, seed: int) -> tuple[jax.Array, jax.Array]:
    """Normal keys and values (B, T, Hkv, D), for libraries that want tokens first."""
    one, two = jax.random.split(jax.random.key(seed))
    rest = (shape.tokens, shape.kv_heads, shape.head_size)
    return tuple(_normal(key, shape.batch, rest, shape.dtype) for key in (one, two))


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _normal(key: jax.Array, count: int, shape: tuple[int, ...], dtype: str) -> jax.Array:
    # A part at a time, or the float32 numbers take twice the room of the result.
    each = jax.random.split(key, count)
    return jax.lax.map(lambda k: jax.random.normal(k, shape, jnp.float32).astype(dtype), each)


def normal_queries(shape: Geometry, count: int, seed: int) -> jax.Array:
    """(count, B, H, D)."""
    size = (count, shape.batch, shape.heads, shape.head_size)
    return jax.random.normal(jax.random.key(seed), size, jnp.float32).astype(shape.dtype)


def cache_of(shape: Geometry, keys: jax.Array, values: jax.Array) -> PagedKV:
    """What `PagedKV.from_pages` would make, without float32 copies of the whole pools."""
    pages = shape.batch * shape.pages
    table = jnp.arange(pages, dtype=jnp.int32).reshape(shape.batch, shape.pages)
    summaries = _summaries(keys, values, min(_CHUNK, shape.pages))
    return PagedKV(
        keys=keys,
        values=values,
        page_table=table,
        lengths=jnp.full(shape.batch, shape.tokens, jnp.int32),
        reference_counts=jnp.ones(pages, jnp.int32),
        free_pages=jnp.zeros(pages, jnp.int32),
        free_count=jnp.asarray(0, jnp.int32),
        summaries=summaries,
        superpages=_superpages(summaries, shape.batch),
        spec=SPEC,
    )


@functools.partial(jax.jit, static_argnums=2)
def _summaries(keys: jax.Array, values: jax.Array, chunk: int) -> Summaries:
    heads, pages = keys.shape[:2]
    parts = [pool.reshape(-1, chunk, *pool.shape[2:]) for pool in (keys, values)]
    found = jax.lax.map(lambda part: summarise_pages(*part, SPEC), tuple(parts))
    return jax.tree.map(lambda a: a.reshape(heads, pages, *a.shape[2:]), found)


@functools.partial(jax.jit, static_argnums=1)
def _superpages(summaries: Summaries, batch: int) -> Summaries:
    def of_head(held: Summaries) -> Summaries:
        shape = (batch, -1, PAGES_PER_SUPERPAGE)
        grouped = jax.tree.map(lambda a: a.reshape(*shape, *a.shape[1:]), held)
        return summarise_superpages(grouped, -1)

    found = jax.lax.map(of_head, without_sketch(summaries))
    return jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), found)

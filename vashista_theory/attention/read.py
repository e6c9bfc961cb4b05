"""Reading pages: partial softmax sums that can be merged, in any order and from any device."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vashista_theory._numerics import unit_roundoff
from vashista_theory.attention._bits import widened
from vashista_theory.attention.cache import PagedKV
from vashista_theory.attention.certificate import Query
from vashista_theory.attention.rounding import counted_logits, length_of_greatest, score_slack
from vashista_theory.attention.row_sums import FEW_HEADS, greatest, row_dot, weighted_sum

_CHUNK = 256  # pages: their keys and values, 2 MiB at D = 64 in float32, stay in the cache


class Pools(NamedTuple):
    """The key and value pools, and where each row of the batch finds its pages in them."""

    keys: Float[Array, "Hkv N S D"]
    values: Float[Array, "Hkv N S D"]
    heads: Int[Array, " R"]
    table: Int[Array, "R P"]
    lengths: Int[Array, " R"]


def as_rows(cache: PagedKV) -> Pools:
    """One row for each sequence and kv head."""
    batch, heads = cache.batch, cache.kv_heads
    # An invalid length is told in the result; it must not keep the loop over pages busy for hours.
    lengths = jnp.clip(cache.lengths, 0, cache.pages_per_sequence * cache.page_size)
    return Pools(
        cache.keys,
        cache.values,
        jnp.tile(jnp.arange(heads, dtype=jnp.int32), batch),
        jnp.repeat(cache.page_table, heads, axis=0),
        jnp.repeat(lengths, heads),
    )


class Partial(NamedTuple):
    """Softmax sums over the keys read so far.

    Attributes:
        top: Greatest logit, −inf if nothing was read.
        mass: Σ exp(logit − top).
        output: Σ exp(logit − top) value.
        reach: Bound on the length of any key read.
        tokens: Keys read.
    """

    top: Float[Array, "R G"]
    mass: Float[Array, "R G"]
    output: Float[Array, "R G D"]
    reach: Float[Array, " R"]
    tokens: Int[Array, " R"]

    def log_mass(self) -> Float[Array, "R G"]:
        """Log of the softmax mass read, −inf for none, NaN where a score overflowed."""
        return jnp.where(self.mass == 0, -jnp.inf, self.top + jnp.log(self.mass))

    def log_mass_slack(self, query: Query) -> Float[Array, "R G"]:
        """How far `log_mass` may be from the exact one, by rounding."""
        d, u = query.vectors.shape[-1], unit_roundoff(self.mass.dtype)
        score = query.scale * score_slack(self.reach[:, None], query.norms, d)
        summing = 4 * (self.tokens + 16).astype(self.mass.dtype) * u
        return score + summing[:, None]

    def normalised(self) -> Float[Array, "R G D"]:
        """Softmax output, zero if nothing was read."""
        return self.output / jnp.where(self.mass > 0, self.mass, 1.0)[..., None]


def nothing_read(query: Query) -> Partial:
    """The neutral element of `merge`."""
    vectors = query.vectors
    flat = vectors[..., 0]
    return Partial(
        jnp.full_like(flat, -jnp.inf),
        jnp.zeros_like(flat),
        jnp.zeros_like(vectors),
        jnp.zeros_like(flat[:, 0]),
        jnp.zeros(flat.shape[:1], jnp.int32),
    )


def merge(first: Partial, second: Partial) -> Partial:
    """Sums over the keys of both."""
    top = jnp.maximum(first.top, second.top)
    anchor = jnp.where(jnp.isfinite(top), top, 0.0)
    left, right = jnp.exp(first.top - anchor), jnp.exp(second.top - anchor)
    return Partial(
        top,
        first.mass * left + second.mass * right,
        first.output * left[..., None] + second.output * right[..., None],
        jnp.maximum(first.reach, second.reach),
        first.tokens + second.tokens,
    )


class Gathered(NamedTuple):
    """Keys and values of some pages, and which of their tokens count."""

    keys: Float[Array, "R T D"]
    values: Float[Array, "R T D"]
    counted: Bool[Array, "R T"]


def gather_pages(
    pools: Pools, pages: Int[Array, "R K"], wanted: Bool[Array, "R K"], dtype: jnp.dtype
) -> Gathered:
    """Fetch logical pages of each row; pages that are not wanted or do not exist count nothing."""
    place = jnp.clip(pages, 0, pools.table.shape[1] - 1)
    physical = jnp.take_along_axis(pools.table, place, axis=1)
    return _gather(pools, pools.heads, pools.lengths, physical, pages, wanted, dtype)


def _gather(
    pools: Pools,
    heads: Int[Array, " R"],
    lengths: Int[Array, " R"],
    physical: Int[Array, "R K"],
    pages: Int[Array, "R K"],
    wanted: Bool[Array, "R K"],
    dtype: jnp.dtype,
) -> Gathered:
    size, d = pools.keys.shape[2:]
    tokens = pages[..., None] * size + jnp.arange(size, dtype=pages.dtype)[None, None, :]
    counted = wanted[..., None] & (pages >= 0)[..., None] & (tokens < lengths[:, None, None])

    def fetch(pool: Array) -> Array:
        # As one flat run a page: XLA then copies pages, not vectors.
        flat = pool.reshape(*pool.shape[:2], -1)[heads[:, None], physical]
        return widened(flat.reshape(pages.shape[0], -1, d), dtype)

    counted = counted.reshape(pages.shape[0], -1)
    return Gathered(fetch(pools.keys), fetch(pools.values), counted)


def read_pages(
    query: Query, pools: Pools, pages: Int[Array, "R K"], wanted: Bool[Array, "R K"]
) -> Partial:
    """Softmax sums over logical pages of each row.

    Device kernels take the place of this function.
    """
    gathered = gather_pages(pools, pages, wanted, query.vectors.dtype)
    return attend_gathered(query, gathered)


def read_range(
    query: Query,
    pools: Pools,
    pages: Int[Array, "R P"],
    lower: Int[Array, " R"],
    upper: Int[Array, " R"],
    sums: Partial,
) -> Partial:
    """Add pages `lower` to `upper` of each row's list to the sums.

    The ranges of all rows are strung together and cut into chunks of equal size, so that rows of
    unequal length waste nothing.
    """
    ends = jnp.cumsum(upper - lower, dtype=jnp.int32)
    chunk = min(_CHUNK, pages.size)

    def read(state: tuple[Array, Partial]) -> tuple[Array, Partial]:
        place, sums = state
        places = place + jnp.arange(chunk, dtype=jnp.int32)
        rows = jnp.sum(places[:, None] >= ends[None, :], axis=1, dtype=jnp.int32)
        rows = jnp.minimum(rows, ends.shape[0] - 1)
        wanted = places < ends[-1]
        index = jnp.where(wanted, upper[rows] - (ends[rows] - places), 0)
        new = _read_listed(query, pools, rows, pages[rows, index], wanted)
        return place + chunk, merge(sums, new)

    return jax.lax.while_loop(lambda s: s[0] < ends[-1], read, (jnp.int32(0), sums))[1]


def _read_listed(
    query: Query,
    pools: Pools,
    rows: Int[Array, " K"],
    pages: Int[Array, " K"],
    wanted: Bool[Array, " K"],
) -> Partial:
    """Softmax sums over a list of logical pages of any rows, added up by row."""
    each = Query(query.vectors[rows], query.norms[rows], query.scale)
    physical = pools.table[rows, jnp.clip(pages, 0, pools.table.shape[1] - 1)]
    one = (physical[:, None], pages[:, None], wanted[:, None], query.vectors.dtype)
    found = attend_gathered(each, _gather(pools, pools.heads[rows], pools.lengths[rows], *one))
    own = rows[None, :] == jnp.arange(query.norms.shape[0], dtype=jnp.int32)[:, None]
    top = jnp.max(jnp.where(own[..., None], found.top[None], -jnp.inf), axis=1)
    anchor = jnp.where(jnp.isfinite(top), top, 0.0)
    share = jnp.exp(found.top - anchor[rows])
    ours = own.astype(share.dtype)
    exact = jax.lax.Precision.HIGHEST
    return Partial(
        top,
        jnp.einsum("rk,kg->rg", ours, found.mass * share, precision=exact),
        jnp.einsum("rk,kgd->rgd", ours, found.output * share[..., None], precision=exact),
        jnp.max(jnp.where(own, found.reach[None], 0.0), axis=1),
        jnp.sum(jnp.where(own, found.tokens[None], 0), axis=1, dtype=jnp.int32),
    )


def attend_gathered(query: Query, gathered: Gathered) -> Partial:
    """Softmax sums over keys already at hand."""
    exact = jax.lax.Precision.HIGHEST
    keys, values, counted = gathered
    if query.vectors.shape[1] <= FEW_HEADS:
        scores = row_dot([query.vectors[:, :, None, :]], [keys[:, None, :, :]])
    else:
        scores = jnp.einsum("rgd,rtd->rgt", query.vectors, keys, precision=exact)
    logits = counted_logits(query.scale * scores, counted[:, None, :])
    top = jnp.max(logits, axis=-1, initial=-jnp.inf)
    anchor = jnp.where(jnp.isfinite(top), top, 0.0)
    weights = jnp.exp(logits - anchor[..., None])
    longest = greatest(jnp.where(counted[..., None], jnp.abs(keys), 0.0))
    return Partial(
        top,
        jnp.sum(weights, axis=-1),
        weighted_sum(weights, values),
        length_of_greatest(longest, keys.shape[-1]),
        jnp.sum(counted, axis=-1, dtype=jnp.int32),
    )

"""Partial softmax sums over keys, which can be merged in any order and from any device."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vashista_theory._numerics import softmax_shares, unit_roundoff
from vashista_theory.attention.bounds.page_bounds import Query
from vashista_theory.attention.bounds.rounding import (
    counted_logits,
    length_of_greatest,
    score_slack,
)
from vashista_theory.attention.bounds.row_sums import FEW_HEADS, greatest, row_dot, weighted_sum
from vashista_theory.attention.cache.paged import PagedKV


class Pools(NamedTuple):
    """The key and value pools, and where each row of the batch finds its pages in them."""

    keys: Float[Array, "Hkv N S D"]
    values: Float[Array, "Hkv N S D"]
    heads: Int[Array, " R"]
    table: Int[Array, "R P"]
    lengths: Int[Array, " R"]

    def every_page(self) -> Int[Array, "R P"]:
        """The logical pages of each row, in order."""
        numbers = jnp.arange(self.table.shape[1], dtype=jnp.int32)
        return jnp.broadcast_to(numbers[None, :], self.table.shape)


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


def physical_pages(pools: Pools, pages: Int[Array, "R K"]) -> Int[Array, "R K"]:
    """Where logical pages of each row lie; somewhere in the pool if the table is invalid.

    A kernel reads wherever it is told to. That the table is invalid is told in the result.
    """
    place = jnp.clip(pages, 0, pools.table.shape[1] - 1)
    physical = jnp.take_along_axis(pools.table, place, axis=1)
    return jnp.clip(physical, 0, pools.keys.shape[1] - 1)


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
        score = score + query.cap_slack(score)
        summing = 4 * (self.tokens + 16).astype(self.mass.dtype) * u
        return score + summing[:, None]

    def relative_to(self, top: Float[Array, "..."]) -> tuple[Array, Array]:
        """Mass and output by a common top: then those of several parts can be added up."""
        share = softmax_shares(self.top, top)
        return self.mass * share, self.output * share[..., None]

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
    (mass, output), (more_mass, more_output) = (part.relative_to(top) for part in (first, second))
    reach = jnp.maximum(first.reach, second.reach)
    return Partial(top, mass + more_mass, output + more_output, reach, first.tokens + second.tokens)


def beside_sinks(query: Query, sums: Partial) -> Partial:
    """The same sums with the sink of each head: a key that is always read, of value 0."""
    if query.sinks is None:
        return sums
    nothing = nothing_read(query)
    # One that is −inf has no mass.
    mass = jnp.where(query.sinks > -jnp.inf, jnp.ones_like(query.sinks), 0.0)
    return merge(sums, nothing._replace(top=query.sinks, mass=mass))


class Gathered(NamedTuple):
    """Keys and values of some pages, and which of their tokens count."""

    keys: Float[Array, "R T D"]
    values: Float[Array, "R T D"]
    counted: Bool[Array, "R T"]


def attend_gathered(query: Query, gathered: Gathered) -> Partial:
    """Softmax sums over keys already at hand."""
    return sums_of(logits_of(query, gathered), gathered)


def logits_of(query: Query, gathered: Gathered) -> Float[Array, "R G T"]:
    """Logits of keys at hand, −inf for one that does not count."""
    exact = jax.lax.Precision.HIGHEST
    keys, _, counted = gathered
    if query.vectors.shape[1] <= FEW_HEADS:
        scores = row_dot([query.vectors[:, :, None, :]], [keys[:, None, :, :]])
    else:
        scores = jnp.einsum("rgd,rtd->rgt", query.vectors, keys, precision=exact)
    return counted_logits(query.capped(query.scale * scores), counted[:, None, :])


def sums_of(logits: Float[Array, "R G T"], gathered: Gathered) -> Partial:
    """Softmax sums over keys with these logits."""
    keys, values, counted = gathered
    top = jnp.max(logits, axis=-1, initial=-jnp.inf)
    weights = softmax_shares(logits, top[..., None])
    longest = greatest(jnp.where(counted[..., None], jnp.abs(keys), 0.0))
    return Partial(
        top,
        jnp.sum(weights, axis=-1),
        weighted_sum(weights, values),
        length_of_greatest(longest, keys.shape[-1]),
        jnp.sum(counted, axis=-1, dtype=jnp.int32),
    )

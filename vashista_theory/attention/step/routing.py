"""Choosing pages: one choice a kv head, shared by the query heads of its group."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vashista_theory._numerics import masked_logsumexp
from vashista_theory.attention.policy import Policy


class Layout(NamedTuple):
    """Which of the given logical pages are full, and which are read whatever the query."""

    full: Bool[Array, "R P"]
    forced: Bool[Array, "R P"]


def layout(
    pages: Int[Array, "R P"], lengths: Int[Array, " R"], page_size: int, policy: Policy
) -> Layout:
    """Full pages have a summary; the sink, the recent pages and a partial page are always read."""
    full_count, page_count = lengths // page_size, -(-lengths // page_size)
    full = (pages >= 0) & (pages < full_count[:, None])
    exists = (pages >= 0) & (pages < page_count[:, None])
    always = (pages < policy.sink) | (pages >= (page_count - policy.recent)[:, None]) | ~full
    return Layout(full, exists & always)


def group_priority(
    scores: Float[Array, "R G P"], visible: Bool[Array, "R P"]
) -> Float[Array, "R P"]:
    """What a group orders pages by; −inf where not visible.

    Each head's share of mass by page, added over the group. Shares, not scores: a head whose
    logits are large must not choose for the others.
    """
    if scores.shape[1] == 1:  # alone, a head orders by its scores as it would by their shares
        return jnp.where(visible, scores[:, 0], -jnp.inf)
    shown = visible[:, None, :]
    share = scores - masked_logsumexp(scores, shown)[..., None]
    total = jax.nn.logsumexp(jnp.where(shown, share, -jnp.inf), axis=1)
    return jnp.where(visible, total, -jnp.inf)


def select_pages(
    priority: Float[Array, "R P"], places: Layout, count: int
) -> tuple[Int[Array, "R K"], Bool[Array, "R K"]]:
    """Indices of the `count` best pages, ascending, forced ones first; and whether each is one."""
    ranked = ranking(priority, places)
    best, index = jax.lax.top_k(ranked, min(count, ranked.shape[1]))
    index = jnp.where(best > -jnp.inf, index, ranked.shape[1]).astype(jnp.int32)
    index = jnp.sort(index, axis=1)
    chosen = index < ranked.shape[1]
    return jnp.where(chosen, index, 0), chosen


def ranking(priority: Float[Array, "R P"], places: Layout) -> Float[Array, "R P"]:
    """The priority, +inf for a page that is read anyway and −inf for what cannot be chosen."""
    ranked = jnp.where(places.forced, jnp.inf, jnp.where(places.full, priority, -jnp.inf))
    # A full page whose score is −inf is still a page, and better than none.
    floor = jnp.asarray(float(jnp.finfo(priority.dtype).min), priority.dtype)
    return jnp.where(places.full & (ranked == -jnp.inf), floor, ranked)


def forced_pages(
    lengths: Int[Array, " R"], page_size: int, policy: Policy
) -> tuple[Int[Array, "R F"], Bool[Array, "R F"]]:
    """The pages that are always read, each once, ascending; and whether a place holds one."""
    page_count = -(-lengths // page_size)[:, None]
    # Without recent pages the last one is still read where it is partial.
    partial = (lengths[:, None] % page_size != 0).astype(jnp.int32)
    recent = policy.recent if policy.recent > 0 else partial
    first = jnp.minimum(policy.sink, page_count)
    behind = jnp.maximum(first, page_count - recent)
    place = jnp.arange(policy.always, dtype=jnp.int32)[None, :]
    pages = jnp.where(place < first, place, behind + place - first)
    exists = pages < page_count
    return jnp.where(exists, pages, 0), exists

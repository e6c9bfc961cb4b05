"""What `PagedKV` does to whole sequences: more room, fewer tokens, other rows."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from vashista_theory.attention._cache_update import release
from vashista_theory.attention.summaries import PAGES_PER_SUPERPAGE

if TYPE_CHECKING:
    from vashista_theory.attention.cache import PagedKV


def grow(cache: "PagedKV", pages: int, width: int) -> "PagedKV":
    """The same tokens in a pool of `pages`, with room for `width` pages a sequence."""
    more = pages - cache.keys.shape[1]
    wider = width - cache.pages_per_sequence
    supers = width // PAGES_PER_SUPERPAGE - cache.pages_per_sequence // PAGES_PER_SUPERPAGE

    def pad(array: Array, axis: int, count: int) -> Array:
        return jnp.pad(array, [(0, count if i == axis else 0) for i in range(array.ndim)])

    fresh = cache.keys.shape[1] + jnp.arange(more, dtype=jnp.int32)[::-1]
    stack = pad(cache.free_pages, 0, more)
    # Under what was free before: the pool is then used up in one order, grown or not.
    stack = jnp.roll(stack, more).at[:more].set(fresh)
    return type(cache)(
        keys=pad(cache.keys, 1, more),
        values=pad(cache.values, 1, more),
        page_table=pad(cache.page_table, 1, wider),
        lengths=cache.lengths,
        reference_counts=pad(cache.reference_counts, 0, more),
        free_pages=stack,
        free_count=cache.free_count + more,
        summaries=jax.tree.map(lambda a: pad(a, 1, more), cache.summaries),
        superpages=jax.tree.map(lambda a: pad(a, 2, supers), cache.superpages),
        spec=cache.spec,
    )


def truncate(cache: "PagedKV", lengths: Int[Array, " B"]) -> "PagedKV":
    """Drop what lies beyond a length; pages that nothing names any more return to the stack."""
    kept = jnp.clip(lengths, 0, cache.lengths)
    dropped = _covered(cache, cache.lengths) & ~_covered(cache, kept)
    return release(cache, cache.page_table, dropped, kept)


def select(cache: "PagedKV", sequences: Int[Array, " C"]) -> "PagedKV":
    """Row i becomes row `sequences[i]`; rows named twice share their pages."""
    table, lengths = cache.page_table[sequences], cache.lengths[sequences]
    pages = cache.reference_counts.shape[0]
    starts = jnp.arange(cache.pages_per_sequence, dtype=jnp.int32) * cache.page_size
    named = jnp.where(starts[None, :] < lengths[:, None], table, pages)
    references = jnp.zeros_like(cache.reference_counts).at[named].add(1, mode="drop")
    free = references == 0
    return type(cache)(
        keys=cache.keys,
        values=cache.values,
        page_table=table,
        lengths=lengths,
        reference_counts=references,
        free_pages=jnp.argsort(~free, stable=True).astype(jnp.int32),
        free_count=jnp.sum(free, dtype=jnp.int32),
        summaries=cache.summaries,
        superpages=jax.tree.map(lambda held: held[sequences], cache.superpages),
        spec=cache.spec,
    )


def _covered(cache: "PagedKV", lengths: Int[Array, " B"]) -> Bool[Array, "B P"]:
    starts = jnp.arange(cache.pages_per_sequence, dtype=jnp.int32) * cache.page_size
    return starts[None, :] < lengths[:, None]

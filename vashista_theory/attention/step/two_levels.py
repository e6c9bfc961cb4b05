"""Judging on two levels: superpages first, then the pages of the best of them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from vashista_theory.attention.bounds.page_bounds import Query
from vashista_theory.attention.bounds.summaries import PAGES_PER_SUPERPAGE
from vashista_theory.attention.cache.paged import PagedKV
from vashista_theory.attention.policy import Policy
from vashista_theory.attention.step.backend import Backend
from vashista_theory.attention.step.candidates import Candidates, summary_bytes
from vashista_theory.attention.step.routing import Layout, group_priority
from vashista_theory.attention.step.softmax_sums import Pools


def reads_two_levels(cache: PagedKV, policy: Policy) -> bool:
    """Whether there are enough superpages for a first level to spare anything."""
    count = -(-cache.pages_per_sequence // PAGES_PER_SUPERPAGE)
    return policy.superpages is not None and _opened(policy) < count


def _opened(policy: Policy) -> int:
    """Superpages that are opened: those asked for, and those with pages always read."""
    span = PAGES_PER_SUPERPAGE
    always = -(-policy.sink // span) + -(-max(1, policy.recent) // span) + 1
    return (policy.superpages or 0) + always


def judge_two_levels(
    backend: Backend, query: Query, cache: PagedKV, pools: Pools, policy: Policy
) -> Candidates:
    """Judge every superpage, then the pages of the best: never all pages of a long context."""
    span, size = PAGES_PER_SUPERPAGE, cache.page_size
    rows = pools.lengths.shape[0]
    numbers = jnp.arange(-(-pools.table.shape[1] // span), dtype=jnp.int32)
    numbers = jnp.broadcast_to(numbers[None, :], (rows, numbers.shape[0]))
    places = _superpage_layout(numbers, pools.lengths, size, policy)

    def pad_last(part: Array) -> Array:
        missing = numbers.shape[1] - part.shape[-1]
        return jnp.pad(part, [*[(0, 0)] * (part.ndim - 1), (0, missing)])

    bounds, values = jax.tree.map(pad_last, backend.superpage_bounds(query, cache, policy))
    priority = group_priority(bounds.priority, places.full & ~places.forced)
    index, chosen = backend.select_pages(priority, places, _opened(policy))
    children = index[..., None] * span + jnp.arange(span, dtype=jnp.int32)[None, None, :]
    children = jnp.where(chosen[..., None], children, -1).reshape(rows, -1)
    children = jnp.where(children < pools.table.shape[1], children, -1)
    pages = backend.some_pages(query, cache, pools, policy, children)

    row = jnp.arange(rows, dtype=jnp.int32)[:, None]
    place = jnp.where(chosen, index, numbers.shape[1])
    opened = jnp.zeros(numbers.shape, bool).at[row, place].set(True, mode="drop")
    closed = places.full & ~opened
    # A superpage that stays closed is judged and counted, but cannot be chosen as a page.
    priorities = jnp.full_like(bounds.priority, -jnp.inf)
    bounds = bounds._replace(priority=priorities)
    seen = jnp.sum(places.full, axis=1, dtype=jnp.int32).astype(query.vectors.dtype)
    return Candidates(
        pages=jnp.concatenate([pages.pages, jnp.full_like(numbers, -1)], axis=1),
        places=Layout(
            jnp.concatenate([pages.places.full, closed], axis=1),
            jnp.concatenate([pages.places.forced, jnp.zeros_like(closed)], axis=1),
        ),
        bounds=jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=-1), pages.bounds, bounds),
        value_bounds=jnp.concatenate([pages.value_bounds, values], axis=1),
        bytes_read=pages.bytes_read + seen * summary_bytes(cache, policy, superpages=True),
    )


def _superpage_layout(
    numbers: Int[Array, "R P"], lengths: Int[Array, " R"], page_size: int, policy: Policy
) -> Layout:
    """Like `layout`, a superpage at a time: one with a page that is read anyway is opened."""
    span = PAGES_PER_SUPERPAGE
    page_count = (-(-lengths // page_size))[:, None]
    full = (numbers + 1) * span * page_size <= lengths[:, None]
    exists = numbers * span < page_count
    last = (numbers + 1) * span > page_count - max(1, policy.recent)
    return Layout(full, exists & ((numbers * span < policy.sink) | last | ~full))

"""Judging pages by their summaries, all of them or on two levels."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from vashista_theory.attention._bits import from_bits
from vashista_theory.attention.cache import PagedKV
from vashista_theory.attention.certificate import PageBounds, Query, page_bounds
from vashista_theory.attention.policy import Policy
from vashista_theory.attention.read import Pools
from vashista_theory.attention.routing import Layout, group_priority, layout, select_pages
from vashista_theory.attention.summaries import PAGES_PER_SUPERPAGE, Summaries


class Judged(NamedTuple):
    """Candidates (pages, and behind them superpages that were not opened) with their bounds.

    Attributes:
        pages: Logical page of each candidate, −1 for a superpage or nothing.
        places: Which candidates are full and which are read anyway. Superpages that were opened
            are not full here: their pages speak for themselves.
        bounds: What the summaries say.
        value_bounds: Bound on the length of any value of the candidate.
        bytes_read: Bytes of summaries that were read, by row.
    """

    pages: Int[Array, "R U"]
    places: Layout
    bounds: PageBounds
    value_bounds: Float[Array, "R U"]
    bytes_read: Float[Array, " R"]


def reads_two_levels(cache: PagedKV, policy: Policy) -> bool:
    """Whether there are enough superpages for a first level to spare anything."""
    count = -(-cache.pages_per_sequence // PAGES_PER_SUPERPAGE)
    return policy.superpages is not None and _opened(policy) < count


def _opened(policy: Policy) -> int:
    """Superpages that are opened: those asked for, and those with pages always read."""
    span = PAGES_PER_SUPERPAGE
    always = -(-policy.sink // span) + -(-max(1, policy.recent) // span) + 1
    return (policy.superpages or 0) + always


def judge_all(query: Query, cache: PagedKV, pools: Pools, policy: Policy) -> Judged:
    """Judge every page of every row."""
    places = jnp.arange(pools.table.shape[1], dtype=jnp.int32)
    pages = jnp.broadcast_to(places[None, :], pools.table.shape)
    sequences, width = cache.page_table.shape
    # One sequence that fills most of its pool is judged where its summaries lie, which saves a
    # copy of all sketches; only what was found is put in the sequence's order.
    if sequences > 1 or cache.keys.shape[1] > 2 * width:
        return judge_pages(query, cache, pools, policy, pages)
    found = _bounds(query, cache.summaries, cache, policy, cache.page_size)
    bounds = jax.tree.map(lambda a: jnp.take_along_axis(a, pools.table[:, None, :], axis=2), found)
    values = jnp.take_along_axis(cache.summaries.value_bound, pools.table, axis=1)
    return as_judged(query, cache, pools, policy, pages, bounds, values)


def judge_pages(
    query: Query, cache: PagedKV, pools: Pools, policy: Policy, pages: Int[Array, "R U"]
) -> Judged:
    """Judge some logical pages of each row; −1 for none."""
    physical = jnp.take_along_axis(pools.table, jnp.maximum(pages, 0), axis=1)
    heads = pools.heads[:, None]
    # The barrier makes XLA fetch whole pages, not one number after another as it is needed.
    summaries = jax.lax.optimization_barrier(
        jax.tree.map(lambda held: pick(held, heads, physical), parts(cache.summaries, policy))
    )
    bounds = _bounds(query, summaries, cache, policy, cache.page_size)
    return as_judged(query, cache, pools, policy, pages, bounds, summaries.value_bound)


def parts(summaries: Summaries, policy: Policy) -> Summaries:
    """What the policy judges by, nothing else."""
    named = {
        "mean": {"mean", "mean_error"},
        "ball": {"mean", "mean_error", "radius"},
        "box": {"box"} if policy.tolerance is None else {"box", "mean", "mean_error"},
        "sketch": {"box", "codes"} if policy.tolerance is None else {"box", "codes", "residual"},
    }[policy.summary or "box"]
    names = ("box", "mean", "mean_error", "radius", "codes", "residual")
    held = [getattr(summaries, name) if name in named else None for name in names]
    return Summaries(*held, value_bound=summaries.value_bound)


def pick(
    held: Shaped[Array, "Hkv N ..."], heads: Int[Array, "R 1"], pages: Int[Array, "R K"]
) -> Shaped[Array, "R K ..."]:
    """Summaries of some pages, fetched as one flat run a page: copied several times as fast."""
    flat = held.reshape(*held.shape[:2], -1)[heads, pages]
    return flat.reshape(*pages.shape, *held.shape[2:])


def as_judged(
    query: Query,
    cache: PagedKV,
    pools: Pools,
    policy: Policy,
    pages: Int[Array, "R U"],
    bounds: PageBounds,
    value_bounds: Shaped[Array, "R U"],
) -> Judged:
    """Candidates that are all pages, with what was found of them."""
    places = layout(pages, pools.lengths, cache.page_size, policy)
    seen = jnp.sum(places.full, axis=1, dtype=jnp.int32).astype(query.vectors.dtype)
    values = from_bits(value_bounds, query.vectors.dtype)
    return Judged(pages, places, bounds, values, seen * summary_bytes(cache, policy))


def _bounds(
    query: Query, summaries: Summaries, cache: PagedKV, policy: Policy, tokens: int
) -> PageBounds:
    summary = policy.summary or "box"
    proof = policy.tolerance is not None
    return page_bounds(query, summaries, cache.spec, summary, tokens, proof=proof)


def summary_bytes(cache: PagedKV, policy: Policy, *, superpages: bool = False) -> float:
    """Bytes that judging one page (or superpage) reads."""
    spec = replace(cache.spec, corner_bits=None) if superpages else cache.spec
    parts = spec.bytes_by_part(cache.page_size, cache.head_size)
    width, ball = parts["value_bound"], parts.get("ball", 0)
    proof = policy.tolerance is not None
    box = parts.get("box", 0) + ball * proof
    codes = parts.get("sketch", 0) - (0 if proof else cache.page_size * width)
    costs = {
        "mean": cache.head_size * width,
        "ball": ball,
        "box": box,
        # Superpages have no sketch; their boxes stand in for it.
        "sketch": box if superpages else parts.get("box", 0) + codes,
    }
    return float(costs[policy.summary or "box"] + width * proof)


def judge_superpages(
    query: Query, cache: PagedKV, policy: Policy
) -> tuple[PageBounds, Float[Array, "R C"]]:
    """Bounds of every superpage that has a summary, and on the length of its values."""
    rows = cache.batch * cache.kv_heads
    summaries = jax.tree.map(lambda held: held.reshape(rows, *held.shape[2:]), cache.superpages)
    bounds = _bounds(query, summaries, cache, policy, PAGES_PER_SUPERPAGE * cache.page_size)
    return bounds, from_bits(summaries.value_bound, query.vectors.dtype)


def judge_two_levels(
    query: Query,
    cache: PagedKV,
    pools: Pools,
    policy: Policy,
    *,
    superpages: Callable[..., tuple[PageBounds, Array]] = judge_superpages,
    pages_of_best: Callable[..., Judged] = judge_pages,
    select: Callable[..., tuple[Array, Array]] = select_pages,
) -> Judged:
    """Judge every superpage, then the pages of the best: never all pages of a long context.

    `superpages` and `pages_of_best` judge them, wherever their summaries are; `select` chooses.
    """
    span, size = PAGES_PER_SUPERPAGE, cache.page_size
    rows = pools.lengths.shape[0]
    numbers = jnp.arange(-(-pools.table.shape[1] // span), dtype=jnp.int32)
    numbers = jnp.broadcast_to(numbers[None, :], (rows, numbers.shape[0]))
    places = _superpage_layout(numbers, pools.lengths, size, policy)
    bounds, values = jax.tree.map(
        lambda found: _pad_last(found, numbers.shape[1]), superpages(query, cache, policy)
    )
    priority = group_priority(bounds.priority, places.full & ~places.forced)
    index, chosen = select(priority, places, _opened(policy))
    children = index[..., None] * span + jnp.arange(span, dtype=jnp.int32)[None, None, :]
    children = jnp.where(chosen[..., None], children, -1).reshape(rows, -1)
    children = jnp.where(children < pools.table.shape[1], children, -1)
    pages = pages_of_best(query, cache, pools, policy, children)

    row = jnp.arange(rows, dtype=jnp.int32)[:, None]
    place = jnp.where(chosen, index, numbers.shape[1])
    opened = jnp.zeros(numbers.shape, bool).at[row, place].set(True, mode="drop")
    closed = places.full & ~opened
    # A superpage that stays closed is judged and counted, but cannot be chosen as a page.
    priorities = jnp.full_like(bounds.priority, -jnp.inf)
    bounds = bounds._replace(priority=priorities)
    seen = jnp.sum(places.full, axis=1, dtype=jnp.int32).astype(query.vectors.dtype)
    return Judged(
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


def _pad_last(array: Array, length: int) -> Array:
    return jnp.pad(array, [*[(0, 0)] * (array.ndim - 1), (0, length - array.shape[-1])])


def can_choose(judged: Judged) -> Bool[Array, "R U"]:
    """Candidates that are pages."""
    return judged.pages >= 0

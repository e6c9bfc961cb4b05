"""What is read of each row: everything, a fixed number of pages, or as many as a proof needs."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vashista_theory.attention.bounds.page_bounds import Query
from vashista_theory.attention.cache.paged import PagedKV
from vashista_theory.attention.cache.sharded import ShardedKV
from vashista_theory.attention.policy import Policy
from vashista_theory.attention.step.backend import Backend
from vashista_theory.attention.step.candidates import Candidates
from vashista_theory.attention.step.coupled import attend_coupled
from vashista_theory.attention.step.routing import Layout, forced_pages, group_priority
from vashista_theory.attention.step.softmax_sums import Partial, Pools, beside_sinks
from vashista_theory.attention.step.two_levels import judge_two_levels, reads_two_levels
from vashista_theory.attention.step.widening import (
    first_promising,
    order_by_bound,
    read_until_certified,
)


class Sampled(NamedTuple):
    """What a read of drawn tokens says of itself.

    Attributes:
        tokens: Tokens behind the output.
        fetched: Tokens read, those of attempts that were dropped included.
        judged_bytes: Bytes of summaries read.
        estimate: Of the error of the output.
        bound: On it, at the confidence asked for; NaN if none was.
        whole: Whether everything was read.
        certified: Whether the tolerance is proved at the confidence asked for.
    """

    tokens: Int[Array, " R"]
    fetched: Int[Array, " R"]
    judged_bytes: Float[Array, " R"]
    estimate: Float[Array, "R G"]
    bound: Float[Array, "R G"]
    whole: Bool[Array, " R"]
    certified: Bool[Array, "R G"]


class Outcome(NamedTuple):
    """What was read of each row, and what was not.

    Attributes:
        output: Of every query head.
        partial: Softmax sums over what was read, without sinks; None with coupling.
        pages_read: Pages of each row.
        fell_back: Whether the row was read densely because a proof failed.
        candidates: What was judged; None if everything was read.
        unread: Which candidates were left out.
        bound: Bound on the dropped mass by which widening was ended.
        solved: With coupling, whether the projection was found.
        sampled: With drawn tokens, what they say.
    """

    output: Float[Array, "R G D"]
    partial: Partial | None
    pages_read: Int[Array, " R"]
    fell_back: Bool[Array, " R"]
    candidates: Candidates | None
    unread: Bool[Array, "R U"] | None
    bound: Float[Array, "R G"] | None = None
    solved: Bool[Array, "R G"] | None = None
    sampled: Sampled | None = None


def reads_everything(cache: PagedKV | ShardedKV, policy: Policy) -> bool:
    """Whether a sparse read cannot win: everything was asked for, or there is little."""
    width = cache.pages_per_sequence
    covered = policy.otherwise != "widen" and policy.pages is not None and policy.pages >= width
    few = max(policy.dense_below, policy.tokens or 0)
    return policy.summary is None or covered or width * cache.page_size <= few


def read_all(query: Query, pools: Pools, coupling: float, backend: Backend) -> Outcome:
    """Read every page of every row."""
    count = -(-pools.lengths // pools.keys.shape[2])
    never = jnp.zeros(count.shape, bool)
    if coupling > 0:
        pages = pools.every_page()
        everything = jnp.ones(pages.shape, bool)
        gathered = backend.gather_pages(pools, pages, everything, query.vectors.dtype)
        output, solved = attend_coupled(query, gathered, coupling)
        return Outcome(output, None, count, never, None, None, solved=solved)
    partial = backend.read_everything(query, pools)
    output = beside_sinks(query, partial).normalised()
    return Outcome(output, partial, count, never, None, None)


def read_fixed_number(
    query: Query, cache: PagedKV, pools: Pools, policy: Policy, coupling: float, backend: Backend
) -> Outcome:
    """Judge pages, on one level or on two, and read the best ones."""
    if reads_two_levels(cache, policy):
        candidates = judge_two_levels(backend, query, cache, pools, policy)
    else:
        candidates = backend.all_pages(query, cache, pools, policy)
    places = Layout(candidates.places.full & (candidates.pages >= 0), candidates.places.forced)
    priority = group_priority(candidates.bounds.priority, places.full & ~places.forced)
    index, chosen = backend.select_pages(priority, places, policy.pages or 0)
    pages = jnp.take_along_axis(candidates.pages, index, axis=1)
    never = jnp.zeros(pools.lengths.shape, bool)
    count = jnp.sum(chosen, axis=1, dtype=jnp.int32)
    if coupling > 0:
        gathered = backend.gather_pages(pools, pages, chosen, query.vectors.dtype)
        output, solved = attend_coupled(query, gathered, coupling)
        return Outcome(output, None, count, never, candidates, None, solved=solved)
    partial = backend.read_pages(query, pools, pages, chosen)
    rows = jnp.arange(pages.shape[0], dtype=jnp.int32)[:, None]
    outside = jnp.where(chosen, index, places.full.shape[1])
    read = jnp.zeros(places.full.shape, bool).at[rows, outside].set(True, mode="drop")
    unread = candidates.places.full & ~read
    output = beside_sinks(query, partial).normalised()
    return Outcome(output, partial, count, never, candidates, unread)


def read_until_proved(
    query: Query, cache: PagedKV, pools: Pools, policy: Policy, backend: Backend
) -> Outcome:
    """Judge every page and read, in order of the bounds, until the proof holds for each row."""
    tolerance = policy.tolerance or 0.0
    candidates = backend.all_pages(query, cache, pools, policy)
    always = forced_pages(pools.lengths, cache.page_size, policy)
    first = backend.read_pages(query, pools, *always)
    order = order_by_bound(candidates.bounds, candidates.places)
    budget = jnp.asarray(max(0, (policy.pages or 0) - policy.always), jnp.int32)
    widen = policy.otherwise == "widen"
    start = jnp.broadcast_to(budget, order.available.shape)
    if widen:
        nothing, known = jnp.zeros_like(start), beside_sinks(query, first).log_mass()
        start = jnp.maximum(start, first_promising(order, known, tolerance, nothing))
    reading = read_until_certified(
        query, pools, order, first, start, backend=backend, tolerance=tolerance, widen=widen
    )
    rows = jnp.arange(order.pages.shape[0], dtype=jnp.int32)[:, None]
    places = jnp.broadcast_to(
        jnp.arange(order.pages.shape[1], dtype=jnp.int32)[None, :], order.pages.shape
    )
    rank = jnp.zeros_like(order.pages).at[rows, order.pages].set(places)
    free = candidates.places.full & ~candidates.places.forced
    forced_count = jnp.sum(candidates.places.forced, axis=1, dtype=jnp.int32)
    return Outcome(
        beside_sinks(query, reading.partial).normalised(),
        reading.partial,
        forced_count + reading.pages,
        reading.fell_back,
        candidates,
        free & (rank >= reading.pages[:, None]),
        reading.bound,
    )

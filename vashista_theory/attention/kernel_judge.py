"""Judging pages by the score stage of the kernels: from its numbers to the bounds of a proof."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vashista_theory._numerics import unit_roundoff
from vashista_theory.attention import judge
from vashista_theory.attention._bits import from_bits
from vashista_theory.attention.cache import PagedKV
from vashista_theory.attention.certificate import PageBounds, Query, sound
from vashista_theory.attention.judge import Judged, as_judged
from vashista_theory.attention.kernel_choice import Kernels, physical_pages
from vashista_theory.attention.kernels import spec
from vashista_theory.attention.policy import Policy, Summary
from vashista_theory.attention.read import Pools
from vashista_theory.attention.summaries import PAGES_PER_SUPERPAGE, Summaries, SummarySpec


class _Asked(NamedTuple):
    """Pages that are judged together: queries, summaries by kv head, and where the pages lie."""

    vectors: Float[Array, "B H D"]
    held: Summaries
    table: Int[Array, "B P"]
    lengths: Int[Array, " B"]
    tokens: int


def kind_for(summaries: Summaries, policy: Policy) -> spec.Kind | None:
    """What the score stage judges by in place of `page_bounds`; None where it cannot say enough.

    A proof by box or ball takes the chord of the exponential at the page mean, which is sharper
    than what the stage knows of either.
    """
    summary, proof = policy.summary or "box", policy.tolerance is not None
    if summary == "mean":
        return "ball"  # whose estimate is the mean's
    if summary == "sketch" and summaries.codes is not None:
        return "sketch"
    if proof and summaries.mean is not None:
        return None
    return "ball" if summary == "ball" else "box"


def bounds_from(
    scores: spec.PageScores, kind: spec.Kind, summary: Summary, tokens: int
) -> PageBounds:
    """Bounds of pages of `tokens` keys from what the score stage says of them."""
    upper, estimate = scores.upper, scores.estimate
    if summary == "mean":
        nothing = jnp.full_like(estimate, jnp.inf)
        return sound(PageBounds(estimate, estimate, -nothing, nothing, nothing))
    u = unit_roundoff(upper.dtype)
    rounding = 4 * (tokens + 16) * u + 8 * u * (jnp.abs(estimate) + jnp.abs(upper))
    # log Σ e^(x + t·error) is convex in t: its value at −1 is at least 2 f(0) − f(1).
    lower = estimate - (upper - estimate) - 3 * rounding
    if kind == "sketch":
        # The greatest term is no more than the sum.
        best = upper if scores.best is None else scores.best
        return sound(PageBounds(estimate, estimate, lower, upper, best))
    best = upper - math.log(tokens)
    best = best + 8 * u * (jnp.abs(upper) + 8)
    return sound(PageBounds(upper, estimate, lower, upper, best))


class KernelJudge(NamedTuple):
    """Judging by kernels.

    Attributes:
        dtype: Type of the query as it was given; kernels multiply in it.
        kernels: Whose.
    """

    dtype: jnp.dtype
    kernels: Kernels

    def judge_all(self, query: Query, cache: PagedKV, pools: Pools, policy: Policy) -> Judged:
        """Judge every page of every row, by one table for all kv heads of a sequence."""
        _, group, d = query.vectors.shape
        kv_heads, pool_pages = cache.keys.shape[:2]
        vectors = query.vectors.reshape(cache.batch, kv_heads * group, d)
        table = jnp.clip(cache.page_table, 0, pool_pages - 1)
        asked = _Asked(vectors, cache.summaries, table, pools.lengths[::kv_heads], cache.page_size)
        found = self._score(query, cache.spec, policy, asked)
        if found is None:
            return judge.judge_all(query, cache, pools, policy)
        places = jnp.arange(pools.table.shape[1], dtype=jnp.int32)
        pages = jnp.broadcast_to(places[None, :], pools.table.shape)
        physical = jnp.repeat(table, kv_heads, axis=0)
        values = cache.summaries.value_bound[pools.heads[:, None], physical]
        return as_judged(query, cache, pools, policy, pages, found, values)

    def judge_pages(
        self, query: Query, cache: PagedKV, pools: Pools, policy: Policy, pages: Int[Array, "R U"]
    ) -> Judged:
        """Judge some logical pages of each row; −1 for none."""
        rows, count = pages.shape
        pool_pages, heads = cache.keys.shape[1], pools.heads[:, None]
        physical = physical_pages(pools, pages)
        # Every row has a list of its own. So the pools of all kv heads become one pool, of which
        # this is a view, and each row a sequence with one kv head.
        pool = jax.tree.map(lambda a: a.reshape(1, -1, *a.shape[2:]), cache.summaries)
        listed = heads * pool_pages + physical
        lengths = jnp.full((rows,), count * cache.page_size, jnp.int32)
        asked = _Asked(query.vectors, pool, listed, lengths, cache.page_size)
        found = self._score(query, cache.spec, policy, asked, some_of_pool=True)
        if found is None:
            held = jax.tree.map(lambda a: judge.pick(a, heads, physical), cache.summaries)
            found = self._score_in_place(query, cache, policy, held, cache.page_size)
        if found is None:
            return judge.judge_pages(query, cache, pools, policy, pages)
        values = cache.summaries.value_bound[heads, physical]
        return as_judged(query, cache, pools, policy, pages, found, values)

    def judge_superpages(
        self, query: Query, cache: PagedKV, policy: Policy
    ) -> tuple[PageBounds, Float[Array, "R C"]]:
        """Bounds of every superpage that has a summary, and on the length of its values."""
        rows = cache.batch * cache.kv_heads
        held = jax.tree.map(lambda a: a.reshape(rows, *a.shape[2:]), cache.superpages)
        tokens = PAGES_PER_SUPERPAGE * cache.page_size
        found = self._score_in_place(query, cache, policy, held, tokens)
        if found is None:
            return judge.judge_superpages(query, cache, policy)
        return found, from_bits(held.value_bound, query.vectors.dtype)

    def _score_in_place(
        self, query: Query, cache: PagedKV, policy: Policy, held: Summaries, tokens: int
    ) -> PageBounds | None:
        """Bounds of summaries (R, K, ...) that lie in the order in which they are wanted.

        All rows are the kv heads of one sequence.
        """
        rows, group, d = query.vectors.shape
        count = held.value_bound.shape[1]
        table = jnp.arange(count, dtype=jnp.int32)[None, :]
        lengths = jnp.full((1,), count * tokens, jnp.int32)
        asked = _Asked(query.vectors.reshape(1, rows * group, d), held, table, lengths, tokens)
        return self._score(query, cache.spec, policy, asked)

    def _score(
        self,
        query: Query,
        kept: SummarySpec,
        policy: Policy,
        asked: _Asked,
        *,
        some_of_pool: bool = False,
    ) -> PageBounds | None:
        """What the score stage says, by row; None if there is no kernel for it."""
        kind = kind_for(asked.held, policy)
        if kind is None:
            return None
        sketched = kind == "sketch"
        call = spec.score_call(
            asked.vectors.astype(self.dtype),
            asked.held,
            asked.table,
            asked.lengths,
            kind=kind,
            page_size=asked.tokens,
            bits=kept.sketch_bits if sketched else None,
            packed=kept.packed or not sketched,
            scale=query.scale,
        )
        if some_of_pool:
            stage = self.kernels.able("score", call.shape)
            if stage is None or stage.scans_pool:
                return None
        else:
            stage = self.kernels.stage("score", call.shape)
        if stage is None:
            return None
        by_row = query.vectors.shape[:2]
        scores = jax.tree.map(lambda a: a.reshape(*by_row, -1), stage.run(call, None))
        return bounds_from(scores, kind, policy.summary or "box", asked.tokens)

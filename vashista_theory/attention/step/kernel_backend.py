"""Reaching the cache through kernels: what they can do of a step, plain JAX for the rest."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from vashista_theory._numerics import softmax_shares
from vashista_theory.attention.bounds.bits import from_bits
from vashista_theory.attention.bounds.page_bounds import (
    PageBounds,
    Query,
)
from vashista_theory.attention.bounds.rounding import norm_from_above
from vashista_theory.attention.bounds.summaries import (
    PAGES_PER_SUPERPAGE,
    Summaries,
    SummarySpec,
)
from vashista_theory.attention.cache.paged import PagedKV
from vashista_theory.attention.kernels import spec, token_spec
from vashista_theory.attention.kernels.api import Choice
from vashista_theory.attention.policy import Policy
from vashista_theory.attention.step.backend import TokenScores, TokensRead
from vashista_theory.attention.step.candidates import (
    Candidates,
    as_candidates,
    lengths_of_values,
    pick,
)
from vashista_theory.attention.step.drawing import Drawn, Listed
from vashista_theory.attention.step.kernel_bounds import bounds_from, kind_for, longest_key
from vashista_theory.attention.step.kernel_draw import draw_by, draw_shape
from vashista_theory.attention.step.plain_backend import PlainBackend, physical_places
from vashista_theory.attention.step.routing import Layout, ranking
from vashista_theory.attention.step.softmax_sums import Partial, Pools, merge, physical_pages

_BLOCK = 256  # pages of a row that are read at once; a list of any length is read in blocks


class _Asked(NamedTuple):
    """Pages that are judged together: queries, summaries by kv head, and where the pages lie."""

    vectors: Float[Array, "B H D"]
    summaries: Summaries
    table: Int[Array, "B P"]
    lengths: Int[Array, " B"]
    tokens: int


@dataclass(frozen=True)
class KernelBackend(PlainBackend):
    """Plain JAX where no kernel can do a call.

    Attributes:
        cache: What is on the device.
        dtype: Type of the query as it was given; kernels multiply in it.
        policy: What is asked of the step.
        choice: Whose kernels.
    """

    cache: PagedKV
    dtype: jnp.dtype
    policy: Policy
    choice: Choice

    def all_pages(self, query: Query, cache: PagedKV, pools: Pools, policy: Policy) -> Candidates:
        """Judge every page of every row, by one table for all kv heads of a sequence."""
        _, group, d = query.vectors.shape
        kv_heads, pool_pages = cache.keys.shape[:2]
        vectors = query.vectors.reshape(cache.batch, kv_heads * group, d)
        table = jnp.clip(cache.page_table, 0, pool_pages - 1)
        asked = _Asked(vectors, cache.summaries, table, pools.lengths[::kv_heads], cache.page_size)
        bounds = self._score(query, cache.spec, policy, asked)
        if bounds is None:
            return super().all_pages(query, cache, pools, policy)
        pages = pools.every_page()
        physical = jnp.repeat(table, kv_heads, axis=0)
        values = cache.summaries.value_bound[pools.heads[:, None], physical]
        return as_candidates(query, cache, pools, policy, pages, bounds, values)

    def some_pages(
        self, query: Query, cache: PagedKV, pools: Pools, policy: Policy, pages: Int[Array, "R U"]
    ) -> Candidates:
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
        bounds = self._score(query, cache.spec, policy, asked, some_of_pool=True)
        if bounds is None:
            summaries = jax.tree.map(lambda a: pick(a, heads, physical), cache.summaries)
            bounds = self._score_in_place(query, cache, policy, summaries, cache.page_size)
        if bounds is None:
            return super().some_pages(query, cache, pools, policy, pages)
        values = cache.summaries.value_bound[heads, physical]
        return as_candidates(query, cache, pools, policy, pages, bounds, values)

    def superpage_bounds(
        self, query: Query, cache: PagedKV, policy: Policy
    ) -> tuple[PageBounds, Float[Array, "R C"]]:
        """Bounds of every superpage that has a summary, and on the length of its values."""
        rows = cache.batch * cache.kv_heads
        summaries = jax.tree.map(lambda a: a.reshape(rows, *a.shape[2:]), cache.superpages)
        tokens = PAGES_PER_SUPERPAGE * cache.page_size
        bounds = self._score_in_place(query, cache, policy, summaries, tokens)
        if bounds is None:
            return super().superpage_bounds(query, cache, policy)
        return bounds, from_bits(summaries.value_bound, query.vectors.dtype)

    def _score_in_place(
        self, query: Query, cache: PagedKV, policy: Policy, summaries: Summaries, tokens: int
    ) -> PageBounds | None:
        """Bounds of summaries (R, K, ...) that lie in the order that is asked for.

        All rows are the kv heads of one sequence.
        """
        rows, group, d = query.vectors.shape
        count = summaries.value_bound.shape[1]
        table = jnp.arange(count, dtype=jnp.int32)[None, :]
        lengths = jnp.full((1,), count * tokens, jnp.int32)
        asked = _Asked(query.vectors.reshape(1, rows * group, d), summaries, table, lengths, tokens)
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
        kind = kind_for(asked.summaries, policy)
        if kind is None:
            return None
        sketched = kind == "sketch"
        call = spec.score_call(
            asked.vectors.astype(self.dtype),
            asked.summaries,
            asked.table,
            asked.lengths,
            kind=kind,
            page_size=asked.tokens,
            bits=kept.sketch_bits if sketched else None,
            packed=kept.packed or not sketched,
            scale=query.scale,
        )
        if some_of_pool:
            stage = self.choice.kernel_if_any("score", call.shape)
            if stage is None or stage.scans_pool:
                return None
        else:
            stage = self.choice.kernel("score", call.shape)
        if stage is None:
            return None
        by_row = query.vectors.shape[:2]
        scores = jax.tree.map(lambda a: a.reshape(*by_row, -1), stage.run(call, None))
        return bounds_from(scores, kind, policy.summary or "box", asked.tokens)

    def select_pages(
        self, priority: Float[Array, "R P"], places: Layout, count: int
    ) -> tuple[Int[Array, "R K"], Bool[Array, "R K"]]:
        """The best pages by a threshold, in the order in which they lie."""
        rows, width = priority.shape
        ranked = ranking(priority, places)[:, None, :]
        call = spec.select_call(ranked, min(count, width))
        stage = self.choice.kernel("select", call.shape)
        if stage is None:
            return super().select_pages(priority, places, count)
        selected: spec.Selected = stage.run(call, None)
        index = selected.pages.reshape(rows, call.shape.count)
        place = jnp.arange(call.shape.count, dtype=jnp.int32)
        return index, place[None, :] < selected.number.reshape(rows, 1)

    def read_pages(
        self, query: Query, pools: Pools, pages: Int[Array, "R K"], chosen: Bool[Array, "R K"]
    ) -> Partial:
        """Softmax sums over the chosen pages, which come first in the list."""
        stage = self._attend_stage(query, pools, pages.shape[1])
        if stage is None:
            return super().read_pages(query, pools, pages, chosen)
        size = pools.keys.shape[2]
        tokens = jnp.clip(pools.lengths[:, None] - pages * size, 0, size)
        tokens = jnp.sum(jnp.where(chosen, tokens, 0), axis=1, dtype=jnp.int32)
        return self._attend(stage, query, pools, pages, tokens)

    def read_range(
        self,
        query: Query,
        pools: Pools,
        pages: Int[Array, "R P"],
        lower: Int[Array, " R"],
        upper: Int[Array, " R"],
        sums: Partial,
    ) -> Partial:
        """A block of each row at a time."""
        block = min(_BLOCK, pages.shape[1])
        if self._attend_stage(query, pools, block) is None:
            return super().read_range(query, pools, pages, lower, upper, sums)

        def body(state: tuple[Array, Partial]) -> tuple[Array, Partial]:
            begin, sums = state
            places = begin[:, None] + jnp.arange(block, dtype=jnp.int32)[None, :]
            index = jnp.minimum(places, pages.shape[1] - 1)
            listed = jnp.take_along_axis(pages, index, axis=1)
            new = self.read_pages(query, pools, listed, places < upper[:, None])
            return jnp.minimum(begin + block, upper), merge(sums, new)

        # Plain JAX strings the ranges of all rows together, so that short ones waste nothing; a
        # kernel reads as many pages of each row as there are, and an idle row costs it nothing.
        return jax.lax.while_loop(lambda s: jnp.any(s[0] < upper), body, (lower, sums))[1]

    def read_everything(self, query: Query, pools: Pools) -> Partial:
        """One list of all pages."""
        stage = self._attend_stage(query, pools, pools.table.shape[1])
        if stage is None:
            return super().read_everything(query, pools)
        pages = pools.every_page()
        return self._attend(stage, query, pools, pages, pools.lengths)

    def token_scores(
        self, query: Query, cache: PagedKV, pools: Pools, policy: Policy
    ) -> TokenScores:
        """Score the sketch of every key; where something is proved, plain JAX knows the errors."""
        _, group, d = query.vectors.shape
        kv_heads, pool_pages = cache.keys.shape[:2]
        if policy.proves or cache.summaries.codes is None:
            return super().token_scores(query, cache, pools, policy)
        table = jnp.clip(cache.page_table, 0, pool_pages - 1)
        call = spec.score_call(
            query.vectors.reshape(cache.batch, kv_heads * group, d).astype(self.dtype),
            cache.summaries,
            table,
            pools.lengths[::kv_heads],
            kind="sketch",
            page_size=cache.page_size,
            bits=cache.spec.sketch_bits,
            packed=cache.spec.packed,
            scale=query.scale,
            by_token=True,
        )
        stage = self.choice.kernel_if_any("score_tokens", call.shape)
        if stage is None:
            return super().token_scores(query, cache, pools, policy)
        logits = stage.run(call, None).reshape(-1, group, table.shape[1], cache.page_size)
        physical = jnp.repeat(table, kv_heads, axis=0)
        values = lengths_of_values(
            cache.summaries, pools.heads[:, None], physical, query.vectors.dtype
        )
        return TokenScores(pools, pools.every_page()[0], logits, None, values)

    def draw(
        self,
        query: Query,
        cache: PagedKV,
        pools: Pools,
        ends: tuple[Int[Array, " R"], Int[Array, " R"]],
        sure: Float[Array, "R G"],
        keys: UInt32[Array, "R 2"],
        expected: Int[Array, " R"],
        room: int,
    ) -> Drawn | None:
        """Score, draw and list in one kernel, where there is one."""
        shape = draw_shape(cache, self._query_shape(query, pools), room)
        stage = None if shape is None else self.choice.kernel_if_any("draw_tokens", shape)
        if shape is None or stage is None:
            return None
        return draw_by(stage, shape, query, cache, ends, sure, keys, expected)

    def read_tokens(
        self, query: Query, pools: Pools, listed: Listed, log_pi: Float[Array, "R C"]
    ) -> TokensRead:
        """Softmax sums over drawn tokens, and the error by the spread of their values."""
        rows, group, d = query.vectors.shape
        count = listed.pages.shape[1]
        shape = token_spec.AttendTokensShape(
            **self._query_shape(query, pools), listed=count, pool_dtype=str(pools.keys.dtype)
        )
        stage = self.choice.kernel("attend_tokens", shape)
        if stage is None:
            return super().read_tokens(query, pools, listed, log_pi)
        by_row = (shape.batch, shape.kv_heads)
        tokens = jnp.sum(listed.exists, axis=1, dtype=jnp.int32)
        call = token_spec.attend_tokens_call(
            query.vectors.astype(self.dtype).reshape(shape.batch, shape.heads, d),
            pools.keys,
            pools.values,
            physical_places(pools, listed).reshape(*by_row, count),
            tokens.reshape(by_row),
            -log_pi.reshape(*by_row, count),
            query.scale,
        )
        found: token_spec.AttendedTokens = stage.run(call, None)
        sums = _partial(found, group, tokens, self._longest_of(pools, listed))
        spread = jax.tree.map(lambda a: a.reshape(rows, group, *a.shape[2:]), found.spread)

        def variance(output: Float[Array, "R G D"], log_mass: Float[Array, "R G"]) -> Array:
            # The spread is that of masses in units of e^(2 top).
            share = softmax_shares(sums.top, log_mass)
            return spread.about(output) * share**2

        return TokensRead(sums, variance)

    def _longest_of(self, pools: Pools, listed: Listed) -> Float[Array, " R"]:
        """Bound on the length of any key listed, from the summary of its page, which is full."""
        if not self.policy.proves:  # nothing is proved, so nothing asks
            return jnp.full(listed.pages.shape[:1], jnp.inf, jnp.float32)
        physical = physical_pages(pools, listed.pages)
        longest = longest_key(self.cache.summaries, pools.heads[:, None], physical)
        return jnp.max(jnp.where(listed.exists, longest, 0.0), axis=1, initial=0.0)

    def _query_shape(self, query: Query, pools: Pools) -> dict[str, Any]:
        rows, group, d = query.vectors.shape
        heads, pool_pages, size, _ = pools.keys.shape
        return {
            "batch": rows // heads,
            "heads": heads * group,
            "kv_heads": heads,
            "head_size": d,
            "page_size": size,
            "pool_pages": pool_pages,
            "query_dtype": str(self.dtype),
        }

    def _shape(self, query: Query, pools: Pools, listed: int) -> spec.AttendShape:
        static = self._query_shape(query, pools)
        return spec.AttendShape(**static, listed=listed, pool_dtype=str(pools.keys.dtype))

    def _attend_stage(self, query: Query, pools: Pools, listed: int) -> spec.StageKernel | None:
        return self.choice.kernel("attend", self._shape(query, pools, listed))

    def _attend(
        self,
        stage: spec.StageKernel,
        query: Query,
        pools: Pools,
        pages: Int[Array, "R K"],
        tokens: Int[Array, " R"],
    ) -> Partial:
        """Softmax sums over the first tokens of a list of logical pages of each row."""
        _, group, d = query.vectors.shape
        shape = self._shape(query, pools, pages.shape[1])
        by_row = (shape.batch, shape.kv_heads)
        physical = physical_pages(pools, pages)
        call = spec.attend_call(
            query.vectors.astype(self.dtype).reshape(shape.batch, shape.heads, d),
            pools.keys,
            pools.values,
            physical.reshape(*by_row, -1),
            tokens.reshape(by_row),
            query.scale,
        )
        attended: spec.Attended = stage.run(call, None)
        return _partial(attended, group, tokens, self._reach(pools, physical, tokens))

    def _reach(
        self, pools: Pools, physical: Int[Array, "R K"], tokens: Int[Array, " R"]
    ) -> Float[Array, " R"]:
        """Bound on the length of any key read, from the summaries of the pages.

        Kernels hand keys to matrix units and never look at them. A page that is not full has no
        summary, but then it is the last one, and is looked at.
        """
        rows, listed = physical.shape
        if not self.policy.proves:  # nothing is proved, so nothing asks
            return jnp.full((rows,), jnp.inf, jnp.float32)
        size = pools.keys.shape[2]
        heads = pools.heads[:, None]
        full = jnp.arange(listed, dtype=jnp.int32)[None, :] < (tokens // size)[:, None]
        longest = jnp.where(full, longest_key(self.cache.summaries, heads, physical), 0.0)
        last = jnp.clip(tokens // size, 0, listed - 1)[:, None]
        keys = pools.keys[heads, jnp.take_along_axis(physical, last, axis=1)][:, 0]
        counted = jnp.arange(size, dtype=jnp.int32)[None, :] < (tokens % size)[:, None]
        counted = counted & (tokens < listed * size)[:, None]
        keys = jnp.where(counted[..., None], keys.astype(jnp.float32), 0.0)
        return jnp.maximum(jnp.max(longest, axis=1), jnp.max(norm_from_above(keys), axis=1))


def _partial(
    found: spec.Attended | token_spec.AttendedTokens,
    group: int,
    tokens: Int[Array, " R"],
    reach: Float[Array, " R"],
) -> Partial:
    """Softmax sums by row from what a kernel says of so many tokens."""
    log_mass, top = (a.reshape(-1, group) for a in (found.log_mass, found.top))
    # A kernel may leave out a score that overflowed to −inf.
    top = jnp.where((tokens > 0)[:, None] & ~jnp.isfinite(top), jnp.nan, top)
    mass = jnp.where(top == -jnp.inf, 0.0, jnp.exp(log_mass - top))
    output = found.output.reshape(*top.shape, -1) * mass[..., None]
    return Partial(top, mass, output, reach, tokens)

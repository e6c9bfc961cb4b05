"""Judging and reading a cache that is dealt to several devices: each its own part, then merged.

Everything here runs on every device at once, inside `jax.shard_map`. What devices tell each other
is gathered, never added up on the way, wherever rounding could enter: all devices then go on from
the same bits, and a loop that waits for a proof ends on all of them together. They have to be of
one kind, so that equal bits stay equal.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from vashista_theory.attention.bounds.page_bounds import PageBounds, Query
from vashista_theory.attention.bounds.summaries import PAGES_PER_SUPERPAGE
from vashista_theory.attention.cache.dealing import Dealing
from vashista_theory.attention.cache.paged import PagedKV
from vashista_theory.attention.policy import Policy
from vashista_theory.attention.step.backend import Backend, TokenScores, TokensRead
from vashista_theory.attention.step.candidates import Candidates, as_candidates
from vashista_theory.attention.step.drawing import Listed
from vashista_theory.attention.step.routing import Layout
from vashista_theory.attention.step.softmax_sums import (
    Gathered,
    Partial,
    Pools,
    as_rows,
    merge,
    nothing_read,
)

_CHUNK = 32
_CHUNK_OF_ALL = 256
_State = TypeVar("_State")


def whole_context(
    part: PagedKV, lengths: Int[Array, " B"], pages: int, dealing: Dealing
) -> PagedKV:
    """The cache as a decode step sees it from one device: whole sequences, by logical page.

    The page table is as wide as a sequence, and right where the page lies on this device;
    superpages are those of this device.
    """
    numbers = jnp.arange(pages, dtype=jnp.int32)
    table = jnp.where(
        dealing.is_mine(numbers)[None, :], part.page_table[:, dealing.place(numbers)], 0
    )
    return eqx.tree_at(lambda c: (c.page_table, c.lengths), part, (table, lengths))


@dataclass(frozen=True)
class ShardedBackend(Backend):
    """The whole context, from one device. In what follows `cache` is that of `whole_context`.

    Attributes:
        part: What this device has.
        dealing: Which pages those are.
        inner: How this device reaches its own part.
    """

    part: PagedKV
    dealing: Dealing
    inner: Backend

    def all_pages(self, query: Query, cache: PagedKV, pools: Pools, policy: Policy) -> Candidates:
        """Every device judges its own pages; what it found goes to all."""
        width = cache.pages_per_sequence
        own = self.inner.all_pages(query, self.part, as_rows(self.part), policy)
        table = _as_table(own.bounds, own.value_bounds)
        table = self.dealing.gather(table, run=PAGES_PER_SUPERPAGE, length=width)
        pages = pools.every_page()
        return as_candidates(query, cache, pools, policy, pages, *_from_table(table))

    def superpage_bounds(
        self, query: Query, cache: PagedKV, policy: Policy
    ) -> tuple[PageBounds, Float[Array, "R C"]]:
        """Every device judges its own superpages."""
        table = _as_table(*self.inner.superpage_bounds(query, self.part, policy))
        count = -(-cache.pages_per_sequence // PAGES_PER_SUPERPAGE)
        return _from_table(self.dealing.gather(table, run=1, length=count))

    def some_pages(
        self, query: Query, cache: PagedKV, pools: Pools, policy: Policy, pages: Int[Array, "R U"]
    ) -> Candidates:
        """Every device judges those of the pages that lie on it."""
        rows, width = pages.shape
        group = query.vectors.shape[1]
        lines = len(PageBounds._fields) * group + 1
        row = jnp.arange(rows, dtype=jnp.int32)[:, None, None]
        line = jnp.arange(lines, dtype=jnp.int32)[None, :, None]

        def judge(table: Array, index: Array, meant: Array) -> Array:
            some = jnp.where(meant, jnp.take_along_axis(pages, index, axis=1), -1)
            own = self.inner.some_pages(query, cache, pools, policy, some)
            place = jnp.where(meant, index, width)[:, None, :]
            new = _as_table(own.bounds, own.value_bounds)
            return table.at[row, line, place].set(new, mode="drop")

        empty = jnp.zeros((rows, lines, width), query.vectors.dtype)
        chunk = -(-width // self.dealing.count)
        table = _over_marked(self.dealing.is_mine(pages), chunk, judge, empty)
        # Each page is judged by one device and zero on the others, so this sum does not round.
        table = jax.lax.psum(table, self.dealing.axis)
        return as_candidates(query, cache, pools, policy, pages, *_from_table(table))

    def select_pages(
        self, priority: Float[Array, "R P"], places: Layout, count: int
    ) -> tuple[Int[Array, "R K"], Bool[Array, "R K"]]:
        """All devices choose, from the same numbers."""
        return self.inner.select_pages(priority, places, count)

    def token_scores(
        self, query: Query, cache: PagedKV, pools: Pools, policy: Policy
    ) -> TokenScores:
        """Every device keeps what it finds of its own tokens."""
        del cache, pools
        own = self.inner.token_scores(query, self.part, as_rows(self.part), policy)
        return own._replace(pages=self.dealing.page_at(own.pages))

    def some_token_scores(
        self, query: Query, cache: PagedKV, pools: Pools, policy: Policy, pages: Int[Array, "R P"]
    ) -> TokenScores:
        """Every device keeps what it finds of its own tokens.

        It goes over the whole list, so that more devices do not make this stage shorter.
        """
        own = jnp.where(self.dealing.is_mine(pages), pages, -1)
        return self.inner.some_token_scores(query, cache, pools, policy, own)

    def read_tokens(
        self, query: Query, pools: Pools, listed: Listed, log_pi: Float[Array, "R C"]
    ) -> TokensRead:
        """Every device reads its own; `pools` are those of its own part."""
        return self.inner.read_tokens(query, pools, listed, log_pi)

    def every_device(self, numbers: Shaped[Array, "*n"]) -> Shaped[Array, "devices *n"]:
        """What each device has, in the order of the devices on all of them."""
        return jax.lax.all_gather(numbers, self.dealing.axis)

    def all_agree(self, flags: Bool[Array, "*n"]) -> Bool[Array, "*n"]:
        """Whether a flag is set on every device."""
        return self.dealing.all_agree(flags)

    def read_pages(
        self,
        query: Query,
        pools: Pools,
        pages: Int[Array, "R K"],
        chosen: Bool[Array, "R K"],
        *,
        chunk: int = _CHUNK,
    ) -> Partial:
        """Every device reads those of the pages that lie on it; the sums are merged."""

        def read(sums: Partial, index: Array, meant: Array) -> Partial:
            some = jnp.take_along_axis(pages, index, axis=1)
            return merge(sums, self.inner.read_pages(query, pools, some, meant))

        chunk = max(1, min(chunk, -(-pages.shape[1] // self.dealing.count)))
        mine = chosen & self.dealing.is_mine(pages)
        return self.merge_devices(_over_marked(mine, chunk, read, nothing_read(query)))

    def read_range(
        self,
        query: Query,
        pools: Pools,
        pages: Int[Array, "R K"],
        lower: Int[Array, " R"],
        upper: Int[Array, " R"],
        sums: Partial,
    ) -> Partial:
        """A range is a list of pages, of which each device reads its own."""
        places = jnp.arange(pages.shape[1], dtype=jnp.int32)[None, :]
        chosen = (places >= lower[:, None]) & (places < upper[:, None])
        return merge(sums, self.read_pages(query, pools, pages, chosen))

    def read_everything(self, query: Query, pools: Pools) -> Partial:
        """Every device reads all of its pages."""
        pages = pools.every_page()
        chosen = pages * pools.keys.shape[2] < pools.lengths[:, None]
        return self.read_pages(query, pools, pages, chosen, chunk=_CHUNK_OF_ALL)

    def gather_pages(
        self, pools: Pools, pages: Int[Array, "R K"], chosen: Bool[Array, "R K"], dtype: jnp.dtype
    ) -> Gathered:
        """Keys and values of the chosen pages, on every device."""
        mine = chosen & self.dealing.is_mine(pages)
        own = self.inner.gather_pages(pools, pages, mine, dtype)
        counted = own.counted[..., None]
        # Each token comes from one device and is zero on the others, so this sum does not round.
        keys, values, number = jax.lax.psum(
            (
                jnp.where(counted, own.keys, 0.0),
                jnp.where(counted, own.values, 0.0),
                own.counted.astype(jnp.int32),
            ),
            self.dealing.axis,
        )
        return Gathered(keys, values, number > 0)

    def merge_devices(self, own: Partial) -> Partial:
        """Softmax sums over what all devices read, by log-sum-exp."""
        # One message instead of five. A count of tokens beyond 2^24 is rounded in float32, by far
        # less than what `log_mass_slack` allows for.
        by_head = jnp.stack([own.reach, own.tokens.astype(own.mass.dtype)], axis=-1)
        by_head = jnp.broadcast_to(by_head[:, None, :], (*own.top.shape, 2))
        message = [own.output, own.top[..., None], own.mass[..., None], by_head]
        every = jax.lax.all_gather(jnp.concatenate(message, axis=-1), self.dealing.axis)
        parts = Partial(
            top=every[..., -4],
            mass=every[..., -3],
            output=every[..., :-4],
            reach=every[:, :, 0, -2],
            tokens=every[:, :, 0, -1],
        )
        top = jnp.max(parts.top, axis=0)
        mass, output = (jnp.sum(part, axis=0) for part in parts.relative_to(top[None]))
        tokens = jnp.sum(parts.tokens, axis=0).astype(jnp.int32)
        return Partial(top, mass, output, jnp.max(parts.reach, axis=0), tokens)


def _as_table(bounds: PageBounds, value_bounds: Float[Array, "R P"]) -> Float[Array, "R F P"]:
    """Everything found of each page in one array, so that it is one message."""
    return jnp.concatenate([*bounds, value_bounds[:, None, :]], axis=1)


def _from_table(table: Float[Array, "R F P"]) -> tuple[PageBounds, Float[Array, "R P"]]:
    bounds = jnp.split(table[:, :-1], len(PageBounds._fields), axis=1)
    return PageBounds(*bounds), table[:, -1]


def _over_marked(
    marked: Bool[Array, "R K"],
    chunk: int,
    step: Callable[[_State, Int[Array, "R C"], Bool[Array, "R C"]], _State],
    start: _State,
) -> _State:
    """Go over the marked places of each row, `chunk` at a time: work follows what is marked.

    `step` gets the places and which of them are meant. The number of steps differs between devices,
    so nothing in it may wait for another one.
    """
    rank = jnp.cumsum(marked, axis=1, dtype=jnp.int32)
    count = rank[:, -1:]

    def body(state: tuple[Array, _State]) -> tuple[Array, _State]:
        done, carried = state
        number = done + jnp.arange(chunk, dtype=jnp.int32)
        index = jax.vmap(lambda row: jnp.searchsorted(row, number + 1))(rank).astype(jnp.int32)
        index = jnp.minimum(index, marked.shape[1] - 1)
        return done + chunk, step(carried, index, number[None, :] < count)

    most = jnp.max(count)
    return jax.lax.while_loop(lambda s: s[0] < most, body, (jnp.int32(0), start))[1]

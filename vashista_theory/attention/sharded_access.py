"""Judging and reading a cache that is dealt to several devices: each its own part, then merged.

Everything here runs on every device at once, inside `jax.shard_map`. What devices tell each other
is gathered, never added up on the way, wherever rounding could enter: all devices then go on from
the same bits, and a loop that waits for a proof ends on all of them together. They have to be of
one kind, so that equal bits stay equal.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vashista_theory.attention._dealing import Dealing
from vashista_theory.attention.access import Access
from vashista_theory.attention.cache import PagedKV
from vashista_theory.attention.certificate import PageBounds, Query
from vashista_theory.attention.judge import Judged, as_judged
from vashista_theory.attention.policy import Policy
from vashista_theory.attention.read import Gathered, Partial, Pools, as_rows, merge, nothing_read
from vashista_theory.attention.summaries import PAGES_PER_SUPERPAGE

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


def access_from(part: PagedKV, dealing: Dealing, inner: Access) -> Access:
    """Access to the whole context from the device that holds `part`, by its own access to that."""
    shard = _Shard(part, dealing, inner)
    return Access(
        shard.judge_all,
        shard.judge_superpages,
        shard.judge_pages,
        inner.select_pages,
        shard.read_pages,
        shard.read_range,
        shard.read_everything,
        shard.gather_pages,
        dealing.all_agree,
    )


class _Shard(NamedTuple):
    """What one device has. In what follows `cache` is that of `whole_context`."""

    part: PagedKV
    dealing: Dealing
    inner: Access

    def judge_all(self, query: Query, cache: PagedKV, pools: Pools, policy: Policy) -> Judged:
        width = cache.pages_per_sequence
        own = self.inner.judge_all(query, self.part, as_rows(self.part), policy)
        table = _as_table(own.bounds, own.value_bounds)
        table = self.dealing.gather(table, run=PAGES_PER_SUPERPAGE, length=width)
        numbers = jnp.arange(width, dtype=jnp.int32)
        pages = jnp.broadcast_to(numbers[None, :], pools.table.shape)
        return as_judged(query, cache, pools, policy, pages, *_from_table(table))

    def judge_superpages(
        self, query: Query, cache: PagedKV, policy: Policy
    ) -> tuple[PageBounds, Float[Array, "R C"]]:
        table = _as_table(*self.inner.judge_superpages(query, self.part, policy))
        count = -(-cache.pages_per_sequence // PAGES_PER_SUPERPAGE)
        return _from_table(self.dealing.gather(table, run=1, length=count))

    def judge_pages(
        self, query: Query, cache: PagedKV, pools: Pools, policy: Policy, pages: Int[Array, "R U"]
    ) -> Judged:
        rows, width = pages.shape
        group = query.vectors.shape[1]
        lines = len(PageBounds._fields) * group + 1
        row = jnp.arange(rows, dtype=jnp.int32)[:, None, None]
        line = jnp.arange(lines, dtype=jnp.int32)[None, :, None]

        def judge(table: Array, index: Array, found: Array) -> Array:
            some = jnp.where(found, jnp.take_along_axis(pages, index, axis=1), -1)
            own = self.inner.judge_pages(query, cache, pools, policy, some)
            place = jnp.where(found, index, width)[:, None, :]
            new = _as_table(own.bounds, own.value_bounds)
            return table.at[row, line, place].set(new, mode="drop")

        empty = jnp.zeros((rows, lines, width), query.vectors.dtype)
        chunk = -(-width // self.dealing.count)
        table = _over_marked(self.dealing.is_mine(pages), chunk, judge, empty)
        # Each page is judged by one device and zero on the others, so this sum does not round.
        table = jax.lax.psum(table, self.dealing.axis)
        return as_judged(query, cache, pools, policy, pages, *_from_table(table))

    def read_pages(
        self,
        query: Query,
        pools: Pools,
        pages: Int[Array, "R K"],
        wanted: Bool[Array, "R K"],
        *,
        chunk: int = _CHUNK,
    ) -> Partial:
        def read(sums: Partial, index: Array, found: Array) -> Partial:
            some = jnp.take_along_axis(pages, index, axis=1)
            return merge(sums, self.inner.read_pages(query, pools, some, found))

        chunk = max(1, min(chunk, -(-pages.shape[1] // self.dealing.count)))
        mine = wanted & self.dealing.is_mine(pages)
        return self._merged(_over_marked(mine, chunk, read, nothing_read(query)))

    def read_range(
        self,
        query: Query,
        pools: Pools,
        pages: Int[Array, "R K"],
        lower: Int[Array, " R"],
        upper: Int[Array, " R"],
        sums: Partial,
    ) -> Partial:
        places = jnp.arange(pages.shape[1], dtype=jnp.int32)[None, :]
        wanted = (places >= lower[:, None]) & (places < upper[:, None])
        return merge(sums, self.read_pages(query, pools, pages, wanted))

    def read_everything(self, query: Query, pools: Pools) -> Partial:
        pages = jnp.arange(pools.table.shape[1], dtype=jnp.int32)
        pages = jnp.broadcast_to(pages[None, :], pools.table.shape)
        wanted = pages * pools.keys.shape[2] < pools.lengths[:, None]
        return self.read_pages(query, pools, pages, wanted, chunk=_CHUNK_OF_ALL)

    def gather_pages(
        self, pools: Pools, pages: Int[Array, "R K"], wanted: Bool[Array, "R K"], dtype: jnp.dtype
    ) -> Gathered:
        mine = wanted & self.dealing.is_mine(pages)
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

    def _merged(self, own: Partial) -> Partial:
        """Softmax sums over what all devices read, by log-sum-exp."""
        # One message instead of five. A count of tokens beyond 2^24 is rounded in float32, by far
        # less than what `log_mass_slack` allows for.
        by_head = jnp.stack([own.reach, own.tokens.astype(own.mass.dtype)], axis=-1)
        by_head = jnp.broadcast_to(by_head[:, None, :], (*own.top.shape, 2))
        message = [own.output, own.top[..., None], own.mass[..., None], by_head]
        every = jax.lax.all_gather(jnp.concatenate(message, axis=-1), self.dealing.axis)
        output, tops, masses = every[..., :-4], every[..., -4], every[..., -3]
        top = jnp.max(tops, axis=0)
        share = jnp.exp(tops - jnp.where(jnp.isfinite(top), top, 0.0)[None])
        return Partial(
            top,
            jnp.sum(masses * share, axis=0),
            jnp.sum(output * share[..., None], axis=0),
            jnp.max(every[:, :, 0, -2], axis=0),
            jnp.sum(every[:, :, 0, -1], axis=0).astype(jnp.int32),
        )


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

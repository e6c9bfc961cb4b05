"""What `PagedKV` does to its arrays: allocation, copy on write, summaries of what was completed."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vashista_theory._results import Result
from vashista_theory.attention.bounds.summaries import (
    PAGES_PER_SUPERPAGE,
    Summaries,
    summarise_pages,
    summarise_superpages,
    without_sketch,
)
from vashista_theory.attention.cache.pool_writes import (
    Arriving,
    copy_pages,
    write_pages,
    write_rows,
    write_tokens,
)
from vashista_theory.attention.cache.state import CacheArrays

_Cache = TypeVar("_Cache", bound=CacheArrays)
_T = TypeVar("_T")


class _Plan(NamedTuple):
    """Which pages a block of tokens touches, by sequence and touched page."""

    slots: Int[Array, "B M"]
    touched: Bool[Array, "B M"]
    shared: Bool[Array, "B M"]
    fresh: Bool[Array, "B M"]
    old: Int[Array, "B M"]
    page: Int[Array, "B M"]
    needed: Int[Array, ""]
    fits: Bool[Array, ""]


def _plan(cache: CacheArrays, tokens: int, counts: Int[Array, " B"]) -> _Plan:
    size, width = cache.page_size, cache.pages_per_sequence
    ends = cache.lengths + counts
    # A block of T tokens that starts anywhere in a page touches at most this many pages.
    most = (tokens + size - 2) // size + 1
    slots = (cache.lengths // size)[:, None] + jnp.arange(most, dtype=jnp.int32)[None, :]
    touched = (slots * size < ends[:, None]) & (counts > 0)[:, None]
    fresh = touched & (slots * size >= cache.lengths[:, None])
    old = jnp.take_along_axis(cache.page_table, jnp.minimum(slots, width - 1), axis=1)
    shared = touched & ~fresh & (cache.reference_counts[old] > 1)
    new = fresh | shared
    rank = jnp.cumsum(new.ravel(), dtype=jnp.int32).reshape(new.shape) - 1
    needed = jnp.sum(new, dtype=jnp.int32)
    taken = jnp.clip(cache.free_count - 1 - rank, 0, cache.free_pages.shape[0] - 1)
    page = jnp.where(new, cache.free_pages[taken], old)
    fits = (needed <= cache.free_count) & jnp.all(ends <= width * size)
    return _Plan(slots, touched, shared, fresh, old, page, needed, fits)


def append(
    cache: _Cache,
    keys: Float[Array, "B Hkv T D"],
    values: Float[Array, "B Hkv T D"],
    counts: Int[Array, " B"],
    *,
    agree: Callable[[Bool[Array, " 2"]], Bool[Array, " 2"]] | None = None,
) -> tuple[_Cache, Result]:
    """Append a ragged block to every sequence, or leave everything as it is.

    `agree` has the last word on whether the block fits and is finite: where other caches take
    parts of the same block, all of them append or none.
    """
    size = cache.page_size
    plan = _plan(cache, keys.shape[2], counts)
    used = (jnp.arange(keys.shape[2], dtype=jnp.int32)[None, :] < counts[:, None])[:, None, :, None]
    finite = jnp.all(jnp.isfinite(keys) & jnp.isfinite(values) | ~used)
    fits = plan.fits
    if agree is not None:
        fits, finite = agree(jnp.stack([fits, finite]))
    done = fits & finite
    written = plan.touched & done
    ends = cache.lengths + counts

    full = written & ((plan.slots + 1) * size <= ends[:, None])
    old, page, where = plan.old.ravel(), plan.page.ravel(), written.ravel()
    table, references, stack, height = _where_any(
        (plan.fresh | plan.shared) & done,
        lambda held: (_name_pages(held[0], plan, written), *_account(held[1:], plan, done)),
        (cache.page_table, cache.reference_counts, cache.free_pages, cache.free_count),
    )
    if keys.shape[2] == 1:
        shared = (plan.shared & done).ravel()
        slots = cache.lengths % size
        key_pool, value_pool = (
            write_rows(copy_pages(pool, old, page, shared), new[:, :, 0], page, slots, where)
            for pool, new in ((cache.keys, keys), (cache.values, values))
        )
    else:
        key_pool, value_pool = (
            write_tokens(pool, _arriving(new, plan, cache.lengths, counts, size), old, page, where)
            for pool, new in ((cache.keys, keys), (cache.values, values))
        )

    def complete(held: tuple[Summaries, Summaries]) -> tuple[Summaries, Summaries]:
        # Read back from the pools: were the old pool and the new one read, XLA would keep both.
        fresh = summarise_pages(key_pool[:, page], value_pool[:, page], cache.spec, cache.rounding)
        summaries = write_pages(held[0], fresh, page, full.ravel())
        return summaries, _complete_superpages(
            cache, held[1], summaries, table, ends, keys.shape[2], done
        )

    # What a summary says of a page that is not full is never asked: such a page is always read.
    summaries, superpages = _where_any(full, complete, (cache.summaries, cache.superpages))
    result = Result.where(
        finite, Result.where(fits, Result.successful, Result.pool_full), Result.nonfinite_input
    )
    fields = (
        key_pool,
        value_pool,
        table,
        jnp.where(done, ends, cache.lengths),
        references,
        stack,
        height,
        summaries,
        superpages,
    )
    return type(cache)(*fields, spec=cache.spec, rounding=cache.rounding), result


def _where_any(flags: Bool[Array, "*n"], change: Callable[[_T], _T], held: _T) -> _T:
    """Change arrays only if some flag is set; most tokens neither begin a page nor complete one."""
    return jax.lax.cond(jnp.any(flags), change, lambda same: same, held)


def _arriving(
    tokens: Float[Array, "B Hkv T D"],
    plan: _Plan,
    lengths: Int[Array, " B"],
    counts: Int[Array, " B"],
    size: int,
) -> Arriving:
    index = plan.slots[..., None] * size + jnp.arange(size, dtype=jnp.int32)[None, None, :]
    index = index - lengths[:, None, None]
    new = (index >= 0) & (index < counts[:, None, None])
    rows = jnp.arange(tokens.shape[0], dtype=jnp.int32)[:, None, None]
    laid = jnp.moveaxis(tokens, 1, 0)[:, rows, jnp.clip(index, 0, tokens.shape[2] - 1)]
    return Arriving(laid.reshape(laid.shape[0], -1, *laid.shape[3:]), new.reshape(-1, size))


def _complete_superpages(
    cache: CacheArrays,
    superpages: Summaries,
    summaries: Summaries,
    table: Int[Array, "B P"],
    ends: Int[Array, " B"],
    tokens: int,
    done: Bool[Array, ""],
) -> Summaries:
    """Summarise the superpages that this block completes."""
    span = PAGES_PER_SUPERPAGE * cache.page_size
    count = cache.pages_per_sequence // PAGES_PER_SUPERPAGE
    if count == 0:
        return superpages
    most = min(count, (tokens + span - 2) // span + 1)
    number = (cache.lengths // span)[:, None] + jnp.arange(most, dtype=jnp.int32)[None, :]
    complete = ((number + 1) * span <= ends[:, None]) & done
    number_ = jnp.minimum(number, count - 1)
    within = jnp.arange(PAGES_PER_SUPERPAGE, dtype=jnp.int32)
    slots = number_[..., None] * PAGES_PER_SUPERPAGE + within[None, None, :]
    rows = jnp.arange(table.shape[0])
    pages = table[rows[:, None, None], slots]
    parts = jax.tree.map(lambda held: held[:, pages], without_sketch(summaries))
    combined = summarise_superpages(parts, -1)
    place = jnp.where(complete, number, count)
    return jax.tree.map(
        lambda held, new: held.at[rows[:, None], :, place].set(
            jnp.moveaxis(new, 0, 2), mode="drop"
        ),
        superpages,
        combined,
    )


def _name_pages(
    table: Int[Array, "B P"], plan: _Plan, written: Bool[Array, "B M"]
) -> Int[Array, "B P"]:
    """The page table after a block was written."""
    rows = jnp.arange(table.shape[0], dtype=jnp.int32)[:, None]
    column = jnp.where(written, plan.slots, table.shape[1])
    return table.at[rows, column].set(plan.page, mode="drop")


def _account(
    held: tuple[Int[Array, " N"], Int[Array, " N"], Int[Array, ""]],
    plan: _Plan,
    done: Bool[Array, ""],
) -> tuple[Int[Array, " N"], Int[Array, " N"], Int[Array, ""]]:
    """Reference counts, the free stack and its height after a block was written."""
    references, stack, height = held
    pages = references.shape[0]
    new = (plan.fresh | plan.shared) & done
    left = plan.shared & done
    references = references.at[jnp.where(new, plan.page, pages)].set(1, mode="drop")
    references = references.at[jnp.where(left, plan.old, pages)].add(-1, mode="drop")
    height = height - jnp.where(done, plan.needed, 0)
    # Two sequences that leave a page they shared alone return it once. Only the first touched
    # page of a sequence can be shared.
    leaving, page = left[:, 0], plan.old[:, 0]
    earlier = jnp.tril(jnp.ones((page.shape[0],) * 2, bool), -1)
    repeated = jnp.any(earlier & (page[:, None] == page[None, :]) & leaving[None, :], axis=1)
    freed = leaving & ~repeated & (references[page] == 0)
    rank = jnp.cumsum(freed, dtype=jnp.int32) - 1
    place = jnp.where(freed, height + rank, pages)
    stack = stack.at[place].set(page, mode="drop")
    return references, stack, height + jnp.sum(freed, dtype=jnp.int32)


def books(cache: CacheArrays) -> tuple[Any, ...]:
    """What changes where no token is written; the pools and their summaries stay as they are."""
    return (
        cache.page_table,
        cache.lengths,
        cache.reference_counts,
        cache.free_pages,
        cache.free_count,
        cache.superpages,
    )


def free(cache: _Cache, sequence: Int[Array, ""]) -> _Cache:
    """Empty a sequence and return to the stack what nothing else names."""
    inside = is_sequence(cache, sequence)
    lengths = cache.lengths.at[sequence].multiply((~inside).astype(jnp.int32), mode="drop")
    dropped = inside & covered(cache, cache.lengths[sequence])
    return _release(cache, cache.page_table[sequence], dropped, lengths)


def _release(
    cache: _Cache,
    pages: Int[Array, "*places"],
    dropped: Bool[Array, "*places"],
    lengths: Int[Array, " B"],
) -> _Cache:
    """Sequences of new lengths, which name some pages no more; what nothing names is returned."""
    count = cache.reference_counts.shape[0]
    before = cache.reference_counts
    references = before.at[jnp.where(dropped, pages, count)].add(-1, mode="drop")
    freed = (references == 0) & (before > 0)
    rank = jnp.cumsum(freed, dtype=jnp.int32) - 1
    place = jnp.where(freed, cache.free_count + rank, count)
    stack = cache.free_pages.at[place].set(jnp.arange(count, dtype=jnp.int32), mode="drop")
    height = cache.free_count + jnp.sum(freed, dtype=jnp.int32)
    return eqx.tree_at(
        lambda c: (c.lengths, c.reference_counts, c.free_pages, c.free_count),
        cache,
        (lengths, references, stack, height),
    )


def fork(
    cache: _Cache, source: Int[Array, ""], target: Int[Array, ""], length: Int[Array, ""]
) -> _Cache:
    """Let `target` name the pages of the first `length` tokens of `source`."""
    target = fork_target(cache, source, target)
    length = jnp.where(target < cache.page_table.shape[0], length, 0)
    cache = free(cache, target)
    row = cache.page_table[source]
    pages = cache.reference_counts.shape[0]
    named = jnp.where(covered(cache, length), row, pages)
    return eqx.tree_at(
        lambda c: (c.page_table, c.lengths, c.reference_counts, c.superpages),
        cache,
        (
            cache.page_table.at[target].set(row, mode="drop"),
            cache.lengths.at[target].set(length.astype(jnp.int32), mode="drop"),
            cache.reference_counts.at[named].add(1, mode="drop"),
            jax.tree.map(
                lambda held: held.at[target].set(held[source], mode="drop"), cache.superpages
            ),
        ),
    )


def fork_target(
    cache: CacheArrays, source: Int[Array, ""], target: Int[Array, ""]
) -> Int[Array, ""]:
    """The sequence that a fork writes; none, the number of sequences, if it makes no sense."""
    sensible = is_sequence(cache, source) & is_sequence(cache, target) & (source != target)
    return jnp.where(sensible, target, cache.page_table.shape[0])


def is_sequence(cache: CacheArrays, sequence: Int[Array, ""]) -> Bool[Array, ""]:
    """Whether a traced index is one: others would be clamped or wrapped, to a wrong sequence."""
    return (sequence >= 0) & (sequence < cache.page_table.shape[0])


def covered(cache: CacheArrays, lengths: Int[Array, "*n"]) -> Bool[Array, "*n P"]:
    """Which places of a row of the page table sequences of these lengths use."""
    starts = jnp.arange(cache.pages_per_sequence, dtype=jnp.int32) * cache.page_size
    return starts.reshape(*(1,) * lengths.ndim, -1) < lengths[..., None]


def superpages_of_table(summaries: Summaries, table: Int[Array, "B P"]) -> Summaries:
    """Superpage summaries of every sequence, complete or not, from its page table."""
    count = table.shape[1] // PAGES_PER_SUPERPAGE
    within = table[:, : count * PAGES_PER_SUPERPAGE]
    within = within.reshape(table.shape[0], count, PAGES_PER_SUPERPAGE)
    parts = jax.tree.map(lambda held: held[:, within], without_sketch(summaries))
    return jax.tree.map(lambda a: jnp.moveaxis(a, 0, 1), summarise_superpages(parts, -1))


def grow(cache: _Cache, pages: int, width: int) -> _Cache:
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
        rounding=cache.rounding,
    )


def truncate(cache: _Cache, lengths: Int[Array, " B"]) -> _Cache:
    """Drop what lies beyond a length; pages that nothing names any more return to the stack."""
    kept = jnp.clip(lengths, 0, cache.lengths)
    dropped = covered(cache, cache.lengths) & ~covered(cache, kept)
    return _release(cache, cache.page_table, dropped, kept)


def select(cache: _Cache, sequences: Int[Array, " C"]) -> _Cache:
    """Row i becomes row `sequences[i]`; rows named twice share their pages."""
    table, lengths = cache.page_table[sequences], cache.lengths[sequences]
    pages = cache.reference_counts.shape[0]
    named = jnp.where(covered(cache, lengths), table, pages)
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
        rounding=cache.rounding,
    )

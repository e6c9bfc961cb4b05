"""The paged KV cache: a functional pytree whose free list and reference counts live on the device.

Every method works inside ``jit`` and ``lax.scan`` but `grow`, which changes shapes, and
`from_pages`, which looks at its table. Sequences share pages: `fork` copies a row of the page
table, and a partial page that two sequences share is copied when one of them writes.
"""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from vashista_theory._results import Result
from vashista_theory._types import ArrayLike
from vashista_theory.attention.bounds import sketch
from vashista_theory.attention.bounds.sketch import Rounding
from vashista_theory.attention.bounds.summaries import (
    PAGES_PER_SUPERPAGE,
    Summaries,
    SummarySpec,
    empty_summaries,
    stored_bytes,
    summarise_pages,
)
from vashista_theory.attention.cache import bookkeeping as update
from vashista_theory.attention.cache import checks
from vashista_theory.attention.cache.state import CacheArrays


class PagedKV(CacheArrays):
    """Keys and values of several sequences in pages of one pool, with summaries of the pages.

    Build one with `create`, `from_tokens` or `from_pages`. Methods return a new cache;
    `append` consumes the old one (its buffers are reused), so rebind the name.

    Attributes:
        keys: Pool of key pages, by kv head, page, token in the page.
        values: Pool of value pages.
        page_table: Pool page of each page of each sequence; meaningless beyond the length.
        lengths: Tokens in each sequence.
        reference_counts: How many places of the page table name each pool page.
        free_pages: Stack of free pool pages; the first `free_count` entries are free.
        free_count: Height of the stack.
        summaries: Of full pages, by kv head and pool page.
        superpages: Of 16 full pages in sequence, by sequence, kv head and number.
        spec: Which summaries are kept.
        rounding: What sketches of one or two bits are rounded for, as `for_queries` made it; None
            rounds every number to the nearest.
    """

    @classmethod
    def create(
        cls,
        *,
        batch: int,
        kv_heads: int,
        head_size: int,
        pages: int,
        pages_per_sequence: int | None = None,
        page_size: int = 16,
        dtype: Any = jnp.float32,
        spec: SummarySpec | None = None,
    ) -> "PagedKV":
        """An empty cache.

        Args:
            batch: Number of sequences.
            kv_heads: Key-value heads; query heads share them in equal consecutive groups.
            head_size: D.
            pages: Pages in the pool, for all sequences together.
            pages_per_sequence: The longest sequence, in pages (the whole pool by default).
            page_size: Tokens a page.
            dtype: bfloat16, float16, float32 or float64 of keys and values.
            spec: Which summaries to keep.

        Raises:
            ValueError: naming the size that is not positive or the dtype that cannot be used.
        """
        spec = SummarySpec() if spec is None else spec
        width = pages if pages_per_sequence is None else pages_per_sequence
        checks.check_sizes(
            batch=batch,
            kv_heads=kv_heads,
            head_size=head_size,
            pages=pages,
            pages_per_sequence=width,
            page_size=page_size,
        )
        checks.check_length(width, page_size)
        dtype = checks.check_dtypes(dtype, spec, head_size)
        return _empty(batch, width, (kv_heads, pages, page_size, head_size), dtype, spec)

    @classmethod
    def from_tokens(
        cls,
        keys: ArrayLike,
        values: ArrayLike,
        *,
        lengths: ArrayLike | None = None,
        room: int | None = None,
        pages: int | None = None,
        pages_per_sequence: int | None = None,
        page_size: int = 16,
        spec: SummarySpec | None = None,
        queries: ArrayLike | None = None,
    ) -> "PagedKV":
        """A cache that holds keys and values (B, Hkv, T, D).

        Without `room` or `pages` the pool is just large enough, and appending soon raises.

        Args:
            keys: (B, Hkv, T, D).
            values: (B, Hkv, T, D).
            lengths: (B,), how many of the T tokens each sequence has (all by default).
            room: Tokens that each sequence can be appended after those. Excludes the next two.
            pages: Pages in the pool, for all sequences together.
            pages_per_sequence: The longest sequence, in pages (the whole pool if `pages` is given,
                as in `create`).
            page_size: Tokens a page.
            spec: Which summaries to keep.
            queries: (B, H, Q, D), such as will be asked, for `for_queries`.

        Raises:
            ValueError: if shapes disagree, a concrete number is not finite, or the tokens do not
                fit in `pages`. What is only known under jit (a NaN, lengths that need more pages)
                raises when it runs.
        """
        keys_, values_ = checks.as_tokens(keys, values)
        batch, kv_heads, tokens, d = keys_.shape
        counts = checks.as_counts(lengths, batch, tokens, "lengths")
        checks.check_sizes(page_size=page_size)
        pages, width = checks.as_room(
            batch, tokens, page_size, room=room, pages=pages, width=pages_per_sequence
        )
        checks.check_sizes(pages=pages, pages_per_sequence=width)
        checks.check_room(lengths, batch, tokens, pages=pages, width=width, page_size=page_size)
        empty = cls.create(
            batch=batch,
            kv_heads=kv_heads,
            head_size=d,
            pages=pages,
            pages_per_sequence=width,
            page_size=page_size,
            dtype=keys_.dtype,
            spec=spec,
        )
        if queries is not None:
            empty = empty.for_queries(queries)
        cache, result = empty.append(keys_, values_, counts=counts, throw=False)
        return checks.settled(cache, result, "filling a new cache")

    @classmethod
    def from_pages(
        cls,
        keys: ArrayLike,
        values: ArrayLike,
        page_table: ArrayLike,
        lengths: ArrayLike,
        *,
        spec: SummarySpec | None = None,
    ) -> "PagedKV":
        """Adopt pools and a page table that something else filled.

        A page may be named more than once. Not for use under a transformation.

        Args:
            keys: (Hkv, N, S, D), N pages of S tokens.
            values: Like the keys.
            page_table: (B, P), the page of the pool at each place of each sequence.
            lengths: (B,), tokens of each sequence.
            spec: Summaries to keep; all kinds by default.

        Raises:
            ValueError: for a page id outside the pool, a length beyond the table, shapes that
                disagree, or a key or value that is not finite (in pages not in use either: a
                weight of zero times NaN is NaN).
        """
        spec = SummarySpec() if spec is None else spec
        keys_, values_, table, lengths_ = checks.as_pools(keys, values, page_table, lengths)
        checks.check_dtypes(keys_.dtype, spec, keys_.shape[-1])
        pages, size = keys_.shape[1:3]
        covered = np.arange(table.shape[1])[None, :] < -(-lengths_[:, None] // size)
        counts = np.bincount(table[covered], minlength=pages).astype(np.int32)
        free = np.flatnonzero(counts == 0)
        stack = np.zeros(pages, np.int32)
        stack[: free.size] = free[::-1]
        summaries, supers = _summarised(keys_, values_, jnp.asarray(table, jnp.int32), spec)
        return cls(
            keys=keys_,
            values=values_,
            page_table=jnp.asarray(np.where(covered, table, 0), jnp.int32),
            lengths=jnp.asarray(lengths_, jnp.int32),
            reference_counts=jnp.asarray(counts),
            free_pages=jnp.asarray(stack),
            free_count=jnp.asarray(free.size, jnp.int32),
            summaries=summaries,
            superpages=supers,
            spec=spec,
        )

    def for_queries(self, queries: ArrayLike) -> "PagedKV":
        """The same cache, whose sketches of one or two bits are rounded for such queries.

        Pages that are completed from now on choose their codes so that the logits of these queries
        err less, where before each number went to the nearest grid point; those of the prompt are
        good ones. Sketches of more bits, and pages that are complete, stay as they are. Nothing is
        read that was not, and bounds hold for every query.

        Args:
            queries: (B, H, Q, D), H a multiple of the kv heads.

        Raises:
            ValueError: for a wrong shape or a number that is not finite.
        """
        expected = checks.as_expected_queries(queries, self)
        if not sketch.aimed(self.spec.sketch_bits):
            return self
        return eqx.tree_at(
            lambda cache: cache.rounding,
            self,
            _rounding_for(expected),
            is_leaf=lambda part: part is None or isinstance(part, Rounding),
        )

    def summary_bytes(self) -> dict[str, int]:
        """Bytes held by the summaries of pages and by those of superpages."""
        return {"pages": stored_bytes(self.summaries), "superpages": stored_bytes(self.superpages)}

    def append(
        self,
        keys: ArrayLike,
        values: ArrayLike,
        *,
        counts: ArrayLike | None = None,
        throw: bool = True,
    ) -> tuple["PagedKV", Result]:
        """Append a token (B, Hkv, D) or a block (B, Hkv, T, D) to every sequence.

        All or nothing: unless the result is `successful`, the returned cache equals the old one.
        The buffers of the old cache are reused; do not touch it again.

        Args:
            keys: In the dtype of the cache.
            values: Like the keys.
            counts: (B,), how many of the T tokens each sequence takes (all by default); 0 leaves
                a sequence as it is. Under jit they are cut to the range 0 to T.
            throw: Whether a block that does not fit raises: at once, or when what was compiled
                runs. False returns what happened, to be looked at, and waits for nothing.

        Returns:
            The cache and `successful`; with ``throw=False`` also `pool_full` (no free page, or the
            sequence has no room left in its row of the page table) or `nonfinite_input`.

        Raises:
            PoolFullError: if the block does not fit; its `cache` is the unchanged cache.
            ValueError: for wrong shapes or dtypes, concrete counts out of range, or a concrete
                NaN or infinity.
        """
        keys_, values_ = checks.as_block(keys, values, self)
        counts_ = checks.as_counts(counts, keys_.shape[0], keys_.shape[2], "counts")
        cache, result = _append(self, keys_, values_, counts_)
        return (checks.appended(cache, result, counts_) if throw else cache), result

    def fork(self, source: int | Array, target: int | Array, *, length: Any = None) -> "PagedKV":
        """Make sequence `target` a copy of the first `length` tokens of `source`, sharing pages.

        What `target` held is freed first. Nothing is copied but a row of the page table. Under
        jit, indices that are out of range or equal leave the cache as it is.

        Args:
            source: Which sequence.
            target: Which sequence it replaces; not `source`.
            length: Tokens to share (all by default; cut to the length of the source).

        Raises:
            ValueError: for concrete indices out of range or equal, or a concrete length that is
                negative or longer than the source.
        """
        checks.check_fork(self, source, target, length)
        full = self.lengths[source]
        kept = full if length is None else jnp.clip(jnp.asarray(length, jnp.int32), 0, full)
        return self._changed(update.fork, jnp.asarray(source), jnp.asarray(target), kept)

    def free(self, sequence: int | Array) -> "PagedKV":
        """Empty a sequence; pages that no other sequence names return to the pool.

        Under jit, an index out of range leaves the cache as it is.

        Raises:
            ValueError: for a concrete index out of range.
        """
        checks.check_sequence(self, sequence, "sequence")
        return self._changed(update.free, jnp.asarray(sequence))

    def grow(self, *, pages: int | None = None, pages_per_sequence: int | None = None) -> "PagedKV":
        """The same tokens in a larger pool, or with room for longer sequences.

        The pools are copied, and what was compiled for the old sizes is compiled again: grow
        seldom, by a good part of the size.

        Args:
            pages: Of the pool; as many as there are by default.
            pages_per_sequence: Of the longest sequence there is room for; likewise.

        Raises:
            ValueError: for a size smaller than the present one.
        """
        now, wide = self.keys.shape[1], self.pages_per_sequence
        pages = now if pages is None else pages
        width = wide if pages_per_sequence is None else pages_per_sequence
        checks.check_sizes(pages=pages, pages_per_sequence=width)
        checks.check_length(width, self.page_size)
        for name, size, asked in (("pages", now, pages), ("pages_per_sequence", wide, width)):
            if asked < size:
                raise ValueError(f"`{name}` is {asked}, but the cache has {size}; it only grows.")
        return update.grow(self, pages, width)

    def truncate(self, lengths: ArrayLike) -> "PagedKV":
        """Keep the first `lengths[b]` tokens of sequence b; pages left over return to the pool.

        Args:
            lengths: (B,); one longer than its sequence changes nothing.

        Raises:
            ValueError: for a wrong shape, or a concrete length that is negative.
        """
        most = self.pages_per_sequence * self.page_size
        kept = checks.as_counts(lengths, self.batch, most, "lengths")
        return self._changed(update.truncate, kept)

    def select(self, sequences: ArrayLike) -> "PagedKV":
        """The sequences named, in that order; one named twice shares its pages (beam search).

        Under jit, indices are cut to the range.

        Args:
            sequences: (C,), C of any positive size.

        Raises:
            ValueError: for a wrong shape, or a concrete index out of range.
        """
        return self._changed(update.select, checks.as_sequences(sequences, self.batch))

    def _changed(self, change: Callable[..., "PagedKV"], *asked: Array) -> "PagedKV":
        """Compiled, but for the pools: what a compiled call returns is a copy."""
        return eqx.tree_at(update.books, self, _books_after(change, self, *asked))


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _empty(
    batch: int, width: int, pool: tuple[int, ...], dtype: jnp.dtype, spec: SummarySpec
) -> PagedKV:
    kv_heads, pages, page_size, head_size = pool
    supers = (batch, kv_heads, width // PAGES_PER_SUPERPAGE)
    return PagedKV(
        keys=jnp.zeros(pool, dtype),
        values=jnp.zeros(pool, dtype),
        page_table=jnp.zeros((batch, width), jnp.int32),
        lengths=jnp.zeros((batch,), jnp.int32),
        reference_counts=jnp.zeros((pages,), jnp.int32),
        free_pages=jnp.arange(pages, dtype=jnp.int32)[::-1],
        free_count=jnp.asarray(pages, jnp.int32),
        summaries=empty_summaries(spec, (kv_heads, pages), page_size, head_size),
        superpages=empty_summaries(spec, supers, None, head_size),
        spec=spec,
    )


_rounding_for = jax.jit(sketch.rounding_for)


@functools.partial(jax.jit, static_argnames="spec")
def _summarised(
    keys: Array, values: Array, table: Array, spec: SummarySpec
) -> tuple[Summaries, Summaries]:
    summaries = summarise_pages(keys, values, spec)
    return summaries, update.superpages_of_table(summaries, table)


@functools.partial(jax.jit, static_argnums=0)
def _books_after(change: Callable[..., PagedKV], cache: PagedKV, *asked: Array) -> tuple[Any, ...]:
    return update.books(change(cache, *asked))


@functools.partial(jax.jit, donate_argnums=0)
def _append(cache: PagedKV, keys: Array, values: Array, counts: Array) -> tuple[PagedKV, Result]:
    return update.append(cache, keys, values, counts)

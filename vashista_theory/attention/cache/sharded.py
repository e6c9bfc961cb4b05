"""The paged KV cache of a context larger than one device: its pages are dealt to several."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from vashista_theory._checks import as_host_floats, is_traced
from vashista_theory._results import Result
from vashista_theory._types import ArrayLike
from vashista_theory.attention.bounds.summaries import (
    PAGES_PER_SUPERPAGE,
    SummarySpec,
    stored_bytes,
)
from vashista_theory.attention.cache import bookkeeping as update
from vashista_theory.attention.cache import checks
from vashista_theory.attention.cache.dealing import Dealing
from vashista_theory.attention.cache.paged import PagedKV


class ShardedKV(eqx.Module):
    """A `PagedKV` whose pages lie on the devices along one axis of a mesh.

    Logical page p of every sequence is on device (p // 16) mod n: whole superpages in turn. Each
    device holds an ordinary `PagedKV` of its pages; `vashista_attention` takes either. `create`,
    `from_tokens`, `append`, `fork` and `free` are as in `PagedKV`, work inside ``jit`` and
    ``lax.scan`` too, and `append` consumes the old cache likewise; it does not grow. With
    several processes, all of them call every method, with equal arguments.

    Attributes:
        parts: The cache of each device, along a leading axis of all arrays.
        lengths: Tokens in each sequence, on all devices together.
        pages_per_sequence: Pages of the longest sequence there is room for.
        dealing: The mesh and its axis.
    """

    parts: PagedKV
    lengths: Int[Array, " B"]
    pages_per_sequence: int = eqx.field(static=True)
    dealing: Dealing = eqx.field(static=True)

    @classmethod
    def create(
        cls,
        *,
        mesh: Mesh,
        axis: str | None = None,
        batch: int,
        kv_heads: int,
        head_size: int,
        pages: int,
        pages_per_sequence: int | None = None,
        page_size: int = 16,
        dtype: Any = jnp.float32,
        spec: SummarySpec | None = None,
    ) -> "ShardedKV":
        """An empty cache.

        Args:
            mesh: The devices.
            axis: The axis of the mesh along which pages are dealt; what the other axes hold is
                equal. May be left out if there is only one.
            batch: Number of sequences.
            kv_heads: Key-value heads; query heads share them in equal consecutive groups.
            head_size: D.
            pages: Pages in the pools of all devices together, the same number on each.
            pages_per_sequence: The longest sequence, in pages (the whole pool by default).
            page_size: Tokens a page.
            dtype: bfloat16, float16, float32 or float64 of keys and values.
            spec: Which summaries to keep.

        Raises:
            ValueError: for an axis that the mesh does not have, pages that cannot be split evenly,
                and as `PagedKV.create`.
        """
        dealing = Dealing(mesh, checks.as_axis(mesh, axis))
        width = pages if pages_per_sequence is None else pages_per_sequence
        checks.check_sizes(batch=batch, pages=pages, pages_per_sequence=width)
        checks.check_dealt(pages, dealing.count)
        build = functools.partial(
            PagedKV.create,
            batch=batch,
            kv_heads=kv_heads,
            head_size=head_size,
            pages=pages // dealing.count,
            pages_per_sequence=dealing.pages_per_device(width),
            page_size=page_size,
            dtype=dtype,
            spec=spec,
        )

        @jax.jit
        def everywhere() -> tuple[PagedKV, Array]:
            return dealing.on_each(lambda _: (build(), jnp.zeros((batch,), jnp.int32)), ())

        return cls(*everywhere(), pages_per_sequence=width, dealing=dealing)

    @classmethod
    def from_tokens(
        cls,
        keys: ArrayLike,
        values: ArrayLike,
        *,
        mesh: Mesh,
        axis: str | None = None,
        lengths: ArrayLike | None = None,
        pages: int | None = None,
        pages_per_sequence: int | None = None,
        page_size: int = 16,
        spec: SummarySpec | None = None,
    ) -> "ShardedKV":
        """A cache that holds keys and values (B, Hkv, T, D), in pools just large enough.

        Arrays of NumPy stay on the host; devices get a superpage each at a time.

        Args:
            keys: (B, Hkv, T, D).
            values: (B, Hkv, T, D).
            mesh: The devices.
            axis: As in `create`.
            lengths: (B,), how many of the T tokens each sequence has (all by default).
            pages: Pages in the pools together, if more room is wanted.
            pages_per_sequence: The longest sequence, if more room is wanted.
            page_size: Tokens a page.
            spec: Which summaries to keep.

        Raises:
            ValueError: if shapes disagree or the tokens do not fit in `pages`.
        """
        keys_, values_ = as_host_floats(keys, "keys"), as_host_floats(values, "values")
        checks.check_token_shapes(keys_, values_)
        batch, kv_heads, tokens, d = keys_.shape
        counts = checks.as_counts(lengths, batch, tokens, "lengths")
        checks.check_sizes(page_size=page_size)
        dealing = Dealing(mesh, checks.as_axis(mesh, axis))
        width = max(1, -(-tokens // page_size))
        cache = cls.create(
            mesh=mesh,
            axis=axis,
            batch=batch,
            kv_heads=kv_heads,
            head_size=d,
            pages=batch * dealing.pages_per_device(width) * dealing.count
            if pages is None
            else pages,
            pages_per_sequence=width if pages_per_sequence is None else pages_per_sequence,
            page_size=page_size,
            dtype=keys_.dtype,
            spec=spec,
        )
        block = PAGES_PER_SUPERPAGE * page_size * dealing.count
        for start in range(0, tokens, block):
            piece = slice(start, start + block)
            cache, result = cache.append(
                keys_[:, :, piece],
                values_[:, :, piece],
                counts=jnp.clip(counts - start, 0, min(block, tokens - start)),
                throw=False,
            )
            cache = checks.settled(cache, result, "filling a new cache")
        return cache

    @property
    def batch(self) -> int:
        """Sequences."""
        return self.lengths.shape[0]

    @property
    def dtype(self) -> Any:
        """Type of the keys and values."""
        return self.parts.dtype

    @property
    def page_size(self) -> int:
        """Tokens a page."""
        return self.parts.keys.shape[3]

    @property
    def kv_heads(self) -> int:
        """Key-value heads."""
        return self.parts.keys.shape[1]

    @property
    def head_size(self) -> int:
        """Coordinates of a key."""
        return self.parts.keys.shape[4]

    @property
    def spec(self) -> SummarySpec:
        """Which summaries are kept."""
        return self.parts.spec

    @property
    def work_dtype(self) -> Any:
        """Precision in which scores and bounds are computed."""
        return self.parts.work_dtype

    def summary_bytes(self) -> dict[str, int]:
        """Bytes held on all devices by the summaries of pages and by those of superpages."""
        parts = self.parts
        return {
            "pages": stored_bytes(parts.summaries),
            "superpages": stored_bytes(parts.superpages),
        }

    def append(
        self,
        keys: ArrayLike,
        values: ArrayLike,
        *,
        counts: ArrayLike | None = None,
        throw: bool = True,
    ) -> tuple["ShardedKV", Result]:
        """Append a token (B, Hkv, D) or a block (B, Hkv, T, D) to every sequence.

        All or nothing, on all devices: unless the result is `successful`, the returned cache
        equals the old one, also if the pool of one device alone is full. Every device gets the
        whole block and keeps its tokens of it. The buffers of the old cache are reused; do not
        touch it again.

        Args:
            keys: In the dtype of the cache.
            values: Like the keys.
            counts: (B,), how many of the T tokens each sequence takes (all by default); 0 leaves
                a sequence as it is.
            throw: As in `PagedKV.append`.

        Returns:
            The cache and `successful`; with ``throw=False`` also `pool_full` or `nonfinite_input`.

        Raises:
            PoolFullError: as `PagedKV.append`.
            ValueError: likewise.
        """
        keys_, values_ = checks.as_block(keys, values, self)
        counts_ = checks.as_counts(counts, keys_.shape[0], keys_.shape[2], "counts")
        cache, result = _append(self, *(self.on_devices(a) for a in (keys_, values_, counts_)))
        return (checks.appended(cache, result, counts_) if throw else cache), result

    def fork(self, source: int | Array, target: int | Array, *, length: Any = None) -> "ShardedKV":
        """Make sequence `target` a copy of the first `length` tokens of `source`, sharing pages.

        As `PagedKV.fork`; devices tell each other nothing.

        Raises:
            ValueError: as `PagedKV.fork`.
        """
        checks.check_fork(self, source, target, length)
        asked = jnp.asarray(jnp.iinfo(jnp.int32).max if length is None else length, jnp.int32)
        books, lengths = _fork(self, jnp.asarray(source), jnp.asarray(target), asked)
        return self._with_books(books, lengths)

    def free(self, sequence: int | Array) -> "ShardedKV":
        """Empty a sequence; pages that no other sequence names return to the pools.

        Raises:
            ValueError: for a concrete index out of range.
        """
        checks.check_sequence(self, sequence, "sequence")
        books, lengths = _free(self, jnp.asarray(sequence))
        return self._with_books(books, lengths)

    def on_devices(self, array: Array) -> Array:
        """An array where a computation with the cache can use it."""
        devices = set(self.dealing.mesh.devices.flat)
        if is_traced(array) or not array.committed or array.sharding.device_set == devices:
            return array
        return jax.device_put(array, NamedSharding(self.dealing.mesh, PartitionSpec()))

    def _with_books(self, books: tuple[Any, ...], lengths: Array) -> "ShardedKV":
        return eqx.tree_at(lambda c: (*update.books(c.parts), c.lengths), self, (*books, lengths))


@functools.partial(jax.jit, donate_argnums=0)
def _append(
    cache: ShardedKV, keys: Array, values: Array, counts: Array
) -> tuple[ShardedKV, Result]:
    dealing, size = cache.dealing, cache.page_size
    room = cache.pages_per_sequence * size

    def append(
        part: PagedKV, lengths: Array, keys: Array, values: Array, counts: Array
    ) -> tuple[PagedKV, tuple[Array, Result]]:
        ends = lengths + counts

        def agree(fits_and_finite: Array) -> Array:
            roomy = jnp.stack([jnp.all(ends <= room), jnp.ones((), bool)])
            return dealing.all_agree(fits_and_finite & roomy)

        part, result = update.append(
            part,
            dealing.block_here(keys, lengths, size),
            dealing.block_here(values, lengths, size),
            dealing.lengths_here(ends, size) - dealing.lengths_here(lengths, size),
            agree=agree,
        )
        return part, (jnp.where(result == Result.successful, ends, lengths), result)

    parts, (lengths, result) = dealing.on_each(
        append, cache.parts, cache.lengths, keys, values, counts
    )
    width = cache.pages_per_sequence
    return ShardedKV(parts, lengths, pages_per_sequence=width, dealing=dealing), result


@jax.jit
def _fork(
    cache: ShardedKV, source: Array, target: Array, asked: Array
) -> tuple[tuple[Any, ...], Array]:
    def fork(part: PagedKV, lengths: Array, source: Array, target: Array, asked: Array) -> Any:
        kept = jnp.clip(asked, 0, lengths[source])
        here = cache.dealing.lengths_here(kept, cache.page_size)
        forked = update.fork(part, source, target, here)
        named = update.fork_target(part, source, target)
        return update.books(forked), lengths.at[named].set(kept, mode="drop")

    return cache.dealing.on_each(fork, cache.parts, cache.lengths, source, target, asked)


@jax.jit
def _free(cache: ShardedKV, sequence: Array) -> tuple[tuple[Any, ...], Array]:
    def free(part: PagedKV, lengths: Array, sequence: Array) -> Any:
        inside = update.is_sequence(part, sequence)
        named = jnp.where(inside, sequence, lengths.shape[0])
        return update.books(update.free(part, sequence)), lengths.at[named].set(0, mode="drop")

    return cache.dealing.on_each(free, cache.parts, cache.lengths, sequence)

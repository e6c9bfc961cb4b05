"""What a user may pass to `PagedKV`, checked with messages that name the bad value."""

from dataclasses import fields
from typing import Any, Protocol, TypeVar, runtime_checkable

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from vashista_theory._checks import as_array, as_floats, check_finite, is_integer, is_traced
from vashista_theory._results import Result
from vashista_theory._types import ArrayLike
from vashista_theory.attention.bounds import sketch
from vashista_theory.attention.bounds.summaries import SummarySpec

_Cache = TypeVar("_Cache")
_Appendable = TypeVar("_Appendable", bound="_Sequences")
_DTYPES = ("bfloat16", "float16", "float32", "float64")
_LARGEST = 2**31 - 1  # page ids, lengths and counts are int32


@runtime_checkable
class _Sequences(Protocol):
    """What is asked of a cache here, on one device or on several."""

    @property
    def batch(self) -> int: ...
    @property
    def kv_heads(self) -> int: ...
    @property
    def head_size(self) -> int: ...
    @property
    def dtype(self) -> Any: ...
    @property
    def lengths(self) -> Array: ...
    @property
    def page_size(self) -> int: ...
    @property
    def pages_per_sequence(self) -> int: ...


def check_sizes(**sizes: int) -> None:
    """Raise unless every size is a positive integer that fits in 32 bits."""
    for name, size in sizes.items():
        if not is_integer(size, least=1):
            raise ValueError(f"`{name}` is {size!r}; a positive integer is expected.")
        if size > _LARGEST:
            raise ValueError(f"`{name}` is {size}; at most {_LARGEST} (32 bits) is expected.")


def check_length(width: int, page_size: int) -> None:
    """Raise if the longest sequence has more tokens than 32 bits can count."""
    if width * page_size > _LARGEST:
        raise ValueError(
            f"`pages_per_sequence` is {width}: with {page_size} tokens a page that is "
            f"{width * page_size} tokens, more than {_LARGEST} (32 bits). Use fewer."
        )


def as_expected_queries(queries: ArrayLike, cache: _Sequences) -> Array:
    """Finite queries (B, H, Q, D) by kv head, (Hkv, B × H/Hkv × Q, D)."""
    array = as_floats(queries, "queries")
    heads, d = cache.kv_heads, cache.head_size
    if array.ndim != 4 or array.shape[1] % heads or array.shape[3] != d or 0 in array.shape:
        raise ValueError(
            f"`queries` has shape {array.shape}; (B, H, Q, {d}) is expected, with H a multiple of "
            f"the {heads} kv heads."
        )
    check_finite(array, "queries")
    array = array.astype(jnp.float64 if array.dtype == jnp.float64 else jnp.float32)
    return jnp.moveaxis(array, 1, 0).reshape(heads, -1, d)


def check_dtypes(dtype: Any, spec: SummarySpec, d: int) -> Any:
    """Return the dtype, or raise unless keys of it can be kept and summarised as asked."""
    _check_spec(spec)
    try:
        name = None if dtype is None else str(jnp.dtype(dtype))
    except TypeError:
        name = None
    if name not in _DTYPES:
        raise ValueError(f"keys and values are {name or repr(dtype)}; expected one of {_DTYPES}.")
    for asked in (name, spec.dtype):
        if asked == "float64" and jnp.result_type(float) != jnp.float64:
            raise ValueError(
                "float64 was asked for, but JAX's 64-bit mode is off. Call "
                "`jax.config.update('jax_enable_x64', True)` first, or use float32."
            )
    if spec.sketch_bits is not None and spec.packed:
        sketch.check_packable(spec.sketch_bits, d)
    return jnp.dtype(dtype)


def _check_spec(spec: SummarySpec) -> None:
    if not isinstance(spec, SummarySpec):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"`spec` is {spec!r}; a SummarySpec is expected, or None for the default.")
    for name in (field.name for field in fields(spec) if isinstance(field.default, bool)):
        if not isinstance(getattr(spec, name), bool):
            found = getattr(spec, name)
            raise ValueError(f"`spec.{name}` is {found!r}; True or False is expected.")


def as_tokens(keys: ArrayLike, values: ArrayLike) -> tuple[Array, Array]:
    """Keys and values (B, Hkv, T, D) of one shape and type."""
    keys_, values_ = as_floats(keys, "keys"), as_floats(values, "values")
    check_token_shapes(keys_, values_)
    check_finite(keys_, "keys")
    check_finite(values_, "values")
    return keys_, values_


def check_token_shapes(keys: Array | np.ndarray, values: Array | np.ndarray) -> None:
    """Raise unless keys and values are (B, Hkv, T, D), of one shape and type."""
    if keys.ndim != 4 or 0 in keys.shape[:2] or keys.shape[3] == 0:
        raise ValueError(f"`keys` has shape {keys.shape}; expected (B, Hkv, T, D).")
    if keys.shape[2] == 0:
        raise ValueError(
            f"`keys` has shape {keys.shape}, no tokens. Use `create` for an empty cache."
        )
    _check_alike(keys, values)


def as_block(keys: ArrayLike, values: ArrayLike, cache: _Sequences) -> tuple[Array, Array]:
    """A token or a block as (B, Hkv, T, D), in the cache's type."""
    keys_, values_ = as_floats(keys, "keys"), as_floats(values, "values")
    _check_alike(keys_, values_)
    check_finite(keys_, "keys")
    check_finite(values_, "values")
    batch, heads, d = cache.batch, cache.kv_heads, cache.head_size
    ends = (keys_.shape[:2], keys_.shape[-1:])
    if keys_.ndim not in (3, 4) or ends != ((batch, heads), (d,)) or 0 in keys_.shape:
        raise ValueError(
            f"`keys` has shape {keys_.shape}; this cache takes a token ({batch}, {heads}, {d}) or "
            f"a block ({batch}, {heads}, T, {d})."
        )
    if keys_.dtype != cache.dtype:
        raise ValueError(
            f"`keys` is {keys_.dtype}, the cache holds {cache.dtype}. Convert with "
            f"`.astype('{cache.dtype}')`."
        )
    if keys_.ndim == 3:
        keys_, values_ = keys_[:, :, None], values_[:, :, None]
    return keys_, values_


def _check_alike(keys: Array | np.ndarray, values: Array | np.ndarray) -> None:
    if keys.shape != values.shape or keys.dtype != values.dtype:
        raise ValueError(
            f"`keys` {keys.dtype}{list(keys.shape)} and `values` "
            f"{values.dtype}{list(values.shape)} must have one shape and one type."
        )


def as_counts(counts: ArrayLike | None, batch: int, tokens: int, name: str) -> Array:
    """How many tokens each sequence takes, between 0 and the length of the block."""
    if counts is None:
        return jnp.full((batch,), tokens, jnp.int32)
    array = as_array(counts, name)
    if array.shape != (batch,) or not jnp.issubdtype(array.dtype, jnp.integer):
        raise ValueError(
            f"`{name}` is {array.dtype}{list(array.shape)}; integers of shape ({batch},) are "
            "expected, one a sequence."
        )
    if is_traced(array):
        return jnp.clip(array, 0, tokens).astype(jnp.int32)
    array = _on_host(array)
    bad = np.flatnonzero((array < 0) | (array > tokens))
    if bad.size:
        raise ValueError(
            f"`{name}[{bad[0]}]` is {int(array[bad[0]])}; expected 0 to {tokens}, the length of "
            "the block."
        )
    return jnp.asarray(array, jnp.int32)


def _on_host(integers: np.ndarray | Array) -> np.ndarray:
    """In 64 bits: short or unsigned ones would wrap around in what is computed of them."""
    return np.asarray(integers).astype(np.int64)


def check_room(
    lengths: ArrayLike | None, batch: int, tokens: int, *, pages: int, width: int, page_size: int
) -> None:
    """Raise if lengths known before tracing need more pages than there are."""
    if is_traced(lengths):
        return
    counts = np.full(batch, tokens)
    if lengths is not None:
        counts = _on_host(as_array(lengths, "lengths"))
    used = -(-counts // page_size)
    longest = int(np.argmax(used))
    if used[longest] > width:
        raise ValueError(
            f"`pages_per_sequence` is {width}, room for {width * page_size} tokens, but sequence "
            f"{longest} has {counts[longest]}. Use pages_per_sequence={used[longest]} or more."
        )
    if used.sum() > pages:
        raise ValueError(
            f"`pages` is {pages}, but the tokens fill {used.sum()} pages of {page_size}. Use "
            f"pages={used.sum()} or more."
        )


def as_pools(
    keys: ArrayLike, values: ArrayLike, page_table: ArrayLike, lengths: ArrayLike
) -> tuple[Array, Array, np.ndarray, np.ndarray]:
    """Pools (Hkv, N, S, D) with a page table and lengths that stay inside them."""
    if is_traced(keys, values, page_table, lengths):
        raise ValueError("`from_pages` checks its input and cannot be traced; call it outside jit.")
    keys_, values_ = as_floats(keys, "keys"), as_floats(values, "values")
    if keys_.ndim != 4 or 0 in keys_.shape:
        raise ValueError(f"`keys` has shape {keys_.shape}; expected pools (Hkv, N, S, D).")
    _check_alike(keys_, values_)
    remedy = "Pages that are not in use must be finite too: set them to zero."
    check_finite(keys_, "keys", remedy)
    check_finite(values_, "values", remedy)
    named, held = as_array(page_table, "page_table"), as_array(lengths, "lengths")
    if named.ndim != 2 or 0 in named.shape or not jnp.issubdtype(named.dtype, jnp.integer):
        raise ValueError(
            f"`page_table` is {named.dtype}{list(named.shape)}; integers of shape (B, P) are "
            "expected."
        )
    if held.shape != named.shape[:1] or not jnp.issubdtype(held.dtype, jnp.integer):
        raise ValueError(
            f"`lengths` is {held.dtype}{list(held.shape)}; integers of shape "
            f"({named.shape[0]},) are expected."
        )
    table, counts = _on_host(named), _on_host(held)
    pages, size = keys_.shape[1:3]
    room = table.shape[1] * size
    bad = np.flatnonzero((counts < 0) | (counts > room))
    if bad.size:
        raise ValueError(
            f"`lengths[{bad[0]}]` is {counts[bad[0]]}; {table.shape[1]} pages of {size} tokens "
            f"hold 0 to {room}. Widen the table, or shorten the sequence."
        )
    covered = np.arange(table.shape[1])[None, :] < -(-counts[:, None] // size)
    wrong = np.argwhere(covered & ((table < 0) | (table >= pages)))
    if wrong.size:
        row, column = (int(i) for i in wrong[0])
        raise ValueError(
            f"`page_table[{row}, {column}]` is {table[row, column]}; the pool has pages 0 to "
            f"{pages - 1}. {Result[Result.invalid_page]}"
        )
    return keys_, values_, table.clip(0, pages - 1), counts


def as_axis(mesh: Mesh, axis: str | None) -> str:
    """The axis of a mesh along which pages are dealt."""
    if not isinstance(mesh, Mesh):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"`mesh` is a {type(mesh).__name__}; a jax.sharding.Mesh is expected.")
    names: tuple[str, ...] = mesh.axis_names
    name = names[0] if axis is None and len(names) == 1 else axis
    if name is None or name not in names:
        raise ValueError(f"`axis` is {axis!r}; this mesh has {names}.")
    return name


def check_dealt(pages: int, devices: int) -> None:
    """Raise unless every device gets the same number of pages."""
    if pages % devices:
        raise ValueError(
            f"`pages` is {pages}, which {devices} devices cannot share equally: use "
            f"{-(-pages // devices) * devices}."
        )


def check_sequence(cache: _Sequences, sequence: Any, name: str) -> None:
    """Raise for what is no sequence index, or a concrete one out of range."""
    _check_integer(sequence, name)
    batch = cache.batch
    if not is_traced(sequence) and not 0 <= int(sequence) < batch:
        raise ValueError(f"`{name}` is {int(sequence)}; sequences are 0 to {batch - 1}.")


def as_sequences(sequences: ArrayLike, batch: int) -> Array:
    """Indices of sequences, at least one."""
    array = as_array(sequences, "sequences")
    if array.ndim != 1 or array.size == 0 or not jnp.issubdtype(array.dtype, jnp.integer):
        raise ValueError(
            f"`sequences` is {array.dtype}{list(array.shape)}; a list of sequence indices is "
            "expected."
        )
    if not is_traced(array):
        array = _on_host(array)
        bad = np.flatnonzero((array < 0) | (array >= batch))
        if bad.size:
            raise ValueError(
                f"`sequences[{bad[0]}]` is {int(array[bad[0]])}; sequences are 0 to {batch - 1}."
            )
    return jnp.clip(jnp.asarray(array), 0, batch - 1).astype(jnp.int32)


def _check_integer(value: Any, name: str) -> None:
    array = as_array(value, name)
    if array.shape != () or not jnp.issubdtype(array.dtype, jnp.integer):
        raise ValueError(f"`{name}` is {value!r}; one integer is expected.")


def check_fork(cache: _Sequences, source: Any, target: Any, length: Any) -> None:
    """Raise for a concrete fork that makes no sense."""
    check_sequence(cache, source, "source")
    check_sequence(cache, target, "target")
    if not is_traced(source, target) and int(source) == int(target):
        raise ValueError(f"`source` and `target` are both {int(source)}; fork into another one.")
    if length is None:
        return
    _check_integer(length, "length")
    if not is_traced(length, cache.lengths, source):
        held = int(np.asarray(cache.lengths)[int(source)])
        if not 0 <= int(length) <= held:
            raise ValueError(
                f"`length` is {int(length)}; sequence {int(source)} has {held} tokens to share."
            )


def as_room(
    batch: int,
    tokens: int,
    page_size: int,
    *,
    room: int | None,
    pages: int | None,
    width: int | None,
) -> tuple[int, int]:
    """Pages of the pool and of the longest sequence, of a cache that starts with tokens.

    Raises:
        ValueError: for room that is no number of tokens, or asked for in two ways.
    """
    if room is None:
        needed = -(-tokens // page_size)
        # As in an empty cache, one sequence may take the whole pool that was asked for.
        longest = needed
        if pages is not None and is_integer(pages, least=1):
            longest = max(needed, pages)
        return batch * needed if pages is None else pages, longest if width is None else width
    if pages is not None or width is not None:
        raise ValueError(
            f"`room` is {room} tokens for each sequence, which decides `pages` ({pages}) and "
            f"`pages_per_sequence` ({width}): give the one or the others."
        )
    if not is_integer(room, least=0, most=_LARGEST):
        raise ValueError(f"`room` is {room!r}; a number of tokens is expected, at least 0.")
    longest = -(-(tokens + room) // page_size)
    return batch * longest, longest


class PoolFullError(RuntimeError):
    """A block of tokens that did not fit.

    Attributes:
        cache: The cache as it was before; the one that was appended to gave up its buffers.
    """

    def __init__(self, message: str, cache: Any) -> None:
        super().__init__(message)
        self.cache = cache


def appended(cache: _Appendable, result: Result, counts: Array) -> _Appendable:
    """The cache, or an error if the block did not fit: at once, or under jit when it runs."""
    if is_traced(result):
        # Of the lengths alone: a copy of the pools would be made of what passes a branch.
        failed = result != Result.successful
        return eqx.tree_at(lambda c: c.lengths, cache, result.error_if(cache.lengths, failed))
    if bool(result == Result.successful):
        return cache
    ends = np.asarray(cache.lengths) + np.asarray(counts)
    longest, room = int(np.argmax(ends)), cache.pages_per_sequence * cache.page_size
    why = (
        f"sequence {longest} would have {ends[longest]} tokens and has room for {room}"
        if ends[longest] > room
        else "the pool has too few free pages"
    )
    grows = hasattr(cache, "grow")  # one spread over devices does not
    raise PoolFullError(
        f"this block does not fit: {why}. Nothing was changed, and this error's `.cache` goes on: "
        f"call its {'`grow(pages=..., pages_per_sequence=...)` or ' * grows}`free(sequence)`. Or "
        "build the cache with more room: "
        f"{'`from_tokens(..., room=tokens)`, ' * grows}`create(pages=...)`.",
        cache,
    )


def settled(cache: _Cache, result: Result, doing: str) -> _Cache:
    """The cache, or the advice of a failure: at once, or under jit when it runs."""
    if is_traced(result):
        return result.error_if(cache, result != Result.successful)
    if not bool(result == Result.successful):
        raise ValueError(f"{doing}: {Result[result]}")
    return cache

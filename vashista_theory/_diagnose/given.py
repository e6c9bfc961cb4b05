"""Queries, keys and values as people have them, brought to one form: layer, head, token, size."""

import dataclasses

import numpy as np
from jaxtyping import Int

from vashista_theory._checks import as_float64, as_numbers, check_finite, is_traced
from vashista_theory._types import ArrayLike
from vashista_theory._words import count
from vashista_theory.hull.heads import Heads

MOST_QUERIES = 8
"""Queries of each head that are looked at, evenly spread, the last among them."""


@dataclasses.dataclass(frozen=True)
class Given:
    """Heads of one or more layers.

    Attributes:
        queries: (L, H, Q, D), those that are looked at.
        keys: (L, Hkv, T, D); query heads share key heads in equal consecutive groups.
        values: Like the keys, or None.
        layers: The number of each layer.
        positions: Of each query; it sees the keys 0 to its position.
        scale: The factor on the scores.
        dtype: Types as they came.
        notes: How the arrays were understood, in sentences.
    """

    queries: np.ndarray
    keys: np.ndarray
    values: np.ndarray | None
    layers: tuple[int, ...]
    positions: Int[np.ndarray, " Q"]
    scale: float
    dtype: str
    notes: tuple[str, ...]

    @property
    def group(self) -> int:
        """Query heads that share a key head."""
        return self.queries.shape[1] // self.keys.shape[1]

    def layer(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Queries, keys and values of one layer in float64."""
        values = None if self.values is None else np.asarray(self.values[index], np.float64)
        queries, keys = self.queries[index], self.keys[index]
        return np.asarray(queries, np.float64), np.asarray(keys, np.float64), values


def from_heads(heads: Heads) -> Given:
    """The heads of a heads file."""
    chosen = _spread(len(heads.positions))
    return Given(
        queries=heads.queries[:, :, chosen],
        keys=heads.keys,
        values=heads.values,
        layers=tuple(int(layer) for layer in heads.layers),
        positions=heads.positions[chosen].astype(np.int64),
        scale=heads.scale,
        dtype=str(heads.keys.dtype),
        notes=(
            *_chosen(len(heads.positions)),
            "Each query sees the keys up to its own position.",
        ),
    )


def from_arrays(
    keys: ArrayLike,
    queries: ArrayLike,
    values: ArrayLike | None,
    *,
    scale: float,
    causal: bool | None,
) -> Given:
    """Arrays of a user, in any of the shapes that heads come in.

    Raises:
        ValueError: shapes that do not belong together (with a guess at what was meant), types,
            NaN or infinite entries.
    """
    if is_traced(keys, queries, values):
        raise ValueError("`diagnose` needs concrete numbers: call it outside jit, vmap and grad.")
    asked = {"keys": keys, "queries": queries} | ({} if values is None else {"values": values})
    held = {name: np.asarray(as_numbers(array, name)) for name, array in asked.items()}
    dtype = _types(held)
    k, q = _in_four_axes(held["keys"], held["queries"])
    v = held.get("values")
    if v is not None and v.shape != held["keys"].shape:
        raise ValueError(_values_do_not_fit(v.shape, held["keys"].shape))
    for name, array in held.items():
        held[name] = array if array.dtype.kind == "f" else as_float64(array, name)
        check_finite(held[name], name)
    k, q = _in_four_axes(held["keys"], held["queries"])
    tokens, asked_for = k.shape[2], q.shape[2]
    if causal is None:
        causal = asked_for == tokens > 1
    if causal and asked_for > tokens:
        raise ValueError(
            f"causal=True takes the queries for those of the last tokens, but there are "
            f"{asked_for:,} queries and {tokens:,} keys. Pass causal=False if every query sees "
            "every key, or all the keys."
        )
    chosen = _spread(asked_for)
    positions = chosen + tokens - asked_for if causal else np.full(len(chosen), tokens - 1)
    seen = f"Each query sees {'all ' * (tokens > 1)}{count(tokens, 'key')}."
    if causal:
        last = "the last" if asked_for == 1 else f"the last {asked_for:,}"
        seen = (
            "Each query sees the keys up to its own position: "
            f"{count(asked_for, 'query')} for {last} of {count(tokens, 'token')}."
        )
    return Given(
        queries=q[:, :, chosen],
        keys=k,
        values=None if v is None else held["values"].reshape(k.shape),
        layers=tuple(range(k.shape[0])),
        positions=positions,
        scale=scale,
        dtype=dtype,
        notes=(*_chosen(asked_for), seen, *_suspicion(k.shape)),
    )


def _types(held: dict[str, np.ndarray]) -> str:
    kinds = {str(array.dtype) for array in held.values()}
    if len(kinds) == 1:
        return kinds.pop()
    return ", ".join(f"{array.dtype} {name}" for name, array in held.items())


def _spread(given: int) -> Int[np.ndarray, " q"]:
    fewest = min(given, MOST_QUERIES)
    return (np.arange(1, fewest + 1) * given) // fewest - 1


def _chosen(given: int) -> tuple[str, ...]:
    if given <= MOST_QUERIES:
        return ()
    said = f"{MOST_QUERIES} of {given:,} queries a head are looked at, evenly spread, the last too."
    return (said,)


def _suspicion(keys: tuple[int, ...]) -> tuple[str, ...]:
    _, heads, tokens, _ = keys
    if heads <= tokens:
        return ()
    said = (
        f"READ AS {heads:,} HEADS WITH {tokens:,} KEYS EACH, which is more heads than keys. If the "
        "arrays are (tokens, heads, D), pass array.swapaxes(-3, -2)."
    )
    return (said,)


def _in_four_axes(keys: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(L, Hkv, T, D) and (L, H, Q, D)."""
    given = f"keys of shape {keys.shape} and queries of shape {queries.shape}"
    if 0 in keys.shape or 0 in queries.shape:
        raise ValueError(f"{given}: one is empty. Every length must be at least 1.")
    if not 2 <= keys.ndim <= 4 or not 1 <= queries.ndim <= 4:
        raise ValueError(f"{given} {_FORMS}")
    if keys.shape[-1] != queries.shape[-1]:
        raise ValueError(
            f"{given} do not belong together: the last axis of both must be the head size D. "
            f"{_guess(keys.shape, queries.shape)}{_FORMS}"
        )
    heads_of_keys = keys.shape[-3] if keys.ndim > 2 else 1
    k = keys.reshape((1,) * (4 - keys.ndim) + keys.shape)
    size = keys.shape[-1]
    if queries.ndim == 1:
        if keys.ndim > 2 and keys.size != keys.shape[-2] * size:
            raise ValueError(
                f"{given}: one query for {heads_of_keys} key heads. Pass the queries of all heads, "
                "(H, D) or (H, Q, D), or the keys of one, keys[0]."
            )
        q = queries.reshape(1, 1, 1, size)
    elif queries.ndim == 2:
        q = queries[None, None] if keys.ndim == 2 else queries[None, :, None]
    elif queries.ndim == 3:
        q = queries[:, :, None] if keys.ndim == 4 and len(k) == len(queries) > 1 else queries[None]
    else:
        q = queries
    if len(q) != len(k):
        raise ValueError(f"{given}: {len(q)} layers of queries, {len(k)} of keys. {_FORMS}")
    if q.shape[1] % k.shape[1]:
        guess = "If an array is (tokens, heads, D), pass array.swapaxes(-3, -2). "
        if k.shape[1] % q.shape[1] == 0 and q.shape[2] > k.shape[2]:
            guess += "Or keys and queries are swapped: keys come first. "
        raise ValueError(
            f"{given}: {q.shape[1]:,} query heads cannot share {k.shape[1]:,} key heads equally. "
            f"{guess}{_FORMS}"
        )
    return k, q


_FORMS = (
    "Expected keys (T, D) with queries (D,) or (Q, D); keys (Hkv, T, D) with queries (H, D) or "
    "(H, Q, D), H a multiple of Hkv; or both with a first axis for the layer."
)


def _guess(keys: tuple[int, ...], queries: tuple[int, ...]) -> str:
    if keys[-2] == queries[-1]:
        return "The keys look like (D, T): pass keys.swapaxes(-2, -1). "
    if len(queries) > 1 and queries[-2] == keys[-1]:
        return "The queries look like (D, Q): pass queries.swapaxes(-2, -1). "
    return ""


def _values_do_not_fit(values: tuple[int, ...], keys: tuple[int, ...]) -> str:
    said = f"values of shape {values} and keys of shape {keys}: one value a key is expected, in "
    if len(values) == len(keys) and values[:-2] == keys[:-2] and values[:-3:-1] == keys[-2:]:
        return said + "the same shape. The values look like (D, T): pass values.swapaxes(-2, -1)."
    if len(values) == len(keys) > 2 and sorted(values) == sorted(keys):
        return said + "the same shape. The axes are in another order: pass values.swapaxes(-3, -2)."
    return said + "the same shape. Leave the values out if there are none."

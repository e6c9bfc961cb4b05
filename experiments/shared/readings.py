"""Captured heads read by the mechanism itself, and what its report is worth.

Which pages were read is not part of the report. Values that mark pages tell: with the same keys
and policy the same pages are read, and where the mean of the marks of a page is zero, it was not.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.shared.page_masses import PAGE, Truth
from vashista_theory.attention import DecodeInfo, PagedKV, Policy, SummarySpec, vashista_attention
from vashista_theory.attention.bounds.summaries import Summary

Call = Any  # a compiled decode step


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a cache keeps, and what of it pages are judged by.

    Attributes:
        judged_by: The policy's summary.
        box: Kept.
        ball: Kept (it has the page mean, which makes the bound of a box sharper).
        bits: Of the sketch.
        dtype: Everything but the codes.
        only_ranks: Whether it is asked which pages are best, and nothing else.
    """

    judged_by: Summary
    box: bool = True
    ball: bool = False
    bits: int | None = None
    dtype: str = "bfloat16"
    only_ranks: bool = False

    def spec(self, d: int) -> SummarySpec:
        """For keys of d dimensions; codes share bytes where they fill them."""
        return SummarySpec(self.box, self.ball, self.bits, packed=d % 8 == 0, dtype=self.dtype)


KINDS: Mapping[str, Kind] = {
    "mean": Kind("mean", box=False, ball=True),
    "box": Kind("box"),
    "box, float64": Kind("box", dtype="float64", only_ranks=True),
    "ball": Kind("ball", box=False, ball=True),
    "box + mean": Kind("box", ball=True),
    "1 bit": Kind("sketch", bits=1, only_ranks=True),
    "2 bits": Kind("sketch", bits=2),
    "4 bits": Kind("sketch", bits=4),
    "6 bits": Kind("sketch", bits=6),
    "8 bits": Kind("sketch", bits=8),
}


@dataclasses.dataclass(frozen=True)
class Readings:
    """One policy on every captured query: arrays (position, layer, head).

    Attributes:
        pages: Pages read.
        bound: Proven bound on the dropped mass.
        lower: Proven lower bound on it.
        estimate: The mass as estimated.
        gap: Δ̂ in logits.
        certified: Whether the tolerance was proven.
        fell_back: Whether the row was read densely.
        error_bound: Proven bound on the length of the output's error.
        summary_bytes: Bytes of summaries read, over the pages there are; by kv head.
        dropped: True dropped mass of what was returned.
        error: True length of the output's error.
        norm: Length of the dense output.
    """

    pages: np.ndarray
    bound: np.ndarray
    lower: np.ndarray
    estimate: np.ndarray
    gap: np.ndarray
    certified: np.ndarray
    fell_back: np.ndarray
    error_bound: np.ndarray
    summary_bytes: np.ndarray
    dropped: np.ndarray
    error: np.ndarray
    norm: np.ndarray

    def flat(self, name: str) -> np.ndarray:
        """One field over all queries."""
        return np.ravel(getattr(self, name))

    @property
    def relative_error(self) -> np.ndarray:
        """True error over the length of the dense output."""
        return self.error / self.norm


@dataclasses.dataclass(frozen=True)
class AllReadings:
    """All readings, by summary and what else tells them apart.

    Attributes:
        shared: The heads with kv heads shared by groups.
        one: The same with a kv head for each query head.
        certified: `Policy.certified`, by tolerance.
        unforced: The same with no page always read.
        grouped: `Policy.certified` on `shared`.
        single: `Policy.certified` in float32.
        kept: A fixed number of pages, whatever the proof says, by number.
        dense: The same, falling back to dense, by number and tolerance.
        ranked: The best pages only, by number.
    """

    shared: Truth
    one: Truth
    certified: dict[tuple, Readings] = dataclasses.field(default_factory=dict)
    unforced: dict[tuple, Readings] = dataclasses.field(default_factory=dict)
    grouped: dict[tuple, Readings] = dataclasses.field(default_factory=dict)
    single: dict[tuple, Readings] = dataclasses.field(default_factory=dict)
    kept: dict[tuple, Readings] = dataclasses.field(default_factory=dict)
    dense: dict[tuple, Readings] = dataclasses.field(default_factory=dict)
    ranked: dict[tuple, Readings] = dataclasses.field(default_factory=dict)


class Reader:
    """A cache of captured heads, a sequence for each layer, that policies read.

    Args:
        held: The heads.
        kind: What to keep of the pages.
        dtype: Of queries, keys and values: float64 holds what was captured exactly, as does
            float32.
        optimise: Whether XLA optimises the step; without, it compiles in half the time.
    """

    def __init__(
        self, held: Truth, kind: Kind, *, dtype: str = "float64", optimise: bool = True
    ) -> None:
        layers, kv_heads, pages, _, d = held.keys.shape
        self._held, self._kind, self._dtype = held, kind, dtype
        self._options = None if optimise else {"xla_backend_optimization_level": 0}
        table = np.arange(layers * pages, dtype=np.int32).reshape(layers, pages)
        lengths = np.full(layers, held.lengths[-1], np.int32)
        self._cache = PagedKV.from_pages(
            self._pool(held.keys), self._pool(held.values), table, lengths, spec=kind.spec(d)
        )
        self._marks = [
            self._pool(np.broadcast_to(_marks(pages, first, d)[None, None], held.keys.shape))
            for first in range(0, pages, d)
        ]
        self._shape = (layers, kv_heads * held.group)

    def _pool(self, pages: np.ndarray) -> jax.Array:
        layers, kv_heads, count, size, d = pages.shape
        by_head = np.moveaxis(pages, 1, 0).reshape(kv_heads, layers * count, size, d)
        return jnp.asarray(by_head, self._dtype)

    def read(self, policy: Policy) -> Readings:
        """Read every captured query, and compare with the truth."""
        step = self._compiled(policy)
        found = [self._at(step, position) for position in range(len(self._held.lengths))]
        return Readings(**{name: np.stack([f[name] for f in found]) for name in found[0]})

    def _compiled(self, policy: Policy) -> Call:
        scale = self._held.scale

        def step(query: jax.Array, cache: PagedKV) -> tuple[jax.Array, DecodeInfo]:
            return vashista_attention(query, cache, policy, scale=scale)

        jitted = jax.jit(step, compiler_options=self._options)
        return jitted.lower(self._query(0), self._cache_at(0)).compile()

    def _query(self, position: int) -> jax.Array:
        return jnp.asarray(self._held.queries[position], self._dtype)

    def _cache_at(self, position: int) -> PagedKV:
        lengths = jnp.full(self._shape[:1], self._held.lengths[position], jnp.int32)
        return dataclasses.replace(self._cache, lengths=lengths)

    def _at(self, step: Call, position: int) -> dict[str, np.ndarray]:
        cache, query, held = self._cache_at(position), self._query(position), self._held
        output, info = step(query, cache)
        marked = [step(query, dataclasses.replace(cache, values=m))[0] for m in self._marks]
        mass = held.mass[position]
        read = np.concatenate(marked, axis=-1)[..., : mass.shape[-1]] > 0
        dense = held.output[position]
        pages = np.asarray(info.pages_read)
        kv_pages = pages.reshape(*info.bytes_read.shape, -1)[..., 0]
        page_bytes = 2.0 * PAGE * query.shape[-1] * cache.keys.dtype.itemsize
        full = int(held.lengths[position]) // PAGE
        return {
            "pages": pages,
            "bound": np.asarray(info.dropped_mass_bound),
            "lower": np.asarray(info.dropped_mass_lower),
            "estimate": np.asarray(info.dropped_mass_estimate),
            "gap": np.asarray(info.gap) * held.scale,
            "certified": np.asarray(info.certified),
            "fell_back": np.asarray(info.fell_back),
            "error_bound": np.asarray(info.error_bound),
            "summary_bytes": (np.asarray(info.bytes_read) - page_bytes * kv_pages) / full,
            "dropped": np.where(read, 0.0, mass).sum(axis=-1),
            "error": np.linalg.norm(np.asarray(output, float) - dense, axis=-1),
            "norm": np.linalg.norm(dense, axis=-1),
        }


def _marks(pages: int, first: int, d: int) -> np.ndarray:
    """Values that tell pages `first` to `first + d` apart: one coordinate each."""
    marks = np.arange(pages)[:, None] == first + np.arange(d)[None, :]
    return np.repeat(marks[:, None, :], PAGE, axis=1).astype(float)

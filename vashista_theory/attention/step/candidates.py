"""Judging pages by their summaries, all of them or on two levels."""

from dataclasses import replace
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from vashista_theory.attention.bounds.bits import from_bits
from vashista_theory.attention.bounds.page_bounds import PageBounds, Query
from vashista_theory.attention.bounds.summaries import DRAWING, KINDS, Summaries, value_lengths
from vashista_theory.attention.cache.paged import PagedKV
from vashista_theory.attention.policy import Policy
from vashista_theory.attention.step.routing import Layout, layout
from vashista_theory.attention.step.softmax_sums import Pools


class Candidates(NamedTuple):
    """Candidates (pages, and behind them superpages that were not opened) with their bounds.

    Attributes:
        pages: Logical page of each candidate, −1 for a superpage or nothing.
        places: Which candidates are full and which are read anyway. Superpages that were opened
            are not full here: their pages speak for themselves.
        bounds: What the summaries say.
        value_bounds: Bound on the length of any value of the candidate.
        bytes_read: Bytes of summaries that were read, by row.
    """

    pages: Int[Array, "R U"]
    places: Layout
    bounds: PageBounds
    value_bounds: Float[Array, "R U"]
    bytes_read: Float[Array, " R"]


def parts(summaries: Summaries, policy: Policy) -> Summaries:
    """What the policy judges by, nothing else."""
    named = KINDS[policy.summary or "box"].fields(proof=policy.proves)
    unread = vars(summaries).keys() - {*named, "value_bound"}
    return replace(summaries, **dict.fromkeys(unread))


def lengths_of_values(
    summaries: Summaries,
    heads: Int[Array, "R 1"],
    pages: Int[Array, "R K"],
    dtype: jnp.dtype,
) -> Float[Array, "R K S"]:
    """Bounds on the length of each value of some pages; their cache keeps a sketch."""
    assert summaries.value_codes is not None
    codes = pick(summaries.value_codes, heads, pages)
    return value_lengths(pick(summaries.value_bound, heads, pages), codes, dtype)


def pick(
    part: Shaped[Array, "Hkv N ..."], heads: Int[Array, "R 1"], pages: Int[Array, "R K"]
) -> Shaped[Array, "R K ..."]:
    """Summaries of some pages, fetched as one flat run a page: copied several times as fast."""
    flat = part.reshape(*part.shape[:2], -1)[heads, pages]
    return flat.reshape(*pages.shape, *part.shape[2:])


def as_candidates(
    query: Query,
    cache: PagedKV,
    pools: Pools,
    policy: Policy,
    pages: Int[Array, "R U"],
    bounds: PageBounds,
    value_bounds: Shaped[Array, "R U"],
) -> Candidates:
    """Candidates that are all pages, with what was found of them."""
    places = layout(pages, pools.lengths, cache.page_size, policy)
    seen = jnp.sum(places.full, axis=1, dtype=jnp.int32).astype(query.vectors.dtype)
    values = from_bits(value_bounds, query.vectors.dtype)
    return Candidates(pages, places, bounds, values, seen * summary_bytes(cache, policy))


def summary_bytes(cache: PagedKV, policy: Policy, *, superpages: bool = False) -> float:
    """Bytes that judging one page (or superpage) reads."""
    fields = cache.spec.bytes_by_field(cache.page_size, cache.head_size)
    # Superpages have no sketch; their boxes stand in for it.
    summary = policy.summary or "box"
    kind = KINDS["box" if superpages and summary == "sketch" else summary]
    names = {*kind.fields(proof=policy.proves)}
    names |= {"value_bound"} if policy.proves else set()
    names |= {*DRAWING} if policy.tokens is not None else set()
    return float(sum(fields.get(name, 0) for name in names))

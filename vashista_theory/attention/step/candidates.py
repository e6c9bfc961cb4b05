"""Judging pages by their summaries, all of them or on two levels."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from vashista_theory.attention.bounds.bits import from_bits
from vashista_theory.attention.bounds.page_bounds import PageBounds, Query
from vashista_theory.attention.bounds.summaries import Summaries
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
    named = {
        "mean": {"mean", "mean_error"},
        "ball": {"mean", "mean_error", "radius"},
        "box": {"box", "mean", "mean_error"} if policy.proves else {"box"},
        "sketch": {"box", "codes", "residual"} if policy.proves else {"box", "codes"},
    }[policy.summary or "box"]
    names = ("box", "mean", "mean_error", "radius", "codes", "residual")
    part = [getattr(summaries, name) if name in named else None for name in names]
    return Summaries(*part, value_bound=summaries.value_bound)


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
    parts = cache.spec.bytes_by_part(cache.page_size, cache.head_size)
    width, ball = parts["value_bound"], parts.get("ball", 0)
    proof = policy.proves
    box = parts.get("box", 0) + ball * proof
    codes = parts.get("sketch", 0) - (0 if proof else cache.page_size * width)
    costs = {
        "mean": cache.head_size * width,
        "ball": ball,
        "box": box,
        # Superpages have no sketch; their boxes stand in for it.
        "sketch": box if superpages else parts.get("box", 0) + codes,
    }
    return float(costs[policy.summary or "box"] + width * proof)

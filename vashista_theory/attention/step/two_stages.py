"""Drawing in two stages: superpages by their means first, then tokens of those by their sketch.

Scoring every token is linear in the context. Here as many superpages as the policy says are opened,
each with a probability π₁ in proportion to its mass as its mean estimates it; then tokens of the
opened ones are drawn as ever, by their sketched mass over π₁, and count 1/(π₁π₂) times. So
numerator and denominator stay unbiased.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from vashista_theory._numerics import finite_or_zero
from vashista_theory.attention.bounds.page_bounds import Query
from vashista_theory.attention.bounds.random_bits import BITS, token_numbers
from vashista_theory.attention.bounds.sampling import two_stage_variance
from vashista_theory.attention.bounds.summaries import PAGES_PER_SUPERPAGE
from vashista_theory.attention.cache.paged import PagedKV
from vashista_theory.attention.policy import Policy
from vashista_theory.attention.step.backend import Backend
from vashista_theory.attention.step.candidates import summary_bytes
from vashista_theory.attention.step.drawing import (
    MOST,
    Listed,
    Tail,
    group_proxies,
    inclusion,
    is_undrawable,
    list_drawn,
    thresholds,
)
from vashista_theory.attention.step.plain_backend import gather_tokens
from vashista_theory.attention.step.softmax_sums import Pools, logits_of

FIRST_STAGE = 2**16
"""Added to the number of an attempt: superpages are drawn by other bits than their tokens."""


class Opened(NamedTuple):
    """Superpages whose tokens are scored, by their pages.

    Attributes:
        pages: Logical pages of the tail, by slot and page of it; −1 for none.
        log_pi: Log of the probability with which the superpage of each slot was opened.
        judged: Superpages that were judged.
        complete: Whether every superpage of the tail was certain to be opened.
        overflown: Whether more were drawn than there is room for.
    """

    pages: Int[Array, "R K N"]
    log_pi: Float[Array, "R K"]
    judged: Int[Array, " R"]
    complete: Bool[Array, " R"]
    overflown: Bool[Array, " R"]


def slots(policy: Policy, superpages: int, kv_heads: int) -> int:
    """Room for superpages: those that are drawn, and those beside pages that are always read."""
    span = PAGES_PER_SUPERPAGE
    always = -(-policy.sink // span) + -(-max(1, policy.recent) // span) + 1
    return math.ceil(superpages * (MOST if kv_heads > 1 else 1)) + 1 + always


def draws_superpages(cache: PagedKV, policy: Policy, superpages: int) -> bool:
    """Whether a first stage spares half of the superpages at least; never with 0."""
    if superpages == 0:
        return False
    count = -(-cache.pages_per_sequence // PAGES_PER_SUPERPAGE)
    return 2 * slots(policy, superpages, cache.kv_heads) <= count


def open_superpages(
    query: Query,
    cache: PagedKV,
    pools: Pools,
    policy: Policy,
    tail: tuple[Int[Array, " R"], Int[Array, " R"]],
    sure: Float[Array, "R G"],
    keys: UInt32[Array, "R 2"],
    *,
    superpages: int,
    kv_heads: int,
    backend: Backend,
) -> Opened:
    """Draw so many superpages of a tail of pages [first, last), by kv heads that share them.

    One with a page that is not of the tail, or that is not yet full, has to be opened: what is
    known of it is not of the tail alone.
    """
    span = PAGES_PER_SUPERPAGE
    first, last = (end[:, None] for end in tail)
    count = -(-pools.table.shape[1] // span)
    numbers = jnp.arange(count, dtype=jnp.int32)[None, :]
    touched = (numbers * span < last) & ((numbers + 1) * span > first)
    inside = (numbers * span >= first) & ((numbers + 1) * span <= last)
    forced = touched & ~inside

    masses = backend.superpage_bounds(query, cache, _judging_means(policy))[0].priority
    missing = count - masses.shape[-1]
    logits = jnp.pad(masses, [(0, 0), (0, 0), (0, missing)])[..., None]
    proxy = group_proxies(logits, inside, sure, _alone, cache.kv_heads)
    units = Tail(inside, proxy, jnp.sum(inside, axis=1, dtype=jnp.int32))
    expected = jnp.full(units.tokens.shape, superpages, jnp.int32)
    asked, inverse = thresholds(units, expected, _alone, kv_heads)
    probability = inclusion(units, asked, inverse)
    drawn = draw_systematically(probability[..., 0], inside, keys) | forced
    room = slots(policy, superpages, kv_heads)
    listed, _ = list_drawn(drawn[..., None], room)

    rows = jnp.arange(listed.pages.shape[0], dtype=jnp.int32)[:, None]
    number = jnp.minimum(listed.pages, count - 1)
    pages = number[..., None] * span + jnp.arange(span, dtype=jnp.int32)[None, None, :]
    meant = listed.exists[..., None] & (pages >= first[..., None]) & (pages < last[..., None])
    return Opened(
        pages=jnp.where(meant, pages, -1),
        log_pi=jnp.log(probability[rows, number, 0]),
        judged=jnp.sum(inside, axis=1, dtype=jnp.int32),
        complete=jnp.all((probability[..., 0] >= 1) | ~inside, axis=1),
        overflown=(jnp.sum(drawn, axis=1, dtype=jnp.int32) > room)
        | is_undrawable(units, inverse, _alone),
    )


def draw_systematically(
    probability: Float[Array, "R C"], meant: Bool[Array, "R C"], keys: UInt32[Array, "R 2"]
) -> Bool[Array, "R C"]:
    """Draw as many as the probabilities add up to, or one more or less.

    The units are put in random order and laid end to end, each as long as its probability, and
    those that cover one of the points u, u + 1, … are drawn, with one random u. Lengths are whole
    multiples of 2^−24, so every probability is met exactly; and in random order two units are drawn
    together nearly as often as if they were drawn independently (Hartley and Rao, 1962).
    """
    steps = jnp.where(meant, probability * 2.0**BITS, 0.0).astype(jnp.uint32)
    numbers = jnp.arange(steps.shape[1] + 1, dtype=jnp.int32)
    words = token_numbers(keys, numbers, 1)[..., 0]
    order = jnp.argsort(words[:, 1:], axis=1)
    lengths = jnp.take_along_axis(steps, order, axis=1)
    # Modulo 2^32, which is a whole number of units of length.
    ends = jnp.cumsum(lengths, axis=1, dtype=jnp.uint32) + words[:, :1].astype(jnp.uint32)
    covers = (ends >> jnp.uint32(BITS)) != ((ends - lengths) >> jnp.uint32(BITS))
    rows = jnp.arange(steps.shape[0], dtype=jnp.int32)[:, None]
    return jnp.zeros_like(meant).at[rows, order].set(covers)


def judged_bytes(opened: Opened, cache: PagedKV, policy: Policy) -> Float[Array, " R"]:
    """Bytes of summaries: the means of superpages, and the sketches of the pages of some."""
    dtype = opened.log_pi.dtype
    pages = jnp.sum(opened.pages >= 0, axis=(1, 2), dtype=jnp.int32).astype(dtype)
    means = opened.judged.astype(dtype) * summary_bytes(
        cache, _judging_means(policy), superpages=True
    )
    return means + pages * summary_bytes(cache, policy)


def variance(
    query: Query,
    pools: Pools,
    listed: Listed,
    log_pi: Float[Array, "R C"],
    slot: Int[Array, "R C"],
    log_unit: Float[Array, "R K"],
    output: Float[Array, "R G D"],
    log_mass: Float[Array, "R G"],
) -> Float[Array, "R G"]:
    """What drawn tokens of this device tell of the variance of the output, between superpages too.

    Args:
        query: Of the rows.
        pools: Where the tokens lie.
        listed: The tokens.
        log_pi: Log of the probability of each once its superpage was opened.
        slot: Where its superpage stands in `log_unit`.
        log_unit: Log of the probability of each opened superpage.
        output: ô.
        log_mass: Of everything read.
    """
    gathered = gather_tokens(pools, listed, query.vectors.dtype)
    relative = logits_of(query, gathered) - finite_or_zero(log_mass)[..., None]
    places = jnp.arange(log_unit.shape[1], dtype=jnp.int32)
    members = (slot[..., None] == places[None, None, :]) & listed.exists[..., None]
    away = gathered.values[:, None] - output[:, :, None]
    return two_stage_variance(relative, log_unit[:, None], log_pi[:, None], away, members[:, None])


def _alone(numbers: Array) -> Array:
    """All devices have judged all superpages: none has to be heard."""
    return numbers[None]


def _judging_means(policy: Policy) -> Policy:
    """The policy by which superpages are judged."""
    return Policy(pages=policy.always, summary="mean", sink=policy.sink, recent=policy.recent)

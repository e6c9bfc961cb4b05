"""Drawing tokens (T8): proxies of their masses, the threshold, the draw, and the list of the drawn.

No step sorts. Arrays run over the pages of this device, in its own order; sums are of all devices.
"""

import functools
import math
import operator
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from vashista_theory._numerics import finite_or_zero
from vashista_theory.attention.bounds.random_bits import BITS, token_numbers
from vashista_theory.attention.bounds.sampling import LEAST, MOST, SHORTEST

_PASSES = 64  # of Newton's method; 3 to 8 are usual, and fewer than needed draw fewer tokens
_WORD = 32  # bits
AllDevices = Callable[[Array], Array]
"""Adds an axis in front: what every device has."""


class Tail(NamedTuple):
    """The tokens that are not read anyway.

    Attributes:
        meant: Which pages of this device belong to it.
        proxy: ŵ of each of its tokens on this device, times a factor of the row; 0 elsewhere.
        tokens: Tokens of it on all devices.
    """

    meant: Bool[Array, "R P"]
    proxy: Float[Array, "R P S"]
    tokens: Int[Array, " R"]


def group_proxies(
    logits: Float[Array, "R G P S"],
    meant: Bool[Array, "R P"],
    sure: Float[Array, "R G"],
    every: AllDevices,
    kv_heads: int = 1,
) -> Float[Array, "R P S"]:
    """What a group draws its tokens by: the root of the sum of squares of their shares.

    The variance of a head is Σ p²(1/π − 1) ‖v − o‖² with the share p of each token; over the heads
    of a group, π in proportion to √(Σ p²) makes the sum least for so many tokens, if all values
    are equally far from all outputs. Shares, not
    masses: a head whose logits are large must not choose for the others. And shares of everything:
    where the sure tokens hold all, a head does not care which others are read.

    Args:
        logits: Sketched logits.
        meant: Pages of the tail.
        sure: Log-mass of the tokens that are read anyway.
        every: Hears from all devices.
        kv_heads: So many consecutive rows are a sequence, and of one scale.
    """
    rows, group = logits.shape[:2]
    shown = jnp.where(meant[:, None, :, None], logits, -jnp.inf)
    top = jnp.max(every(jnp.max(shown, axis=(2, 3), initial=-jnp.inf)), axis=0)
    mass = jnp.exp(shown - finite_or_zero(top)[..., None, None])
    if group == 1 and kv_heads == 1:
        return mass[:, 0]
    tail = top + jnp.log(jnp.sum(every(jnp.sum(mass, axis=(2, 3))), axis=0))
    share = (top - jnp.logaddexp(sure, tail)).reshape(rows // kv_heads, kv_heads, group)
    share = jnp.exp(share - finite_or_zero(jnp.max(share, axis=(1, 2), keepdims=True)))
    share = share.reshape(rows, group)
    if group == 1:
        return mass[:, 0] * share[..., None]
    # Head by head: XLA adds whole rows of tokens, where a sum over an axis goes one by one. Scaled
    # by the row's greatest, so that no square of a token that matters underflows.
    greatest = jnp.max(share, axis=1)
    relative = share / jnp.where(greatest > 0, greatest, 1.0)[:, None]
    squares = [(mass[:, g] * relative[:, g, None, None]) ** 2 for g in range(group)]
    return jnp.sqrt(functools.reduce(operator.add, squares)) * greatest[:, None, None]


def weighted_by_values(
    proxy: Float[Array, "R P S"],
    lengths: Float[Array, "R P S"],
    meant: Bool[Array, "R P"],
    every: AllDevices,
) -> Float[Array, "R P S"]:
    """Proxies times the length of each value: a long one errs by more where it is not drawn.

    The variance Σ p²(1/π − 1) ‖v − o‖² is least for π in proportion to p ‖v − o‖, and o is short
    where values point many ways. The proxies of a row add up to what they did, so that the kv heads
    of a sequence are weighed against each other as before.

    Args:
        proxy: By mass; 0 elsewhere than in the tail.
        lengths: From above.
        meant: Pages of the tail.
        every: Hears from all devices.
    """
    longest = jnp.max(jnp.where(meant[..., None], lengths, 0.0), axis=(1, 2), initial=0.0)
    longest = jnp.max(every(longest), axis=0)[:, None, None]
    known = (longest > 0) & jnp.isfinite(longest)
    part = jnp.where(known, lengths / jnp.where(known, longest, 1.0), 1.0)
    weighted = proxy * jnp.maximum(part, SHORTEST)
    own = jnp.stack([jnp.sum(one, axis=(1, 2)) for one in (proxy, weighted)])
    before, after = jnp.sum(every(own), axis=0)
    return weighted * (before / jnp.where(after > 0, after, 1.0))[:, None, None]


def thresholds(
    tail: Tail, expected: Int[Array, " R"], every: AllDevices, kv_heads: int
) -> tuple[Float[Array, " R"], Float[Array, " R"]]:
    """How many tokens each kv head draws, and its 1/τ.

    On average over the kv heads of a sequence they draw what is expected. One threshold for all of
    them makes the sum of their variances least, up to the scale that `weighted_by_values` gives
    each: a head that is spread out draws more than one that a few tokens serve. But each draws
    half of what is expected at least, so that it knows its own error, and half as many again at
    most, so that there is room for them.
    """
    base = expected.astype(tail.proxy.dtype)
    if kv_heads == 1:
        return base, inverse_threshold(tail, base, every)
    rows, pages, size = tail.proxy.shape
    sequences = rows // kv_heads
    together = Tail(
        tail.meant.reshape(sequences, kv_heads * pages),
        tail.proxy.reshape(sequences, kv_heads * pages, size),
        tail.tokens.reshape(sequences, kv_heads).sum(axis=1, dtype=jnp.int32),
    )
    total = base.reshape(sequences, kv_heads).sum(axis=1)
    shared = jnp.repeat(inverse_threshold(together, total, every), kv_heads)
    drawn = _share_of_threshold(tail.proxy, shared)
    drawn = jnp.sum(every(jnp.sum(drawn, axis=(1, 2))), axis=0)
    there = tail.tokens.astype(base.dtype)
    numbers = within_limits(
        drawn.reshape(sequences, kv_heads),
        (LEAST * base).reshape(sequences, kv_heads),
        jnp.minimum(MOST * base, there).reshape(sequences, kv_heads),
        total,
    ).reshape(rows)
    numbers = jnp.where(tail.tokens <= expected, there, numbers)
    # Where the shared threshold draws no more than that, it is not far below the head's own.
    start = jnp.where(drawn <= numbers * (1 + 1e-5), shared, 0.0)
    return numbers, inverse_threshold(tail, numbers, every, start)


def within_limits(
    numbers: Float[Array, "B K"],
    least: Float[Array, "B K"],
    most: Float[Array, "B K"],
    total: Float[Array, " B"],
) -> Float[Array, "B K"]:
    """The numbers times one factor, clipped, so that they add up to the total if they can.

    The sum is linear in the factor between those at which a number meets one of its limits, so all
    of these are tried at once.
    """
    tiny = jnp.finfo(numbers.dtype).eps * total[:, None]
    numbers = jnp.maximum(numbers, jnp.where(tiny > 0, tiny, 1.0))
    factors = jnp.concatenate([least / numbers, most / numbers], axis=1)

    def clipped(factors: Float[Array, "B F"]) -> Float[Array, "B F K"]:
        scaled = factors[..., None] * numbers[:, None]
        return jnp.clip(scaled, least[:, None], most[:, None])

    sums = jnp.sum(clipped(factors), axis=2)
    below, above = sums <= total[:, None], sums >= total[:, None]
    low = jnp.max(jnp.where(below, factors, -jnp.inf), axis=1, keepdims=True)
    high = jnp.min(jnp.where(above, factors, jnp.inf), axis=1, keepdims=True)
    low = jnp.where(jnp.isfinite(low), low, jnp.min(factors, axis=1, keepdims=True))
    high = jnp.where(jnp.isfinite(high), high, low)
    ends = jnp.sum(clipped(jnp.concatenate([low, high], axis=1)), axis=2)
    rise = ends[:, 1] - ends[:, 0]
    part = jnp.where(rise > 0, (total - ends[:, 0]) / jnp.where(rise > 0, rise, 1.0), 0.0)
    return clipped(low + jnp.clip(part, 0.0, 1.0)[:, None] * (high - low))[:, 0]


def inverse_threshold(
    tail: Tail,
    expected: Float[Array, " R"],
    every: AllDevices,
    start: Float[Array, " R"] | None = None,
) -> Float[Array, " R"]:
    """The c = 1/τ with Σ min(1, c ŵ) = `expected`; the start where there are no more tokens.

    The sum is concave in c, so Newton's method from c = expected / Σ ŵ, where no token counts more
    than c ŵ, or from any other `start` below the root, climbs to the root and never passes it. It
    has arrived when no further token is sure.
    """
    enough = tail.tokens.astype(expected.dtype) <= expected

    def sums(inverse: Float[Array, " R"]) -> tuple[Array, Array]:
        sure = tail.proxy * inverse[:, None, None] >= 1
        own = [
            jnp.sum(sure, axis=(1, 2), dtype=jnp.int32).astype(expected.dtype),
            jnp.sum(jnp.where(sure, 0.0, tail.proxy), axis=(1, 2)),
        ]
        count, rest = jnp.sum(every(jnp.stack(own)), axis=0)
        return count, rest

    def climb(state: tuple[Array, ...]) -> tuple[Array, ...]:
        inverse, count, _, passes = state
        now, rest = sums(inverse)
        higher = (expected - now) / jnp.where(rest > 0, rest, 1.0)
        higher = jnp.where((rest > 0) & ~enough, jnp.maximum(inverse, higher), inverse)
        return higher, now, now != count, passes + 1

    nowhere = jnp.zeros_like(expected)
    first = nowhere if start is None else start
    state = (first, nowhere - 1, jnp.ones(expected.shape, bool), jnp.int32(0))
    # Two passes at least: at c = 0 no token is sure, and the first step goes to expected / Σ ŵ.
    last = jax.lax.while_loop(lambda s: jnp.any(s[2]) & (s[3] < _PASSES), climb, state)
    return last[0]


def _share_of_threshold(
    proxy: Float[Array, "R P S"], inverse: Float[Array, " R"]
) -> Float[Array, "R P S"]:
    """min(1, ŵ/τ), and 0 for a proxy that underflowed, however large 1/τ is: no 0 · ∞."""
    return jnp.where(proxy > 0, jnp.minimum(1.0, proxy * inverse[:, None, None]), 0.0)


def is_undrawable(tail: Tail, inverse: Float[Array, " R"], every: AllDevices) -> Bool[Array, " R"]:
    """Rows with a proxy or a threshold that is no number, as where a sketched logit overflows."""
    spoilt = jnp.any(~jnp.isfinite(tail.proxy), axis=(1, 2))
    return jnp.any(every(spoilt), axis=0) | ~jnp.isfinite(inverse)


def inclusion(
    tail: Tail, expected: Float[Array, " R"], inverse: Float[Array, " R"]
) -> Float[Array, "R P S"]:
    """π of every token of the tail, and 1 elsewhere.

    Rounded up to a multiple of 2^−24, which is what a draw of so many bits has as its probability:
    so the weights 1/π are right to the last bit, and no token is out of reach.
    """
    steps = 2.0**BITS
    probability = jnp.ceil(_share_of_threshold(tail.proxy, inverse) * steps)
    probability = jnp.clip(probability, 1.0, steps) * (1.0 / steps)
    certain = (tail.tokens.astype(expected.dtype) <= expected)[:, None] | ~tail.meant
    return jnp.where(certain[..., None], 1.0, probability)


def draw(
    tail: Tail,
    probability: Float[Array, "R P S"],
    keys: UInt32[Array, "R 2"],
    pages: Int[Array, "*n P"],
) -> Bool[Array, "R P S"]:
    """Whether each token is drawn, independently of all others; nothing outside the tail is."""
    numbers = token_numbers(keys, pages, probability.shape[2])
    return (numbers.astype(probability.dtype) < probability * 2.0**BITS) & tail.meant[..., None]


class Listed(NamedTuple):
    """The drawn tokens of each row, in the order in which they lie, as page and place in it."""

    pages: Int[Array, "R C"]
    slots: Int[Array, "R C"]
    exists: Bool[Array, "R C"]


class Drawn(NamedTuple):
    """What was drawn of each row on this device.

    Attributes:
        listed: The tokens, as far as there is room for them.
        log_pi: Logs of the probabilities with which each of them was drawn.
        number: How many were drawn.
        expected: How many were to be drawn on average.
        pages: Pages with a token that was.
        whole: Whether every token of the tail was to be drawn.
        overflown: Whether more were drawn than there was room for, or a proxy or a threshold is no
            number.
    """

    listed: Listed
    log_pi: Float[Array, "R C"]
    number: Int[Array, " R"]
    expected: Float[Array, " R"]
    pages: Int[Array, " R"]
    whole: Bool[Array, " R"]
    overflown: Bool[Array, " R"]


def tells_of_the_rest(
    drawn: Drawn, log_pi: Float[Array, "R C"], every: AllDevices
) -> Bool[Array, " R"]:
    """Rows with a token that was drawn by chance, or where the sketch gives all others no weight.

    Tokens that were sure to be drawn tell nothing of the rest. Where the rest has weight, as many
    are drawn of it on average as are missing from what was expected, and none with a probability of
    e to the minus that: far below 2^−24 where every proxy of the rest underflowed.

    Args:
        drawn: What was drawn.
        log_pi: Logs of the probabilities, that of a superpage included.
        every: Hears from all devices.
    """
    by_chance = jnp.any(drawn.listed.exists & (log_pi < 0), axis=1)
    missing = drawn.expected - drawn.number.astype(drawn.expected.dtype)
    weightless = (drawn.number > 0) & (missing > BITS * math.log(2))
    return jnp.any(every(by_chance), axis=0) | weightless


def list_drawn(drawn: Bool[Array, "R P S"], capacity: int) -> tuple[Listed, Int[Array, "R P"]]:
    """The first `capacity` drawn tokens of each row, and how many each page has."""
    rows, pages, size = drawn.shape
    # A block is a page, or an equal part of one, whose flags fit in a word: of those the one that
    # is wanted is found by counting bits.
    span = max(number for number in range(1, _WORD + 1) if size % number == 0)
    bits = jnp.uint32(1) << jnp.arange(span, dtype=jnp.uint32)
    flags = jnp.where(drawn.reshape(rows, -1, span), bits, jnp.uint32(0))
    words = jnp.sum(flags, axis=2, dtype=jnp.uint32)
    counts = jax.lax.population_count(words).astype(jnp.int32)
    up_to = jnp.cumsum(counts, axis=1, dtype=jnp.int32)
    places = jnp.arange(capacity, dtype=jnp.int32)
    block = jax.vmap(lambda row: jnp.searchsorted(row, places, side="right"))(up_to)
    block = jnp.minimum(block, words.shape[1] - 1).astype(jnp.int32)
    before = jnp.take_along_axis(up_to - counts, block, axis=1)
    place = _place_of_bit(jnp.take_along_axis(words, block, axis=1), places[None, :] - before)
    token = block * span + jnp.minimum(place, span - 1)
    listed = Listed(token // size, token % size, places[None, :] < up_to[:, -1:])
    return listed, jnp.sum(counts.reshape(rows, pages, -1), axis=2)


def _place_of_bit(words: UInt32[Array, "*n"], rank: Int[Array, "*n"]) -> Int[Array, "*n"]:
    """The place of the bit of a word that has `rank` set ones below it, by halving the word."""
    place = jnp.zeros_like(rank)
    for half in (16, 8, 4, 2, 1):
        lower = jax.lax.population_count(words & jnp.uint32((1 << half) - 1)).astype(jnp.int32)
        above = rank >= lower
        place = place + jnp.where(above, half, 0)
        rank = rank - jnp.where(above, lower, 0)
        words = jnp.where(above, words >> jnp.uint32(half), words)
    return place

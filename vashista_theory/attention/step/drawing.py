"""Drawing tokens (T8): proxies of their masses, the threshold, the draw, and the list of the drawn.

No step sorts. Arrays run over the pages of this device, in its own order; sums are of all devices.
"""

import functools
import operator
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from vashista_theory._numerics import finite_or_zero
from vashista_theory.attention.bounds.random_bits import BITS, token_numbers

_PASSES = 64  # of Newton's method; 3 to 8 are usual, and fewer than needed draw fewer tokens
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
) -> Float[Array, "R P S"]:
    """What a group draws its tokens by: their shares of each head's mass, added over the group.

    Shares, not masses: a head whose logits are large must not choose for the others. And shares of
    everything: where the sure tokens hold all, a head does not care which others are read.

    Args:
        logits: Sketched logits.
        meant: Pages of the tail.
        sure: Log-mass of the tokens that are read anyway.
        every: Hears from all devices.
    """
    shown = jnp.where(meant[:, None, :, None], logits, -jnp.inf)
    top = jnp.max(every(jnp.max(shown, axis=(2, 3), initial=-jnp.inf)), axis=0)
    mass = jnp.exp(shown - finite_or_zero(top)[..., None, None])
    if logits.shape[1] == 1:
        return mass[:, 0]
    tail = top + jnp.log(jnp.sum(every(jnp.sum(mass, axis=(2, 3))), axis=0))
    share = top - jnp.logaddexp(sure, tail)
    share = jnp.exp(share - finite_or_zero(jnp.max(share, axis=1, keepdims=True)))
    # Head by head: XLA adds whole rows of tokens, where a sum over an axis goes one by one.
    heads = [mass[:, g] * share[:, g, None, None] for g in range(logits.shape[1])]
    return functools.reduce(operator.add, heads)


def inverse_threshold(
    tail: Tail, expected: Int[Array, " R"], every: AllDevices
) -> Float[Array, " R"]:
    """The c = 1/τ with Σ min(1, c ŵ) = `expected`; 0 where there are no more tokens than that.

    The sum is concave in c, so Newton's method from c = expected / Σ ŵ, where no token counts more
    than c ŵ, climbs to the root and never passes it. It has arrived when no further token is sure.
    """
    wanted = expected.astype(tail.proxy.dtype)
    enough = tail.tokens <= expected

    def sums(inverse: Float[Array, " R"]) -> tuple[Array, Array]:
        sure = tail.proxy * inverse[:, None, None] >= 1
        own = [
            jnp.sum(sure, axis=(1, 2), dtype=jnp.int32).astype(wanted.dtype),
            jnp.sum(jnp.where(sure, 0.0, tail.proxy), axis=(1, 2)),
        ]
        count, rest = jnp.sum(every(jnp.stack(own)), axis=0)
        return count, rest

    def climb(state: tuple[Array, ...]) -> tuple[Array, ...]:
        inverse, count, _, passes = state
        now, rest = sums(inverse)
        higher = (wanted - now) / jnp.where(rest > 0, rest, 1.0)
        higher = jnp.where((rest > 0) & ~enough, jnp.maximum(inverse, higher), inverse)
        return higher, now, now != count, passes + 1

    nowhere = jnp.zeros_like(wanted)
    start = (nowhere, nowhere - 1, jnp.ones(wanted.shape, bool), jnp.int32(0))
    # Two passes at least: at c = 0 no token is sure, and the first step goes to expected / Σ ŵ.
    last = jax.lax.while_loop(lambda s: jnp.any(s[2]) & (s[3] < _PASSES), climb, start)
    return last[0]


def inclusion(
    tail: Tail, expected: Int[Array, " R"], inverse: Float[Array, " R"]
) -> Float[Array, "R P S"]:
    """π of every token of the tail, and 1 elsewhere.

    Rounded up to a multiple of 2^−24, which is what a draw of so many bits has as its probability:
    so the weights 1/π are right to the last bit, and no token is out of reach.
    """
    steps = 2.0**BITS
    probability = jnp.ceil(tail.proxy * (inverse * steps)[:, None, None])
    probability = jnp.clip(probability, 1.0, steps) * (1.0 / steps)
    certain = (tail.tokens <= expected)[:, None] | ~tail.meant
    return jnp.where(certain[..., None], 1.0, probability)


def draw(
    tail: Tail,
    probability: Float[Array, "R P S"],
    keys: UInt32[Array, "R 2"],
    pages: Int[Array, " P"],
) -> Bool[Array, "R P S"]:
    """Whether each token is drawn, independently of all others; nothing outside the tail is."""
    numbers = token_numbers(keys, pages, probability.shape[2])
    return (numbers.astype(probability.dtype) < probability * 2.0**BITS) & tail.meant[..., None]


class Listed(NamedTuple):
    """The drawn tokens of each row, in the order in which they lie, as page and place in it."""

    pages: Int[Array, "R C"]
    slots: Int[Array, "R C"]
    exists: Bool[Array, "R C"]


def list_drawn(drawn: Bool[Array, "R P S"], capacity: int) -> tuple[Listed, Int[Array, "R P"]]:
    """The first `capacity` drawn tokens of each row, and how many each page has."""
    by_page = jnp.sum(drawn, axis=2, dtype=jnp.int32)
    up_to = jnp.cumsum(by_page, axis=1, dtype=jnp.int32)
    places = jnp.arange(capacity, dtype=jnp.int32)
    page = jax.vmap(lambda row: jnp.searchsorted(row, places, side="right"))(up_to)
    page = jnp.minimum(page, by_page.shape[1] - 1).astype(jnp.int32)
    before = jnp.take_along_axis(up_to - by_page, page, axis=1)
    inside = jnp.take_along_axis(drawn, page[..., None], axis=1)
    rank = jnp.cumsum(inside, axis=2, dtype=jnp.int32)
    wanted = (places[None, :] - before + 1)[..., None]
    slot = jnp.argmax(inside & (rank == wanted), axis=2).astype(jnp.int32)
    return Listed(page, slot, places[None, :] < up_to[:, -1:]), by_page

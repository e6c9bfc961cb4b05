"""Random bits by counting: the same for a token wherever and in whatever order it is seen.

Threefry-2x32 (Salmon et al., SC 2011) in plain operations on 32-bit integers, so that every device
and every kernel finds the same bits. The bits of a token depend on a key, its kv head and its place
in the sequence alone: not on pages, devices or what else is in the batch.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
BITS = 24
"""Bits of a draw: so many are exact in float32, and a probability is a multiple of 2^−24."""


def threefry(
    key: tuple[UInt32[Array, "*#n"], UInt32[Array, "*#n"]],
    counter: tuple[UInt32[Array, "*#n"], UInt32[Array, "*#n"]],
) -> tuple[UInt32[Array, "*n"], UInt32[Array, "*n"]]:
    """Two words of random bits from two words of key and two of counter, in 20 rounds."""
    schedule = (*key, key[0] ^ key[1] ^ jnp.uint32(_PARITY))
    first, second = counter[0] + schedule[0], counter[1] + schedule[1]
    for step in range(5):
        for rotation in _ROTATIONS[step % 2]:
            first = first + second
            rotated = (second << jnp.uint32(rotation)) | (second >> jnp.uint32(32 - rotation))
            second = first ^ rotated
        first = first + schedule[(step + 1) % 3]
        second = second + schedule[(step + 2) % 3] + jnp.uint32(step + 1)
    return first, second


def sequence_keys(key: UInt32[Array, " W"], batch: int) -> UInt32[Array, "B 2"]:
    """A key for each sequence from the words of one, of which there are two or four."""
    pair = (key[0], key[1])
    if key.shape[0] > 2:
        pair = threefry(pair, (key[2], key[3]))
    numbers = jnp.arange(batch, dtype=jnp.uint32)
    wide = tuple(jnp.broadcast_to(word, numbers.shape) for word in pair)
    return jnp.stack(threefry((wide[0], wide[1]), (numbers, jnp.zeros_like(numbers))), axis=-1)


def keys_from_content(
    seed: int | Int[Array, ""], lengths: Int[Array, " B"], query: Float[Array, "B H D"]
) -> UInt32[Array, "B 2"]:
    """A key for each sequence from what it asks: equal questions are answered by equal draws.

    The query enters as float32, bit by bit. What is next to it in the batch does not.
    """
    words = jax.lax.bitcast_convert_type(query.astype(jnp.float32), jnp.uint32)
    words = words.reshape(words.shape[0], -1)
    places = jnp.arange(words.shape[1], dtype=jnp.uint32)[None, :]
    sums = [
        jnp.sum(_mixed(words ^ (places * jnp.uint32(odd))), axis=1, dtype=jnp.uint32)
        for odd in (0x9E3779B1, 0x85EBCA77)
    ]
    start = jnp.full_like(sums[0], seed), lengths.astype(jnp.uint32)
    return jnp.stack(threefry(start, (sums[0], sums[1])), axis=-1)


def _mixed(word: UInt32[Array, "*n"]) -> UInt32[Array, "*n"]:
    """MurmurHash3's last step: every bit of the word reaches every bit of the result."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        word = (word ^ (word >> jnp.uint32(shift))) * jnp.uint32(factor)
    return word ^ (word >> jnp.uint32(16))


def row_keys(keys: UInt32[Array, "B 2"], kv_heads: int, attempt: int) -> UInt32[Array, "R 2"]:
    """A key for each row (a sequence and a kv head) of each attempt at a read."""
    heads = jnp.arange(kv_heads, dtype=jnp.uint32)[None, :]
    counter = jnp.broadcast_to(heads, (keys.shape[0], kv_heads))
    pair = tuple(jnp.broadcast_to(keys[:, i, None], counter.shape) for i in (0, 1))
    words = threefry((pair[0], pair[1]), (counter, jnp.full_like(counter, attempt)))
    return jnp.stack(words, axis=-1).reshape(-1, 2)


def token_numbers(
    keys: UInt32[Array, "R 2"], pages: Int[Array, "*n P"], size: int
) -> Int[Array, "R P S"]:
    """A random whole number from 0 to 2^24 − 1 for each token of some pages of `size` tokens.

    The pages are the same for all rows, or each row has its own. Token t of a sequence gets word
    t mod 2 of counter t div 2.
    """
    whole = size % 2 == 0  # then two neighbours share a counter, and are found at once
    places = jnp.arange(0, size, 2 if whole else 1, dtype=jnp.int32)
    shape = (keys.shape[0], pages.shape[-1], places.shape[0])
    tokens = jnp.broadcast_to(pages[..., None] * size, (*shape[:2], 1)) + places[None, None, :]
    counters = tokens.astype(jnp.uint32) >> jnp.uint32(1)
    key = keys[:, 0, None, None], keys[:, 1, None, None]
    even, odd = threefry(key, (counters, jnp.zeros_like(counters)))
    if whole:
        bits = jnp.stack([even, odd], axis=-1).reshape(*shape[:2], size)
    else:
        bits = jnp.where(tokens % 2 == 0, even, odd)
    return (bits >> jnp.uint32(32 - BITS)).astype(jnp.int32)

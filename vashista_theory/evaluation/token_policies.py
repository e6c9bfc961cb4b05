"""Policies that read single tokens, as many as so many pages have; all but one weigh none of them.

A kv head reads the same tokens for all query heads of its group, so that tokens are counted once
however the peers count them. The first page and the last are always read.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vashista_theory.attention import Policy, SummarySpec
from vashista_theory.evaluation.block import DecodeBlock, Reading, read_mask, read_weighted
from vashista_theory.evaluation.mechanism import read_by
from vashista_theory.evaluation.policies import NamedPolicy, random_numbers, register

_CHANNELS, _LABEL_BITS = 16, 4


def _sampled(block: DecodeBlock, pages: int) -> Reading:
    return read_by(block, Policy.sampled(pages * block.page_size, dense_below=0))


for _bits in (2, 1, 4):
    register(
        NamedPolicy(
            "sampled" if _bits == 2 else f"sampled-{_bits}-bit",
            f"ours: `Policy.sampled`, tokens drawn and weighted by {_bits}-bit keys, as many on "
            "average as the pages have",
            _sampled,
            SummarySpec(ball=False, sketch_bits=_bits),
        )
    )


def nth_greatest(numbers: Float[Array, "K Q T"], count: int) -> Float[Array, "K Q 1"]:
    """The n-th greatest number by bisection, or one between it and the next.

    XLA's CPU back end took twenty times as long to sort 8,192 of them.
    """
    finite = numbers > -jnp.inf
    low = jnp.min(jnp.where(finite, numbers, jnp.inf), axis=-1, keepdims=True)
    high = jnp.max(numbers, axis=-1, keepdims=True)

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = low + (high - low) / 2
        enough = jnp.sum(numbers >= middle, axis=-1, keepdims=True) >= count
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    steps = jnp.finfo(numbers.dtype).nmant + 16
    return jax.lax.fori_loop(0, steps, halve, (low, high))[0]


def _by_group(block: DecodeBlock, logits: Float[Array, "K Q G P S"]) -> Float[Array, "K Q T"]:
    """Log of each token's share of the softmax, added over the heads of a group."""
    heads, steps, group = logits.shape[:3]
    flat = jnp.where(block.visible[None, :, None], logits, -jnp.inf)
    flat = flat.reshape(heads, steps, group, -1)
    share = flat - jax.nn.logsumexp(flat, axis=-1, keepdims=True)
    return jax.nn.logsumexp(share, axis=2)


def _always(block: DecodeBlock) -> Bool[Array, "Q T"]:
    """The first page of each step, and the last, full or not."""
    token = jnp.arange(block.keys.shape[1] * block.page_size, dtype=block.lengths.dtype)[None]
    length = block.lengths[:, None]
    last = (length - 1) // block.page_size * block.page_size
    return ((token < block.page_size) | (token >= last)) & (token < length)


def _best(
    block: DecodeBlock, priority: Float[Array, "K Q T"], count: int, *, forced: bool = True
) -> Bool[Array, "K Q T"]:
    """The `count` tokens of highest priority, at most log G; those always read come first."""
    if forced:
        priority = jnp.where(_always(block)[None], 16.0, priority)
    count = min(count, priority.shape[-1])
    return (priority >= nth_greatest(priority, count)) & (priority > -jnp.inf)


def _read(block: DecodeBlock, mask: Bool[Array, "K Q T"]) -> Reading:
    return read_mask(block, mask.reshape(*mask.shape[:2], 1, -1, block.page_size))


def _oracle_tokens(block: DecodeBlock, pages: int) -> Reading:
    priority = _by_group(block, block.logits())
    return _read(block, _best(block, priority, pages * block.page_size, forced=False))


register(
    NamedPolicy(
        "oracle-tokens",
        "the tokens with the most mass of the group, as many as the pages have; needs all keys",
        _oracle_tokens,
    )
)


def _sketched_tokens(block: DecodeBlock, pages: int) -> Reading:
    priority = _by_group(block, block.sketch_logits())
    return _read(block, _best(block, priority, pages * block.page_size))


register(
    NamedPolicy(
        "sketched-tokens",
        "the tokens with the most mass of the group by 2-bit keys, none weighted",
        _sketched_tokens,
        SummarySpec(ball=False, sketch_bits=2),
    )
)


def _double_sparsity(block: DecodeBlock, pages: int) -> Reading:
    exact = jax.lax.Precision.HIGHEST
    size = jnp.mean(jnp.abs(block.keys), axis=(1, 2))
    size = size * jnp.mean(jnp.abs(block.queries), axis=(1, 2))
    channels = jax.lax.top_k(size, min(_CHANNELS, size.shape[1]))[1]
    pick = functools.partial(jnp.take_along_axis, axis=-1)
    labels = pick(block.keys, channels[:, None, None, :])
    low, high = (f(labels, axis=-1, keepdims=True) for f in (jnp.min, jnp.max))
    step = (high - low) / (2**_LABEL_BITS - 1)
    labels = low + jnp.round((labels - low) / jnp.where(step > 0, step, 1.0)) * step
    queries = pick(block.queries, channels[:, None, None, :])
    logits = block.scale * jnp.einsum("kqgc,kpsc->kqgps", queries, labels, precision=exact)
    priority = _by_group(block, logits)
    return _read(block, _best(block, priority, pages * block.page_size))


register(
    NamedPolicy(
        "double-sparsity",
        "best tokens of the group by 16 channels of 4 bits (DoubleSparsity), the channels chosen "
        "by the very queries and keys that are read",
        _double_sparsity,
    )
)


def _half_uniform(block: DecodeBlock, pages: int) -> Reading:
    count = pages * block.page_size
    half = (count - 2 * block.page_size) // 2
    top = _best(block, _by_group(block, block.logits()), count - half)
    left = block.visible.reshape(1, block.lengths.shape[0], -1) & ~top
    numbers = jnp.where(left, random_numbers(block, left.shape[-1]), -jnp.inf)
    drawn = (numbers >= nth_greatest(numbers, half)) & left
    numbers_left = jnp.sum(left, axis=-1, keepdims=True, dtype=jnp.int32)
    number_drawn = jnp.sum(drawn, axis=-1, keepdims=True, dtype=jnp.int32)
    dtype = block.keys.dtype
    weight = jnp.log(numbers_left.astype(dtype)) - jnp.log(number_drawn.astype(dtype))
    log_weights = jnp.where(top, 0.0, jnp.where(drawn, weight, -jnp.inf))
    return read_weighted(block, log_weights.reshape(*top.shape[:2], 1, -1, block.page_size))


register(
    NamedPolicy(
        "half-uniform",
        "half the tokens with the most mass, which needs all keys, half a uniform sample of the "
        "others, weighted (vAttention)",
        _half_uniform,
    )
)

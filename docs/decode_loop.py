"""A decode loop that is compiled once: `scan` carries the cache, and the call reuses its memory."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

import vashista_theory as vt
from vashista_theory.attention import DecodeInfo, PagedKV, Policy


@functools.partial(jax.jit, static_argnames=("layer", "steps", "policy"), donate_argnums=0)
def decode(
    cache: PagedKV,
    state: Array,
    *,
    layer: Callable[[Array], tuple[Array, Array, Array]],
    steps: int,
    policy: Policy,
) -> tuple[PagedKV, Array, DecodeInfo]:
    """Decode some tokens.

    The cache that is passed in is donated: its buffers become those of the one returned, so rebind
    the name and do not touch the old one. A cache without room for the steps raises when it runs.

    Args:
        cache: The prompt, with room for the steps: `PagedKV.from_tokens(..., room=steps)`.
        state: (B, H, D), what the layer makes the first token of.
        layer: From a state to query (B, H, D), key and value (B, Hkv, D).
        steps: How many tokens.
        policy: What each step reads.

    Returns:
        The cache with the new tokens, the outputs (steps, B, H, D), and the report of every step.
    """

    def step(
        carry: tuple[PagedKV, Array], _: None
    ) -> tuple[tuple[PagedKV, Array], tuple[Array, DecodeInfo]]:
        cache, state = carry
        query, key, value = layer(state)
        cache, _ = cache.append(key, value)  # raises, when it runs, if the token does not fit
        output, info = vt.attention.vashista_attention(query, cache, policy)
        return (cache, output), (output, info)

    (cache, _), (outputs, reports) = jax.lax.scan(step, (cache, state), length=steps)
    return cache, outputs, reports


def main() -> None:
    """Eight sequences of 4,000 tokens, of which each step reads 256; sixteen steps."""
    keys, values = jax.random.normal(jax.random.key(0), (2, 8, 2, 4000, 64))
    mixing = jax.random.normal(jax.random.key(1), (3, 64, 64)) / 8

    def layer(state: Array) -> tuple[Array, Array, Array]:
        query, key, value = (jnp.tanh(state @ matrix) for matrix in mixing)
        return 4 * query, key[:, :2], value[:, :2]

    cache = PagedKV.from_tokens(keys, values, room=16)
    start = jax.random.normal(jax.random.key(2), (8, 4, 64))
    cache, outputs, reports = decode(
        cache, start, layer=layer, steps=16, policy=Policy.sampled(256)
    )
    print(f"outputs {outputs.shape}; tokens held {int(cache.lengths[0]):,}")
    print(f"tokens read a step {float(reports.tokens_read.mean()):.0f}")


if __name__ == "__main__":
    main()

"""Blocks of decode steps on random numbers, and the same steps one at a time by the mechanism."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from vashista_theory.attention import DecodeInfo, PagedKV, Policy, SummarySpec, vashista_attention
from vashista_theory.evaluation.block import DecodeBlock, Reading
from vashista_theory.evaluation.policies import NamedPolicy

KV_HEADS, GROUP, D, PAGE = 2, 3, 8, 16


def numbers(seed: int, tokens: int, steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Queries (K, Q, G, D), keys and values (K, T, D), with topics that make pages differ."""
    rng = np.random.default_rng(seed)
    keys, values = rng.normal(size=(2, KV_HEADS, tokens, D))
    topics = np.repeat(rng.normal(size=(KV_HEADS, -(-tokens // 24), D)), 24, axis=1)
    queries = 3.0 * rng.normal(size=(KV_HEADS, steps, GROUP, D))
    return queries, keys + topics[:, :tokens], values


def block(
    queries: np.ndarray, keys: np.ndarray, values: np.ndarray, spec: SummarySpec
) -> DecodeBlock:
    """The last steps of a sequence as one block."""
    steps, tokens = queries.shape[1], keys.shape[1]
    pages = -(-tokens // PAGE)
    padding = ((0, 0), (0, pages * PAGE - tokens), (0, 0))
    held = [np.pad(a, padding) for a in (keys, values)]
    cache = PagedKV.from_tokens(held[0][None], held[1][None], lengths=[tokens], spec=spec)
    table = np.asarray(cache.page_table[0])
    lengths = jnp.arange(tokens - steps, tokens, dtype=jnp.int32) + 1
    return DecodeBlock(
        jnp.asarray(queries),
        cache.keys[:, table],
        cache.values[:, table],
        lengths,
        jnp.asarray(D**-0.5),
        cache,
        jnp.zeros((), jnp.int32),
    )


def one_at_a_time(
    queries: np.ndarray, keys: np.ndarray, values: np.ndarray, policy: Policy, spec: SummarySpec
) -> list[tuple[np.ndarray, DecodeInfo]]:
    """Each step on a cache that was filled with its own past and nothing else."""
    tokens, steps = keys.shape[1], queries.shape[1]

    @jax.jit
    def step(query: Array, keys: Array, values: Array, length: Array) -> tuple[Array, DecodeInfo]:
        cache = PagedKV.from_tokens(keys[None], values[None], lengths=length[None], spec=spec)
        output, info = vashista_attention(query.reshape(1, -1, D), cache, policy)
        return output.reshape(query.shape), info

    found: list[tuple[np.ndarray, DecodeInfo]] = []
    for number in range(steps):
        length = tokens - steps + number + 1
        # What comes later is not in it: numbers that would show, in places that do not count.
        later = np.arange(tokens)[:, None] >= length
        past = [np.where(later, 1e6, array) for array in (keys, values)]
        output, info = step(queries[:, number], *past, np.int32(length))
        found.append((np.asarray(output), info))
    return found


def read(policy: NamedPolicy, problem: tuple[np.ndarray, ...], pages: int) -> Reading:
    """What a named policy makes of a block."""
    queries, keys, values = problem
    shown = block(queries, keys, values, policy.spec)
    return jax.jit(policy.read, static_argnums=1)(shown, pages)

"""MagicPIG's draw: tokens that share a bucket with the query in at least two hash tables.

Chen et al., MagicPIG: LSH Sampling for Efficient LLM Generation, ICLR 2025. A table's bucket is the
signs of K random projections; keys are taken from their mean. A token at the angle θ from the query
falls into its bucket with probability p^K, p = 1 − θ/π, and into two of L buckets with

    1 − (1 − p^K)^L − L p^K (1 − p^K)^(L − 1),

by whose inverse it is weighted. Each query head has its own draw.
"""

import numpy as np

from experiments.shared.drawing import Weights
from experiments.shared.recorded import Layer, always_read

BITS = (4, 6, 8, 10)
"""K, of which the one with the least error is shown."""
MOST_BITS = 2048
"""Bits a key, K L, at most: the largest setting of the source has 1,500 (K = 10, L = 150)."""


def _centred(layer: Layer) -> np.ndarray:
    """Keys of each head from the mean of those that all positions see."""
    keys = np.repeat(layer.keys, layer.group, axis=0)
    return keys - keys[:, : layer.lengths.min()].mean(axis=1, keepdims=True)


def agreement(layer: Layer) -> np.ndarray:
    """Probability of the same sign, p = 1 − θ/π, (position, head, token)."""
    keys, queries = _centred(layer), layer.queries
    sizes = np.linalg.norm(queries, axis=2)[..., None] * np.linalg.norm(keys, axis=2)
    cosine = np.einsum("phd,htd->pht", queries, keys) / np.where(sizes > 0, sizes, 1.0)
    return 1 - np.arccos(np.clip(cosine, -1, 1)) / np.pi


def inclusion(agreement: np.ndarray, bits: int, tables: int) -> np.ndarray:
    """Probability of two buckets in common, or more."""
    bucket = agreement**bits
    none = (1 - bucket) ** (tables - 1)
    return np.clip(1 - none * (1 - bucket + tables * bucket), 0.0, 1.0)


def tables_for(layer: Layer, bits: int, tokens: int) -> int | None:
    """The fewest tables that give a head so many tokens on average, those always read included.

    None where they would have more than `MOST_BITS`.
    """
    always = always_read(layer)[:, None]
    near = agreement(layer)

    def read(tables: int) -> float:
        chance = np.where(always, 1.0, np.where(layer.seen, inclusion(near, bits, tables), 0.0))
        return float(chance.sum(axis=2).mean())

    low, high = 1, MOST_BITS // bits
    if read(high) < tokens:
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if read(middle) >= tokens else (middle + 1, high)
    return low


def draw(layer: Layer, bits: int, tables: int, rng: np.random.Generator) -> Weights:
    """One draw: new tables for the keys of each kv head and the queries of its group."""
    always = always_read(layer)[:, None]
    powers = 1 << np.arange(bits)
    keys = _centred(layer)
    shared = np.zeros(layer.shares.shape, np.int32)
    for first in range(0, keys.shape[0], layer.group):
        planes = rng.standard_normal((layer.keys.shape[2], tables * bits))
        heads = range(first, first + layer.group)

        def buckets(vectors: np.ndarray, planes: np.ndarray = planes) -> np.ndarray:
            signs = (vectors @ planes > 0).reshape(len(vectors), tables, bits)
            return (signs @ powers).astype(np.uint16)

        of_keys = buckets(keys[first])
        for head in heads:
            of_queries = buckets(layer.queries[:, head])
            for position, own in enumerate(of_queries):
                shared[position, head] = np.sum(of_keys == own, axis=1)
    chance = inclusion(agreement(layer), bits, tables)
    met = (shared >= 2) & layer.seen & ~always
    weights = np.where(met, 1 / np.where(chance > 0, chance, 1.0), 0.0)
    return np.where(always, 1.0, weights)

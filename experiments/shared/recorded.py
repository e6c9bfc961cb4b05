"""Layers of a language model that were recorded, read densely in float64."""

from dataclasses import dataclass

import numpy as np

from vashista_theory.hull.heads import Heads

PAGE = 16
"""Tokens."""


@dataclass(frozen=True)
class Layer:
    """One layer in float64, read densely.

    Attributes:
        queries: (position, head, D).
        keys: (kv head, token, D).
        values: Like the keys.
        lengths: Tokens that the query of each position sees.
        scale: Factor on the scores.
        shares: Softmax mass of each token, (position, head, token).
        output: Dense output, (position, head, D).
    """

    queries: np.ndarray
    keys: np.ndarray
    values: np.ndarray
    lengths: np.ndarray
    scale: float
    shares: np.ndarray
    output: np.ndarray

    @property
    def group(self) -> int:
        """Query heads that share a kv head."""
        return self.queries.shape[1] // self.keys.shape[0]

    def relative(self, output: np.ndarray) -> np.ndarray:
        """‖output − dense‖/‖dense‖ by row."""
        off = np.linalg.norm(output - self.output, axis=-1)
        return off / np.linalg.norm(self.output, axis=-1)


def layer_of(
    queries: np.ndarray, keys: np.ndarray, values: np.ndarray, lengths: np.ndarray, scale: float
) -> Layer:
    """Read a layer densely.

    Args:
        queries: (head, position, D).
        keys: (kv head, token, D).
        values: Like the keys.
        lengths: Tokens that the query of each position sees.
        scale: Factor on the scores.
    """
    queries = np.moveaxis(queries.astype(float), 1, 0)
    keys, values = keys.astype(float), values.astype(float)
    group = queries.shape[1] // keys.shape[0]
    scores = scale * np.einsum("phd,htd->pht", queries, np.repeat(keys, group, axis=0))
    scores = np.where(np.arange(keys.shape[1]) < lengths[:, None, None], scores, -np.inf)
    shares = np.exp(scores - scores.max(axis=2, keepdims=True))
    shares /= shares.sum(axis=2, keepdims=True)
    output = np.einsum("pht,htd->phd", shares, np.repeat(values, group, axis=0))
    return Layer(queries, keys, values, lengths, scale, shares, output)


def read_layer(heads: Heads, index: int) -> Layer:
    """The layer of this index of packaged heads."""
    arrays = (a[index] for a in (heads.queries, heads.keys, heads.values))
    return layer_of(*arrays, lengths=heads.positions.astype(int) + 1, scale=heads.scale)


def always_read(layer: Layer) -> np.ndarray:
    """The first page and the last, full or not, as `Policy.sampled` reads them.

    Returns:
        (position, token).
    """
    token, length = np.arange(layer.keys.shape[1]), layer.lengths[:, None]
    recent = PAGE * (-(-length // PAGE) - 1)
    return ((token < PAGE) | (token >= recent)) & (token < length)


def largest(numbers: np.ndarray, count: int) -> np.ndarray:
    """Which are the `count` largest of the last axis; of equal ones the first."""
    order = np.argsort(-numbers, axis=-1, kind="stable")
    chosen = np.zeros(numbers.shape, bool)
    np.put_along_axis(chosen, order[..., :count], True, axis=-1)
    return chosen

"""Layers of a language model that were recorded, read densely in float64."""

from dataclasses import dataclass

import numpy as np

from vashista_theory.hull.heads import Heads

PAGE = 16
"""Tokens."""
SURE = 2 * PAGE
"""Tokens of the first page and the last, at most."""


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

    @property
    def seen(self) -> np.ndarray:
        """Which tokens the query of each position sees, (position, 1, token)."""
        return np.arange(self.keys.shape[1]) < self.lengths[:, None, None]

    def shares_over(self, keys: np.ndarray) -> np.ndarray:
        """Softmax of the queries over other keys, (position, head, token)."""
        return _softmax(self.queries, keys, self.lengths, self.scale)

    def output_by(self, weights: np.ndarray, shares: np.ndarray | None = None) -> np.ndarray:
        """Output where each token counts so many times, by these shares or the true ones.

        Args:
            weights: (position, head, token), or (position, kv head, token) for whole groups.
            shares: (position, head, token).
        """
        if weights.shape[1] != self.queries.shape[1]:
            weights = np.repeat(weights, self.group, axis=1)
        kept = (self.shares if shares is None else shares) * weights
        kept /= kept.sum(axis=2, keepdims=True)
        return np.einsum("pht,htd->phd", kept, np.repeat(self.values, self.group, axis=0))

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
    shares = _softmax(queries, keys, lengths, scale)
    output = np.einsum("pht,htd->phd", shares, np.repeat(values, group, axis=0))
    return Layer(queries, keys, values, lengths, scale, shares, output)


def _softmax(
    queries: np.ndarray, keys: np.ndarray, lengths: np.ndarray, scale: float
) -> np.ndarray:
    group = queries.shape[1] // keys.shape[0]
    scores = scale * np.einsum("phd,htd->pht", queries, np.repeat(keys, group, axis=0))
    scores = np.where(np.arange(keys.shape[1]) < lengths[:, None, None], scores, -np.inf)
    shares = np.exp(scores - scores.max(axis=2, keepdims=True))
    return shares / shares.sum(axis=2, keepdims=True)


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


def mass_of_group(layer: Layer, shares: np.ndarray) -> np.ndarray:
    """Mean share of each token over the heads of a group; 2 for tokens that are always read.

    Args:
        layer: Whose heads and positions they are.
        shares: (position, head, token).

    Returns:
        (position, kv head, token).
    """
    positions, _, tokens = shares.shape
    mean = shares.reshape(positions, -1, layer.group, tokens).mean(axis=2)
    return np.where(always_read(layer)[:, None], 2.0, mean)


def best_tokens(layer: Layer, shares: np.ndarray, count: int) -> np.ndarray:
    """The tokens with the largest shares for the group, (position, kv head, token)."""
    return largest(mass_of_group(layer, shares), count)

"""By which rule tokens are drawn: the probability of each, for so many on average.

Two rules know what no mechanism knows, the true masses, and say what a better sketch could gain.
"""

from collections.abc import Callable, Mapping

import numpy as np

from experiments.shared.drawing import (
    by_mass_and_distance,
    by_sketch,
    in_proportion,
    of_group,
    rounded,
)
from experiments.shared.recorded import Layer, always_read, best_tokens


def by_sketched_mass(layer: Layer, tokens: int) -> np.ndarray:
    """By the sketched mass, of two bits."""
    sketched = layer.shares_over(rounded(layer.keys, 2))
    return in_proportion(layer, of_group(layer, sketched), tokens)


def by_mass(layer: Layer, tokens: int) -> np.ndarray:
    """By the true masses."""
    return in_proportion(layer, of_group(layer, layer.shares), tokens)


def half_uniform(layer: Layer, tokens: int) -> np.ndarray:
    """Half of them the best by the sketch, the others uniformly from the rest, as in vAttention."""
    free = tokens - int(always_read(layer).sum(axis=1).max())
    sketched = layer.shares_over(rounded(layer.keys, 2))
    top = best_tokens(layer, sketched, tokens - free // 2) & layer.seen
    left = layer.seen & ~top
    count = left.sum(axis=2, keepdims=True)
    share = np.minimum(1.0, (tokens - top.sum(axis=2, keepdims=True)) / np.maximum(count, 1))
    return np.where(top, 1.0, np.where(left, share, 0.0))


RULES: Mapping[str, Callable[[Layer, int], np.ndarray]] = {
    "sketched mass × length": by_sketch,
    "sketched mass": by_sketched_mass,
    "half best by sketch, half uniform": half_uniform,
    "true mass": by_mass,
    "true mass × distance": by_mass_and_distance,
}
"""Probability of each token, (position, kv head, token)."""

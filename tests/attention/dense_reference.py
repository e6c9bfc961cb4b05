"""Float64 attention in NumPy, a row at a time: what every read is held against."""

from typing import NamedTuple

import numpy as np


class Row(NamedTuple):
    """One query head: its dense output, and the mass of each token."""

    output: np.ndarray
    weights: np.ndarray


def attend(query: np.ndarray, keys: np.ndarray, values: np.ndarray, scale: float) -> Row:
    """Softmax attention of one query (D,) over keys and values (T, D)."""
    if len(keys) == 0:
        return Row(np.zeros_like(query), np.zeros(0))
    logits = scale * keys.astype(np.float64) @ query.astype(np.float64)
    weights = np.exp(logits - logits.max())
    weights /= weights.sum()
    return Row(weights @ values.astype(np.float64), weights)

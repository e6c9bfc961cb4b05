"""Differences between two reads of the same prompts, and how sure they are."""

import numpy as np

_RESAMPLES = 10_000


def interval(change: np.ndarray) -> tuple[float, float]:
    """95 % interval of a mean difference: bootstrap over prompts, the same on every call.

    Args:
        change: One difference a prompt.
    """
    drawn = np.random.default_rng(0).integers(0, change.size, (_RESAMPLES, change.size))
    low, high = np.quantile(change[drawn].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)

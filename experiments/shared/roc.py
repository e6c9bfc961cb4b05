"""How well a number tells bad answers from good ones: area under the ROC curve, and its points."""

import numpy as np


def area(score: np.ndarray, bad: np.ndarray) -> float | None:
    """Probability that a bad answer scores above a good one, ties counted half; None without both.

    0.5 is a coin, 1 a perfect predictor, below 0.5 one that points the wrong way.
    """
    good_rates, bad_rates = _vertices(score, bad)
    if good_rates is None or bad_rates is None:
        return None
    return float(np.trapezoid(bad_rates, good_rates))


def found_at(score: np.ndarray, bad: np.ndarray, false_alarms: np.ndarray) -> list[float] | None:
    """Share of the bad answers that are caught, at given shares of false alarms.

    Between two thresholds the curve is the straight line, which a coin between them reaches.
    """
    good_rates, bad_rates = _vertices(score, bad)
    if good_rates is None or bad_rates is None:
        return None
    # Of a vertical step the upper end counts: the best that this share of false alarms buys.
    last = np.append(np.diff(good_rates) > 0, True)
    return np.interp(false_alarms, good_rates[last], bad_rates[last]).tolist()


def _vertices(
    score: np.ndarray, bad: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
    """Shares of the good and of the bad answers at or above each distinct score, from (0, 0)."""
    score, bad = np.ravel(score), np.ravel(bad).astype(bool)
    if bad.all() or not bad.any():
        return None, None
    _, level = np.unique(-score, return_inverse=True)
    of_bad = np.cumsum(np.bincount(level, weights=bad))
    of_good = np.cumsum(np.bincount(level, weights=~bad))
    return np.append(0, of_good / of_good[-1]), np.append(0, of_bad / of_bad[-1])

"""T8 in NumPy for one kv head: proxies from a sketch, probabilities by sorting, exact moments."""

from typing import NamedTuple

import numpy as np


class Expected(NamedTuple):
    """What one kv head of G query heads draws by, and what each head's draw has for moments.

    Masses are divided by Z, so that S/Z is the error times Ẑ/Z.
    """

    pi: np.ndarray
    mass: np.ndarray
    output: np.ndarray
    log_mass: np.ndarray
    variance: np.ndarray
    largest: np.ndarray


def sketched(keys: np.ndarray, bits: int, size: int) -> np.ndarray:
    """Keys (T, D) on the grid between the corners of the box of their page; T a multiple."""
    pages = keys.reshape(-1, size, keys.shape[1])
    low, high = pages.min(axis=1, keepdims=True), pages.max(axis=1, keepdims=True)
    step = (high - low) / (2**bits - 1)
    codes = np.round((pages - low) / np.where(step > 0, step, 1.0))
    return (low + codes * step).reshape(keys.shape)


def inclusion(mass: np.ndarray, m: float) -> np.ndarray:
    """min(1, c · mass) that sums to m, by sorting."""
    order = np.sort(mass)[::-1]
    rest = np.append(np.cumsum(order[::-1])[::-1], 0.0)
    for sure in range(min(int(m), len(mass))):
        c = (m - sure) / max(rest[sure], 1e-300)
        if c * order[sure] <= 1:
            return np.minimum(1.0, c * mass)
    return np.ones_like(mass)


def expected(
    query: np.ndarray,
    keys: np.ndarray,
    values: np.ndarray,
    *,
    tokens: int,
    bits: int,
    size: int,
    sink: int = 1,
    recent: int = 1,
) -> Expected:
    """Of queries (G, D) and tokens (T, D), with sink and recent pages sure."""
    count, scale = len(keys), query.shape[1] ** -0.5
    scores = scale * query @ keys.T
    log_mass = np.logaddexp.reduce(scores, axis=1)
    mass = np.exp(scores - log_mass[:, None])
    full, pages = count // size, -(-count // size)
    page = np.arange(count) // size
    tail = (page >= sink) & (page < pages - recent) & (page < full)
    guess = scores.copy()
    whole = full * size
    guess[:, :whole] = np.where(
        tail[:whole], scale * query @ sketched(keys[:whole], bits, size).T, scores[:, :whole]
    )
    share = np.exp(guess - np.logaddexp.reduce(guess, axis=1)[:, None]).mean(axis=0)
    pi = np.ones(count)
    pi[tail] = inclusion(share[tail], tokens - (~tail).sum())
    output = mass @ values
    distance = np.linalg.norm(values[None] - output[:, None], axis=2)
    variance = (mass**2 * (1 / pi - 1) * distance**2).sum(axis=1)
    term = mass * np.maximum(1.0, 1 / pi - 1) * distance * (pi < 1)
    return Expected(pi, mass, output, log_mass, variance, term.max(axis=1))

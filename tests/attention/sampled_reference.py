"""T8 in NumPy: proxies from a sketch, probabilities by sorting, exact moments."""

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


class Shares(NamedTuple):
    """What one kv head draws by: shares of each token and query head, those sketched and exact."""

    drawn_by: np.ndarray
    tail: np.ndarray
    mass: np.ndarray
    log_mass: np.ndarray


def value_weights(values: np.ndarray, tail: np.ndarray, size: int) -> np.ndarray:
    """Lengths (T,) in 255ths of the longest of their page, rounded up; a 16th of all at least."""
    lengths = np.linalg.norm(values, axis=1)
    pages = np.arange(len(values)) // size
    longest = np.array([lengths[pages == page].max() for page in range(pages[-1] + 1)])[pages]
    known = np.ceil(255 * lengths / np.where(longest > 0, longest, 1) * (1 - 1e-12)) / 255 * longest
    most = known[tail].max(initial=0.0)
    return np.maximum(known / most, 1 / 16) if most > 0 else np.ones_like(lengths)


def by_values(drawn_by: np.ndarray, values: np.ndarray, tail: np.ndarray, size: int) -> np.ndarray:
    """What tokens (T,) are drawn by, times the lengths of values; the same sum in the tail."""
    weighted = drawn_by * value_weights(values, tail, size)
    return weighted * (drawn_by[tail].sum() / weighted[tail].sum())


def inclusion(mass: np.ndarray, m: float) -> np.ndarray:
    """min(1, c · mass) that sums to m, by sorting."""
    order = np.sort(mass)[::-1]
    rest = np.append(np.cumsum(order[::-1])[::-1], 0.0)
    for sure in range(min(int(m), len(mass))):
        c = (m - sure) / max(rest[sure], 1e-300)
        if c * order[sure] <= 1:
            return np.minimum(1.0, c * mass)
    return np.ones_like(mass)


def shared_numbers(tails: list[np.ndarray], m: float) -> np.ndarray:
    """Tokens of each kv head: of one threshold, times a factor, from m/2 to 3m/2, m on average."""
    together = inclusion(np.concatenate(tails), m * len(tails))
    drawn = np.array([one.sum() for one in np.split(together, len(tails))])
    most = np.minimum(1.5 * m, [one.size for one in tails])
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        enough = np.clip(middle * drawn, m / 2, most).sum() >= m * len(tails)
        low, high = (low, middle) if enough else (middle, high)
    return np.clip(high * drawn, m / 2, most)


def shares(
    query: np.ndarray, keys: np.ndarray, *, bits: int, size: int, sink: int, recent: int
) -> Shares:
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
    share = np.exp(guess - np.logaddexp.reduce(guess, axis=1)[:, None])
    return Shares(np.sqrt((share**2).sum(axis=0)), tail, mass, log_mass)


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
    together: bool = True,
) -> list[Expected]:
    """Of each kv head, with queries (K, G, D), keys and values (K, T, D); all alike if apart."""
    given = {"bits": bits, "size": size, "sink": sink, "recent": recent}
    heads = [shares(*one, **given) for one in zip(query, keys, strict=True)]
    heads = [
        one._replace(drawn_by=by_values(one.drawn_by, values[k], one.tail, size))
        for k, one in enumerate(heads)
    ]
    m = tokens - (~heads[0].tail).sum()
    numbers = np.full(len(heads), float(m))
    if together and len(heads) > 1:
        numbers = shared_numbers([one.drawn_by[one.tail] for one in heads], m)
    return [_expected(*one, values[k]) for k, one in enumerate(zip(heads, numbers, strict=True))]


def _expected(one: Shares, number: float, values: np.ndarray) -> Expected:
    pi = np.ones(len(values))
    pi[one.tail] = inclusion(one.drawn_by[one.tail], number)
    output = one.mass @ values
    distance = np.linalg.norm(values[None] - output[:, None], axis=2)
    variance = (one.mass**2 * (1 / pi - 1) * distance**2).sum(axis=1)
    term = one.mass * np.maximum(1.0, 1 / pi - 1) * distance * (pi < 1)
    return Expected(pi, one.mass, output, one.log_mass, variance, term.max(axis=1))

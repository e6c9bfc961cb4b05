r"""Drawing tokens by T8's formulas, in NumPy: probabilities, draws, and what the theorem says.

The first page and the last are always read, and the other tokens drawn independently, one draw for
the heads of a group, with :math:`\pi_i = \min(1, \hat w_i/\omega)`.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from experiments.shared.recorded import PAGE, Layer, always_read

_SHORTEST = 1 / 16
Weights: TypeAlias = np.ndarray
"""How often each token counts for each head, (position, head, token); 0 where it is not read."""


def rounded(keys: np.ndarray, bits: int) -> np.ndarray:
    """Keys of so many bits a number, on a grid between the corners of the box of their page.

    Args:
        keys: (kv head, token, D), whole pages.
        bits: At least 1.
    """
    heads, _, size = keys.shape
    pages = keys.reshape(heads, -1, PAGE, size)
    lower, upper = pages.min(axis=2, keepdims=True), pages.max(axis=2, keepdims=True)
    step = (upper - lower) / (2**bits - 1)
    return (lower + np.rint((pages - lower) / np.where(step > 0, step, 1)) * step).reshape(
        keys.shape
    )


def of_group(layer: Layer, shares: np.ndarray) -> np.ndarray:
    """Root of the sum of squares over the heads of a group, (position, kv head, token)."""
    grouped = shares.reshape(shares.shape[0], -1, layer.group, shares.shape[2])
    return np.sqrt(np.sum(grouped**2, axis=2))


def away(layer: Layer) -> np.ndarray:
    """How far each value is from the output, (position, head, token)."""
    values = np.repeat(layer.values, layer.group, axis=0)
    squares = (
        np.sum(values**2, axis=2)[None]
        - 2 * np.einsum("htd,phd->pht", values, layer.output)
        + np.sum(layer.output**2, axis=2)[..., None]
    )
    return np.sqrt(np.maximum(squares, 0))


def in_proportion(layer: Layer, proxies: np.ndarray, tokens: int) -> np.ndarray:
    """π = min(1, ŵ/ω) with the ω that gives so many tokens on average, 1 for those always read."""
    always = always_read(layer)[:, None]
    free = np.where(always | ~layer.seen, 0.0, np.maximum(proxies, np.finfo(float).tiny))
    asked = tokens - always.sum(axis=2)
    ordered = -np.sort(-free, axis=2)
    rest = np.cumsum(ordered[..., ::-1], axis=2)[..., ::-1]  # of those from place k on
    left = asked[..., None] - np.arange(ordered.shape[2])
    # k tokens are sure if the others, in proportion, are not.
    fits = (left > 0) & (left * ordered < rest)
    sure = np.argmax(fits, axis=2)[..., None]
    inverse = np.take_along_axis(left, sure, 2) / np.take_along_axis(rest, sure, 2)
    enough = (free > 0).sum(axis=2) <= asked
    inverse = np.where(enough[..., None], np.inf, inverse)
    with np.errstate(invalid="ignore"):
        drawn = np.where(free > 0, np.minimum(1.0, inverse * free), 0.0)
    return np.where(always, 1.0, drawn)


def by_sketch(layer: Layer, tokens: int) -> np.ndarray:
    """The mechanism's rule: sketched mass times the length of the value, of two bits."""
    lengths = np.linalg.norm(layer.values, axis=2)
    longest = lengths.max(axis=1, keepdims=True)
    mass = of_group(layer, layer.shares_over(rounded(layer.keys, 2)))
    return in_proportion(layer, mass * np.maximum(lengths, _SHORTEST * longest), tokens)


def by_mass_and_distance(layer: Layer, tokens: int) -> np.ndarray:
    """By mass times distance from the output: T8's best, of all independent draws."""
    return in_proportion(layer, of_group(layer, layer.shares * away(layer)), tokens)


def draw(layer: Layer, inclusion: np.ndarray, rng: np.random.Generator) -> Weights:
    """One independent draw for the heads of a group."""
    drawn = rng.random(inclusion.shape) < inclusion
    weights = np.where(drawn, 1 / np.where(inclusion > 0, inclusion, 1.0), 0.0)
    return np.repeat(weights, layer.group, axis=1)


@dataclass(frozen=True)
class Prediction:
    """What T8 says of a draw, each (position, head).

    Attributes:
        deviation: √V/Z over the length of the output.
        tail: t, share of the mass that the tail holds.
        drawn: ν, tokens that are drawn from it on average.
        dispersion: χ(u) of what they are drawn by, u the mass times the distance.
        bound: the tail's mean of u times √(χ/ν), over the length of the output.
    """

    deviation: np.ndarray
    tail: np.ndarray
    drawn: np.ndarray
    dispersion: np.ndarray
    bound: np.ndarray


def predict(layer: Layer, inclusion: np.ndarray) -> Prediction:
    """T8 for these probabilities; a head without a tail has deviation 0 and dispersion 1."""
    chance = np.repeat(inclusion, layer.group, axis=1)
    tail = (chance > 0) & (chance < 1)
    odds = np.where(tail, 1 / np.where(tail, chance, 1.0) - 1, 0.0)
    u = np.where(tail, layer.shares * away(layer), 0.0)
    size = np.linalg.norm(layer.output, axis=2)
    whole, count = u.sum(axis=2), np.where(tail, chance, 0.0).sum(axis=2)
    squares = np.sum(u**2 / np.where(tail, chance, 1.0), axis=2)
    some = whole > 0
    dispersion = np.where(some, squares * count / np.where(some, whole, 1.0) ** 2, 1.0)
    return Prediction(
        np.sqrt(np.sum(u**2 * odds, axis=2)) / size,
        np.where(tail, layer.shares, 0.0).sum(axis=2),
        count,
        dispersion,
        np.where(some, whole * np.sqrt(dispersion / np.where(some, count, 1.0)), 0.0) / size,
    )

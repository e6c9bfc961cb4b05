"""What is true of captured heads: the mass of each page, the dense output, the fewest pages."""

from dataclasses import dataclass

import numpy as np

from vashista_theory.hull.heads import Heads

PAGE = 16


@dataclass(frozen=True)
class Truth:
    """Captured heads in float64, which holds every stored type exactly, read densely.

    Attributes:
        queries: (position, layer, head, D).
        keys: (layer, kv head, page, token, D); the last page is filled up with zeros.
        values: Like the keys.
        lengths: Tokens that the query of each position sees.
        scale: Factor on the scores.
        mass: Softmax mass of each page, (position, layer, head, page).
        output: Dense output, (position, layer, head, D).
    """

    queries: np.ndarray
    keys: np.ndarray
    values: np.ndarray
    lengths: np.ndarray
    scale: float
    mass: np.ndarray
    output: np.ndarray

    @property
    def group(self) -> int:
        """Query heads that share a kv head."""
        return self.queries.shape[2] // self.keys.shape[1]

    def one_head_each(self) -> "Truth":
        """The same heads, each with a copy of its keys: pages are then chosen for one head."""
        keys, values = (np.repeat(a, self.group, axis=1) for a in (self.keys, self.values))
        return Truth(self.queries, keys, values, self.lengths, self.scale, self.mass, self.output)


def truth(heads: Heads, *, layers: np.ndarray, positions: np.ndarray) -> Truth:
    """Read the layers and positions of these indices densely."""
    queries = np.moveaxis(heads.queries[layers][:, :, positions].astype(float), 2, 0)
    lengths = heads.positions[positions].astype(int) + 1
    group = heads.queries.shape[1] // heads.keys.shape[1]
    keys, values = (_paged(a[layers].astype(float)) for a in (heads.keys, heads.values))
    mass, output = [], []
    for seen, query in zip(lengths, queries, strict=True):
        logits = heads.scale * np.einsum(
            "lhd,lhpsd->lhps", query, np.repeat(keys, group, axis=1), optimize=True
        )
        tokens = np.arange(logits.shape[2] * PAGE).reshape(logits.shape[2:])
        logits = np.where(tokens < seen, logits, -np.inf)
        weights = np.exp(logits - logits.max(axis=(2, 3), keepdims=True))
        weights /= weights.sum(axis=(2, 3), keepdims=True)
        mass.append(weights.sum(axis=3))
        held = np.repeat(values, group, axis=1)
        output.append(np.einsum("lhps,lhpsd->lhd", weights, held, optimize=True))
    return Truth(queries, keys, values, lengths, heads.scale, np.stack(mass), np.stack(output))


def _paged(tokens: np.ndarray) -> np.ndarray:
    missing = -tokens.shape[2] % PAGE
    filled = np.pad(tokens, ((0, 0), (0, 0), (0, missing), (0, 0)))
    return filled.reshape(*tokens.shape[:2], -1, PAGE, tokens.shape[3])


def pages_needed(
    upper: np.ndarray, mass: np.ndarray, tolerance: float, *, forced: np.ndarray | None = None
) -> np.ndarray:
    """Fewest pages, in order of the bounds, after which T7 proves every head's tolerance.

    Args:
        upper: Bounds on the page masses, (…, head of the group, page).
        mass: The masses, in the same unit.
        tolerance: Dropped mass allowed.
        forced: (page,), pages that are read first and count.
    """
    share = (upper / upper.sum(axis=-1, keepdims=True)).sum(axis=-2, keepdims=True)
    if forced is not None:
        share = np.where(forced, np.inf, share)
    order = np.argsort(-share, axis=-1, kind="stable")
    bound, held = (
        np.take_along_axis(a, np.broadcast_to(order, a.shape), -1) for a in (upper, mass)
    )
    read = np.cumsum(held, axis=-1)
    behind = np.cumsum(bound[..., ::-1], axis=-1)[..., ::-1]
    unread = np.concatenate([behind[..., 1:], np.zeros_like(behind[..., :1])], axis=-1)
    proven = np.all(unread <= tolerance * (unread + read), axis=-2)
    least = 1 if forced is None else max(1, int(forced.sum()))
    return np.maximum(np.argmax(proven, axis=-1) + 1, least)


def mass_kept(score: np.ndarray, mass: np.ndarray, count: int) -> np.ndarray:
    """Mass of the `count` pages that score highest."""
    best = np.argsort(-score, axis=-1, kind="stable")[..., :count]
    return np.take_along_axis(mass, best, axis=-1).sum(axis=-1)

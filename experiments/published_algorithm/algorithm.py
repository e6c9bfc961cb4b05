"""The published decode step, re-implemented from its description: routing, candidates, solver.

A query and its keys go through three stages. Every page is scored by its mean key, and the best P
pages are taken; of their tokens, the K_c with the largest raw scores ⟨q, k⟩ (not divided by √d);
then exponentiated gradient: logits start at zero, six times a fifth of the raw scores is added and
the weights are normalised. Its defaults are P = 64 pages of 16 tokens and K_c = 128.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

PAGES, CANDIDATES = 64, 128
STEPS, STEP_SIZE = 6, 0.2
SHARPNESS = STEPS * STEP_SIZE


@dataclass(frozen=True)
class Decoded:
    """What the algorithm keeps of its candidates; there is no gap and no multiplier among it.

    Attributes:
        tokens: Indices of the candidates, ascending.
        weights: Theirs, of the solver.
        pages: Indices of the pages read, ascending.
    """

    tokens: np.ndarray
    weights: np.ndarray
    pages: np.ndarray


def page_means(keys: np.ndarray, page: int) -> np.ndarray:
    """Mean key of each page of (n, d), the last one over the tokens it has."""
    starts = np.arange(0, len(keys), page)
    sizes = np.diff(np.append(starts, len(keys)))
    return np.add.reduceat(keys, starts, axis=0) / sizes[:, None]


def exponentiated_gradient(
    scores: np.ndarray, *, steps: int = STEPS, step_size: float = STEP_SIZE
) -> np.ndarray:
    """Weights after `steps` multiplicative updates from equal ones; the gradient is the scores.

    Computed in the type of `scores`. The updates never look at Kᵀα: the objective is linear, so
    they have no fixed point but a vertex, and the number of steps sets the temperature.
    """
    weights = np.full_like(scores, 1 / scores.size)
    for _ in range(steps):
        logits = np.log(weights, where=weights > 0, out=np.full_like(weights, -np.inf))
        logits = logits + scores.dtype.type(step_size) * scores
        weights = np.exp(logits - logits.max())
        weights = weights / weights.sum()
    return weights


def softmax(logits: np.ndarray) -> np.ndarray:
    """In the type of the logits."""
    return np.exp(logits - logsumexp(logits))


def decode(
    query: np.ndarray, keys: np.ndarray, *, pages: int, candidates: int, page: int
) -> Decoded:
    """One step for one query (d,) over keys (n, d).

    Args:
        query: Raw, as the scores are.
        keys: In order; a page is `page` of them.
        pages: P, at most as many as there are.
        candidates: K_c, at most as many as the pages hold.
        page: Tokens a page.
    """
    means = page_means(keys, page)
    best = np.sort(np.argsort(-(means @ query), kind="stable")[:pages])
    tokens = np.concatenate([np.arange(p * page, min((p + 1) * page, len(keys))) for p in best])
    scores = keys[tokens] @ query
    top = np.sort(np.argsort(-scores, kind="stable")[:candidates])
    return Decoded(tokens[top], exponentiated_gradient(scores[top]), best)

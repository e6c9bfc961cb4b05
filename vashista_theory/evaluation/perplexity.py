"""One stretch of text under every policy: what each predicts beside what dense attention predicts.

The first tokens are read densely; over the last ones each step reads by the policy. Perplexity
hardly sees long context, so the divergence from the dense prediction stands beside it, and a
sliding window beside both.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from vashista_theory.evaluation.language_model import BlockReport, LanguageModel
from vashista_theory.evaluation.policies import NamedPolicy, get


class Prediction(NamedTuple):
    """What one policy made of one stretch, position by position, and what it read, by layer.

    Attributes:
        surprise: −log p of each next token, in nats.
        divergence: KL(dense ‖ policy) at each position, in nats.
        agrees: Whether dense attention has the same most likely token.
        pages_read: Mean pages by layer.
        pages_median: Over layers, kv heads and positions.
        pages_high: The 90th percentile of the same.
        dropped: Mean true dropped mass by layer.
        dropped_beyond_first: The same among all tokens but the first.
        error: Mean relative error of the attention output by layer.
        certified: Share of query heads whose dropped mass is proven within the tolerance.
    """

    surprise: np.ndarray
    divergence: np.ndarray
    agrees: np.ndarray
    pages_read: np.ndarray
    pages_median: float
    pages_high: float
    dropped: np.ndarray
    dropped_beyond_first: np.ndarray
    error: np.ndarray
    certified: float


def predictions(
    model: LanguageModel,
    tokens: np.ndarray,
    positions: int,
    policies: list[tuple[NamedPolicy, int]],
    *,
    page_size: int = 16,
) -> Iterator[Prediction]:
    """Predict the last tokens of a stretch under each policy, after one dense prefill.

    Args:
        model: The language model.
        tokens: (T + 1,); the last step sees T of them.
        positions: How many of the last ones are predicted, fewer than T.
        policies: Each with the number of pages it reads.
        page_size: Tokens a page.
    """
    if not 0 < positions < tokens.size - 1:
        raise ValueError(
            f"{positions} positions of {tokens.size - 1} tokens cannot be predicted; expected at "
            "least 1, and one token before them"
        )
    start = tokens.size - 1 - positions
    prefix = model.prefill(tokens[:start], room=positions)
    inputs, targets = tokens[start:-1], tokens[start + 1 :]
    dense = _log_softmax(model.decode(prefix, inputs, get("dense"), 1)[0])
    rows = np.arange(positions)
    for policy, pages in policies:
        logits, report, _ = model.decode(prefix, inputs, policy, pages)
        found = _log_softmax(logits)
        divergence = np.asarray((np.exp(dense) * (dense - found)).sum(axis=-1, dtype=np.float64))
        agrees = found.argmax(axis=-1) == dense.argmax(axis=-1)
        yield _prediction(-found[rows, targets], divergence, agrees, report, page_size)


def _prediction(
    surprise: np.ndarray,
    divergence: np.ndarray,
    agrees: np.ndarray,
    report: BlockReport,
    page_size: int,
) -> Prediction:
    pages = np.ceil(report.tokens_read / page_size)
    others = (1, 2, 3)
    return Prediction(
        surprise,
        divergence,
        agrees,
        pages_read=pages.mean(axis=others),
        pages_median=float(np.median(pages)),
        pages_high=float(np.quantile(pages, 0.9)),
        dropped=report.dropped.mean(axis=others),
        dropped_beyond_first=report.dropped_beyond_first.mean(axis=others),
        error=report.error.mean(axis=others),
        certified=float(report.certified.mean()),
    )


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))

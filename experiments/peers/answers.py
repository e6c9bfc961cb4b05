"""A prompt in tokens, and how an answer to it is judged, whoever read the prompt."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from vashista_theory.evaluation.retrieval import log_probabilities
from vashista_theory.evaluation.tasks import Prompt


class Asked(NamedTuple):
    """Token numbers of a prompt: what is read, what has to follow, and wrong answers."""

    context: np.ndarray
    question: np.ndarray
    answer: np.ndarray
    wrong: list[np.ndarray]

    @property
    def room(self) -> int:
        """Tokens that come after the context at most."""
        return self.question.size + max(self.answer.size, *(one.size for one in self.wrong))


class Read(NamedTuple):
    """What one reader made of a prompt.

    Attributes:
        right: Logits (M, vocabulary) before each token of the answer, the right ones given.
        wrong: The same for each wrong answer.
        kept: Tokens of the prompt that a kv head may still read, mean over layers and heads.
        tokens: Read at a step of the answer, distinct ones of a kv head; the same mean.
        judged: Bytes beside their keys and values that choosing them reads at a step.
        beside: Bytes beside keys and values that are held for a kv head, mean over them.
    """

    right: np.ndarray
    wrong: list[np.ndarray]
    kept: float
    tokens: float
    judged: float = 0.0
    beside: float = 0.0


class Judged(NamedTuple):
    """How a reader did on a prompt.

    Attributes:
        exact: Whether greedy decoding gives the whole answer.
        chosen: Whether the answer has a higher mean log-probability a token than any wrong one.
        divergence: KL(dense ‖ read), nats a token of the right answer.
    """

    exact: bool
    chosen: bool
    divergence: float


def asked(prompt: Prompt, encode: Callable[[str], np.ndarray]) -> Asked:
    """A prompt in token numbers."""
    wrong = [encode(text) for text in prompt.distractors]
    return Asked(encode(prompt.context), encode(prompt.question), encode(prompt.answer), wrong)


def judge(prompt: Asked, read: Read, dense: Read) -> Judged:
    """Hold what was read against the answer, and against dense reading of the same prompt."""
    right = log_probabilities(read.right, prompt.answer).mean()
    wrong = [
        log_probabilities(rows, tokens).mean()
        for rows, tokens in zip(read.wrong, prompt.wrong, strict=True)
    ]
    return Judged(
        exact=bool(np.all(read.right.argmax(axis=-1) == prompt.answer)),
        chosen=bool(right > max(wrong, default=-np.inf)),
        divergence=divergence(dense.right, read.right),
    )


def divergence(reference: np.ndarray, logits: np.ndarray) -> float:
    """KL(reference ‖ logits) in nats, mean over rows."""
    log_p, log_q = (_log_softmax(rows.astype(np.float64)) for rows in (reference, logits))
    return float(np.sum(np.exp(log_p) * (log_p - log_q), axis=-1).mean())


def _log_softmax(rows: np.ndarray) -> np.ndarray:
    moved = rows - rows.max(axis=-1, keepdims=True)
    return moved - np.log(np.exp(moved).sum(axis=-1, keepdims=True))

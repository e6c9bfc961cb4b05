"""One retrieval prompt under every policy: exact match, and the right answer against others.

Generating greedily gives the answer exactly if and only if each of its tokens is the most likely
one after the right ones before it. So one teacher-forced pass decides exact match.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vashista_theory.evaluation.language_model import LanguageModel, Prefix
from vashista_theory.evaluation.policies import NamedPolicy
from vashista_theory.evaluation.tasks import Prompt


class Score(NamedTuple):
    """How one policy did on one prompt.

    Attributes:
        exact: Whether greedy decoding gives the whole answer.
        token_accuracy: Share of the answer's tokens that are the most likely ones.
        log_probability: Of the answer, in nats.
        chosen: 1 if the answer has a higher mean log-probability a token than any distractor, else
            0; −1 if distractors were not judged.
        margin: That mean, minus the best one of a distractor, in nats; NaN if none was judged.
        pages_read: Mean over layers, heads and steps of question and answer, in pages.
        dropped: Mean of the true dropped mass over the same.
        error: Mean relative error of the attention output over the same.
    """

    exact: bool
    token_accuracy: float
    log_probability: float
    chosen: int
    margin: float
    pages_read: float
    dropped: float
    error: float


class Reader:
    """A prompt whose context has been read densely, once for all policies.

    Args:
        model: The language model.
        prompt: Context, question and answers.
        choices: Whether its distractors are judged too.
    """

    def __init__(self, model: LanguageModel, prompt: Prompt, *, choices: bool = True) -> None:
        self._model = model
        self._question = model.encode(prompt.question)
        self._answer = model.encode(prompt.answer)
        self._wrong = [model.encode(text) for text in prompt.distractors if choices]
        longest = max(answer.size for answer in (self._answer, *self._wrong))
        context = model.encode(prompt.context)
        self.tokens = context.size + self._question.size + self._answer.size
        self._prefix = model.prefill(context, room=self._question.size + longest)

    def score(self, policy: NamedPolicy, pages: int, page_size: int = 16) -> Score:
        """Question and answers read under a policy."""
        logits, report, after = self._model.decode(self._prefix, self._question, policy, pages)
        right, ranks_first = self._judge(logits[-1], after, self._answer, policy, pages)
        wrong = [
            float(np.mean(self._judge(logits[-1], after, tokens, policy, pages)[0]))
            for tokens in self._wrong
        ]
        margin = float(np.mean(right)) - max(wrong, default=np.nan)
        return Score(
            exact=bool(ranks_first.all()),
            token_accuracy=float(ranks_first.mean()),
            log_probability=float(right.sum()),
            chosen=int(margin > 0) if wrong else -1,
            margin=margin,
            pages_read=float(report.tokens_read.mean()) / page_size,
            dropped=float(report.dropped.mean()),
            error=float(report.error.mean()),
        )

    def _judge(
        self, first: np.ndarray, after: Prefix, tokens: np.ndarray, policy: NamedPolicy, pages: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Log-probabilities of the tokens one by one, and whether each is the most likely."""
        rows = first[None]
        if tokens.size > 1:
            given = tokens[:-1]
            further, _, _ = self._model.decode(after, given, policy, pages, compare=False)
            rows = np.concatenate([rows, further])
        return log_probabilities(rows, tokens), rows.argmax(axis=-1) == tokens


def log_probabilities(logits: np.ndarray, tokens: Sequence[int] | np.ndarray) -> np.ndarray:
    """Log-probability, in nats, of one token for each row of logits; float64."""
    exact = logits.astype(np.float64)
    top = exact.max(axis=-1)
    total = top + np.log(np.exp(exact - top[:, None]).sum(axis=-1))
    return exact[np.arange(len(tokens)), np.asarray(tokens)] - total


def wilson(successes: int, trials: int, *, z: float = 1.959964) -> tuple[float, float]:
    r"""Wilson's interval for a share: sensible at 0 and 1, and for few trials.

    .. math:: \frac{p + z^2/2n \pm z\sqrt{p(1-p)/n + z^2/4n^2}}{1 + z^2/n}

    Args:
        successes: Out of
        trials: independent ones; none leaves the share anywhere between 0 and 1.
        z: Standard deviations, by default for 95 %.
    """
    if trials == 0:
        return 0.0, 1.0
    share, weight = successes / trials, z * z / trials
    middle = share + weight / 2
    half = z * np.sqrt(share * (1 - share) / trials + weight / (4 * trials))
    low, high = (middle - half) / (1 + weight), (middle + half) / (1 + weight)
    return max(0.0, float(low)), min(1.0, float(high))

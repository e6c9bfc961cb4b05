"""Our readers: all of the prompt is kept, and each step chooses what it reads of it."""

from typing import Any

import numpy as np

from experiments.peers.answers import Asked, Read
from vashista_theory.attention.bounds.summaries import DRAWING
from vashista_theory.evaluation import LanguageModel, NamedPolicy
from vashista_theory.evaluation.language_model import Prefix

PAGE = 16
NUMBER = 4
"""Bytes of a number of keys and values: the model is read in float32."""
DENSE, DRAWN = "dense", "sampled"
CHOOSING = ("sampled", "budget", "oracle-pages")


def read(
    model: LanguageModel, prefix: Prefix, prompt: Asked, policy: NamedPolicy, tokens: int
) -> Read:
    """Question and answers read under a policy, by so many tokens a step.

    Args:
        model: The language model.
        prefix: The context, read densely.
        prompt: Its question and answers.
        policy: One of `CHOOSING`, or dense.
        tokens: A multiple of the page size.
    """
    given: dict[str, Any] = {"policy": policy, "pages": max(2, tokens // PAGE), "compare": False}
    first, _, after = model.decode(prefix, prompt.question, **given)
    found = [
        model.decode(after, answer[:-1], **given)[:2] for answer in (prompt.answer, *prompt.wrong)
    ]
    rows = [np.concatenate([first[-1:], further]) for further, _ in found]
    report = found[0][1]
    d = prefix.caches(policy.spec)[0].head_size
    judged = [judged_bytes(policy, int(length), d) for length in report.lengths]
    kept = prefix.length + prompt.question.size
    return Read(
        rows[0],
        rows[1:],
        kept=kept,
        tokens=float(report.tokens_read.mean(dtype=np.float64)),
        judged=float(np.mean(judged)),
        beside=held_beside(policy, kept, d),
    )


def judged_bytes(policy: NamedPolicy, length: int, d: int) -> float:
    """Bytes that are read beside the tokens of an answer, for a kv head and step.

    These are the summaries, and the room behind the last token of a page that is read whole.

    Args:
        policy: One of `CHOOSING`, or dense.
        length: Tokens of the context.
        d: Numbers of a key.
    """
    full, unused = length // PAGE, -length % PAGE * 2 * d * NUMBER
    if policy.name == DENSE:
        return float(unused)
    if policy.name == "oracle-pages":
        return float(unused + length * d * NUMBER)  # every key
    fields = policy.spec.bytes_by_field(PAGE, d)
    a_page = fields["box"] + fields["codes"]
    if policy.name == DRAWN:  # single tokens; it does not judge the pages that it always reads
        a_page += sum(fields[name] for name in DRAWING)
        return float(max(0, min(full, -(-length // PAGE) - 1) - 1) * a_page)
    return float(unused + full * a_page)


def held_beside(policy: NamedPolicy, length: int, d: int) -> float:
    """Bytes of the summaries that a policy needs to be held, for a kv head."""
    if policy.name in (DENSE, "oracle-pages"):
        return 0.0
    return float(length // PAGE * sum(policy.spec.bytes_by_field(PAGE, d).values()))

"""The claims about what a read loses: predictions, answers, and where the gap predicts it."""

from collections.abc import Mapping
from typing import Any

from experiments.shared.right_answers import right_answers
from experiments.shared.said import in_words
from experiments.verdicts.judging import (
    FAILS,
    HOLDS,
    NOT_MEASURED,
    Claims,
    Found,
    Judged,
    MissingError,
    listed,
    where,
)

CLAIMS = Claims()

_ROUNDING = 1e-9  # of a difference of two shares of few prompts


@CLAIMS.add("Minimal loss of quality: predictions", "T7", "evaluation", "model_quality")
def predictions(quality: Found, *, divergence: float = 0.05) -> Judged:
    """Kept while KL from dense is at most so many nats."""
    rows = quality.rows("perplexity")
    policies = _policies(rows)
    contexts = sorted({row["context"] for row in rows})
    kept = {
        policy: [n for n in contexts if quality[f"divergence_{policy}_{n}"] <= divergence]
        for policy in policies
    }
    said = f"KL from dense, nats, mean over texts, at {listed(f'{n:,}' for n in contexts)} tokens: "
    said += "; ".join(
        f"{policy} " + listed(f"{quality[f'divergence_{policy}_{n}']:.3g}" for n in contexts)
        for policy in policies
    )
    return _by_policy(kept, contexts, f"{said}. Kept means at most {divergence:g}.")


@CLAIMS.add("Minimal loss of quality: retrieval", "T7", "evaluation", "model_quality")
def retrieval(quality: Found, *, answers_lost: float = 0.05) -> Judged:
    """Kept while at most that share of the prompts is lost."""
    rows = quality.rows("retrieval")
    policies = _policies(rows)
    right = right_answers(rows)
    contexts = sorted({context for _, context in right})
    if not contexts:
        return Judged(NOT_MEASURED, "Dense attention solves no task, so nothing can be lost.")
    kept = {
        policy: [
            n
            for n in contexts
            if right["dense", n].share - right[policy, n].share <= answers_lost + _ROUNDING
        ]
        for policy in policies
    }
    prompts = listed(f"{right['dense', n].prompts} prompts at {n:,}" for n in contexts)
    asked = listed(sorted({row["task"] for row in rows}))
    said = f"Tasks compared: {asked}. Right answers where dense solves them ({prompts} tokens): "
    said += "; ".join(
        f"{policy} " + listed(f"{right[policy, n].share:.0%}" for n in contexts)
        for policy in ("dense", *policies)
    )
    return _by_policy(kept, contexts, f"{said}. Kept means within {answers_lost:.0%} of dense.")


@CLAIMS.add("… in the regimes that the support gap predicts", "T3", "evaluation", "head_survey")
def predicted(survey: Found, *, unsafe_share: float = 0.05) -> Judged:
    rows = survey.rows("calibration", diagnostic="gap_ratio")
    most, least = rows[-1], rows[0]
    own = survey.rows("calibration", diagnostic="estimate")
    said = (
        f"Share of reads of 16 pages that lose over 5 %: {least['unsafe']:.0%} in the tenth with "
        f"the least Δ/ε, {most['unsafe']:.0%} in the tenth with the most. By the mechanism's own "
        f"estimate of the kept mass: {max(r['unsafe'] for r in own):.0%} and "
        f"{min(r['unsafe'] for r in own):.0%}."
    )
    if most["unsafe"] <= unsafe_share:
        return Judged(where("Δ/ε is in its highest tenth"), said)
    return Judged(FAILS, said)


def _policies(rows: list[Mapping[str, Any]]) -> list[str]:
    """What is offered to users, and the published routing, at the most pages that were tried."""
    names = {row["policy"] for row in rows}
    wanted = []
    for name in ("budget", "published"):
        sizes = [int(n.split("@")[1]) for n in names if n.startswith(f"{name}@")]
        wanted += [f"{name}@{max(sizes)}"] if sizes else []
    wanted += sorted(n for n in names if n.startswith("certified"))
    if not wanted:
        raise MissingError("model_quality has no policy that is offered to users")
    return wanted


def _by_policy(kept: Mapping[str, list[int]], contexts: list[int], said: str) -> Judged:
    """One verdict about several policies and lengths."""
    if all(found == contexts for found in kept.values()):
        return Judged(HOLDS, said)
    conditions = [
        in_words(policy)
        + ("" if found == contexts else f" at {listed(f'{n:,}' for n in found)} tokens")
        for policy, found in kept.items()
        if found
    ]
    return Judged(where(f"read by {listed(conditions)}") if conditions else FAILS, said)

"""The abstract's claims again, for reads that draw tokens (T8); the thresholds are those of before.

Flat is an error that grows by less than a fifth over every factor 32 of the length (exponent .05);
KL goes with its square, so its exponent may be twice that.
An estimate is a criterion if the error is within twice of it for 95 % of the reads: a reader who
doubles it is then wrong in one of twenty. Predictions are kept where KL from dense is at most .05
nats, as for pages; answers where at most 3 % fewer are right, net of those that are gained.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.verdicts.judging import FAILS, HOLDS, Claims, Found, Judged, listed, where
from vashista_theory.hull.heads import load_heads

CLAIMS = Claims()

_ROUNDING = 1e-9  # of a difference of two shares of prompts
_DEFAULT, _BITS = 256, 2  # tokens and bits of `Policy.sampled`


@CLAIMS.add(
    "A small candidate set of constant size, by drawn tokens",
    "T8",
    "attention.step.sampling",
    "sampled_length",
    "sampled_text",
)
def constant_size(
    lengths: Found, text: Found, *, exponent_of_flat: float = 0.05, chance: float = 0.2
) -> Judged:
    """Errors of a few hundred draws are known to less than a fifth, which is `chance`."""
    exponent = lengths["exponent of the error of drawn tokens"]
    others = (lengths[f"exponent of the error of the best {kind}"] for kind in ("tokens", "pages"))
    worst = lengths["greatest error over T8's bound"]
    by_length = _divergence(text, _DEFAULT)
    said = (
        "The error of 256 drawn tokens on diffuse keys goes like the length to the power "
        f"{exponent:.3f}, that of the best tokens and pages {listed(f'{e:.2f}' for e in others)}; "
        f"it is {worst:.2f} times T8's size at most. In the model KL from dense is "
        f"{_at(by_length)}."
    )
    if worst > 1 + chance or abs(exponent) > exponent_of_flat:
        return Judged(FAILS, said)
    growth = _exponent(by_length)
    flat = 2 * exponent_of_flat
    said += f" That grows like the length to the power {growth:.2f}; up to {flat:g} counts as flat."
    return Judged(
        HOLDS
        if growth <= flat
        else where("keys are synthetic and diffuse; in the model the error grows"),
        said,
    )


@CLAIMS.add(
    "A practical criterion for safe sparse decoding, as a sampled read's estimate of its own error",
    "T8",
    "attention.bounds.sampling",
    "sampled_reads",
    "sampled_contexts",
)
def criterion(
    reads: Found,
    contexts: Found,
    *,
    error_over_estimate: float = 2.0,
    share_exceeded: float = 2e-3,
) -> Judged:
    rows = sorted(reads.rows("calibration", bits=_BITS), key=lambda row: row["tokens"])
    exceeded, bounded = reads["bounds exceeded"], reads["bounded rows"]
    recorded = load_heads().keys.shape[2]
    said = (
        "Error over estimate, 95th percentile: "
        + listed(f"{row['p95']:.2f} with {row['tokens']} tokens" for row in rows)
        + f" (2-bit keys, contexts of at most {recorded:,} tokens). Its bound at confidence .999, "
        f"by keys of 4 and 8 bits, is exceeded in {exceeded} of {bounded:,} reads. "
        + _of_longer(contexts)
    )
    # A bound that is exceeded more often than one in a thousand, with room for chance, is none.
    if exceeded > share_exceeded * bounded:
        return Judged(FAILS, said)
    right = [row["tokens"] for row in rows if row["p95"] <= error_over_estimate]
    short = f"contexts have at most {recorded:,} tokens"
    if not right or rows[-1]["p95"] > error_over_estimate:
        return Judged(FAILS, said)
    tokens = contexts["tokens"]
    if contexts["highest ratio"] <= error_over_estimate and min(right) <= tokens:
        longest = max(row["context"] for row in contexts.rows("contexts"))
        return Judged(
            where(f"contexts have at most {longest:,} tokens and {tokens} are read"), said
        )
    if len(right) == len(rows):
        return Judged(where(short), said)
    return Judged(where(f"{short} and at least {min(right)} are read"), said)


def _of_longer(contexts: Found) -> str:
    rows = sorted(contexts.rows("contexts"), key=lambda row: row["context"])
    ratios = listed(f"{row['ratio_high']:.2f} at {row['context']:,} tokens" for row in rows)
    texts = len({row["text"] for row in contexts.rows("texts")})
    return (
        f"With {contexts['tokens']} tokens on heads recorded from {texts} texts it is {ratios}, of "
        f"one text {contexts['highest ratio']:.2f} at most."
    )


@CLAIMS.add(
    "A knob trades accuracy for compute: the number of drawn tokens",
    "T8",
    "attention.policy",
    "sampled_text",
)
def knob(text: Found) -> Judged:
    rows = _drawn(text)
    contexts = sorted({row["context"] for row in rows})
    falls = [
        [row["kl"] for row in sorted(rows, key=lambda r: r["tokens"]) if row["context"] == n]
        for n in contexts
    ]
    tokens = sorted({row["tokens"] for row in rows})
    said = f"KL with {listed(map(str, tokens))} tokens: " + "; ".join(
        f"{listed(f'{kl:.2g}' for kl in line)} at {n:,}"
        for n, line in zip(contexts, falls, strict=True)
    )
    falling = all(a > b for line in falls for a, b in itertools.pairwise(line))
    return Judged(HOLDS if falling else FAILS, f"{said}.")


@CLAIMS.add(
    "Minimal loss of quality: predictions, by drawn tokens", "T8", "evaluation", "sampled_text"
)
def predictions(text: Found, *, divergence: float = 0.05) -> Judged:
    """Kept while KL from dense is at most so many nats."""
    by_length = _divergence(text, _DEFAULT)
    pairs = text.rows("paired", tokens=_DEFAULT)
    closest = min(pairs, key=lambda row: row["times"])
    said = (
        f"KL from dense with {_DEFAULT} tokens: {_at(by_length)}. Of the reads beside it, which "
        f"choose by the true mass or by a sketch, the closest is {closest['times']:.2g} times as "
        f"far off ({closest['other']}). Kept means at most {divergence:g}."
    )
    kept = [n for n, kl in by_length.items() if kl <= divergence]
    if len(kept) == len(by_length):
        return Judged(HOLDS, said)
    lengths = listed(f"{n:,}" for n in kept) if kept else ""
    return Judged(where(f"the context is {lengths} tokens") if kept else FAILS, said)


@CLAIMS.add(
    "Minimal loss of quality by drawn tokens: retrieval", "T8", "evaluation", "sampled_retrieval"
)
def retrieval(answers: Found, *, answers_lost: float = 0.03) -> Judged:
    """Kept while at most that share of the prompts is lost, net."""
    rows = [row for row in answers.rows("retrieval") if row["read"].startswith("sampled")]
    said = f"Right answers ({rows[0]['read']}): " + "; ".join(
        f"{row['right']:.0%} at {row['context']:,} tokens where dense gives {row['dense']:.0%} (of "
        f"{row['prompts']} prompts lost {row['lost']}, gained {row['gained']})"
        for row in rows
    )
    kept = [row["context"] for row in rows if row["difference"] >= -answers_lost - _ROUNDING]
    said += f". Kept means within {answers_lost:.0%} of dense."
    if not kept:
        return Judged(FAILS, said)
    if len(kept) == len(rows):
        return Judged(HOLDS, said)
    return Judged(where(f"the context is {listed(f'{n:,}' for n in kept)} tokens"), said)


def _drawn(text: Found) -> list[Mapping[str, Any]]:
    return text.rows("divergence", read="sampled")


def _divergence(text: Found, tokens: int) -> dict[int, float]:
    rows = text.rows("divergence", read="sampled", tokens=tokens)
    return {row["context"]: row["kl"] for row in sorted(rows, key=lambda row: row["context"])}


def _exponent(by_length: Mapping[int, float]) -> float:
    lengths, kl = np.log(list(by_length)), np.log(list(by_length.values()))
    return float(np.polyfit(lengths, kl, 1)[0])


def _at(by_length: Mapping[int, float]) -> str:
    return listed(f"{kl:.2g} at {n:,}" for n, kl in by_length.items()) + " tokens"

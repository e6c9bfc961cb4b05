"""Do drawn tokens keep a language model's predictions (T8), and do they as contexts grow?

The last tokens of a text are predicted under each kind of read, every layer included, and held
against the dense predictions: KL(dense ‖ read) in nats a token. Every read gets the same number of
distinct tokens a kv head. Drawn tokens know their sketch alone; the best pages, the best tokens and
the better half of half and half are chosen by the true mass, and DoubleSparsity's channels by the
very queries that are answered, so that nobody is held back by how we built it. Needs the extra lm;
the model and two of the texts are fetched by package. Resumable: a run that was stopped goes on
from the store.

Examples:
  python -m experiments sampled_text
  python -m experiments sampled_text --text pydoc-topics --contexts 2048 --pages 16
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from experiments.framework.outcome import Measured, NotMeasured, Outcome, Rows
from vashista_theory import evaluation

BY_HAND = "takes most of an hour with a language model"

PAGE = 16
OURS = "sampled"
SELECTIONS = ("oracle-pages", "oracle-tokens", "sketched-tokens", "double-sparsity")
KINDS = (OURS, *SELECTIONS, "half-uniform")
AIMS = {128: 0.012, 256: 0.0025, 512: 0.0008}
"""KL from dense that drawn tokens should stay under, by their number: a prototype's figures."""
_RUN = 16  # neighbouring positions are alike: they are resampled together
_RESAMPLES = 2000

_KL = {
    "context": "tokens of the context",
    "tokens": "distinct tokens a kv head",
    "read": "what is read",
    "kl": "KL(dense ‖ read), nats a token, mean over texts and positions",
    "low": "the least mean over a text",
    "high": "the greatest",
    "agreement": "share of positions with dense's most likely token",
    "error": "relative error of the attention output, mean over layers",
}
_PAIRED = {
    "context": "tokens of the context",
    "tokens": "distinct tokens a kv head",
    "other": "beside drawn tokens",
    "times": "its KL over ours, of the means",
    "times_low": "the same, lower end of a paired 95 % interval",
    "times_high": "upper end",
    "better": "share of positions at which ours is closer to dense",
}


@dataclass(frozen=True)
class Config:
    """What to predict.

    Attributes:
        model: A packaged name, a GGUF file, a Hugging Face folder or a hub id.
        text: Names or files.
        contexts: Lengths, in tokens.
        pages: A read has as many tokens as so many pages of 16.
        positions: Last positions of each text.
        reads: Kinds of read, by their names in the evaluation.
        workers: Processes that share the work, each on one thread; none for this one.
        store: Folder of what is measured already; a run that was stopped goes on from it.
        quick: One text at 512 tokens, three reads.
    """

    model: str = "smollm2-135m"
    text: tuple[str, ...] = ("pydoc-topics", "pydoc-modules", "python-code", "moby-dick", "sotu")
    contexts: tuple[int, ...] = (2048, 4096, 8192)
    pages: tuple[int, ...] = (8, 16, 32)
    positions: int = 128
    reads: tuple[str, ...] = KINDS
    workers: int | None = None
    store: Path = Path("vashista_sampled")
    quick: bool = False

    def asked(self) -> evaluation.EvaluationConfig:
        """As `python -m vashista_theory.evaluation` takes it."""
        quick = self.quick
        return evaluation.EvaluationConfig(
            model=self.model,
            policy=("dense", *((OURS, "oracle-pages") if quick else self.reads)),
            text=self.text[:1] if quick else self.text,
            contexts=(512,) if quick else self.contexts,
            pages=(8,) if quick else self.pages,
            segments=1,
            positions=32 if quick else self.positions,
            tasks=(),
            audited=0,
            workers=self.workers,
            output=self.store / ("quick" if quick else "full"),
        )


def measure(config: Config) -> Measured:
    """Predict what is missing."""
    try:
        found = evaluation.run(config.asked())["perplexity"]
    except ImportError as error:
        raise NotMeasured(str(error)) from None
    return tabulated(found)


def tabulated(found: xr.Dataset) -> Measured:
    """The tables of a dataset of predictions."""
    kl, paired = [], []
    for context in np.unique(found["context"].values).tolist():
        here = found.isel(instance=np.flatnonzero(found["context"].values == context))
        for label in here["policy"].values.tolist():
            read, _, pages = label.partition("@")
            if pages and read != "sink-recent":
                place = {"context": context, "tokens": PAGE * int(pages)}
                kl.append(place | _kl_row(here.sel(policy=label), read))
                if read != OURS and f"{OURS}@{pages}" in here["policy"].values:
                    ours = here.sel(policy=f"{OURS}@{pages}")["divergence"].values
                    theirs = here.sel(policy=label)["divergence"].values
                    paired.append(place | {"other": read, **_paired_row(ours, theirs)})
    return Measured({"divergence": kl, "paired": paired})


def _kl_row(one: xr.Dataset, read: str) -> dict[str, Any]:
    by_text = one["divergence"].values.astype(float).mean(axis=1)
    return {
        "read": read,
        "kl": float(by_text.mean()),
        "low": float(by_text.min()),
        "high": float(by_text.max()),
        "agreement": float(one["agrees"].values.mean()),
        "error": float(one["error"].values.mean(dtype=np.float64)),
    }


def _paired_row(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    """How many times further off the others are, resampled by runs of positions of any text."""

    def by_run(kl: np.ndarray) -> np.ndarray:
        runs = [np.array_split(text.astype(float), max(1, text.size // _RUN)) for text in kl]
        return np.array([piece.mean() for text in runs for piece in text])

    a, b = by_run(ours), by_run(theirs)
    drawn = np.random.default_rng(0).integers(0, a.size, (_RESAMPLES, a.size))
    low, high = np.quantile(b[drawn].mean(axis=1) / a[drawn].mean(axis=1), [0.025, 0.975])
    return {
        "times": float(theirs.mean(dtype=np.float64) / ours.mean(dtype=np.float64)),
        "times_low": float(low),
        "times_high": float(high),
        "better": float(np.mean(ours < theirs)),
    }


def report(found: Measured) -> Outcome:
    """Beside what, and by how much."""
    kl, paired = found.tables["divergence"], found.tables["paired"]
    values = {
        f"{row['read']}, {row['tokens']} tokens, {row['context']} context": row["kl"] for row in kl
    }
    return Outcome(
        tables=found.described({"divergence": _KL, "paired": _PAIRED}),
        values=values,
        findings=[*_by_length(kl), *_aims(kl), *_beside(paired)],
        notes=[
            (
                "Drawn by the mechanism itself, step by step: `Policy.sampled` over 2-bit keys "
                "unless said. Pages of 16 tokens, the first and the last always read; one choice "
                "for the heads of a group. The prompt is read densely."
            ),
            (
                f"Intervals: paired bootstrap over runs of {_RUN} neighbouring positions of all "
                "texts."
            ),
        ],
    )


def _ours(kl: Rows) -> dict[tuple[int, int], float]:
    return {(row["tokens"], row["context"]): row["kl"] for row in kl if row["read"] == OURS}


def _by_length(kl: Rows) -> Iterator[str]:
    ours, contexts = _ours(kl), sorted({row["context"] for row in kl})
    for tokens in sorted({tokens for tokens, _ in ours}):
        numbers = ", ".join(f"{ours[tokens, context]:.2g}" for context in contexts)
        lengths = ", ".join(f"{context:,}" for context in contexts)
        yield f"{tokens} tokens drawn: KL {numbers} nats at contexts of {lengths}."


def _aims(kl: Rows) -> Iterator[str]:
    ours = {key: value for key, value in _ours(kl).items() if key[0] in AIMS}
    missed = [
        f"{tokens} tokens at {context:,} ({value:.2g} where {AIMS[tokens]:g} was the aim)"
        for (tokens, context), value in sorted(ours.items())
        if value > AIMS[tokens]
    ]
    if ours:
        yield f"Of {len(ours)} aims {len(ours) - len(missed)} are met" + (
            f"; missed: {', '.join(missed)}." if missed else "."
        )


def _beside(paired: Rows) -> Iterator[str]:
    for other in dict.fromkeys(row["other"] for row in paired):
        rows = [row for row in paired if row["other"] == other]
        times = [row["times"] for row in rows]
        above = sum(row["times_low"] > 1 for row in rows)
        below = sum(row["times_high"] < 1 for row in rows)
        yield (
            f"{other}: {min(times):.2g} to {max(times):.2g} times the KL of drawn tokens; further "
            f"off in {above} of {len(rows)} cells, closer in {below} (95 %)."
        )

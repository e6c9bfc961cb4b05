"""Do drawn tokens find what dense attention finds in a long context (T8)?

Needles in noise, in prose and among other needles, at several lengths: the answer counts as right
if greedy decoding gives it exactly, question and answer being read by 256 tokens a kv head, drawn
or on the best pages by the same sketch. Every read gets the same prompts, dense attention too, and
is judged by the prompts on which the two differ. Needs the extra lm; the model is fetched by
package. Resumable: a run that was stopped goes on from the store.

Examples:
  python -m experiments sampled_retrieval
  python -m experiments sampled_retrieval --contexts 2048 --prompts 10
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from experiments.framework.outcome import Measured, NotMeasured, Outcome
from experiments.shared import paired
from experiments.shared.retrieval import by_length
from vashista_theory import evaluation

BY_HAND = "takes an hour or more with a language model"

PAGE = 16
WITHIN = 0.03
"""Share of the prompts by which a read may fall behind dense and still count as no worse."""

_COLUMNS = {
    "context": "tokens of the context",
    "read": "what question and answer are read by",
    "prompts": "how many",
    "dense": "share that dense attention answers exactly",
    "right": "share that the read answers exactly",
    "difference": "of the two shares",
    "difference_low": "the same, lower end of a paired 95 % interval",
    "difference_high": "upper end",
    "lost": "prompts that dense answers and the read does not",
    "gained": "prompts that the read answers and dense does not",
    "error": "relative error of the attention output, mean over layers and steps",
}


@dataclasses.dataclass(frozen=True)
class Config:
    """What to ask.

    Attributes:
        model: A packaged name, a GGUF file, a Hugging Face folder or a hub id.
        contexts: Lengths, in tokens; each has a store of its own.
        tasks: Retrieval tasks.
        prompts: Prompts a task and length.
        pages: A read has as many tokens as so many pages of 16.
        reads: Kinds of read, by their names in the evaluation.
        workers: Processes that share the work, each on one thread; none for this one.
        store: Folder of what is measured already; a run that was stopped goes on from it.
        quick: Two tasks of two prompts at 512 tokens.
    """

    model: str = "smollm2-135m"
    contexts: tuple[int, ...] = (2048, 4096, 8192)
    tasks: tuple[str, ...] = ("needle-noise", "needle-prose", "several-keys")
    prompts: int = 34
    pages: int = 16
    reads: tuple[str, ...] = ("sampled", "budget")
    workers: int | None = None
    store: Path = Path("vashista_retrieval")
    quick: bool = False

    def asked(self) -> list[evaluation.EvaluationConfig]:
        """As `python -m vashista_theory.evaluation` takes it, by length."""
        asked = by_length(self, policy=("dense", *self.reads), pages=self.pages)
        # Only exact answers count here.
        return [dataclasses.replace(one, choices=False) for one in asked]


def measure(config: Config) -> Measured:
    """Ask what is missing."""
    try:
        found = [evaluation.run(one)["retrieval"] for one in config.asked()]
    except ImportError as error:
        raise NotMeasured(str(error)) from None
    return Measured({"retrieval": [row for one in found for row in rows_of(one)]})


def rows_of(found: xr.Dataset) -> Iterator[dict[str, Any]]:
    """One row a read, from the answers to the prompts of one length."""
    context = int(found["context"].values[0])
    dense = found.sel(policy="dense")["exact"].values.astype(float)
    for label in found["policy"].values.tolist():
        read, _, pages = label.partition("@")
        if read == "dense":
            continue
        one = found.sel(policy=label)
        right = one["exact"].values.astype(float)
        change = right - dense
        low, high = paired.interval(change)
        yield {
            "context": context,
            "read": f"{read}, {PAGE * int(pages)} tokens" if pages else read,
            "prompts": dense.size,
            "dense": float(dense.mean()),
            "right": float(right.mean()),
            "difference": float(change.mean()),
            "difference_low": low,
            "difference_high": high,
            "lost": int((change < 0).sum()),
            "gained": int((change > 0).sum()),
            "error": float(one["error"].values.mean(dtype=np.float64)),
        }


def report(found: Measured) -> Outcome:
    """How far behind dense, by read and length."""
    rows = found.tables["retrieval"]
    return Outcome(
        tables=found.described({"retrieval": _COLUMNS}),
        values={f"{row['read']}, {row['context']} context": row["right"] for row in rows},
        findings=[
            f"{read}: "
            + "; ".join(
                f"{row['right']:.0%} right at {row['context']:,}, dense {row['dense']:.0%} (of "
                f"{row['prompts']} lost {row['lost']}, gained {row['gained']})"
                for row in rows
                if row["read"] == read
            )
            + "."
            for read in dict.fromkeys(row["read"] for row in rows)
        ],
        notes=[
            (
                f"{found.configuration['model']} in float32; question and answer read sparsely, "
                "the context before them densely. Intervals: bootstrap over prompts."
            )
        ],
    )

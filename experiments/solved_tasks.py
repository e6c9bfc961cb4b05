"""Which retrieval tasks does the model solve when it reads everything? Only those can be lost.

Dense attention on every task, by length of the context, beside a window of the first page and the
last ones, which shows what a task needs beyond its end. Cheaper than `model_quality`, which
compares policies: run it first to choose that one's tasks. Needs the extra lm; the model is fetched
by package. Resumable: a run that was stopped goes on.

Examples:
  python -m experiments solved_tasks
  python -m experiments solved_tasks --contexts 2048 --prompts 30 --workers 2
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from experiments.framework.outcome import Measured, NotMeasured, Outcome
from experiments.shared.retrieval import by_length
from vashista_theory import evaluation
from vashista_theory.evaluation import tasks
from vashista_theory.evaluation.report import summarise
from vashista_theory.evaluation.summary import CHOICE_COUNTS, EXACT_COUNTS, RetrievalRow

BY_HAND = "takes half an hour with a language model"

_WINDOW = 16  # pages
_COLUMNS = {
    "task": "name; in the style of RULER, made from seeds",
    "reach": "near: the answer lies within 6,144 tokens; far: beyond",
    "context": "tokens",
    "prompts": "how many",
    "exact": "share of exact answers",
    "exact_interval": "Wilson, 95 %",
    "chosen": "share of prompts whose answer beats every distractor",
    "chosen_interval": "Wilson, 95 %",
    "token_accuracy": "mean share of the answer's tokens that are the most likely",
    "solved": f"at least {EXACT_COUNTS:.0%} exact or {CHOICE_COUNTS:.0%} by choice",
    "window_exact": f"share of exact answers from the first page and the last {_WINDOW - 1}",
    "window_chosen": "the same by choice",
}


@dataclass(frozen=True)
class Config:
    """What to measure.

    Attributes:
        model: A packaged name, a GGUF file, a Hugging Face folder or a hub id.
        contexts: Lengths, in tokens; each has a store of its own.
        tasks: Retrieval tasks.
        prompts: Prompts a task and length.
        workers: Processes that share the work, each on one thread; none for this one.
        store: Folder of what is measured already; a run that was stopped goes on from it.
        quick: Two tasks of two prompts at 512 tokens.
    """

    model: str = "smollm2-135m"
    contexts: tuple[int, ...] = (2048, 4096, 8192)
    tasks: tuple[str, ...] = tuple(tasks.tasks())
    prompts: int = 5
    workers: int | None = None
    store: Path = Path("vashista_solved")
    quick: bool = False

    def asked(self) -> list[evaluation.EvaluationConfig]:
        """As `python -m vashista_theory.evaluation` takes it, by length."""
        return by_length(self, policy=("dense",), pages=_WINDOW)


def measure(config: Config) -> Measured:
    """Ask what is missing, then put the table into words."""
    try:
        found = [summarise(evaluation.run(one)).retrieval for one in config.asked()]
    except ImportError as error:
        raise NotMeasured(str(error)) from None
    return measured(row for rows in found for row in rows)


def measured(rows: Iterable[RetrievalRow]) -> Measured:
    """One row a task and length, the window beside dense."""
    by: dict[tuple[int, str, str], dict[str, RetrievalRow]] = {}
    for row in rows:
        known = by.setdefault((row.context, row.task, row.reach), {})
        known[row.policy.partition("@")[0]] = row
    cells = [
        {name: getattr(pair["dense"], name) for name in _COLUMNS if hasattr(pair["dense"], name)}
        | {
            name: "{:.2f} to {:.2f}".format(*getattr(pair["dense"], name))
            for name in _COLUMNS
            if "interval" in name
        }
        | {"solved": pair["dense"].counts}
        | {f"window_{name}": getattr(pair["sink-recent"], name) for name in ("exact", "chosen")}
        for _, pair in sorted(by.items())
    ]
    return Measured({"tasks": cells})


def report(found: Measured) -> Outcome:
    """What dense attention solves at each length."""
    cells = found.tables["tasks"]
    said = []
    values: dict[str, int] = {}
    for context in sorted({row["context"] for row in cells}):
        here = [row for row in cells if row["context"] == context]
        solved = [row for row in here if row["solved"]]
        values |= {f"solved_{context}": len(solved), f"asked_{context}": len(here)}
        said.append(
            f"At {context:,} tokens dense attention solves {len(solved)} of {len(here)}"
            + "".join(
                f"{': ' if place == 0 else ', '}{row['task']} {row['reach']}".rstrip()
                + f" ({row['exact']:.0%} exact, {row['chosen']:.0%} by choice)"
                for place, row in enumerate(solved)
            )
            + "."
        )
    return Outcome(
        tables=found.described({"tasks": _COLUMNS}),
        values=values,
        findings=said,
        notes=[
            (
                f"{found.configuration['model']} in float32. Teacher-forced: exact means that "
                "greedy decoding gives it."
            )
        ],
    )

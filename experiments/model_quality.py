"""What reading pages does to a real language model: its predictions and its retrieval.

Dense attention, oracles, floors and the routers at equal pages, over texts and the retrieval tasks
that dense attention solves (`solved_tasks`), by length of the context. Needs the extra lm; the
model and two of the texts are fetched by package. Resumable: a run that was stopped goes on from
the store.

Examples:
  python -m experiments model_quality
  python -m experiments model_quality --contexts 2048 --prompts 10
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.framework.outcome import Measured, NotMeasured, Outcome
from experiments.shared import quality
from vashista_theory import evaluation
from vashista_theory.evaluation.report import Report, summarise

BY_HAND = "takes two hours with a language model"

TASKS = ("needle-noise", "needle-prose", "several-keys", "key-value", "copying")


@dataclass(frozen=True)
class Config:
    """What to measure.

    Attributes:
        model: A packaged name, a GGUF file, a Hugging Face folder or a hub id.
        text: Names or files.
        contexts: Lengths, in tokens.
        pages: Pages of 16 tokens for policies of a fixed number, over texts.
        segments: Stretches of each text.
        positions: Last positions of a stretch, predicted under each policy.
        tasks: Retrieval tasks; none for none.
        prompts: Prompts a task and length.
        prompt_pages: As pages, over prompts.
        workers: Processes that share the work, each on one thread; none for this one.
        store: Folder of what is measured already; a run that was stopped goes on from it.
        quick: One text at 512 tokens, one task of two prompts, three policies.
    """

    model: str = "smollm2-135m"
    text: tuple[str, ...] = ("pydoc-topics", "moby-dick", "sotu")
    contexts: tuple[int, ...] = (2048, 4096, 8192)
    pages: tuple[int, ...] = (16, 64)
    segments: int = 1
    positions: int = 128
    tasks: tuple[str, ...] = TASKS
    prompts: int = 5
    prompt_pages: tuple[int, ...] = (16,)
    workers: int | None = None
    store: Path = Path("vashista_quality")
    quick: bool = False

    def asked(self) -> dict[str, evaluation.EvaluationConfig]:
        """As `python -m vashista_theory.evaluation` takes it: texts, then prompts by length.

        Each has a store of its own, so that another length leaves the rest as it is.
        """
        small: dict[str, Any] = {}
        contexts, texts, wanted = self.contexts, self.text, self.tasks
        if self.quick:
            contexts, texts, wanted = (512,), self.text[:1], ("needle-noise",)
            small = {"pages": (8,), "positions": 32, "prompts": 2}
            small["policy"] = ("dense", "budget", "boxes")
        common = {"model": self.model, "workers": self.workers, "segments": self.segments}
        common |= {"positions": self.positions, "audited": 0, "prompts": self.prompts}
        parts: dict[str, dict[str, Any]] = {}
        if texts:
            parts["texts"] = {"text": texts, "tasks": (), "contexts": contexts, "pages": self.pages}
        if wanted:
            for context in contexts:
                part = {"text": (), "tasks": wanted, "contexts": (context,)}
                parts[f"prompts at {context}"] = part | {"pages": self.prompt_pages}
        place = self.store / ("quick" if self.quick else "full")
        return {
            name: evaluation.EvaluationConfig(
                output=place / name.replace(" ", "-"), **(common | part | small)
            )
            for name, part in parts.items()
        }


def measure(config: Config) -> Measured:
    """Evaluate what is missing."""
    try:
        found = [summarise(evaluation.run(asked)) for asked in config.asked().values()]
    except ImportError as error:
        raise NotMeasured(str(error)) from None
    return quality.measured(
        Report(
            perplexity=tuple(row for one in found for row in one.perplexity),
            retrieval=tuple(row for one in found for row in one.retrieval),
        )
    )


def report(found: Measured) -> Outcome:
    """The tables in words."""
    return quality.report(found)

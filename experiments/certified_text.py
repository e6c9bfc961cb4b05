"""On real text, is a certificate ever wrong, and how many pages does one cost as contexts grow?

Certified reading of a language model's own queries at 5 % and 1 % of dropped mass, at every layer
and head: the true dropped mass of each beside its bound, in float64. Needs the extra lm; the model
and two of the texts are fetched by package. Resumable: a run that was stopped goes on.

Examples:
  python -m experiments certified_text
  python -m experiments certified_text --text pydoc-topics --contexts 512 1024
"""

from dataclasses import dataclass
from pathlib import Path

from experiments.framework.outcome import Measured, NotMeasured, Outcome
from experiments.shared import quality
from vashista_theory import evaluation
from vashista_theory.evaluation.report import Report, summarise

BY_HAND = "reads three texts with a language model, an hour where nothing is stored"


@dataclass(frozen=True)
class Config:
    """What to measure.

    Attributes:
        model: A packaged name, a GGUF file, a Hugging Face folder or a hub id.
        text: Names or files.
        contexts: Lengths, in tokens.
        segments: Stretches of each text.
        audited: Last positions of a stretch, at every layer and head.
        tolerances: Dropped mass allowed.
        store: Folder of what is measured already; a run that was stopped goes on from it.
        quick: One text at 512 tokens, two positions.
    """

    model: str = "smollm2-135m"
    text: tuple[str, ...] = ("pydoc-topics", "moby-dick", "sotu")
    contexts: tuple[int, ...] = (512, 1024, 2048, 4096, 8192)
    segments: int = 1
    audited: int = 32
    tolerances: tuple[float, ...] = (0.05, 0.01)
    store: Path = Path("vashista_certified")
    quick: bool = False

    def asked(self) -> evaluation.EvaluationConfig:
        """As `python -m vashista_theory.evaluation` takes it."""
        return evaluation.EvaluationConfig(
            model=self.model,
            policy=("dense",),
            text=self.text[:1] if self.quick else self.text,
            contexts=(512,) if self.quick else self.contexts,
            segments=self.segments,
            audited=2 if self.quick else self.audited,
            tolerances=self.tolerances,
            tasks=(),
            output=self.store / ("quick" if self.quick else "full"),
        )


def measure(config: Config) -> Measured:
    """Count what is missing."""
    try:
        datasets = evaluation.run(config.asked())
    except ImportError as error:
        raise NotMeasured(str(error)) from None
    return quality.measured(Report(certificates=summarise(datasets).certificates))


def report(found: Measured) -> Outcome:
    """The table in words."""
    return quality.report(found)

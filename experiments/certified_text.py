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

from experiments import model_quality
from experiments.framework.outcome import NotMeasured, Outcome
from vashista_theory import evaluation
from vashista_theory.evaluation import report


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


def run(config: Config) -> Outcome:
    """Count what is missing, then put the table into words."""
    try:
        datasets = evaluation.run(config.asked())
    except ImportError as error:
        raise NotMeasured(str(error)) from None
    rows = report.summarise(datasets).certificates
    return model_quality.outcome(report.Report(certificates=rows), config.model)

"""A quality experiment that nobody ran, with round numbers."""

import dataclasses

from experiments.framework.outcome import Measured, Outcome
from experiments.shared import quality
from tests.experiments.test_model_quality import answered, predicted, proven
from vashista_theory.evaluation.report import Report


def measured() -> Measured:
    """A report with texts, tasks and certificates, where nobody has measured anything."""
    divergences = {
        "dense": 0.0, "certified-0.05": 1e-3, "oracle-pages@16": 0.01, "budget@16": 0.02,
        "budget@64": 4e-3, "boxes@16": 0.04, "boxes@64": 0.01, "published@16": 0.3,
        "published@64": 0.08, "sink-recent@16": 0.2, "sink-recent@64": 0.1, "random@16": 0.9,
    }  # fmt: skip
    rows = tuple(predicted("a", policy, value) for policy, value in divergences.items())
    shares = {"dense": 0.9, "certified-0.05": 0.9, "budget@16": 0.5, "sink-recent@16": 0.1}
    said = tuple(answered("needle", policy, share, 10) for policy, share in shares.items())
    lost = (answered("words", "budget@16", 0.05, 10, counts=False),)
    report = Report(perplexity=rows, retrieval=said + lost, certificates=(proven(2048, 0),))
    return quality.measured(report)


def made_up() -> Outcome:
    """What is said of it."""
    return quality.report(dataclasses.replace(measured(), configuration={"model": "made up"}))

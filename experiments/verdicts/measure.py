"""What became of each sentence of the published abstract: holds, holds where, does not hold?

A claim has a statement of the theory, a module, the experiments that test it, and a rule that
decides from the numbers of their committed results; the evidence quotes those numbers. Nothing is
computed anew. Where a result is not there the verdict is "not measured".

Example: python -m experiments verdicts
"""

from collections.abc import Callable
from dataclasses import dataclass

from experiments.framework import registry, results
from experiments.framework.outcome import Measured, Outcome
from experiments.verdicts import cost, mechanism, quality, sampling, speed, theory
from experiments.verdicts.judging import judge, rule_of, sensitivity

CLAIMS = [
    claim
    for group in (theory, mechanism, speed, quality, cost, sampling)
    for claim in group.CLAIMS.all
]
READS = tuple(sorted({name for claim in CLAIMS for name in claim.needs}))


@dataclass(frozen=True)
class Config:
    """There is nothing to choose.

    Attributes:
        quick: The same, for `python -m experiments all --quick`.
    """

    quick: bool = False


def measure(config: Config) -> Measured:
    """Judge every claim by the committed results."""
    del config
    return measured(_stored)


def measured(known: Callable[[str], Outcome | None]) -> Measured:
    """Judge every claim by the results that `known` returns for a name, None for none."""
    rows = [
        {
            "sentence": claim.sentence,
            "statement": claim.statement,
            "module": claim.module,
            "experiment": ", ".join(claim.needs),
            **judge(claim, known)._asdict(),
            "threshold": rule_of(claim, moved),
            "sensitivity": moved,
        }
        for claim in CLAIMS
        for moved in [sensitivity(claim, known)]
    ]
    return Measured({"verdicts": rows})


def _stored(name: str) -> Outcome | None:
    if name not in registry.names() or results.read(results.path_of(name)) is None:
        return None
    return results.outcome(name)

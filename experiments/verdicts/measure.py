"""What became of each sentence of the published abstract: holds, holds where, does not hold?

A claim has a statement of the theory, a module, the experiments that test it, and a rule that
decides from the numbers of their committed results; the evidence quotes those numbers. Nothing is
computed anew. Where a result is not there the verdict is "not measured".

Example: python -m experiments verdicts
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from experiments.framework import registry, results
from experiments.framework.outcome import Outcome, Table
from experiments.verdicts import mechanism, theory
from experiments.verdicts.judging import FAILS, HOLDS, NOT_MEASURED, judge

CLAIMS = [*theory.CLAIMS.all, *mechanism.CLAIMS.all]
_COLUMNS = {
    "sentence": "of the abstract, in short",
    "statement": "of the theory",
    "module": "below vashista_theory",
    "experiment": "whose results decide",
    "verdict": "holds, holds where, does not hold, not measured",
    "evidence": "numbers of those results",
}


@dataclass(frozen=True)
class Config:
    """There is nothing to choose.

    Attributes:
        quick: The same, for `python -m experiments all --quick`.
    """

    quick: bool = False


def needed() -> list[str]:
    """The experiments whose results decide, in alphabetical order."""
    return sorted({name for claim in CLAIMS for name in claim.needs})


def inputs() -> dict[str, str | None]:
    """Checksums of the results that are read."""
    paths = {name: results.path_of(name) for name in needed()}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
        for name, path in paths.items()
    }


def run(config: Config) -> Outcome:
    """Judge every claim by the committed results."""
    del config
    return outcome(_stored)


def outcome(known: Callable[[str], Outcome | None]) -> Outcome:
    """Judge every claim by the results that `known` returns for a name, None for none."""
    rows = []
    for claim in CLAIMS:
        judged = judge(claim, known)
        rows.append(
            {
                "sentence": claim.sentence,
                "statement": claim.statement,
                "module": claim.module,
                "experiment": ", ".join(claim.needs),
                **judged._asdict(),
            }
        )
    verdicts = [row["verdict"] for row in rows]
    values = {
        "claims": len(rows),
        "hold": verdicts.count(HOLDS),
        "hold_where": sum(v.startswith(f"{HOLDS} where") for v in verdicts),
        "fail": verdicts.count(FAILS),
        "not_measured": verdicts.count(NOT_MEASURED),
    }
    said = (
        f"Of {values['claims']} claims {values['hold']} hold, {values['hold_where']} hold under a "
        f"condition, {values['fail']} do not hold, {values['not_measured']} not measured."
    )
    return Outcome(tables={"verdicts": Table(_COLUMNS, rows)}, values=values, findings=[said])


def _stored(name: str) -> Outcome | None:
    if name not in registry.names() or results.read(results.path_of(name)) is None:
        return None
    return results.outcome(name)

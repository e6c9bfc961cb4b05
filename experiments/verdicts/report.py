"""What became of the abstract, counted."""

from experiments.framework.outcome import Measured, Outcome
from experiments.verdicts.judging import FAILS, HOLDS, NOT_MEASURED

_COLUMNS = {
    "sentence": "of the abstract, in short",
    "statement": "of the theory",
    "module": "below vashista_theory",
    "experiment": "whose results decide",
    "verdict": "holds, holds where, does not hold, not measured",
    "evidence": "numbers of those results",
    "sensitivity": "the verdict if a threshold were half or twice what it is",
}


def report(found: Measured) -> Outcome:
    """How many claims hold."""
    verdicts = [str(row["verdict"]) for row in found.tables["verdicts"]]
    values = {
        "claims": len(verdicts),
        "hold": verdicts.count(HOLDS),
        "hold_where": sum(v.startswith(f"{HOLDS} where") for v in verdicts),
        "fail": verdicts.count(FAILS),
        "not_measured": verdicts.count(NOT_MEASURED),
    }
    said = (
        f"Of {values['claims']} claims {values['hold']} hold, {values['hold_where']} hold under a "
        f"condition, {values['fail']} do not hold, {values['not_measured']} not measured."
    )
    return Outcome(tables=found.described({"verdicts": _COLUMNS}), values=values, findings=[said])

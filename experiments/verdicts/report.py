"""What became of the abstract, counted."""

from experiments.framework.outcome import Measured, Outcome
from experiments.verdicts.judging import FAILS, HOLDS, NO_THRESHOLD, NOT_MEASURED, UNMOVED

_COLUMNS = {
    "sentence": "of the abstract, in short",
    "statement": "of the theory",
    "module": "below vashista_theory",
    "experiment": "whose results decide",
    "verdict": "holds, holds where, does not hold, not measured",
    "evidence": "numbers of those results",
    "threshold": "of the rule that decides, with a dagger where half or twice of it would move it",
    "sensitivity": "the verdict if a threshold were half or twice what it is",
}


def report(found: Measured) -> Outcome:
    """How many claims hold."""
    verdicts = [str(row["verdict"]) for row in found.tables["verdicts"]]
    sensitive = [str(row["sensitivity"]) for row in found.tables["verdicts"]]
    decided = [said for said in sensitive if said and said != NO_THRESHOLD]
    values = {
        "claims": len(verdicts),
        "hold": verdicts.count(HOLDS),
        "hold_where": sum(v.startswith(f"{HOLDS} where") for v in verdicts),
        "fail": verdicts.count(FAILS),
        "not_measured": verdicts.count(NOT_MEASURED),
        "with_thresholds": len(decided),
        "moved_by_a_threshold": len(decided) - decided.count(UNMOVED),
    }
    said = (
        f"Of {values['claims']} claims {values['hold']} hold, {values['hold_where']} hold under a "
        f"condition, {values['fail']} do not hold; not measured: {values['not_measured']}."
    )
    moved = (
        f"Of {values['with_thresholds']} verdicts with thresholds {values['moved_by_a_threshold']} "
        "would read otherwise with one of them halved or doubled."
    )
    return Outcome(
        tables=found.described({"verdicts": _COLUMNS}), values=values, findings=[said, moved]
    )

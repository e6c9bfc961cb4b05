"""What `projection_attack` says of its numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.framework.outcome import Measured, Outcome, Row, sentences

_FAMILIES = {
    "family": "of instances",
    "type": "of keys and query",
    "function": "which was asked",
    "instances": "asked",
    "wrong": "answers that fail a criterion",
    "inside": "share called inside the hull",
    "ambiguous": "share refused as `ambiguous_face`",
    "stagnated": "share refused as `stagnated`, or out of steps or passes",
    "refused": "share refused as input that cannot be computed with",
    "by_design": "whether what rounding decides is the family's point",
    "point": "largest ‖p − p*‖ of a right answer, roundings",
    "backward": "largest backward error of the point of a right answer, roundings",
    "gap": "largest error of the gap of a right answer, roundings",
    "short": "largest ‖p − p*‖ − √duality_gap of any answer, roundings; positive: a promise broken",
}
_WRONG = {
    "family": "of the instance",
    "type": "of keys and query",
    "function": "which was asked",
    "number": "of the instance: `FAMILIES[family].make(seed, number, type)`",
    "result": "what the answer called itself",
    "criteria": "that it fails",
    "point": "‖p − p*‖, roundings",
    "backward": "backward error, roundings",
}


def report(found: Measured) -> Outcome:
    """What was wrong, what was refused, and how far right answers are off."""
    tables = found.described({"families": _FAMILIES, "wrong": _WRONG})
    return Outcome(
        tables={name: table for name, table in tables.items() if table.rows},
        values=found.values,
        findings=_findings(found.values, found.tables["families"]),
        notes=sentences(
            """- Roundings are spacings of the type at 1 times the lengths that enter, as
              experiments/projection_attack/judge.py defines them; none of these lengths is that of
              a key without weight, and only the rounding of p itself sees the distance from the
              origin. A tolerance is 256 of them.
            - `project` is called once an instance. `project_blocks` computes in float64 whatever it
              is given, in one block or, for odd numbers, in blocks of three rows.
            """
        ),
        failures=found.failures,
    )


def _findings(values: Mapping[str, Any], rows: Sequence[Row]) -> list[str]:
    said = sentences(
        f"""- {values["wrong"]} of {values["answers"]:,} answers to {values["instances"]:,}
          instances of {values["families"]} families are wrong.
        - {values["undecided"]:.1%} are refused; {values["undecided_but_decidable"]:.1%} where the
          family is not made of multipliers and distances within rounding of zero.
        """
    )
    refused = sorted(
        (r for r in rows if not r["by_design"]),
        key=lambda r: -(r["ambiguous"] + r["stagnated"] + r["refused"]),
    )[:3]
    said += [
        f"Most refused: {r['family']} ({r['type']}, {r['function']}), "
        f"{r['ambiguous'] + r['stagnated'] + r['refused']:.0%}."
        for r in refused
        if r["ambiguous"] + r["stagnated"] + r["refused"] > 0
    ]
    return said

"""What `head_survey` says of its rows."""

from typing import Any

import numpy as np

from experiments.framework.outcome import Cell, Measured, Outcome, sentences
from experiments.head_survey.rows import LOST_MASS, LOST_OUTPUT

_COUNTED = ("queries", "violations", "unsafe_share")
_DECIDING = (
    "growth of the support by head",
    "area under the ROC curve",
    "area under the ROC curve by layer",
)
_SUPPORT = {
    "text": "name",
    "context": "tokens",
    "half": "tokens that hold 50 % of the mass, median over heads and queries",
    "median": "90 %, median",
    "mean": "90 %, mean",
    "tail": "90 %, 90th percentile over heads and queries",
    "most": "99 %, median",
    "nearly": "99.9 %, median",
    "perplexity": "e^entropy, median",
    "first": "mass of the first token, mean",
}
_GROWTH = {
    "layer": "number",
    "head": "number",
    "exponent": "slope of log (mean tokens for 90 % of the mass) against log context",
    "exponent_most": "the same for 99 %",
    "shortest": "mean tokens for 90 % at the shortest context",
    "longest": "and at the longest",
}
_HULL = {
    "context": "tokens",
    "queries": "projected",
    "failed": "projections that did not succeed; left out",
    "inside": "share inside the hull",
    "face": "|F|, median",
    "face_tail": "|F|, 90th percentile",
    "gap": "Δ, median",
    "distance": "‖r*‖, median",
    "gap_ratio": "Δ/ε at the model's temperature, median",
    "gap_ratio_tail": "Δ/ε, 90th percentile",
    "regime": "share with Δ/ε above log n: where the leakage n·e^(−Δ/ε) is below 1",
}
_AREAS = {
    "diagnostic": "what predicts",
    "unsafe": "what is predicted: lost mass or lost output",
    "context": "tokens; 0 for all together",
    "queries": "number",
    "share": "of them unsafe",
    "area": "under the ROC curve",
}
_LAYERS = {
    "layer": "number",
    "diagnostic": "what predicts",
    "share": "of the queries that lose too much mass",
    "area": "under the ROC curve, lost mass; empty if all or none are unsafe",
}
_CURVES = {
    "diagnostic": "what predicts",
    "unsafe": "what is predicted",
    "false_alarms": "share of the safe queries that are called unsafe",
    "found": "share of the unsafe queries that are",
}
_CALIBRATION = {
    "diagnostic": "what predicts",
    "low": "of the bin: a tenth of the queries each",
    "high": "of the bin",
    "queries": "number",
    "unsafe": "share that loses too much mass",
    "dropped": "mean true dropped mass",
}


def report(found: Measured) -> Outcome:
    """How support grows, and what each diagnostic would have known."""
    columns = {
        "support": _SUPPORT,
        "growth of the support by head": _GROWTH,
        "hull at the model's temperature": _HULL,
        "area under the ROC curve": _AREAS,
        "area under the ROC curve by layer": _LAYERS,
        "ROC curves": _CURVES,
        "calibration": _CALIBRATION,
    }
    hidden = [name for name in columns if name.endswith(("by head", "by layer", "curves"))]
    of, pages = found.values, found.configuration["pages"]
    values = _values(found)
    return Outcome(
        tables=found.described(columns, hidden=hidden),
        values=values,
        findings=_findings(values, pages),
        notes=sentences(
            f"""- {found.configuration["model"]}: {of["layers"]} layers of {of["heads"]} heads,
              {of["queries_each"]} queries a stretch, {of["stretches"]} stretches; queries and keys
              of the dense model in float32, everything else in float64. Neighbouring queries and
              heads are alike: counts are not independent.
            - Unsafe: reading {pages} pages of 16 (4-bit keys, chosen for the group, as the
              mechanism does) drops more than {LOST_MASS:.0%} of the mass, or changes the output by
              more than {LOST_OUTPUT:.0%} of its length.
            - An area of 0.5 is a coin, below 0.5 points the wrong way. A gap predicts that reading
              is unsafe where it is small, the other diagnostics where they are large. Inside the
              hull there is no gap: such queries count as Δ = 0.
            - The hull is projected at the last query of each stretch only.
            """
        ),
    )


def _values(of: Measured) -> dict[str, Any]:
    found: dict[str, Any] = {name: of.values[name] for name in _COUNTED}
    growth, areas, layers = (of.tables[name] for name in _DECIDING)
    slopes = np.array([row["exponent"] for row in growth if row["exponent"] is not None], float)
    if slopes.size:
        found |= {
            "exponent_median": float(np.median(slopes)),
            "exponent_low": float(np.quantile(slopes, 0.1)),
            "exponent_high": float(np.quantile(slopes, 0.9)),
            "constant_heads": float((slopes < 0.1).mean()),
            "heads_above_root": float((slopes > 0.5).mean()),
        }
    for row in areas:
        if row["context"] == 0:
            found[f"area_{row['diagnostic']}_{row['unsafe']}"] = row["area"]
    by_layer = [
        float(row["area"])
        for row in layers
        if row["diagnostic"] == "gap_ratio" and row["area"] is not None
    ]
    if by_layer:
        found["area_gap_ratio_worst_layer"] = min(by_layer)
        found["area_gap_ratio_median_layer"] = float(np.median(by_layer))
    return found


def _findings(values: dict[str, Cell], pages: int) -> list[str]:
    said = sentences(
        f"""- Reading {pages} pages is unsafe for {_percent(values["unsafe_share"])} of the queries.
          Area under the ROC curve for lost mass: Δ/ε {_number(values["area_gap_ratio_mass"])},
          score gap {_number(values["area_score_gap_mass"])}, boundary gap
          {_number(values["area_boundary_gap_mass"])}, the mechanism's Δ̂
          {_number(values["area_mechanism_gap_mass"])}, its estimate
          {_number(values["area_estimate_mass"])}, its bound {_number(values["area_bound_mass"])}.
        - The bound on the dropped mass was exceeded {values["violations"]} times in
          {values["queries"]:,} reads.
        """
    )
    if "exponent_median" in values:
        said.append(
            f"Tokens for 90 % of the mass grow like T^{_number(values['exponent_median'])} in the "
            f"median head (T^{_number(values['exponent_low'])} to "
            f"T^{_number(values['exponent_high'])} between the tenth and the ninetieth "
            f"percentile); {_percent(values['constant_heads'])} of the heads are constant "
            "(exponent below 0.1)."
        )
    return said


def _percent(value: Cell) -> str:
    return f"{float(value or 0.0):.0%}"


def _number(value: Cell) -> str:
    return "–" if value is None else f"{float(value):.2f}"

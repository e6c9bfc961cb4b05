r"""Which real heads run in the theorem's regime? Δ/ε by layer and head at the model's temperature.

For every recorded head of the packaged sample, at its last position: the face, the gap and the
distance of the hull projection, the leakage at the model's own temperature ε = 1/scale = √d beside
its bound, and by which factor ε has to fall before the leakage is 1 % in truth, and before the
bound promises it. The instances and the measuring are those of ``python -m vashista_theory.sweep``.
Longer contexts are in the committed result of `head_survey`, and its table is quoted.

The leakage is that of the entropic projection at ε, not of softmax: both temperatures of theory and
model meet in one number, Δ/ε. From log n on, n e^{−Δ/ε} is below 1.

Examples:
  python -m experiments regime_map
  python -m experiments regime_map --heads 14
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from experiments.framework import results
from experiments.framework.outcome import Measured, Outcome, Table
from experiments.shared import hulls
from experiments.shared.sweeping import swept
from vashista_theory.sweep import summary, verdicts

_ELSEWHERE = "head_survey"
READS = (_ELSEWHERE,)
_REGIME = 1.0

_HEADS = {
    "layer": "of the model",
    "head": "query head",
    "face": "|F|",
    "gap": "Δ, squared length",
    "distance": "‖q − p*‖",
    "tangent_norm": "‖w₀‖",
    "gap_ratio": "Δ/ε at the model's temperature",
    "leakage": "mass off the face there",
    "bound": "its bound there; 1 says nothing",
    "leak_epsilon": "largest ε with at most 1 % leakage",
    "factor": "the model's ε over that",
    "safe_epsilon": "largest ε at which the bound promises 1 %",
    "safe_factor": "the model's ε over that",
}
_LAYERS = {
    "layer": "of the model",
    "heads": "measured",
    "face": "|F|, median",
    "gap_ratio": "Δ/ε, median",
    "leakage": "median",
    "bound": "median",
    "factor": "by which ε has to fall for 1 % leakage, median",
    "safe_factor": "the same by the bound, median",
}
_LONGER = {
    "tokens": "in the context",
    "queries": "projected",
    "inside": "share inside the hull",
    "face": "|F|, median",
    "gap": "Δ, median",
    "distance": "‖q − p*‖, median",
    "gap_ratio": "Δ/ε at the model's temperature, median",
    "gap_ratio_tail": "the same, 90th percentile",
    "regime": "share with Δ/ε above log n, where n e^(−Δ/ε) is below 1",
}


@dataclass(frozen=True)
class Config:
    """What to map.

    Attributes:
        heads: Recorded heads of the packaged sample, of 63 at its last position.
        quick: Two heads, for tests.
    """

    heads: int = 63
    quick: bool = False

    def __post_init__(self) -> None:
        hulls.check_counts(self.heads)


def measure(config: Config) -> Measured:
    """Measure every head, and quote the survey."""
    dataset = swept(
        silent=config.quick,
        families=("heads",),
        head_instances=2 if config.quick else config.heads,
        temperatures_per_decade=2 if config.quick else 5,
        oracle_sample=0,
    )
    return Measured(
        {"heads": list(_rows(dataset)), "longer contexts": list(_longer())},
        failures=verdicts.problems(dataset, summary.by_family(dataset)),
    )


def report(found: Measured) -> Outcome:
    """Where the model runs, and what would have to fall."""
    heads, longer = found.tables["heads"], found.tables["longer contexts"]
    layers = list(_by_layer(heads))
    values = _values(heads, layers, longer)
    described = found.described({"heads": _HEADS, "longer contexts": _LONGER}, hidden=["heads"])
    return Outcome(
        tables={"layers": Table(_LAYERS, layers), **described},
        values=values,
        findings=_findings(values, longer),
        notes=[
            "The query at the last recorded position with the 1,024 keys it sees; ε = 1/scale = 8.",
            (
                f"Longer contexts: experiments/results/{_ELSEWHERE}.json, three texts, every layer "
                "and head of the model."
            ),
        ],
        failures=found.failures,
    )


def _rows(dataset: xr.Dataset) -> Iterable[dict[str, Any]]:
    at_model = dataset.isel(temperature=dataset["kind"].values == "model").squeeze("temperature")
    for i in range(dataset.sizes["instance"]):
        one = at_model.isel(instance=i)
        place = json.loads(str(one["parameters"].values))
        number = {
            name: float(one[name].values)
            for name in (
                "gap", "epsilon", "log_off_face_mass", "log_leakage_t1", "log_leakage_t3",
                "leak_epsilon", "safe_epsilon", "residual_norm", "tangent_norm",
            )
        }  # fmt: skip
        bound = min(number["log_leakage_t1"], number["log_leakage_t3"], 0.0)
        leak = _finite(number["leak_epsilon"])
        yield {
            "layer": int(place["layer"]),
            "head": int(place["head"]),
            "face": int(one["face_size"].values),
            "gap": number["gap"],
            "distance": number["residual_norm"],
            "tangent_norm": _finite(number["tangent_norm"]),
            "gap_ratio": number["gap"] / number["epsilon"],
            "leakage": float(np.exp(number["log_off_face_mass"])),
            "bound": float(np.exp(bound)),
            "leak_epsilon": leak,
            "factor": None if leak is None else number["epsilon"] / leak,
            "safe_epsilon": number["safe_epsilon"],
            "safe_factor": number["epsilon"] / number["safe_epsilon"],
        }


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _median(rows: Any, name: str) -> float | None:
    found = [row[name] for row in rows if row[name] is not None]
    return float(np.median(found)) if found else None


def _by_layer(heads: Any) -> Iterable[dict[str, Any]]:
    for layer in dict.fromkeys(row["layer"] for row in heads):
        mine = [row for row in heads if row["layer"] == layer]
        medians = {name: _median(mine, name) for name in _LAYERS if name not in ("layer", "heads")}
        yield {"layer": layer, "heads": len(mine), **medians}


def _longer() -> Iterable[dict[str, Any]]:
    if not results.path_of(_ELSEWHERE).is_file():
        return
    table = results.outcome(_ELSEWHERE).tables["hull at the model's temperature"]
    for row in table.rows:
        kept = {name: row[name] for name in _LONGER if name != "tokens"}
        yield {"tokens": row["context"], **kept}


def _values(heads: Any, layers: list[dict[str, Any]], longer: Any) -> dict[str, Any]:
    ratios = np.array([row["gap_ratio"] for row in heads])
    faces = [row["face"] for row in heads]
    highest = max(heads, key=lambda row: row["gap_ratio"])
    values: dict[str, Any] = {
        "heads": len(heads),
        "epsilon": heads[0]["gap"] / heads[0]["gap_ratio"],
        "face_median": _median(heads, "face"),
        "face_least": min(faces),
        "face_most": max(faces),
        "gap_median": _median(heads, "gap"),
        "distance_median": _median(heads, "distance"),
        "gap_ratio_median": float(np.median(ratios)),
        "gap_ratio_high": float(np.percentile(ratios, 90)),
        "gap_ratio_most": float(ratios.max()),
        "gap_ratio_most_layer": highest["layer"],
        "gap_ratio_most_head": highest["head"],
        "leakage_median": _median(heads, "leakage"),
        "leakage_least": min(row["leakage"] for row in heads),
        "bound_median": _median(heads, "bound"),
        "bounds_below_one": sum(row["bound"] < 1 for row in heads),
        "in_regime": int((ratios >= _REGIME).sum()),
        "leaks_under_one_percent": sum(row["leakage"] <= 0.01 for row in heads),
        "factor_median": _median(heads, "factor"),
        "factor_least": min((r["factor"] for r in heads if r["factor"]), default=None),
        "factor_most": max((r["factor"] for r in heads if r["factor"]), default=None),
        "safe_factor_median": _median(heads, "safe_factor"),
        "inside": 0 if np.isfinite(ratios).all() else int((~np.isfinite(ratios)).sum()),
    }
    for row in (layers[0], layers[-1]):
        for name in ("gap_ratio", "leakage", "factor"):
            values[f"layer_{row['layer']}_{name}"] = row[name]
    for row in longer:
        values[f"gap_ratio_{row['tokens']}"] = row["gap_ratio"]
        values[f"face_{row['tokens']}"] = row["face"]
        values[f"regime_{row['tokens']}"] = row["regime"]
    return values


def _findings(values: dict[str, Any], longer: Any) -> list[str]:
    said = [
        (
            f"At the model's own temperature ε = {values['epsilon']:g}, Δ/ε is "
            f"{values['gap_ratio_median']:.3f} in the median head of {values['heads']} and at most "
            f"{values['gap_ratio_most']:.2f} (layer {values['gap_ratio_most_layer']}, head "
            f"{values['gap_ratio_most_head']}); {values['in_regime']} heads reach 1."
        ),
        (
            f"{100 * values['leakage_median']:.0f}% of the mass lies off the face (median; at "
            f"least {100 * values['leakage_least']:.1f}%), and the bound is below 1 in "
            f"{values['bounds_below_one']} of {values['heads']} heads: the theorem says next to "
            "nothing at the temperature the model runs at."
        ),
        (
            f"For 1% leakage ε has to fall by a factor of {values['factor_median']:.0f} (median; "
            f"{values['factor_least']:.2g} to {values['factor_most']:.3g}); before the bound "
            f"promises it, by {values['safe_factor_median']:.0f}."
        ),
        (
            f"The face itself is tiny: |F| is {values['face_median']:.0f} (median; "
            f"{values['face_least']} to {values['face_most']}) of 1,024 keys, and no query lies in "
            "the hull."
            if not values["inside"]
            else f"{values['inside']} queries lie in the hull or expose every key."
        ),
    ]
    if longer:
        first, last = longer[0], longer[-1]
        said.append(
            f"Longer contexts do not help: the median Δ/ε is {first['gap_ratio']:.3f} at "
            f"{first['tokens']:,} tokens and {last['gap_ratio']:.3f} at {last['tokens']:,}, with "
            f"|F| = {first['face']:.0f} and {last['face']:.0f}."
        )
    return said

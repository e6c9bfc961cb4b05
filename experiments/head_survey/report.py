"""From the survey's dataset to tables: support, growth, hull, and what each diagnostic knows."""

from collections.abc import Iterator

import numpy as np
import xarray as xr

from experiments.framework.outcome import Cell, Outcome, Table
from experiments.shared import roc

LOST_MASS, LOST_OUTPUT = 0.05, 0.1
"""A read is unsafe if it drops more mass than this, or errs by more of the output's length."""

_GAPS = {
    "gap_ratio": ("hull_gap_ratio", "Δ/ε of the hull projection at the model's temperature"),
    "hull_gap": ("hull_gap", "Δ of the hull projection"),
    "score_gap": ("score_gap", "best score minus the second, nats"),
    "boundary_gap": ("boundary_gap", "score of the last token in the budget minus the next, nats"),
    "mechanism_gap": ("read_gap", "Δ̂: best score read minus the best bound unread, nats"),
}
_OTHERS = {
    "bound": ("read_bound", "proven bound on the dropped mass (certificate)"),
    "estimate": ("read_estimate", "the mechanism's estimate of the dropped mass"),
    "entropy": ("perplexity", "e^entropy of the weights; needs all keys"),
    "face": ("hull_face", "keys on the face; needs all keys"),
}
_RATES = np.linspace(0, 1, 41)
_BINS = 10


def outcome(dataset: xr.Dataset, *, pages: int, model: str) -> Outcome:
    """Everything that is said of the survey."""
    support, growth = _support(dataset), _growth(dataset)
    hulls = _hull(dataset)
    areas = list(_areas(dataset, dataset["context"].values))
    layers = list(_by_layer(dataset))
    curves = list(_curves(dataset))
    bins = list(_calibration(dataset))
    values = _values(dataset, growth, areas, layers)
    return Outcome(
        tables={
            "support": Table(_SUPPORT, support),
            "growth of the support by head": Table(_GROWTH, growth, shown=False),
            "hull at the model's temperature": Table(_HULL, hulls),
            "area under the ROC curve": Table(_AREAS, areas),
            "area under the ROC curve by layer": Table(_LAYERS, layers, shown=False),
            "ROC curves": Table(_CURVES, curves, shown=False),
            "calibration": Table(_CALIBRATION, bins),
        },
        values=values,
        findings=_findings(values, pages),
        notes=[
            (
                f"{model}: {dataset.sizes['layer']} layers of {dataset.sizes['head']} heads, "
                f"{dataset.sizes['query']} queries a stretch, {dataset.sizes['instance']} "
                "stretches; queries and keys of the dense model in float32, everything else in "
                "float64. Neighbouring queries and heads are alike: counts are not independent."
            ),
            (
                f"Unsafe: reading {pages} pages of 16 (4-bit keys, chosen for the group, as the "
                f"mechanism does) drops more than {LOST_MASS:.0%} of the mass, or changes the "
                f"output by more than {LOST_OUTPUT:.0%} of its length."
            ),
            (
                "An area of 0.5 is a coin, below 0.5 points the wrong way. A gap predicts that "
                "reading is unsafe where it is small, the other diagnostics where they are large. "
                "Inside the hull there is no gap: such queries count as Δ = 0."
            ),
            "The hull is projected at the last query of each stretch only.",
        ],
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


def _support(dataset: xr.Dataset) -> list[dict[str, Cell]]:
    rows: list[dict[str, Cell]] = []
    for text, context in _groups(dataset):
        one = _where(dataset, text=text, context=context)
        half, ninety, most, nearly = np.moveaxis(one["tokens"].values, -1, 0)
        rows.append(
            {
                "text": text,
                "context": context,
                "half": float(np.median(half)),
                "median": float(np.median(ninety)),
                "mean": float(ninety.mean()),
                "tail": float(np.quantile(ninety, 0.9)),
                "most": float(np.median(most)),
                "nearly": float(np.median(nearly)),
                "perplexity": float(np.median(one["perplexity"].values)),
                "first": float(one["first"].values.mean()),
            }
        )
    return rows


_GROWTH = {
    "layer": "number",
    "head": "number",
    "exponent": "slope of log (mean tokens for 90 % of the mass) against log context",
    "exponent_most": "the same for 99 %",
    "shortest": "mean tokens for 90 % at the shortest context",
    "longest": "and at the longest",
}


def _growth(dataset: xr.Dataset) -> list[dict[str, Cell]]:
    contexts = np.unique(dataset["context"].values)
    mean = np.stack(
        [_where(dataset, context=c)["tokens"].values.mean(axis=(0, 3)) for c in contexts]
    )
    slopes: np.ndarray | None = None
    if contexts.size > 1:
        x = np.log(contexts) - np.log(contexts).mean()
        slopes = np.tensordot(x, np.log(mean), axes=1) / (x @ x)
    return [
        {
            "layer": layer,
            "head": head,
            "exponent": None if slopes is None else float(slopes[layer, head, 1]),
            "exponent_most": None if slopes is None else float(slopes[layer, head, 2]),
            "shortest": float(mean[0, layer, head, 1]),
            "longest": float(mean[-1, layer, head, 1]),
        }
        for layer, head in np.ndindex(*mean.shape[1:3])
    ]


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


def _hull(dataset: xr.Dataset) -> list[dict[str, Cell]]:
    rows: list[dict[str, Cell]] = []
    for context in np.unique(dataset["context"].values).tolist():
        one = _where(dataset, context=context)
        failed = one["hull_failed"].values > 0
        fine = {
            name: one[f"hull_{name}"].values[~failed]
            for name in ("inside", "face", "gap", "distance", "gap_ratio")
        }
        ratio = np.nan_to_num(fine["gap_ratio"], nan=0.0)
        rows.append(
            {
                "context": context,
                "queries": int(failed.size),
                "failed": int(failed.sum()),
                "inside": float(fine["inside"].mean()),
                "face": float(np.median(fine["face"])),
                "face_tail": float(np.quantile(fine["face"], 0.9)),
                "gap": float(np.nanmedian(fine["gap"])),
                "distance": float(np.median(fine["distance"])),
                "gap_ratio": float(np.median(ratio)),
                "gap_ratio_tail": float(np.quantile(ratio, 0.9)),
                "regime": float((ratio > np.log(context)).mean()),
            }
        )
    return rows


_AREAS = {
    "diagnostic": "what predicts",
    "unsafe": "what is predicted: lost mass or lost output",
    "context": "tokens; 0 for all together",
    "queries": "number",
    "share": "of them unsafe",
    "area": "under the ROC curve",
}


def _areas(dataset: xr.Dataset, contexts: np.ndarray) -> Iterator[dict[str, Cell]]:
    for context in (0, *np.unique(contexts).tolist()):
        one = _where(dataset, context=context) if context else dataset
        for name, kind, score, bad in _predictions(one):
            yield {
                "diagnostic": name,
                "unsafe": kind,
                "context": context,
                "queries": int(bad.size),
                "share": float(bad.mean()),
                "area": roc.area(score, bad),
            }


_LAYERS = {
    "layer": "number",
    "diagnostic": "what predicts",
    "share": "of the queries that lose too much mass",
    "area": "under the ROC curve, lost mass; empty if all or none are unsafe",
}


def _by_layer(dataset: xr.Dataset) -> Iterator[dict[str, Cell]]:
    for layer in range(dataset.sizes["layer"]):
        for name, kind, score, bad in _predictions(dataset.isel(layer=[layer])):
            if kind == "mass":
                area = roc.area(score, bad)
                share = float(bad.mean())
                yield {"layer": layer, "diagnostic": name, "share": share, "area": area}


_CURVES = {
    "diagnostic": "what predicts",
    "unsafe": "what is predicted",
    "false_alarms": "share of the safe queries that are called unsafe",
    "found": "share of the unsafe queries that are",
}


def _curves(dataset: xr.Dataset) -> Iterator[dict[str, Cell]]:
    for name, kind, score, bad in _predictions(dataset):
        found = roc.found_at(score, bad, _RATES)
        for rate, share in zip(_RATES.tolist(), found or [], strict=False):
            yield {"diagnostic": name, "unsafe": kind, "false_alarms": rate, "found": share}


_CALIBRATION = {
    "diagnostic": "what predicts",
    "low": "of the bin: a tenth of the queries each",
    "high": "of the bin",
    "queries": "number",
    "unsafe": "share that loses too much mass",
    "dropped": "mean true dropped mass",
}


def _calibration(dataset: xr.Dataset) -> Iterator[dict[str, Cell]]:
    for name in ("gap_ratio", "mechanism_gap", "estimate", "bound"):
        variable = (_GAPS | _OTHERS)[name][0]
        value, kept = _value(dataset, variable)
        dropped = _truth(dataset, variable, "read_dropped")[kept]
        order = np.argsort(value, kind="stable")
        for part in np.array_split(order, _BINS):
            if part.size:
                yield {
                    "diagnostic": name,
                    "low": _finite(value[part].min()),
                    "high": _finite(value[part].max()),
                    "queries": int(part.size),
                    "unsafe": float((dropped[part] > LOST_MASS).mean()),
                    "dropped": float(dropped[part].mean()),
                }


def _predictions(
    dataset: xr.Dataset,
) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """Each diagnostic with each loss: a score that is high where reading should be unsafe."""
    for name, (variable, _) in (_GAPS | _OTHERS).items():
        value, kept = _value(dataset, variable)
        score = -value if name in _GAPS else value
        for kind, loss, limit in (
            ("mass", "read_dropped", LOST_MASS),
            ("output", "read_error", LOST_OUTPUT),
        ):
            yield name, kind, score, _truth(dataset, variable, loss)[kept] > limit


def _value(dataset: xr.Dataset, variable: str) -> tuple[np.ndarray, np.ndarray]:
    """A diagnostic's values, and which queries have one."""
    value = dataset[variable].values.ravel()
    kept = np.ones(value.size, bool)
    if variable.startswith("hull_"):
        kept = dataset["hull_failed"].values.ravel() == 0
        value = np.nan_to_num(value, nan=0.0)  # inside the hull
    return np.nan_to_num(value[kept], posinf=1e300, neginf=-1e300), kept


def _truth(dataset: xr.Dataset, variable: str, loss: str) -> np.ndarray:
    values = dataset[loss].values
    # The hull is known at the last query alone.
    return (values[..., -1] if variable.startswith("hull_") else values).ravel()


def _values(
    dataset: xr.Dataset,
    growth: list[dict[str, Cell]],
    areas: list[dict[str, Cell]],
    layers: list[dict[str, Cell]],
) -> dict[str, Cell]:
    found: dict[str, Cell] = {
        "queries": int(dataset["read_dropped"].size),
        "violations": int((dataset["read_dropped"] > dataset["read_bound"] + 1e-12).sum()),
        "unsafe_share": float((dataset["read_dropped"].values > LOST_MASS).mean()),
    }
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
    said = [
        (
            f"Reading {pages} pages is unsafe for {_percent(values['unsafe_share'])} of the "
            f"queries. Area under the ROC curve for lost mass: Δ/ε "
            f"{_number(values['area_gap_ratio_mass'])}, score gap "
            f"{_number(values['area_score_gap_mass'])}, boundary gap "
            f"{_number(values['area_boundary_gap_mass'])}, the mechanism's Δ̂ "
            f"{_number(values['area_mechanism_gap_mass'])}, its estimate "
            f"{_number(values['area_estimate_mass'])}, its bound "
            f"{_number(values['area_bound_mass'])}."
        ),
        (
            f"The bound on the dropped mass was exceeded {values['violations']} times in "
            f"{values['queries']:,} reads."
        ),
    ]
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


def _finite(value: float) -> float:
    return float(np.clip(value, -1e300, 1e300))


def _groups(dataset: xr.Dataset) -> list[tuple[str, int]]:
    pairs = zip(dataset["text"].values.tolist(), dataset["context"].values.tolist(), strict=True)
    return list(dict.fromkeys(pairs))


def _where(dataset: xr.Dataset, **values: object) -> xr.Dataset:
    kept = np.ones(dataset.sizes["instance"], bool)
    for name, value in values.items():
        kept &= dataset[name].values == value
    return dataset.isel(instance=np.flatnonzero(kept))

"""From the survey's dataset to rows: support, growth, hull, and what each diagnostic knows."""

from collections.abc import Iterator

import numpy as np
import xarray as xr

from experiments.framework.outcome import Cell, Measured
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


def measured(dataset: xr.Dataset) -> Measured:
    """Everything that is counted in the survey."""
    return Measured(
        {
            "support": _support(dataset),
            "growth of the support by head": _growth(dataset),
            "hull at the model's temperature": _hull(dataset),
            "area under the ROC curve": list(_areas(dataset, dataset["context"].values)),
            "area under the ROC curve by layer": list(_by_layer(dataset)),
            "ROC curves": list(_curves(dataset)),
            "calibration": list(_calibration(dataset)),
        },
        {
            "queries": int(dataset["read_dropped"].size),
            "violations": int((dataset["read_dropped"] > dataset["read_bound"] + 1e-12).sum()),
            "unsafe_share": float((dataset["read_dropped"].values > LOST_MASS).mean()),
            "stretches": dataset.sizes["instance"],
            "layers": dataset.sizes["layer"],
            "heads": dataset.sizes["head"],
            "queries_each": dataset.sizes["query"],
        },
    )


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


def _by_layer(dataset: xr.Dataset) -> Iterator[dict[str, Cell]]:
    for layer in range(dataset.sizes["layer"]):
        for name, kind, score, bad in _predictions(dataset.isel(layer=[layer])):
            if kind == "mass":
                area = roc.area(score, bad)
                share = float(bad.mean())
                yield {"layer": layer, "diagnostic": name, "share": share, "area": area}


def _curves(dataset: xr.Dataset) -> Iterator[dict[str, Cell]]:
    for name, kind, score, bad in _predictions(dataset):
        found = roc.found_at(score, bad, _RATES)
        for rate, share in zip(_RATES.tolist(), found or [], strict=False):
            yield {"diagnostic": name, "unsafe": kind, "false_alarms": rate, "found": share}


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


def _predictions(dataset: xr.Dataset) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
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

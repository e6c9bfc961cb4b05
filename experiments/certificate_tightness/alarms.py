"""Whether the report of a sparse read can be trusted: false and missed alarms, ROC curves."""

import itertools
from typing import Any

import numpy as np

from experiments.shared import roc
from experiments.shared.readings import AllReadings, Readings

# Shares of false alarms at which a curve is kept, closer where a user would stand.
FALSE_ALARMS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
# What the reference itself may err by: float64 sums of a thousand terms.
ROUNDING = 1e-12

PREDICTORS = ("gap", "bound", "estimate", "lower")
PREDICTED = {"dropped mass": "dropped", "output error": "relative_error"}


def alarm_rows(measured: AllReadings, tolerances: tuple[float, ...]) -> list[dict[str, Any]]:
    """What the certificate and the estimate say of answers from a fixed number of pages."""
    rows = []
    for pages in sorted({n for _, n in measured.kept}):
        for tolerance in tolerances:
            for (name, number), found in measured.kept.items():
                if number == pages:
                    row = {"pages": pages, "tolerance": tolerance, "judged_by": name}
                    fallback = measured.dense.get((name, pages, tolerance))
                    rows.append(row | _alarms(found, fallback, tolerance))
    return rows


def _alarms(found: Readings, fallback: Readings | None, tolerance: float) -> dict[str, Any]:
    safe = found.flat("dropped") <= tolerance * (1 + ROUNDING)
    guessed = found.flat("estimate") <= tolerance
    row: dict[str, Any] = {
        "safe": float(safe.mean()),
        "est_false": _share(~guessed, safe),
        "est_missed": _share(guessed, ~safe),
    }
    if fallback is not None:
        certified = found.flat("bound") <= tolerance
        row |= {
            "false_alarms": _share(~certified, safe),
            "missed": int(np.sum(certified & ~safe)),
            "fell_back": float(fallback.flat("fell_back").mean()),
        }
    return row


def _share(these: np.ndarray, among: np.ndarray) -> float | None:
    return float(these[among].mean()) if among.any() else None


def roc_rows(
    measured: AllReadings, tolerances: tuple[float, ...]
) -> tuple[dict[str, list[dict[str, Any]]], list[dict[str, Any]]]:
    """Areas by what is predicted, and the curves behind them."""
    areas: dict[str, list[dict[str, Any]]] = {what: [] for what in PREDICTED}
    curves = []
    numbers = sorted({n for _, n in measured.kept})
    for what, pages, above in itertools.product(PREDICTED, numbers, tolerances):
        for (kind, number), found in measured.kept.items():
            if number != pages:
                continue
            bad = np.ravel(getattr(found, PREDICTED[what])) > above
            row = {"pages": pages, "above": above, "judged_by": kind, "bad": float(bad.mean())}
            drawn = _curves(found, bad)
            areas[what].append(row | {curve["predictor"]: curve["area"] for curve in drawn})
            curves += [{"predicts": what} | row | curve for curve in drawn]
    return areas, curves


def _curves(found: Readings, bad: np.ndarray) -> list[dict[str, Any]]:
    """A curve for each predictor that the readings have; none if all are good or all bad."""
    curves = []
    for predictor in PREDICTORS:
        score = found.flat(predictor) * (-1 if predictor == "gap" else 1)
        if np.isnan(score).any():  # a mean proves nothing and has no gap
            continue
        caught = roc.found_at(score, bad, np.array(FALSE_ALARMS))
        if caught is not None:
            points = {f"at_{x:g}": y for x, y in zip(FALSE_ALARMS, caught, strict=True)}
            curves.append({"predictor": predictor, "area": roc.area(score, bad)} | points)
    return curves


def held(measured: AllReadings, tolerances: tuple[float, ...]) -> dict[str, int]:
    """How often what was proven is true, over everything that was read in float64."""
    counts = dict.fromkeys(
        ("certified_answers", "missed_alarms", "bounds_checked", "bounds_violated"), 0
    )
    for group in ("certified", "unforced", "grouped", "dense"):
        for key, found in getattr(measured, group).items():
            _count_certified(counts, found, found.flat("certified"), float(key[-1]))
            _count_bounds(counts, found)
    for found in measured.kept.values():
        if np.isnan(found.bound).any():  # judged by a mean: no proof was asked for
            continue
        for tolerance in tolerances:
            _count_certified(counts, found, found.flat("bound") <= tolerance, tolerance)
        _count_bounds(counts, found)
    return counts


def _count_certified(
    counts: dict[str, int], found: Readings, certified: np.ndarray, tolerance: float
) -> None:
    counts["certified_answers"] += int(certified.sum())
    wrong = found.flat("dropped")[certified] > tolerance * (1 + ROUNDING)
    counts["missed_alarms"] += int(wrong.sum())


def _count_bounds(counts: dict[str, int], found: Readings) -> None:
    # The dense output is itself rounded, at the size of the values it is a mean of.
    slack = ROUNDING * (1 + found.norm)
    counts["bounds_checked"] += 3 * found.bound.size
    counts["bounds_violated"] += int(
        np.sum(found.dropped > found.bound + ROUNDING)
        + np.sum(found.dropped < found.lower - ROUNDING)
        + np.sum(found.error > found.error_bound + slack)
    )

"""The tables of `certificate_tightness` about pages read and pages ranked."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from experiments.shared.page_masses import PAGE, mass_kept, pages_needed
from experiments.shared.readings import AllReadings

BEST = "best possible"
# The same heads at the last position, median of 63 heads, before the library was designed: numpy,
# float64, no page forced, an error for each key, grid between the page's float64 corners.
EARLIER_PAGES = {
    0.05: {BEST: 10, "box": 64, "ball": 64, "box + mean": 64, "2 bits": 54, "3 bits": 27}
    | {"4 bits": 16, "6 bits": 12, "8 bits": 10},
    0.01: {BEST: 22, "box": 64, "ball": 64, "box + mean": 64, "2 bits": 60, "3 bits": 43}
    | {"4 bits": 32, "6 bits": 24, "8 bits": 22},
}
# Mass kept by the best 4, 8 and 16 pages, mean over the 63 heads, and the worst tenth at 8.
EARLIER_KEPT = {
    BEST: {4: 0.759, 8: 0.838, 16: 0.902, "tenth": 0.43},
    "mean": {4: 0.514, 8: 0.582, 16: 0.683, "tenth": 0.22},
    "box": {4: 0.602, 8: 0.728, 16: 0.886, "tenth": 0.22},
    "1 bit": {4: 0.716, 8: 0.811, 16: 0.875, "tenth": 0.42},
    "2 bits": {4: 0.756, 8: 0.835, 16: 0.902, "tenth": 0.43},
    "4 bits": {4: 0.759, 8: 0.838, 16: 0.902, "tenth": 0.43},
}


def _statistics(pages: np.ndarray) -> dict[str, float]:
    """Of pages by position, layer and head: last position, all positions."""
    found: dict[str, float] = {}
    for suffix, those in (("", pages[-1]), ("_all", pages)):
        found |= {f"median{suffix}": float(np.median(those)), f"mean{suffix}": float(those.mean())}
        found[f"p90{suffix}"] = float(np.percentile(those, 90))
    return found


def best_pages(measured: AllReadings, tolerance: float, *, group: int, forced: bool) -> np.ndarray:
    """Fewest pages if the masses were known, for heads that choose together."""
    held = measured.shared
    found = []
    for length, mass in zip(held.lengths, held.mass, strict=True):
        pages = np.arange(mass.shape[-1])
        always = (pages == 0) | (pages == (length - 1) // PAGE)
        grouped = mass.reshape(mass.shape[0], -1, group, mass.shape[-1])
        found.append(pages_needed(grouped, grouped, tolerance, forced=always if forced else None))
    return np.stack(found)


def page_rows(
    measured: AllReadings, tolerances: tuple[float, ...], *, earlier: bool
) -> Iterator[dict[str, Any]]:
    """Pages that heads read alone, by tolerance and summary."""
    for tolerance in tolerances:
        before = EARLIER_PAGES.get(tolerance, {}) if earlier else {}
        free = best_pages(measured, tolerance, group=1, forced=False)
        read = {BEST: best_pages(measured, tolerance, group=1, forced=True)}
        read |= {name: r.pages for (name, t), r in measured.certified.items() if t == tolerance}
        for name, pages in read.items():
            row: dict[str, Any] = {"tolerance": tolerance, "judged_by": name}
            row |= _statistics(pages)
            if name == BEST:
                row["free"] = float(np.median(free[-1]))
            if (name, tolerance) in measured.unforced:
                row["free"] = float(np.median(measured.unforced[name, tolerance].pages[-1]))
            if name in before:
                row |= {"earlier": before[name], "ratio": row["median"] / before[name]}
            yield row


def grouped_rows(measured: AllReadings, tolerances: tuple[float, ...]) -> list[dict[str, Any]]:
    """Pages that the heads of a group read together."""
    rows = []
    group = measured.shared.group
    for tolerance in tolerances:
        alone = {BEST: best_pages(measured, tolerance, group=1, forced=True)}
        read = {BEST: best_pages(measured, tolerance, group=group, forced=True)}
        for (name, t), found in measured.grouped.items():
            if t == tolerance:
                read[name] = found.pages[..., ::group]
                alone[name] = measured.certified[name, t].pages
        for name, pages in read.items():
            row: dict[str, Any] = {"tolerance": tolerance, "judged_by": name}
            row |= _statistics(pages)
            rows.append(row | {"over_one": row["mean_all"] / float(alone[name].mean())})
    return rows


def router_rows(
    measured: AllReadings, counts: tuple[int, ...], *, earlier: bool
) -> list[dict[str, Any]]:
    """Mass that the best pages of each router keep, last position."""
    mass = measured.shared.mass[-1]
    middle = counts[len(counts) // 2]
    best = {n: mass_kept(mass, mass, n) for n in counts}
    kept: dict[str, dict[int, np.ndarray]] = {BEST: best}
    cost: dict[str, float] = {}
    for (name, n), found in measured.ranked.items():
        kept.setdefault(name, {})[n] = 1 - found.dropped[-1]
        cost[name] = float(found.summary_bytes[-1].mean())
    rows = []
    for name, by_count in kept.items():
        before = EARLIER_KEPT.get(name, {}) if earlier else {}
        row: dict[str, Any] = {"router": name, "bytes": cost.get(name)}
        for n, found in by_count.items():
            row[f"kept_{n}"] = float(found.mean())
            row[f"was_{n}"] = before.get(n)
        row[f"tenth_{middle}"] = float(np.percentile(by_count[middle], 10))
        row["was_tenth"] = before.get("tenth") if middle == 8 else None
        losses = [float(best[n].mean() - found.mean()) for n, found in by_count.items()]
        rows.append(row | {"loss": max(losses)})
    return rows

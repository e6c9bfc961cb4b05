"""What the published constants give away: decades of slack, and where T1′ is proved at all."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from figures import _style as style
from vashista_theory.plots import BLUE, COLUMN, GREEN, GREY, ORANGE, PURPLE

RESULT = "published_constants"
_FORMS = {
    "published": ("T1′ (θ = ½)", PURPLE, (0.3, 0.8)),
    "t1": ("T1", GREEN, (0.8, 0.5)),
    "t3": ("T3", BLUE, (0.75, 0.3)),
}
_MOVED = {"moved_t1": ("T1", GREEN, (0.72, 0.72)), "moved_t2": ("T2", BLUE, (0.82, 0.54))}
_GROUPS = {"synthetic": "-", "real heads": "--"}


def draw(outcome: Any) -> Figure:
    """Slack on the leakage left, on the displacement in the middle, the counterexample right."""
    curves = outcome.tables["curves"].rows
    counter = outcome.tables["counterexample"].rows
    if not curves:
        raise style.NothingToDrawError("no instance was compared")
    titles = [
        "Leakage: T1′ gives away half\nof the decades, T3 is close",
        "Displacement: T2 becomes\nexact, T1 does not",
        "Beyond its range T1′ can fail,\nwithout limit in X",
    ]
    figure = Figure(figsize=(2 * COLUMN, 2.5), layout="constrained")
    leak, moved, fails = figure.subplots(1, 3)
    for axis, title in zip((leak, moved, fails), titles, strict=True):
        axis.set_title(title)
    _lines(leak, curves, _FORMS)
    _lines(moved, curves, _MOVED)
    leak.set(ylabel="log₁₀ (bound / leakage)", ylim=(0.03, 300), yscale="log")
    moved.set(ylabel="log₁₀ (bound / displacement)", ylim=(3e-5, 6), yscale="log")
    starts = outcome.values.get("synthetic_range_starts")
    if starts is not None:
        leak.axvline(starts, color=PURPLE, lw=0.7, ls=":")
        leak.annotate("T1′ proved\nfrom here\n(median)", (starts, 0.04), (-3, 0), size=6,
                      textcoords="offset points", ha="right", color=PURPLE)  # fmt: skip
    for group, line in _GROUPS.items():
        if any(row["group"] == group for row in curves):
            moved.plot([], [], line, color=GREY, label=group)
    moved.legend(frameon=False, fontsize=6.5, loc="lower left")
    x = [row["reach"] for row in counter]
    fails.plot(x, [row["predicted"] / np.log(10) for row in counter], "-", color=GREY, lw=1)
    fails.plot(x, [row["measured"] / np.log(10) for row in counter], "o", ms=4, color=ORANGE)
    fails.plot(x, [max(row["excess"], 1e-3) for row in counter], "s-", ms=3, color=PURPLE)
    fails.set(xscale="log", yscale="log", ylim=(0.3, 150), xlabel="X of the key (X, −1)")
    fails.set_xticks(x, [f"{reach:g}" for reach in x])
    fails.minorticks_off()
    fails.set_ylabel("log₁₀ (weight / bound)")
    fails.text(0.03, 0.97, "factor 1, e$^{-Δ/ε}$\n(line: by hand)", color=ORANGE, size=6.5,
               va="top", transform=fails.transAxes)  # fmt: skip
    fails.text(0.97, 0.12, "T1′, worst ε", color=PURPLE, size=6.5, ha="right",
               transform=fails.transAxes)  # fmt: skip
    return figure


def _lines(axis: Any, curves: Any, forms: dict[str, tuple[str, str, Any]]) -> None:
    for form, (label, colour, place) in forms.items():
        axis.text(*place, label, color=colour, size=7, ha="center", transform=axis.transAxes)
        for group, line in _GROUPS.items():
            mine = [row for row in curves if row["form"] == form and row["group"] == group]
            if not mine:
                continue
            ratio, median, low, high = (
                np.array([row[name] for row in mine], float)
                for name in ("ratio", "median", "low", "high")
            )
            axis.plot(ratio, median, line, color=colour)
            if group == "synthetic" and form in ("t3", "moved_t2"):
                axis.fill_between(ratio, low, high, color=colour, alpha=0.15, lw=0)
    axis.set(xscale="log", xlabel="gap over temperature, Δ/ε")

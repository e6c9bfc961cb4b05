"""Three gaps on real heads: each against the mass it bounds, with the bound."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from figures import _style as style
from vashista_theory.plots import BLUE, COLUMN, GREEN, GREY, ORANGE, PURPLE

RESULT = "gap_taxonomy"
_TITLES = {
    "projection gap": ("Projection gap Δ/ε: mass\noff the face of the projection", BLUE),
    "score gap": ("Score gap: softmax mass\noff the best key", PURPLE),
    "boundary gap": ("Boundary gap: softmax mass\noff the best k keys", GREEN),
}
_REAL = "real heads"
_SAID = {"projection gap": "projection", "score gap": "score", "boundary gap": "boundary"}


def draw(outcome: Any) -> Figure:
    """One panel a gap: synthetic hulls pale, real heads strong, bounds as ticks."""
    points = outcome.tables["points"].rows
    if not points:
        raise style.NothingToDrawError("no instance was measured")
    figure = Figure(figsize=(2 * COLUMN, 2.5), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    real = any(row["source"] == _REAL for row in points)
    for axis, (kind, (title, colour)) in zip(axes, _TITLES.items(), strict=True):
        axis.set_title(title)
        mine = [row for row in points if row["kind"] == kind and row["gap"] > 0]
        others = [row for row in mine if not row["source"].startswith(_REAL)]
        heads = [row for row in mine if row["source"] == _REAL]
        _scatter(axis, others, "mass", GREY, "o", 3, 0.35)
        _scatter(axis, heads or others, "bound", ORANGE, "_", 14, 1.0)
        _scatter(axis, heads, "mass", colour, "o", 7, 0.9)
        axis.axhline(0.05, ls=":", lw=0.8, color="black")
        axis.set(xscale="log", yscale="log", ylim=(3e-6, 2.0), xlabel="gap over temperature")
        if real:
            name = _SAID[kind]
            useful, could, own = (
                outcome.values[f"heads_{name}_{what}"] for what in ("useful", "could", "own")
            )
            axis.text(
                0.03, 0.04,
                f"≤ 5% proved for {100 * useful:.0f}% of heads,\ntrue for {100 * could:.0f}%; "
                f"rank corr. {own:+.2f}".replace("-", "−"),
                size=6, transform=axis.transAxes, va="bottom",
                bbox={"fc": "white", "ec": "none", "pad": 1, "alpha": 0.8},
            )  # fmt: skip
    axes[0].set_ylabel("mass")
    axes[0].text(0.02, 0.56, "bound", color=ORANGE, size=7, transform=axes[0].transAxes)
    axes[0].text(0.02, 0.48, "real heads", color=BLUE, size=7, transform=axes[0].transAxes)
    axes[0].text(0.02, 0.40, "synthetic hulls", color=GREY, size=7, transform=axes[0].transAxes)
    axes[1].text(0.02, 0.74, "5%", size=6.5, transform=axes[1].transAxes)
    return figure


def _scatter(
    axis: Any,
    rows: list[dict[str, Any]],
    what: str,
    colour: str,
    marker: str,
    size: float,
    a: float,
) -> None:
    gap, mass = (np.array([row[name] for row in rows], float) for name in ("gap", what))
    axis.scatter(gap, mass, s=size, color=colour, marker=marker, alpha=a, lw=0.6)

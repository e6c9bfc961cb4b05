"""Without strict complementarity: ε log(1/ε) instead of ε, and how near degeneracy is enough."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from figures import _style as style
from vashista_theory.plots import BLUE, COLUMN, GREEN, GREY, ORANGE, PURPLE

RESULT = "degenerate_regime"
_EXAMPLES = {"positive_power": ("ρ = 1", BLUE, 5), "half_margin": ("ρ = ½", ORANGE, -13)}
_SHADES = (GREEN, BLUE, ORANGE, PURPLE)


def draw(outcome: Any) -> Figure:
    """Ratio to T5's law left, the two slopes in the middle, nearly degenerate faces right."""
    curves = outcome.tables["curves"].rows
    if not curves:
        raise style.NothingToDrawError("no degenerate instance was followed")
    titles = [
        "‖δ‖ nears ε log(1/ε)/ρ, \nas slowly as log log",
        "T5's law has slope 1, the\nlinear law is short of it",
        "A small weight delays the\nlinear law until ε is below",
    ]
    figure = Figure(figsize=(2 * COLUMN, 2.5), layout="constrained")
    ratio, slope, near = figure.subplots(1, 3)
    for axis, title in zip((ratio, slope, near), titles, strict=True):
        axis.set_title(title)
    for name in dict.fromkeys(row["instance"] for row in curves):
        mine = [row for row in curves if row["instance"] == name]
        epsilon = _column(mine, "epsilon")
        if name in _EXAMPLES:
            label, colour, above = _EXAMPLES[name]
            ratio.plot(epsilon[::4], _column(mine, "ratio")[::4], "o", ms=3, color=colour)
            ratio.plot(epsilon, _column(mine, "closed_form"), "-", lw=1, color=colour)
            ratio.annotate(label, (1e-12, mine[-5]["ratio"]), (2, above), color=colour, size=7,
                           textcoords="offset points")  # fmt: skip
        inner = slice(1, -1)
        slope.plot(epsilon[inner], _column(mine, "slope")[inner], lw=0.6, color=GREEN)
        slope.plot(epsilon[inner], _column(mine, "linear_slope")[inner], lw=0.6, color=PURPLE)
    ratio.axhline(1, ls=":", lw=0.8, color=GREY)
    ratio.text(0.03, 0.05, "dots: solved\nlines: closed form", size=6.5, transform=ratio.transAxes)
    ratio.set(ylim=(0, 1.08), ylabel="ρ‖δ‖ / (ε log(1/ε))")
    slope.axhline(1, ls=":", lw=0.8, color=GREY)
    slope.set(ylim=(0.6, 1.25), ylabel="local slope of log ‖δ‖")
    slope.text(0.03, 0.93, "against log(ε log(1/ε))", size=6.5, color=GREEN,
               transform=slope.transAxes)  # fmt: skip
    slope.text(0.03, 0.4, "against log ε", size=6.5, color=PURPLE, transform=slope.transAxes)
    weights = list(dict.fromkeys(r["weight"] for r in outcome.tables["nearly degenerate"].rows))
    for weight, colour in zip(weights, _SHADES, strict=False):
        mine = [r for r in outcome.tables["nearly degenerate"].rows if r["weight"] == weight]
        near.plot(_column(mine, "epsilon"), _column(mine, "share"), color=colour)
        near.axvline(weight, ls=":", lw=0.8, color=colour)
        near.text(weight, 1.12, f"$10^{{{np.log10(weight):.0f}}}$", color=colour, size=6.5,
                  ha="center")  # fmt: skip
    near.axhline(1, ls=":", lw=0.8, color=GREY)
    near.set(ylim=(0, 1.22), ylabel="‖δ‖ / (ε‖w₀‖)")
    near.text(0.03, 0.05, "dotted: the least weight\nof the face", size=6.5,
              transform=near.transAxes)  # fmt: skip
    for axis in (ratio, slope, near):
        axis.set(xscale="log", xlabel="temperature ε")
        axis.set_xticks([1e-12, 1e-8, 1e-4])
        axis.minorticks_off()
    return figure


def _column(rows: list[dict[str, Any]], name: str) -> np.ndarray:
    return np.array([row[name] for row in rows], float)

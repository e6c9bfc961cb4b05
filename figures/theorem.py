"""The two laws with their constants: leakage between T4 and T3, displacement under T2."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from figures import _style as style
from vashista_theory.plots import BLUE, COLUMN, GREEN, GREY, ORANGE, PURPLE

RESULT = "theorem_constants"
_COLOURS = (BLUE, ORANGE, GREEN, PURPLE)
_LINEAR = 45.0


def draw(outcome: Any) -> Figure:
    """Leakage and what is left of it above, displacement and its slope below."""
    reference = outcome.tables["reference values"].rows
    leakage = outcome.tables["leakage"].rows
    moved = outcome.tables["displacement"].rows
    if not reference or not leakage or not moved:
        raise style.NothingToDrawError("no instance was followed")
    names = [row["instance"] for row in reference]
    colours = dict(zip(names, _COLOURS, strict=False))
    figure = Figure(figsize=(2 * COLUMN, 4.6), layout="constrained")
    panels = figure.subplot_mosaic([["fall", "rest"], ["moved", "share"]])
    for name, colour in colours.items():
        _leakage(panels, [row for row in leakage if row["instance"] == name], colour)
        _displacement(panels, [row for row in moved if row["instance"] == name], colour)
    _label(panels, colours, outcome.values)
    return figure


def _column(rows: list[dict[str, Any]], name: str) -> np.ndarray:
    return np.array([row[name] for row in rows], float)


def _leakage(panels: Any, rows: list[dict[str, Any]], colour: str) -> None:
    ratio, mass, t3, t4 = (_column(rows, name) for name in ("ratio", "log_mass", "t3", "t4"))
    near = (ratio >= 1) & (ratio <= _LINEAR)
    fall, rest = panels["fall"], panels["rest"]
    fall.plot(ratio[near], mass[near], "o", ms=2.5, color=colour)
    fall.plot(ratio[near], np.minimum(t3, 0)[near], "--", lw=1, color=colour)
    fall.plot(ratio[near], t4[near], "-", lw=0.7, color=colour)
    rest.plot(ratio, mass + ratio, "o", ms=2, color=colour)
    rest.plot(ratio, t3 + ratio, "--", lw=1, color=colour)
    rest.axhline(rows[0]["constant"], lw=0.7, color=colour)


def _displacement(panels: Any, rows: list[dict[str, Any]], colour: str) -> None:
    names = ("epsilon", "moved", "t2", "share", "share_t2")
    epsilon, moved, t2, share, share_t2 = (_column(rows, name) for name in names)
    every = slice(None, None, 2)
    panels["moved"].plot(epsilon[every], moved[every], "o", ms=2, color=colour)
    panels["moved"].plot(epsilon, t2, "--", lw=1, color=colour)
    panels["share"].plot(epsilon[every], share[every], "o", ms=2, color=colour)
    panels["share"].plot(epsilon, share_t2, "--", lw=1, color=colour)


def _label(panels: Any, colours: dict[str, str], values: Any) -> None:
    fall, rest, moved, share = (panels[name] for name in ("fall", "rest", "moved", "share"))
    fall.set_title("Leakage falls at the rate of the gap")
    fall.set(xlabel="gap over temperature, Δ/ε", ylabel="log off-face mass, nats")
    for style_, text in (("o", "measured"), ("--", "bound T3"), ("-", "limit T4")):
        fall.plot([], [], style_, ms=2.5, lw=1, color=GREY, label=text)
    fall.legend(frameon=False, fontsize=7, loc="lower left")
    for place, (name, colour) in enumerate(colours.items()):
        fall.text(0.99, 0.99 - 0.09 * place, name, color=colour, size=7, ha="right", va="top",
                  transform=fall.transAxes)  # fmt: skip
    rest.set_title("What is left, log m + Δ/ε, tends to T4's constant")
    rest.set(xscale="log", xlabel="gap over temperature, Δ/ε", ylabel="log m + Δ/ε, nats")
    low = min(line.get_ydata()[0] for line in rest.lines if len(set(line.get_ydata())) == 1)
    rest.set_ylim(low - 1.5, low + 12)
    moved.set_title("Entropic attention moves by ε‖w₀‖ once ε is small")
    ends = np.array(moved.get_xlim())
    moved.plot(ends, ends, color=GREY, lw=0.8, zorder=0)
    moved.set(xscale="log", yscale="log", xlabel="temperature ε, in units of scale")
    moved.set_ylabel("‖δ‖/‖w₀‖, in units of scale")
    moved.set_xlim(5e-9, 20)
    moved.set_ylim(2e-9, 20)
    for style_, text in (("o", "measured"), ("--", "bound T2"), ("-", "the line ε‖w₀‖")):
        moved.plot([], [], style_, ms=2.5, lw=1, color=GREY, label=text)
    moved.legend(frameon=False, fontsize=7, loc="upper left")
    share.set_title("Divided by ε‖w₀‖ it tends to 1, below T2")
    share.axhline(1, color=GREY, lw=0.8, zorder=0)
    share.set(xscale="log", yscale="log", xlabel="temperature ε, in units of scale")
    share.set(ylabel="‖δ‖ / (ε‖w₀‖)", ylim=(0.02, 12), xlim=(5e-9, 20))
    checks = f"all bounds: {values['violations']} violations in {values['checks']:,} checks"
    share.text(0.03, 0.06, checks, size=7, transform=share.transAxes)

"""The picture of an answer: one mark a head, in three panels."""

# matplotlib's stubs are partly unknown; drawing is where that stops.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import math

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from vashista_theory._diagnose.record import Asked, HeadReading
from vashista_theory.plots import BLUE, COLUMN, GREEN, GREY, ORANGE, STYLE

_LEAST = 1e-4
"""Errors below are drawn there."""


def draw(heads: tuple[HeadReading, ...], asked: Asked) -> Figure:
    """Expected error, pages of a proof, and how far the theorem's regime is, by head."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(COLUMN, 5.2), layout="constrained")
        error, pages, colder = figure.subplots(3, 1, sharex=True)
        x = list(range(len(heads)))
        low, high = ([max(v, _LEAST) for v in each] for each in _estimates(heads))
        error.vlines(x, low, high, color=BLUE, lw=1, alpha=0.6)
        error.plot(x, low, "o", ms=2.5, color=BLUE, label="median of the queries")
        error.plot(x, high, "_", ms=4, color=BLUE, label="worst query")
        error.axhline(asked.tolerance, color=GREY, lw=0.8, ls="--")
        error.set(yscale="log", ylabel="expected error")
        error.yaxis.set_major_formatter(_percent)
        error.yaxis.set_minor_formatter(NullFormatter())
        # Above the axes there is room, whatever the errors are.
        error.legend(
            frameon=False, fontsize=7, loc="lower right", bbox_to_anchor=(1, 0.98), ncols=2
        )
        error.set_title(f"Reading {asked.tokens:,} of {asked.context:,} tokens", pad=16)
        pages.plot(x, [head.pages_to_prove for head in heads], "o", ms=2.5, color=GREEN)
        pages.set(ylim=(0, 1.05), ylabel="share of pages")
        pages.yaxis.set_major_formatter(_percent)
        pages.set_title(f"Pages read to prove {100 * asked.tolerance:.3g} % dropped (T7)")
        known = [(i, head.colder) for i, head in zip(x, heads, strict=True) if _drawn(head)]
        colder.plot([i for i, _ in known], [v for _, v in known], "o", ms=2.5, color=ORANGE)
        colder.axhline(1, color=GREY, lw=0.8, ls="--")
        colder.set(yscale="log", ylabel="ε over that of 1 % leakage")
        colder.set_title("Above the line: too warm for the theorem")
        _label(colder, heads)
        return figure


def _percent(value: float, place: int) -> str:
    del place
    return f"{100 * value:.3g} %"


def _estimates(heads: tuple[HeadReading, ...]) -> tuple[list[float], list[float]]:
    return [head.estimate for head in heads], [head.worst_estimate for head in heads]


def _drawn(head: HeadReading) -> bool:
    return math.isfinite(head.colder) and head.colder > 0


def _label(axes: Axes, heads: tuple[HeadReading, ...]) -> None:
    axes.set_xlabel("head")
    firsts = [i for i, head in enumerate(heads) if i == 0 or head.layer != heads[i - 1].layer]
    if len(firsts) > 1:
        step = -(-len(firsts) // 10)
        axes.set_xticks(firsts[::step], [str(heads[i].layer) for i in firsts[::step]])
        axes.set_xlabel("heads, by layer")
    elif len(heads) <= 16:
        axes.set_xticks(range(len(heads)), [str(head.head) for head in heads])

"""The picture of an answer: one mark a head, in three panels."""

# matplotlib's stubs are partly unknown; drawing is where that stops.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import math
import textwrap

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from vashista_theory._diagnose.record import Asked, HeadReading
from vashista_theory.plots import BLUE, COLUMN, GREEN, GREY, ORANGE, STYLE

_COLUMNS = 48
"""Letters that fit into the width of the picture."""

_LEAST = 1e-4
"""Errors below are drawn there, by a mark of their own that points down."""


def draw(heads: tuple[HeadReading, ...], asked: Asked) -> Figure:
    """Expected error, pages of a proof, and how far the theorem's regime is, by head."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(COLUMN, 5.2), layout="constrained")
        error, pages, colder = figure.subplots(3, 1, sharex=True)
        x = list(range(len(heads)))
        _errors(error, heads)
        error.axhline(asked.tolerance, color=GREY, lw=0.8, ls="--")
        error.set(yscale="log", ylabel="expected error")
        error.yaxis.set_major_formatter(_percent)
        error.yaxis.set_minor_formatter(NullFormatter())
        # Above the axes there is room, whatever the errors are.
        error.legend(
            frameon=False, fontsize=7, loc="lower right", bbox_to_anchor=(1.02, 0.98), ncols=4,
            columnspacing=0.8, handletextpad=0.2,
        )  # fmt: skip
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
        if missing := _not_drawn(heads):
            said = textwrap.fill(f"not drawn above: {missing}", _COLUMNS)
            colder.set_xlabel(f"{colder.get_xlabel()}\n{said}")
        return figure


def _errors(axes: Axes, heads: tuple[HeadReading, ...]) -> None:
    """Median and worst of each head; what a logarithmic axis cannot hold at its ends, marked."""
    ends = [(head.estimate, head.worst_estimate) for head in heads]
    finite = [value for pair in ends for value in pair if math.isfinite(value)]
    most = max([1.0, *finite])
    held = [tuple(min(max(value, _LEAST), most) for value in pair) for pair in ends]
    x = range(len(heads))
    axes.vlines(
        x, [low for low, _ in held], [high for _, high in held], color=BLUE, lw=1, alpha=0.6
    )
    for place, (mark, size, label) in enumerate((("o", 2.5, "median"), ("_", 4, "worst query"))):
        inside = [i for i in x if ends[i][place] == held[i][place]]
        y = [held[i][place] for i in inside]
        axes.plot(inside, y, mark, ms=size, color=BLUE, label=label)
    below = [i for i, pair in enumerate(ends) if min(pair) < _LEAST]
    beyond = [i for i, pair in enumerate(ends) if max(pair) > most]
    for at, level, mark, label in (
        (below, _LEAST, "v", f"below {_percent(_LEAST, 0)}"),
        (beyond, most, "^", "no estimate"),
    ):
        if at:
            axes.plot(at, [level] * len(at), mark, ms=4, color=BLUE, mfc="white", label=label)


def _percent(value: float, place: int) -> str:
    del place
    return f"{100 * value:.3g} %"


def _drawn(head: HeadReading) -> bool:
    return math.isfinite(head.colder) and head.colder > 0


def _not_drawn(heads: tuple[HeadReading, ...]) -> str:
    """Why heads have no mark in the lowest panel, with how many there are of each."""
    left = [head for head in heads if not _drawn(head)]
    unknown = sum(not head.regime for head in left)
    hull = sum(head.regime == "no gap" for head in left)
    always = sum(head.colder == 0 for head in left)
    never = len(left) - unknown - hull - always
    counted = (
        (hull, "without a gap"),
        (unknown, "not looked at"),
        (always, "in the regime at any ε"),
        (never, "too warm at any ε"),
    )
    return ", ".join(f"{number:,} {why}" for number, why in counted if number)


def _label(axes: Axes, heads: tuple[HeadReading, ...]) -> None:
    axes.set_xlabel("head")
    firsts = [i for i, head in enumerate(heads) if i == 0 or head.layer != heads[i - 1].layer]
    if len(firsts) > 1:
        step = -(-len(firsts) // 10)
        axes.set_xticks(firsts[::step], [str(heads[i].layer) for i in firsts[::step]])
        axes.set_xlabel("heads, by layer")
    elif len(heads) <= 16:
        axes.set_xticks(range(len(heads)), [str(head.head) for head in heads])

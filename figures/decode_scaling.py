"""Time of one decode step against the length of the context, with floors and published times."""

from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures import _style as style

RESULT = "decode_gpu"
_STEPS = ("dense", "published algorithm", "budget", "certified")


def draw(outcome: Any) -> Figure:
    """One panel for each number of kv heads at the published geometry."""
    rows = [row for row in style.measured(outcome.tables) if row["batch"] > 1]
    groups = sorted({row["kv_heads"] for row in rows}, reverse=True)
    if not groups:
        raise style.NothingToDrawError("the result has no rows of the published geometry")
    batch = rows[0]["batch"]
    heads = rows[0]["heads"]
    titles = [f"{kv} kv heads for {heads} query heads, batch {batch}" for kv in groups]
    figure, axes = style.panels(titles, height=2.9)
    published = [dict(row) for row in outcome.tables["published"].rows]
    lengths = sorted({row["tokens"] for row in rows})
    for axis, kv_heads in zip(axes, groups, strict=True):
        of = [row for row in rows if row["kv_heads"] == kv_heads]
        for step in _STEPS:
            _lines(axis, style.fastest(of, step), style.COLOURS[step])
        if kv_heads == heads:
            _published(axis, published, lengths)
        style.tokens_axis(axis, lengths)
        axis.set_yscale("log")
        axis.set_ylabel("one step, milliseconds")
    _key(figure, published)
    style.name_device(figure, outcome)
    return figure


def _lines(axis: Any, rows: list[dict[str, Any]], colour: str) -> None:
    tokens = [row["tokens"] for row in rows]
    axis.plot(tokens, [row["counted_us"] / 1e3 for row in rows], "o-", ms=3, color=colour)
    axis.plot(tokens, [row["floor_us"] / 1e3 for row in rows], ":", lw=1, color=colour)


def _published(axis: Any, rows: list[dict[str, Any]], lengths: list[int]) -> None:
    shown = [row for row in rows if row["tokens"] in lengths]
    tokens = [row["tokens"] for row in shown]
    for cell, step in (("dense_ms", "dense"), ("sparse_ms", "published algorithm")):
        colour = style.COLOURS[step]
        axis.plot(tokens, [row[cell] for row in shown], "x", ms=5, color=colour)


def _key(figure: Figure, published: list[dict[str, Any]]) -> None:
    lines = [Line2D([], [], color=style.COLOURS[s], marker="o", ms=3, label=s) for s in _STEPS]
    lines.append(
        Line2D([], [], color="black", ls=":", lw=1, label="its floor: bytes at copy speed")
    )
    if published:
        label = "published times, its own H100"
        lines.append(Line2D([], [], color="black", ls="", marker="x", ms=5, label=label))
    figure.legend(handles=lines, loc="outside lower center", ncols=3, frameon=False, fontsize=7)

"""What each summary proves, in pages that have to be read, and how well it ranks pages."""

from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures import _style as style
from vashista_theory.plots import BLUE, COLUMN, GREEN, GREY, ORANGE, PURPLE

RESULT = "certificate_tightness"
_PROVES = {
    "box": "boxes",
    "ball": "balls",
    "2 bits": "2-bit keys",
    "4 bits": "4-bit keys",
    "6 bits": "6-bit keys",
    "8 bits": "8-bit keys",
    "best possible": "best possible",
}
_RANKS = {
    "mean": "means (published)",
    "box": "boxes",
    "ball": "balls",
    "1 bit": "1-bit keys",
    "2 bits": "2-bit keys",
    "4 bits": "4-bit keys",
    "best possible": "best possible",
}
_TOLERANCES = {0.05: (BLUE, -0.15), 0.01: (ORANGE, 0.15)}
_COUNTS = {4: PURPLE, 8: GREEN, 16: BLUE}


def draw(outcome: Any) -> Figure:
    """Pages to prove on the left, mass kept by the best pages on the right."""
    pages, routers = (outcome.tables[name].rows for name in ("pages read", "routers"))
    if not pages or not routers:
        raise style.NothingToDrawError("no page was read, or none was ranked")
    figure = Figure(figsize=(2 * COLUMN, 2.7), layout="constrained")
    axes = figure.subplots(1, 2)
    _proves(axes[0], pages)
    _ranks(axes[1], routers)
    return figure


def _proves(axis: Any, rows: Any) -> None:
    names = [name for name in _PROVES if any(row["judged_by"] == name for row in rows)]
    for tolerance, (colour, shift) in _TOLERANCES.items():
        for place, name in enumerate(names):
            row = next(r for r in rows if (r["judged_by"], r["tolerance"]) == (name, tolerance))
            at = place + shift
            axis.plot([row["median"], row["p90"]], [at, at], color=colour, lw=0.9)
            axis.plot(row["median"], at, "o", ms=4, color=colour)
            axis.plot(row["p90"], at, "|", ms=5, color=colour)
            axis.annotate(f"{row['median']:.0f}", (row["median"], at), (-5, 0), size=6.5,
                          textcoords="offset points", ha="right", va="center",
                          color=colour)  # fmt: skip
    axis.set_title("Boxes prove nothing, 8-bit keys all there is", pad=14)
    axis.set_yticks(range(len(names)), [_PROVES[name] for name in names])
    axis.set_ylim(len(names) - 0.5, -0.6)
    axis.set(xlim=(0, 66), xlabel="pages of 64 read: median, 90th percentile")
    handles = [
        Line2D([], [], color=colour, marker="o", ms=4, lw=0.9, label=f"dropped ≤ {100 * t:g} %")
        for t, (colour, _) in _TOLERANCES.items()
    ]
    axis.legend(handles=handles, fontsize=7, frameon=False, loc="upper left")


def _ranks(axis: Any, rows: Any) -> None:
    known = {row["router"]: row for row in rows}
    names = [name for name in _RANKS if name in known]
    for count, colour in _COUNTS.items():
        kept = [known[name][f"kept_{count}"] for name in names]
        axis.plot(kept, range(len(names)), "o", ms=4, color=colour)
        axis.axvline(kept[-1], color=colour, lw=0.7, ls=":", zorder=0)
        said = f"{count} pages" if count == min(_COUNTS) else str(count)
        axis.text(kept[-1], -0.75, said, color=colour, size=7, ha="center")
    for place, name in enumerate(names):
        held = known[name]["bytes"]
        if held is not None:
            axis.text(0.43, place, f"{held:.0f} B", size=6.5, color=GREY, ha="left", va="center")
    axis.text(0.43, -0.75, "read a page", size=6.5, color=GREY)
    axis.set_title("2 bits rank pages like the masses themselves", pad=14)
    axis.set_yticks(range(len(names)), [_RANKS[name] for name in names])
    axis.set_ylim(len(names) - 0.5, -0.6)
    axis.set(xlim=(0.42, 0.95), xlabel="mass kept by the pages ranked best")

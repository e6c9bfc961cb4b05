"""Whether the time of a step is predictable: percentiles by policy, and the pages behind them."""

from typing import Any

from matplotlib.figure import Figure

from figures import _style as style
from vashista_theory.plots import COLUMN, GREEN, GREY, ORANGE, PURPLE

RESULT = "latency"
_POLICIES = ("dense", "sampled", "budget", "certified")
_SAID = {"sampled": "256 drawn, fastest form", "budget": "64 pages by boxes"}
_CURVES = {
    ("certified 5 %", "best possible"): ("5 %, best possible", GREEN, ":"),
    ("certified 5 %", "4 bits"): ("5 %, 4-bit keys", ORANGE, "-"),
    ("certified 1 %", "4 bits"): ("1 %, 4-bit keys", PURPLE, "-"),
}


def draw(outcome: Any) -> Figure:
    """Times on the left, the ratio of p99 to p50 in the middle, pages read on the right."""
    times = [row for row in outcome.tables["times"].rows if row["keys"] == "real heads"]
    pages = outcome.tables["distribution of pages"].rows
    if not times or not pages:
        raise style.NothingToDrawError("no step was timed, or no page counted")
    figure = Figure(figsize=(2 * COLUMN, 2.6), layout="constrained")
    axes = figure.subplots(1, 3, width_ratios=(1.15, 1, 1))
    _percentiles(axes[0], times)
    _ratios(axes[1], times)
    _pages(axes[2], pages)
    return figure


def _of(times: Any, policy: str) -> list[Any]:
    return sorted((r for r in times if r["policy"] == policy), key=lambda row: row["tokens"])


def _percentiles(axis: Any, times: Any) -> None:
    for policy, turned in zip(_POLICIES, (0.8, 0.94, 1.1, 1.28), strict=True):
        rows, colour = _of(times, policy), style.COLOURS[policy]
        at = [row["tokens"] * turned for row in rows]
        axis.vlines(at, *([r[f"p{p}_ms"] for r in rows] for p in (50, 99)), color=colour, lw=1)
        for name, mark, size in (("p50_ms", "o", 4), ("p90_ms", "_", 6), ("p99_ms", "^", 3.5)):
            axis.plot(at, [row[name] for row in rows], mark, ms=size, color=colour)
    for place, policy in enumerate(_POLICIES):
        axis.text(0.03, 0.98 - 0.08 * place, _SAID.get(policy, policy), size=7, va="top",
                  transform=axis.transAxes, color=style.COLOURS[policy])  # fmt: skip
    for name, mark in (("median", "o"), ("p90", "_"), ("p99", "^")):
        axis.plot([], [], mark, ms=4, color=GREY, label=name)
    axis.legend(fontsize=6.5, frameon=False, loc="upper left",
                bbox_to_anchor=(0.02, 0.68), handletextpad=0.1)  # fmt: skip
    style.tokens_axis(axis, sorted({row["tokens"] for row in times}))
    axis.set(yscale="log", ylabel="one step, milliseconds")
    axis.set_ylim(0.4, 6e4)
    axis.set_title("Times on a CPU")


def _ratios(axis: Any, times: Any) -> None:
    ends = {policy: rows[-1]["ratio_p99"] for policy in _POLICIES if (rows := _of(times, policy))}
    top = 1.15 * max(row["ratio_p99"] for row in times)
    places = dict(zip(ends, style.apart(ends.values(), by=0.05 * (top - 1)), strict=True))
    for policy, place in places.items():
        rows, colour = _of(times, policy), style.COLOURS[policy]
        tokens, ratio = ([row[name] for row in rows] for name in ("tokens", "ratio_p99"))
        axis.plot(tokens, ratio, "o-", ms=3, color=colour)
        axis.annotate(f"{ratio[-1]:.1f}", (tokens[-1], place), (5, 0), size=7, ha="left",
                      va="center", textcoords="offset points", color=colour)  # fmt: skip
    axis.text(0.03, 0.97, "dense: the machine's own\nspread, its work is fixed", size=6.5, va="top",
              color=style.COLOURS["dense"], transform=axis.transAxes)  # fmt: skip
    style.tokens_axis(axis, sorted({row["tokens"] for row in times}))
    low, high = axis.get_xlim()
    axis.set_xlim(low, high * 1.6)
    axis.set_ylim(1, top)
    axis.set_ylabel("p99 over median")
    axis.set_title("How long the tail is")


def _pages(axis: Any, rows: Any) -> None:
    for place, (key, (said, colour, look)) in enumerate(_CURVES.items()):
        mine = [row for row in rows if (row["policy"], row["judged_by"]) == key]
        axis.step([r["pages"] for r in mine], [r["share"] for r in mine], look, where="post",
                  color=colour, lw=1.2)  # fmt: skip
        axis.text(1.0, 0.32 - 0.09 * place, said, size=6.5, ha="right", color=colour,
                  transform=axis.transAxes)  # fmt: skip
    fixed = next((row for row in rows if row["policy"].startswith("budget")), None)
    if fixed is not None:
        count = next(row["pages"] for row in rows if row["policy"] == fixed["policy"]
                     and row["share"] == 1)  # fmt: skip
        axis.plot([count, count], [0, 1], color=style.COLOURS["budget"])
        axis.text(1.0, 0.05, f"always {count}", size=6.5, ha="right",
                  color=style.COLOURS["budget"], transform=axis.transAxes)  # fmt: skip
    axis.set(xlabel="pages read, of 64", ylabel="share of queries and heads")
    axis.set(xlim=(0, 65), ylim=(0, 1.03))
    axis.set_xticks([0, 16, 32, 48, 64])
    axis.set_title("Pages a proof needs vary")

"""How many times as fast as dense one decode step is on a CPU, where it is and where it is not."""

from typing import Any

from matplotlib.figure import Figure

from figures import _style as style
from vashista_theory.plots import COLUMN, GREY

RESULT = "decode_cpu"
_PANELS = {
    "real heads": "Keys of real heads",
    "normal": "Normal keys, where nothing stands out",
}
_LIMITS = (0.06, 200.0)
_UP = {"budget": 4, "sampled": 4, "certified": -11}  # points from a marker to its number


def draw(outcome: Any) -> Figure:
    """Real keys on the left, the worst case on the right; below 1 is a slow-down."""
    rows = [dict(row) for row in outcome.tables["decode"].rows]
    if not rows:
        raise style.NothingToDrawError("no step was timed")
    figure = Figure(figsize=(2 * COLUMN, 2.6), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, (keys, title) in zip(axes, _PANELS.items(), strict=True):
        _panel(axis, [row for row in rows if row["keys"] == keys])
        axis.set_title(title)
    axes[0].set_ylabel("times as fast as dense, medians")
    axes[0].legend(loc="upper left", fontsize=7, frameon=False)
    axes[1].text(0.015, 0.985, "budget: fast, and proves nothing\nthin: other layouts", size=7,
                 va="top", color=GREY, transform=axes[1].transAxes)  # fmt: skip
    return figure


def _panel(axis: Any, rows: list[dict[str, Any]]) -> None:
    tokens = sorted({row["tokens"] for row in rows})
    axis.axhspan(_LIMITS[0], 1, color="#EEEEEE", zorder=0)
    axis.axhline(1, color=GREY, lw=0.8, zorder=1)
    axis.set(yscale="log", ylim=_LIMITS)
    ticks = (0.1, 0.3, 1, 3, 10, 30, 100)
    axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    for step in ("sampled", "budget", "certified"):
        layouts = sorted({row["layout"] for row in rows if row["step"] == step})
        if not layouts:
            continue
        of = {
            layout: {
                row["tokens"]: row["times_dense"]
                for row in rows
                if row["step"] == step and row["layout"] == layout
            }
            for layout in layouts
        }
        longest = max(of, key=lambda layout: (max(of[layout]), of[layout][max(of[layout])]))
        for layout, line in of.items():
            best = layout == longest
            thin = {"marker": "o", "ms": 3} if best else {"lw": 0.7, "alpha": 0.5}
            thin["label"] = ", ".join(filter(None, (step, layout))) if best else None
            axis.plot(list(line), list(line.values()), color=style.COLOURS[step], **thin)
        ends = {tokens[0]: "left", tokens[-1]: "right"}
        for at, times in of[longest].items():
            axis.annotate(_short(times), (at, times), (0, _UP[step]), size=7,
                          textcoords="offset points", color=style.COLOURS[step],
                          ha=ends.get(at, "center"))  # fmt: skip
    axis.text(0.985, 0.015, "slower than dense", size=7, color=GREY, ha="right",
              transform=axis.transAxes)  # fmt: skip
    style.tokens_axis(axis, tokens)


def _short(times: float) -> str:
    return f"{times:.0f}" if times >= 10 else f"{times:.1f}" if times >= 1 else f"{times:.2f}"

"""How many times as fast as dense one decode step is on a CPU, where it is and where it is not."""

from typing import Any

from matplotlib.figure import Figure

from figures import _style as style
from vashista_theory.plots import COLUMN, GREY

RESULT = "decode_cpu"
_PANELS = {
    "real heads": "Keys of real heads: budget gains with the length",
    "normal": "Normal keys, the worst case: certified loses",
}
_LIMITS = (0.15, 120.0)


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
    axes[1].text(1.0, 0.96, "budget: fast, and proves nothing", size=7, ha="right", va="top",
                 color=style.COLOURS["budget"], transform=axes[1].transAxes)  # fmt: skip
    axes[0].annotate("thin: other layouts of the sketch", (0.015, 0.1), size=6.5,
                     xycoords="axes fraction", color=style.COLOURS["certified"])  # fmt: skip
    return figure


def _panel(axis: Any, rows: list[dict[str, Any]]) -> None:
    tokens = sorted({row["tokens"] for row in rows})
    axis.axhspan(_LIMITS[0], 1, color="#EEEEEE", zorder=0)
    axis.axhline(1, color=GREY, lw=0.8, zorder=1)
    axis.set(yscale="log", ylim=_LIMITS)
    axis.set_yticks([0.3, 1, 3, 10, 30, 100], ["0.3", "1", "3", "10", "30", "100"])
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
            thin = {"lw": 0.7, "alpha": 0.5} if layout != longest else {"marker": "o", "ms": 3}
            axis.plot(list(line), list(line.values()), color=style.COLOURS[step], **thin)
        best = of[longest]
        for place, (at, times) in enumerate(best.items()):
            axis.annotate(_short(times), (at, times), (0, 4), textcoords="offset points", size=7,
                          ha="left" if place == 0 else "right" if at == tokens[-1] else "center",
                          color=style.COLOURS[step])  # fmt: skip
        # Below the rising line on its right; at the end of the level one, clear of the line at 1.
        name = f"{step}, {longest}" if longest else step
        at = list(best)[-1 if longest else len(best) // 2]
        up = 13 if longest and best[at] > 1 else -13
        axis.annotate(name, (at, best[at]), (0, up), textcoords="offset points", size=7,
                      color=style.COLOURS[step], ha="right" if longest else "left")  # fmt: skip
    axis.text(0.015, 0.015, "slower than dense", size=7, color=GREY, transform=axis.transAxes)
    style.tokens_axis(axis, tokens)


def _short(times: float) -> str:
    return f"{times:.0f}" if times >= 10 else f"{times:.1f}" if times >= 1 else f"{times:.2f}"

"""Share of the measured copy bandwidth that each step and each stage reaches."""

from typing import Any

from matplotlib.figure import Figure

from figures import _style as style

RESULT = "decode_gpu"
_AIM = 0.7  # of the copy bandwidth, what score and attend are to reach
_STEPS = ("dense", "published algorithm", "budget", "certified")
_STAGES = {"score and select": "budget", "score, sketch": "certified", "attend": "floor"}


def draw(outcome: Any) -> Figure:
    """Steps on the left, stages on the right, at the published geometry with fewest kv heads."""
    rows = [row for row in style.measured(outcome.tables) if row["batch"] > 1]
    if not rows:
        raise style.NothingToDrawError("the result has no rows of the published geometry")
    kv_heads = min(row["kv_heads"] for row in rows)
    rows = [row for row in rows if row["kv_heads"] == kv_heads]
    stages = [dict(row) for row in outcome.tables["stages"].rows]
    stages = [r for r in stages if r["kv_heads"] == kv_heads and r["batch"] > 1]
    copy = outcome.values.get("machine copy GB/s")
    speed = f", {copy:,.0f} GB/s" if copy else ""
    figure, (whole, parts) = style.panels(
        [f"Whole steps, {kv_heads} kv heads", "Kernel stages alone"], height=2.7
    )
    for step in _STEPS:
        found = style.fastest(rows, step)
        _line(whole, found, step, style.COLOURS[step])
    for stage, colour in _STAGES.items():
        found = [row for row in stages if row["stage"].startswith(stage)]
        best: dict[int, dict[str, Any]] = {}
        for row in sorted(found, key=lambda row: -row["share_of_copy"]):
            best.setdefault(row["tokens"], row)
        _line(parts, [best[t] for t in sorted(best)], stage, style.COLOURS[colour])
    parts.axhline(_AIM, ls="--", lw=0.8, color=style.COLOURS["dense"])
    parts.annotate(
        f"aim {_AIM:g}",
        (0.01, _AIM),
        xycoords=("axes fraction", "data"),
        xytext=(0, 2),
        textcoords="offset points",
        fontsize=7,
    )
    for axis in (whole, parts):
        axis.axhline(1.0, ls=":", lw=1, color="black")
        style.tokens_axis(axis, sorted({row["tokens"] for row in rows}))
        axis.set_ylim(bottom=0)
        axis.legend(frameon=False, fontsize=6, loc="best")
    style.name_device(figure, outcome)
    whole.set_ylabel(f"share of the copy bandwidth\n(dotted: copy{speed})")
    return figure


def _line(axis: Any, rows: list[dict[str, Any]], label: str, colour: str) -> None:
    if rows:
        tokens = [row["tokens"] for row in rows]
        shares = [row["share_of_copy"] for row in rows]
        axis.plot(tokens, shares, "o-", ms=3, color=colour, label=label)

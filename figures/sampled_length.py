"""The error of so many drawn tokens against the length of the context, below its bound."""

from typing import Any

from matplotlib.figure import Figure

from figures import _style as style
from vashista_theory.plots import BLUE, COLUMN, GREEN, GREY, ORANGE

RESULT = "sampled_length"


def draw(outcome: Any) -> Figure:
    """Error in units of the values' spread: drawn, of most mass by token and by page, and T8."""
    rows = outcome.tables["lengths"].rows
    if len(rows) < 2:
        raise style.NothingToDrawError("fewer than two lengths were read")
    lengths = [row["tokens"] for row in rows]
    figure = Figure(figsize=(COLUMN, 2.6), layout="constrained")
    axis = figure.subplots()
    for name, label, colour, look in (
        ("best_pages", "pages of most mass", ORANGE, "--"),
        ("bound", "T8", GREY, ":"),
        ("error", "drawn, 2 bits", BLUE, "-"),
        ("best_tokens", "tokens of most mass", GREEN, "--"),
    ):
        axis.plot(lengths, [row[name] for row in rows], look, marker="o" if look != ":" else "",
                  ms=2.5, color=colour, label=label)  # fmt: skip
    low, high = ([row[name] for row in rows] for name in ("low", "high"))
    axis.fill_between(lengths, low, high, color=BLUE, alpha=0.2, lw=0)
    style.tokens_axis(axis, lengths)
    axis.set(ylabel="error / spread of the values", ylim=(0, None))
    axis.legend(fontsize=7, frameon=False, ncols=2)
    axis.set_title("Diffuse keys: the draw does not see the length")
    return figure

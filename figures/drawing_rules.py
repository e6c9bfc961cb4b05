"""Drawn tokens on recorded heads: the error that T8 predicts, and the errors of other rules."""

from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from figures import _style as style
from vashista_theory.plots import BLUE, GREEN, GREY, ORANGE, PURPLE

RESULT = "drawing_rules"
_LOOKS = {
    "best tokens by true mass": ("tokens of most mass", GREEN, "--"),
    "best tokens by sketch": ("best tokens by 2 bits", ORANGE, "--"),
    "locality-sensitive hashing": ("drawn by hashing", PURPLE, "-"),
    "half best by sketch, half uniform": ("half best, half uniform", ORANGE, "-"),
    "sketched mass × length": ("drawn by 2 bits × length", BLUE, "-"),
    "true mass × distance": ("best independent draw", GREY, ":"),
}


def draw(outcome: Any) -> Figure:
    """Measured against predicted error by head, and the median error by rule and tokens."""
    heads = outcome.tables["heads"].rows
    errors = {(row["rule"], row["tokens"]): row["median"] for row in outcome.tables["errors"].rows}
    budgets = sorted({row["tokens"] for row in heads})
    if len(budgets) < 2:
        raise style.NothingToDrawError("fewer than two numbers of tokens were read")
    (context,) = {tokens for rule, tokens in errors if rule.startswith("all tokens")}
    figure, (left, right) = style.panels(
        ["T8 says each head's error", "Which rule to draw by"], height=2.9
    )
    for tokens, colour in zip(budgets, cycle((GREY, ORANGE, BLUE, GREEN)), strict=False):
        rows = [row for row in heads if row["tokens"] == tokens and row["predicted"] > 0]
        left.loglog(
            [row["predicted"] for row in rows],
            [row["measured"] for row in rows],
            "o", ms=2, color=colour, alpha=0.7, label=f"{tokens} tokens",
        )  # fmt: skip
    ends = np.array(left.get_xlim())
    left.loglog(ends, ends, color=GREY, lw=0.8, zorder=0)
    left.set(
        xlabel=r"$\sqrt{V}/Z$ over the length of the output", ylabel="measured, root mean square"
    )
    left.legend(fontsize=7, frameon=False, loc="upper left")
    for rule, (label, colour, look) in _LOOKS.items():
        right.loglog(
            budgets, [errors[rule, tokens] for tokens in budgets],
            look, marker="o", ms=2.5, color=colour, label=label,
        )  # fmt: skip
    right.set_xticks(budgets, [str(tokens) for tokens in budgets])
    right.minorticks_off()
    right.set(
        xlabel=f"tokens read a key–value head, of {context:,}", ylabel="relative error, median"
    )
    right.legend(fontsize=7, frameon=False, loc="lower left")
    return figure

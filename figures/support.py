"""How many tokens hold the mass, and how that grows with the context: one exponent a head."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from figures import _style as style
from vashista_theory.plots import BLUE, COLUMN, GREEN, GREY, ORANGE

RESULT = "head_survey"
_SHARES = {"most": ("99 %", ORANGE), "median": ("90 %", BLUE), "half": ("50 %", GREEN)}
_EXPONENTS = {"exponent": ("90 %", BLUE), "exponent_most": ("99 %", ORANGE)}
_CONSTANT = 0.1
_LOOKS = ("-", "--", ":")


def draw(outcome: Any) -> Figure:
    """Tokens against the context on the left, the exponents of all heads on the right."""
    support, growth = (
        outcome.tables[name].rows for name in ("support", "growth of the support by head")
    )
    if not support or not growth:
        raise style.NothingToDrawError("no head was surveyed at two lengths")
    figure = Figure(figsize=(2 * COLUMN, 2.6), layout="constrained")
    axes = figure.subplots(1, 2)
    _tokens(axes[0], support)
    _exponents(axes[1], growth, outcome.values)
    return figure


def _tokens(axis: Any, rows: Any) -> None:
    texts = list(dict.fromkeys(row["text"] for row in rows))
    lengths = sorted({row["context"] for row in rows})
    for name, (share, colour) in _SHARES.items():
        for text, look in zip(texts, _LOOKS, strict=False):
            line = {row["context"]: row[name] for row in rows if row["text"] == text}
            axis.plot(list(line), list(line.values()), look, marker="o", ms=2.5, lw=1, color=colour)
        top = max(row[name] for row in rows if row["context"] == lengths[-1])
        axis.annotate(f"{share} of\nthe mass", (lengths[-1], top), (5, 0), size=7, va="center",
                      textcoords="offset points", color=colour)  # fmt: skip
    # Guides for the eye, where no line is.
    ends = np.array([2 * lengths[0], lengths[-1] / 2], float)
    for power, text in ((1.0, "∝ T"), (0.5, "∝ √T")):
        line = 6.5 * (ends / ends[0]) ** power
        axis.plot(ends, line, color=GREY, lw=0.7)
        axis.annotate(text, (ends[1], line[1]), (5, 0), textcoords="offset points", size=7,
                      color=GREY, va="center")  # fmt: skip
    style.tokens_axis(axis, lengths)
    axis.set_xticks(lengths, [_short(t) for t in lengths])
    axis.set_yscale("log")
    axis.set_xlim(lengths[0] / 1.15, lengths[-1] * 2.1)
    axis.set_ylim(1.5, 6 * max(row["most"] for row in rows))
    axis.set_ylabel("tokens, median over heads and queries")
    axis.set_title("Half of the mass: a few tokens. 90 %: more with T")
    for text, look in zip(texts, _LOOKS, strict=False):
        axis.plot([], [], look, color="black", lw=1, label=text)
    axis.legend(fontsize=6.5, frameon=False, loc="upper left", ncols=1)


def _short(tokens: int) -> str:
    return f"{tokens // 1024}k" if tokens >= 1024 else str(tokens)


def _exponents(axis: Any, rows: Any, values: Any) -> None:
    bins = np.arange(-0.2, 1.35, 0.05)
    for name, (share, colour) in _EXPONENTS.items():
        found = [row[name] for row in rows]
        axis.hist(np.clip(found, bins[0], bins[-1]), bins, histtype="step", color=colour, lw=1.2)
        axis.text(0.99, 0.97 - 0.09 * (name != "exponent"), f"for {share} of the mass", size=7,
                  color=colour, ha="right", va="top", transform=axis.transAxes)  # fmt: skip
    axis.axvspan(bins[0], _CONSTANT, color="#EEEEEE", zorder=0)
    axis.set_xlim(bins[0], bins[-1])
    axis.set_ylim(0, 1.25 * axis.get_ylim()[1])
    top = axis.get_ylim()[1]
    constant = f"constant for 90 %:\n{100 * values['constant_heads']:.0f} % of the heads"
    axis.text(bins[0] + 0.02, 0.97 * top, constant, size=7, color=BLUE, va="top")  # fmt: skip
    median = values["exponent_median"]
    axis.plot([median] * 2, [0, 0.76 * top], color=BLUE, lw=0.8, ls=":")
    axis.annotate(f"median {median:.2f}", (median, 0.76 * top), (0, 2), textcoords="offset points",
                  size=7, color=BLUE, ha="center")  # fmt: skip
    axis.set_title("Growth exponent: the support of most heads grows")
    axis.set(xlabel="exponent a of tokens ∝ $T^a$, by head", ylabel="heads")

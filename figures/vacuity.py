"""Where certificates become vacuous: pages to read for a proof of 5 % over the length."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from figures import _style as style
from vashista_theory.plots import BLUE, COLUMN, GREEN, GREY, ORANGE, PURPLE

RESULT = "certificate_vacuity"
_SHOWN = {
    "best possible": ("best possible", "black", ":"),
    "8 bits": ("8 bits", GREEN, "-"),
    "4 bits": ("4 bits", BLUE, "-"),
    "2 bits": ("2 bits", ORANGE, "-"),
    "box": ("box", PURPLE, "-"),
    "ball": ("ball", GREY, "--"),
}
_PANELS = {
    "i.i.d., query × 4": "Independent keys: boxes prove nothing at any length",
    "clusters of spread 0.1": "Pages of close keys: every certificate proves",
    "real heads": "Real heads: boxes prove nothing, key sketches do",
}
_WIDTHS = (BLUE, ORANGE, GREEN, PURPLE)


def draw(outcome: Any) -> Figure:
    """Share of pages for three kinds of keys; the temperature that T3 asks for below right."""
    pages, hulls = outcome.tables["pages"].rows, outcome.tables["hulls"].rows
    sources = [s for s in _PANELS if any(row["source"] == s for row in pages)]
    if not sources and not hulls:
        raise style.NothingToDrawError("no length was followed")
    figure = Figure(figsize=(2 * COLUMN, 4.6), layout="constrained")
    axes = figure.subplots(2, 2).ravel()
    for axis, (source, title) in zip(axes, _PANELS.items(), strict=False):
        axis.set_title(title)
        _pages(axis, [row for row in pages if row["source"] == source])
        axis.set(ylim=(0, 1.1), ylabel="share of pages to prove 5 %")
    axes[1].legend(frameon=False, fontsize=6.5, loc="upper right", ncols=2)
    _name(axes[0], pages, sources, "i.i.d., query × 4")
    _name(axes[2], pages, sources, "real heads")
    _text(axes[2], outcome.tables["real text"].rows)
    _hulls(axes[3], hulls)
    return figure


def _pages(axis: Any, rows: list[dict[str, Any]]) -> None:
    for name, (label, colour, line) in _SHOWN.items():
        mine = sorted((r for r in rows if r["certificate"] == name), key=lambda r: r["tokens"])
        if not mine:
            continue
        tokens, share = ([r[c] for r in mine] for c in ("tokens", "share"))
        axis.plot(tokens, share, line, color=colour, marker="o", ms=2.5, label=label)
    _tokens(axis)


def _name(axis: Any, pages: Any, sources: list[str], source: str) -> None:
    """Name the lines at their right ends; boxes and balls lie on one another."""
    if source not in sources:
        return
    for name, (label, colour, _) in _SHOWN.items():
        mine = [r for r in pages if r["source"] == source and r["certificate"] == name]
        if not mine or name == "ball":
            continue
        last = max(mine, key=lambda row: row["tokens"])
        if name == "8 bits" and source == "real heads":
            continue  # on the line of the best possible, which names both
        text = "box, ball" if name == "box" else label
        if name == "best possible" and source == "real heads":
            text = "8 bits, best possible"
        if last["tokens"] < 60000:
            where, side = (5, -9 if name == "2 bits" else -2), "left"
        else:
            where, side = (0, -8 if name in ("best possible", "2 bits") else 3), "right"
        axis.annotate(text, (last["tokens"], last["share"]), where, textcoords="offset points",
                      size=6.5, color=colour, ha=side)  # fmt: skip


def _tokens(axis: Any) -> None:
    axis.set_xscale("log", base=2)
    ticks = [256, 1024, 4096, 16384, 65536]
    axis.set_xticks(ticks, ["256", "1k", "4k", "16k", "64k"])
    axis.set_xlim(220, 76000)
    axis.minorticks_off()
    axis.set_xlabel("tokens in the context")


def _text(axis: Any, rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    tokens, share, high = ([row[c] for row in rows] for c in ("tokens", "share", "high"))
    axis.plot(tokens, share, "s-", ms=3.5, mfc="white", color=BLUE)
    axis.plot(tokens, high, "s:", ms=2.5, mfc="white", lw=0.8, color=BLUE)
    median = "real text, 4 bits, groups\nof 3 heads: median"
    axis.annotate(median, (tokens[-1], share[-1]), (6, -4), size=6.5, color=BLUE,
                  textcoords="offset points", va="center")  # fmt: skip
    axis.annotate("90th percentile", (tokens[-1], high[-1]), (6, 2), size=6.5, color=BLUE,
                  textcoords="offset points")  # fmt: skip


def _hulls(axis: Any, rows: list[dict[str, Any]]) -> None:
    axis.set_title("T3 promises 1 % only for a low ε or a far query")
    for width, colour in zip(dict.fromkeys(row["width"] for row in rows), _WIDTHS, strict=False):
        mine = [row for row in rows if row["width"] == width]
        tokens, safe = (np.array([row[c] for row in mine], float) for c in ("tokens", "safe"))
        axis.plot(tokens, safe, "o-", ms=2.5, color=colour)
        axis.annotate(f"query × {width:g}", (tokens[-1], safe[-1]), (0, 8), size=6.5, color=colour,
                      textcoords="offset points", ha="right")  # fmt: skip
    axis.axhline(8, ls=":", lw=0.8, color="black")
    axis.text(240, 7, "the model's ε (d = 64)", size=6.5, va="top")
    axis.set(yscale="log", ylabel="safe ε, i.i.d. keys")
    _tokens(axis)

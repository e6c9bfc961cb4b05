"""The gallery of failures: what a fixed number of pages loses, what a proof costs, what warns."""

from typing import Any

from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from figures import _style as style
from vashista_theory.plots import COLUMN, GREY, ORANGE, PURPLE

RESULT = "failure_gallery"
_READS = {"budget": ("boxes", style.COLOURS["budget"]), "published routing": ("means", PURPLE)}
_VERDICTS = {
    "rightly trusted": ("right", "#DCEBF5"),
    "rightly warned": ("right", "#9CC4E0"),
    "false alarm": ("false\nalarm", "#F6E3D5"),
    "missed": ("missed", ORANGE),
}
_ROOM = 13  # points for a line between title and panel
_SHORT = {
    "Δ/ε of the hull": "Δ/ε of\nthe hull",
    "leakage bound": "leakage\nbound",
    "Δ̂ of the mechanism": "mecha-\nnism's $\\hat\\Delta$",
    "estimate": "esti-\nmate",
    "proven bound": "proven\nbound",
}


def draw(outcome: Any) -> Figure:
    """Mass dropped on the left, pages of the proof in the middle, diagnostics on the right."""
    reads, warnings = (outcome.tables[name].rows for name in ("reads", "diagnostics"))
    if not reads or not warnings:
        raise style.NothingToDrawError("no case was read")
    cases = list(dict.fromkeys(row["case"] for row in reads))
    figure = Figure(figsize=(2 * COLUMN, 3.0), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True, width_ratios=(1.05, 0.85, 1.5))
    _dropped(axes[0], reads, cases)
    _proved(axes[1], reads, cases)
    _warned(axes[2], warnings, cases)
    axes[0].set_yticks(range(len(cases)), cases)
    axes[0].set_ylim(len(cases) - 0.5, -0.5)
    for axis in axes[1:]:
        axis.tick_params(left=False)
    return figure


def _dropped(axis: Any, reads: Any, cases: list[str]) -> None:
    for place, (policy, (_, colour)) in enumerate(_READS.items()):
        found = {row["case"]: row["dropped"] for row in reads if row["policy"] == policy}
        shift = 0.28 * place - 0.14
        axis.barh([at + shift for at in range(len(cases))], [found[c] for c in cases], 0.26,
                  color=colour)  # fmt: skip
    read = {row["case"]: row for row in reads if row["policy"] == "budget"}
    for place, case in enumerate(cases):
        if read[case]["error"] > 0.05:
            axis.text(read[case]["dropped"] + 0.05, place, f"error {read[case]['error']:.1f}",
                      size=6, va="center")  # fmt: skip
    axis.axvline(0.05, color=GREY, lw=0.8, ls=":")
    axis.set(xlim=(0, 1.15), xlabel="dropped mass and output error")
    axis.set_xticks([0, 0.5, 1])
    axis.set_title("What 16 of 64 pages drop", pad=_ROOM)
    for place, (said, colour) in enumerate(_READS.values()):
        _beside(axis, 0.45 * place, f"chosen by {said}", colour)


def _proved(axis: Any, reads: Any, cases: list[str]) -> None:
    found = {row["case"]: row for row in reads if row["policy"] == "certified"}
    colour = style.COLOURS["certified"]
    shares = [found[case]["share_read"] for case in cases]
    axis.barh(range(len(cases)), shares, 0.5, color=colour, alpha=0.8)
    for place, share in enumerate(shares):
        axis.text(share + 0.03, place, f"{100 * share:.0f} %", size=6.5,
                  va="center", color=colour)  # fmt: skip
    axis.set(xlim=(0, 1.3), xlabel="share of pages read")
    axis.set_xticks([0, 0.5, 1])
    axis.set_title("What a proof reads", pad=_ROOM)
    _beside(axis, 0, "certified, 5 %", colour)


def _warned(axis: Any, warnings: Any, cases: list[str]) -> None:
    names = list(dict.fromkeys(row["diagnostic"] for row in warnings))
    known = list(_VERDICTS)
    verdicts = {(row["case"], row["diagnostic"]): row["verdict"] for row in warnings}
    grid = [[known.index(verdicts[case, name]) for name in names] for case in cases]
    colours = ListedColormap([colour for _, colour in _VERDICTS.values()])
    axis.imshow(grid, cmap=colours, vmin=-0.5, vmax=len(known) - 0.5, aspect="auto")
    for i, case in enumerate(cases):
        for j, name in enumerate(names):
            said, _ = _VERDICTS[verdicts[case, name]]
            axis.text(j, i, said, size=6, ha="center", va="center", linespacing=0.85,
                      color="white" if said == "missed" else "black")  # fmt: skip
    axis.set_xticks(range(len(names)), [_SHORT[name] for name in names])
    axis.tick_params(axis="x", length=0, labelsize=6.5)
    axis.spines[:].set_visible(False)
    axis.set_xlabel("diagnostic asked about the 16 pages")
    axis.set_title("What warns when too much is dropped", pad=_ROOM)
    _beside(axis, 0, "blue: right, dark where it warned; the rest: wrong", GREY)


def _beside(axis: Any, x: float, text: str, colour: str) -> None:
    """A line between the title and the panel."""
    axis.text(x, 1.02, text, size=6.5, color=colour, transform=axis.transAxes)

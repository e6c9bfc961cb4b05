"""What each diagnostic knows of where a sparse read is safe: ROC curves, calibration, by layer."""

from typing import Any

from matplotlib.figure import Figure

from figures import _style as style
from vashista_theory.plots import BLUE, COLUMN, GREEN, GREY, ORANGE, PURPLE

RESULT = "head_survey"
_SHOWN = {
    "gap_ratio": ("Δ/ε of the hull", BLUE),
    "score_gap": ("score gap", PURPLE),
    "boundary_gap": ("boundary gap", GREEN),
    "mechanism_gap": (r"$\hat\Delta$ of the mechanism", GREY),
    "estimate": ("its estimate of the mass", ORANGE),
}


def draw(outcome: Any) -> Figure:
    """ROC curves for lost mass on the left, calibration of Δ/ε in the middle, layers right."""
    curves = [row for row in outcome.tables["ROC curves"].rows if row["unsafe"] == "mass"]
    if not curves:
        raise style.NothingToDrawError("no query lost too much mass, or all did")
    titles = ["Reads that lose more than 5 %", "Calibration", "By layer"]
    figure, (roc, bins, layers) = style.panels(titles, height=2.6)
    figure.set_size_inches(2 * COLUMN, 2.6)  # the width of a page, so that print does not shrink it
    for name, (label, colour) in _SHOWN.items():
        mine = [row for row in curves if row["diagnostic"] == name]
        area = outcome.values.get(f"area_{name}_mass")
        if area is None:
            continue
        x, y = ([row[cell] for row in mine] for cell in ("false_alarms", "found"))
        roc.plot(x, y, color=colour, label=f"{label}: {area:.2f}")
    roc.plot([0, 1], [0, 1], ls=":", lw=0.8, color="black")
    roc.set_xlabel("false alarms")
    roc.set_ylabel("unsafe reads found")
    # One legend under the panels: within them it hides curves.
    handles, labels = roc.get_legend_handles_labels()
    place = {"loc": "outside lower center", "ncols": 5, "fontsize": 6.5, "handlelength": 1.0}
    place |= {"columnspacing": 1.2, "frameon": False}
    figure.legend(handles, labels, title="area under the ROC curve", title_fontsize=6.5, **place)
    for name in ("gap_ratio", "estimate"):
        rows = [r for r in outcome.tables["calibration"].rows if r["diagnostic"] == name]
        label, colour = _SHOWN[name]
        places = [(place + 0.5) / len(rows) for place in range(len(rows))]
        bins.plot(places, [r["unsafe"] for r in rows], "o-", ms=3, color=colour, label=label)
    bins.set_xlabel("queries ordered by the diagnostic, from least")
    bins.set_ylabel("share unsafe")
    bins.set_ylim(0, None)
    for name in ("gap_ratio", "estimate"):
        rows = outcome.tables["area under the ROC curve by layer"].rows
        mine = [r for r in rows if r["diagnostic"] == name and r["area"] is not None]
        label, colour = _SHOWN[name]
        layers.plot([r["layer"] for r in mine], [r["area"] for r in mine], ".-", color=colour)
    layers.axhline(0.5, ls=":", lw=0.8, color="black")
    layers.set_xlabel("layer")
    layers.set_ylabel("area under the ROC curve")
    return figure

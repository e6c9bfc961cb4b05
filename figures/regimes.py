"""The heads of a real model: Δ/ε, leakage and the factor by which ε must fall, layer by layer."""

from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from figures import _style as style
from vashista_theory.plots import COLUMN

RESULT = "regime_map"


def draw(outcome: Any) -> Figure:
    """Three heat maps over layer and head."""
    rows = outcome.tables["heads"].rows
    if not rows:
        raise style.NothingToDrawError("no head was measured")
    layers = sorted({row["layer"] for row in rows})
    heads = sorted({row["head"] for row in rows})
    figure = Figure(figsize=(2 * COLUMN, 2.6), layout="constrained")
    axes = figure.subplots(1, 3)
    _map(figure, axes[0], rows, "gap_ratio", "Δ/ε at the model's temperature", (0.01, 3), "viridis")
    _map(figure, axes[1], rows, "leakage", "Mass off the face there", (0.01, 1), "viridis_r")
    _map(figure, axes[2], rows, "factor", "ε must fall by, for 1 % leakage", (1, 3e3), "viridis_r")
    for axis in axes:
        axis.set_xticks(range(len(heads)), heads)
        axis.set_yticks(range(len(layers)), layers)
        axis.set_xlabel("head")
    axes[0].set_ylabel("layer")
    return figure


def _map(
    figure: Figure,
    axis: Any,
    rows: Any,
    name: str,
    title: str,
    limits: tuple[float, float],
    colours: str,
) -> None:
    layers = sorted({row["layer"] for row in rows})
    heads = sorted({row["head"] for row in rows})
    grid = np.full((len(layers), len(heads)), np.nan)
    for row in rows:
        value = row[name]
        if value is not None:
            grid[layers.index(row["layer"]), heads.index(row["head"])] = value
    norm = LogNorm(*limits, clip=True)
    image = axis.imshow(grid, norm=norm, cmap=colours, aspect="auto")
    for (i, j), value in np.ndenumerate(grid):
        if np.isfinite(value):
            red, green, blue, _ = image.cmap(norm(value))
            dark = 0.3 * red + 0.6 * green + 0.1 * blue < 0.5
            axis.text(j, i, _short(value), size=6, ha="center", va="center",
                      color="white" if dark else "black")  # fmt: skip
    axis.set_title(title)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    figure.colorbar(image, ax=axis, orientation="horizontal", aspect=35, pad=0.02)


def _short(value: float) -> str:
    if value < 1:
        return f"{value:.{3 if value < 0.01 else 2}f}".removeprefix("0")
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"

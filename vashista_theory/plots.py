"""Figures drawn from a sweep's dataset; each says in its title what to see.

Every function takes a dataset and returns a matplotlib figure as wide as one printed column, or
raises `NothingToDrawError`. Nothing here computes: the quantities
are the dataset's own, at most divided by one another.
"""

# matplotlib's stubs are partly unknown; drawing is where that stops.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vashista_theory._checks import as_float64, as_scale
from vashista_theory._files import whole_file
from vashista_theory._types import ArrayLike
from vashista_theory.hull.projection import project
from vashista_theory.hull.relaxation import relax
from vashista_theory.hull.stability import face_stability

COLUMN = 3.5
"""Width of a printed column, inches."""

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#AA4499", "#777777"
"""Okabe and Ito's colours, told apart with every common colour blindness; with one more."""

STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.3,
    "figure.dpi": 200,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,
    "text.parse_math": True,
    "figure.constrained_layout.use": True,
}


class NothingToDrawError(ValueError):
    """The dataset lacks the instances that a figure shows."""


def leakage(dataset: xr.Dataset) -> Figure:
    """Leakage log m against Δ/ε, measured, with T3 above it and T4 under it.

    Left to the eye in two panels: the straight fall at rate Δ, and what is left after it, which
    tends to T4's constant. One real attention head where there is one, and one synthetic hull.
    """
    rows = _representatives(dataset, ("heads", "gaussian", "planted"), "log_constant", count=2)
    colours = (BLUE, ORANGE)
    with mpl.rc_context(STYLE):
        figure, (fall, rest) = _two_panels()
        fall.set_title("Leakage falls at the rate of the gap, below its bound")
        rest.set_title("What is left tends to T4's constant")
        for row, colour in zip(rows, colours, strict=False):
            data = _grid(dataset.isel(instance=row))
            x = data["gap"].values / data["epsilon"].values
            mass, bound = data["log_off_face_mass"].values, data["log_leakage_t3"].values
            asymptote = data["log_asymptote"].values
            near = (x >= 1) & (x <= 45)
            bound = np.minimum(bound, 0)
            fall.plot(x[near], mass[near], "o", ms=3, color=colour)
            fall.plot(x[near], bound[near], "--", lw=1, color=colour)
            fall.plot(x[near], asymptote[near], "-", lw=0.8, color=colour)
            wide = (x >= 0.3) & (x <= 3e3)
            rest.plot(x[wide], (mass + x)[wide], "o", ms=3, color=colour)
            rest.plot(x[wide], (data["log_leakage_t3"].values + x)[wide], "--", lw=1, color=colour)
            rest.axhline(float(data["log_constant"]), lw=0.8, color=colour)
        fall.set(xlabel="gap over temperature, Δ/ε", ylabel="log off-face mass, nats")
        _key(fall, {"measured": "o", "bound T3": "--", "limit T4": "-"}, loc="lower left")
        _label_lines(fall, rows, colours, dataset, top=0.98)
        rest.set(xscale="log", xlabel="gap over temperature, Δ/ε", ylabel="log m + Δ/ε, nats")
        rest.set_ylim(*_padded(rest, 14.0))
        return figure


def leakage_of(keys: ArrayLike, query: ArrayLike, *, scale: float | None = None) -> Figure:
    """Leakage log m of one query and its keys against Δ/ε, with T3 above it and T4 under it.

    Args:
        keys: (n, d).
        query: (d,).
        scale: The model's factor on the scores; its own temperature 1/scale is marked.

    Raises:
        ValueError: As `vashista_theory.project`, or `scale` is not one positive number.
        NothingToDrawError: There is no finite gap: the query is in the hull, or every key exposed.
    """
    with jax.enable_x64(True):
        projection = project(as_float64(keys, "keys"), as_float64(query, "query"))
        gap = float(projection.gap)
        if not math.isfinite(gap):
            raise NothingToDrawError(
                "nothing can leak off a face here: the query is in the hull of the keys, or all of "
                "them are exposed. `vashista_theory.diagnose(keys, query)` says which."
            )
        stability = face_stability(projection)
        own = math.nan if scale is None else gap * float(as_scale(scale, 1, np.dtype(np.float64)))
        ratios = np.geomspace(min(0.3, own) if own > 0 else 0.3, 45.0, 33)
        found = relax(projection, gap / ratios)
        mass, bound, limit = (
            np.asarray(a)
            for a in (
                found.log_off_face_mass,
                stability.log_leakage_bound(gap / ratios),
                stability.log_leakage_asymptote(gap / ratios),
            )
        )
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(COLUMN, 2.6), layout="constrained")
        axes = figure.subplots()
        axes.plot(ratios, limit, "-", lw=0.8, color=BLUE, label="limit T4")
        axes.plot(ratios, bound, "--", lw=1, color=BLUE, label="bound T3")
        axes.plot(ratios, mass, "o", ms=3, color=BLUE, label="measured")
        if own > 0:
            axes.axvline(own, color=ORANGE, lw=1, label="the model's ε")
        axes.set(xscale="log", xlabel="gap over temperature, Δ/ε")
        least = float(np.min(mass[np.isfinite(mass)], initial=-48.0)) - 2.0
        axes.set(ylabel="log off-face mass, nats", ylim=(least, 2))
        face, count = int(np.sum(projection.face)), projection.keys.shape[0]
        axes.set_title(f"Leakage off a face of {face:,} of {count:,} keys")
        axes.legend(frameon=False, fontsize=7, loc="lower left")
        return figure


def displacement(dataset: xr.Dataset) -> Figure:
    """Displacement over ‖w₀‖ against ε, measured, with T2; and its ratio to ε‖w₀‖."""
    usable = dataset["tangent_norm"].values * np.sqrt(dataset["scale"].values) > 1e-6
    data = dataset.isel(instance=usable)
    rows = _representatives(data, ("heads", "gaussian", "planted"), "tangent_norm", count=2)
    colours = (BLUE, ORANGE)
    with mpl.rc_context(STYLE):
        figure, (moved, ratio) = _two_panels()
        moved.set_title("Entropic attention moves by ε‖w₀‖ once ε is small")
        ratio.set_title("Divided by ε: the slope tends to ‖w₀‖, below T2")
        for row, colour in zip(rows, colours, strict=False):
            one = _grid(data.isel(instance=row))
            epsilon, scale = one["epsilon"].values, float(one["scale"])
            tangent = float(one["tangent_norm"])
            value = np.exp(one["log_displacement"].values) / tangent
            best = np.minimum(
                one["log_displacement_t2"].values, one["log_displacement_bootstrap"].values
            )
            bound = np.exp(best) / tangent
            x = epsilon / scale
            moved.plot(x, value / scale, "o", ms=2.5, color=colour)
            moved.plot(x, bound / scale, "--", lw=1, color=colour)
            ratio.plot(x, value / epsilon, "o", ms=2.5, color=colour)
            ratio.plot(x, bound / epsilon, "--", lw=1, color=colour)
        x = _grid(data.isel(instance=rows[0]))["epsilon"].values
        x = x / float(data["scale"].values[rows[0]])
        moved.plot(x, x, color=GREY, lw=0.8)
        ratio.axhline(1, color=GREY, lw=0.8)
        moved.set(xscale="log", yscale="log", ylabel="‖δ‖/‖w₀‖, in units of scale")
        moved.set_xlabel("temperature ε, in units of scale")
        ratio.set(xscale="log", yscale="log", ylabel="‖δ‖ / (ε‖w₀‖)", ylim=(0.03, 4))
        ratio.set_xlabel("temperature ε, in units of scale")
        _key(moved, {"measured": "o", "bound T2": "--", "ε (slope ‖w₀‖)": "-"}, loc="upper left")
        _label_lines(moved, rows, colours, data, top=0.16)
        return figure


def degenerate_law(dataset: xr.Dataset) -> Figure:
    """T5: without strict complementarity ‖δ‖ follows ε log(1/ε)/ρ, not ε.

    Against log ε the slope tends to 1 as well, but is short of it by 1/log(1/ε) at every ε.
    """
    rows = np.flatnonzero(dataset["degenerate"].values)
    if not rows.size:
        raise NothingToDrawError("the dataset holds no degenerate instance")
    with mpl.rc_context(STYLE):
        figure, (law, slope) = _two_panels()
        law.set_title("Degenerate faces: ‖δ‖/ε keeps growing as log(1/ε)")
        slope.set_title("The law ε log(1/ε) has slope 1, the linear law is short")
        distances = np.unique(np.round(dataset["degeneracy_distance"].values[rows], 6))
        colours = dict(zip(distances, (BLUE, ORANGE, GREEN, PURPLE), strict=False))
        for row in rows:
            one = _grid(dataset.isel(instance=row))
            epsilon = one["epsilon"].values
            low = epsilon < 0.05
            epsilon, log_moved = epsilon[low], one["log_displacement"].values[low]
            x = epsilon * np.log(1 / epsilon)
            distance = float(one["degeneracy_distance"])
            colour = colours.get(np.round(distance, 6), GREY)
            law.semilogx(epsilon, distance * np.exp(log_moved) / epsilon, lw=0.9, color=colour)
            middle = np.sqrt(epsilon[1:] * epsilon[:-1])
            steps = np.diff(log_moved)
            slope.plot(middle, steps / np.diff(np.log(x)), "-", lw=0.9, color=GREEN)
            slope.plot(middle, steps / np.diff(np.log(epsilon)), "-", lw=0.9, color=PURPLE)
        for distance, colour in colours.items():
            law.plot([], [], color=colour, label=f"ρ = {distance:g}")
        reach = np.geomspace(*law.get_xlim(), 50)
        reach = reach[reach < 0.5]
        law.plot(reach, np.log(1 / reach), ":", color=GREY, label="log(1/ε): slope of T5")
        law.legend(frameon=False, fontsize=7, loc="upper right")
        law.set(xscale="log", xlabel="temperature ε", ylabel="ρ‖δ‖/ε")
        slope.axhline(1, ls=":", color=GREY, lw=1)
        slope.plot([], [], color=GREEN, label="slope against log(ε log 1/ε)")
        slope.plot([], [], color=PURPLE, label="slope against log ε")
        slope.legend(frameon=False, fontsize=7, loc="lower left")
        slope.set(xscale="log", xlabel="temperature ε", ylabel="slope of log ‖δ‖", ylim=(0.6, 1.25))
        return figure


def regime_map(dataset: xr.Dataset, *, epsilon: float = 1e-3) -> Figure:
    """Where the asymptote T4 can be used: (least weight, Δ) → leakage over the asymptote.

    Args:
        dataset: A sweep with the family `near_degenerate`.
        epsilon: The one temperature of the map (squared length; ‖q − p*‖ is 1 in that family).
    """
    data = _grid(dataset.isel(instance=dataset["family"].values == "near_degenerate"))
    if data.sizes["instance"] < 4:
        raise NothingToDrawError("the map needs at least 4 instances of the family near_degenerate")
    difference = data["log_off_face_mass"].values - data["log_asymptote"].values
    # The difference is smooth in log ε, the leakage itself is not.
    ratio = np.array(
        [
            np.interp(np.log(epsilon), np.log(e[::-1]), row[::-1])
            for e, row in zip(data["epsilon"].values, difference, strict=True)
        ]
    ) / np.log(10)
    weights = np.unique(np.round(np.log10(data["min_weight"].values), 6))
    gaps = np.unique(np.round(np.log10(data["gap"].values), 6))
    table = np.full((gaps.size, weights.size), np.nan)
    column = np.abs(np.log10(data["min_weight"].values)[:, None] - weights).argmin(axis=1)
    row = np.abs(np.log10(data["gap"].values)[:, None] - gaps).argmin(axis=1)
    table[row, column] = ratio
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(COLUMN, 3.1), layout="constrained")
        axes = figure.subplots()
        limit = 3.0
        image = axes.pcolormesh(
            weights, gaps, table, cmap="PuOr_r", vmin=-limit, vmax=limit, shading="nearest"
        )
        for j, gap in enumerate(gaps):
            for i, weight in enumerate(weights):
                value = table[j, i]
                if np.isnan(value):
                    continue
                text = f"$10^{{{0.0 if abs(value) < 0.05 else value:+.1f}}}$"
                shade = "white" if abs(value) > 0.6 * limit else "black"
                axes.text(weight, gap, text, ha="center", va="center", size=6, color=shade)
        boundary = np.log10(epsilon)
        axes.axhline(boundary, color="black", lw=0.8, ls="--")
        axes.annotate("Δ = ε", (1, boundary), (2, -2), xycoords=("axes fraction", "data"),
                      textcoords="offset points", size=6)  # fmt: skip
        figure.suptitle(
            f"Leakage over its asymptote T4 at ε = {epsilon:g}: near 1\n"
            "(white) only where Δ and the weights are well above ε",
            size=8, x=0.02, ha="left",
        )  # fmt: skip
        axes.set(xlabel="least weight on the face", ylabel="gap Δ")
        axes.xaxis.set_major_formatter(lambda value, _: f"$10^{{{value:g}}}$")
        axes.yaxis.set_major_formatter(lambda value, _: f"$10^{{{value:g}}}$")
        bar = figure.colorbar(image, ax=axes, extend="both", aspect=30)
        bar.set_label("log₁₀ (m / asymptote)")
        return figure


DRAWINGS: dict[str, Callable[[xr.Dataset], Figure]] = {
    "leakage": leakage,
    "displacement": displacement,
    "degenerate_law": degenerate_law,
    "regime_map": regime_map,
}


def save_all(dataset: xr.Dataset, folder: Path) -> list[Path]:
    """Write every figure that the dataset has data for, as PNG and PDF.

    Returns:
        The files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for name, drawing in DRAWINGS.items():
        try:
            figure = drawing(dataset)
        except NothingToDrawError:
            continue
        written += save(figure, folder / name)
    return written


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write a figure as ``stem.png`` and ``stem.pdf``, the latter without its date."""
    paths = [stem.with_suffix(".png"), stem.with_suffix(".pdf")]
    with mpl.rc_context(STYLE):
        # Without a date, the same figure gives the same file.
        for path, metadata in zip(paths, ({}, {"CreationDate": None}), strict=True):
            with whole_file(path) as file:
                figure.savefig(file, format=path.suffix[1:], metadata=metadata)
    return paths


def _two_panels() -> tuple[Figure, tuple[Axes, Axes]]:
    figure = Figure(figsize=(COLUMN, 4.8), layout="constrained")
    upper, lower = figure.subplots(2, 1)
    return figure, (upper, lower)


def _grid(data: xr.Dataset) -> xr.Dataset:
    return data.isel(temperature=data["kind"].values == "grid")


def _representatives(
    dataset: xr.Dataset, families: tuple[str, ...], finite: str, *, count: int
) -> list[int]:
    """The instance of median gap of each family, where `finite` and the gap are."""
    rows: list[int] = []
    for family in families:
        use = (dataset["family"].values == family) & np.isfinite(dataset[finite].values)
        use &= np.isfinite(dataset["gap"].values) & ~np.isnan(dataset["tangent_norm"].values)
        use &= dataset["face_size"].values > 1
        found = np.flatnonzero(use)
        if found.size:
            order = np.argsort(dataset["gap"].values[found], kind="stable")
            rows.append(int(found[order[found.size // 2]]))
    if not rows:
        raise NothingToDrawError(f"no instance of {', '.join(families)} with a finite gap")
    return rows[:count]


def _label(one: xr.Dataset) -> str:
    family = str(one["family"].values)
    kind = "attention head" if family == "heads" else f"{family} hull"
    return f"{kind} (n = {int(one['n'])}, d = {int(one['d'])}, |F| = {int(one['face_size'])})"


def _label_lines(
    axes: Axes, rows: list[int], colours: tuple[str, ...], dataset: xr.Dataset, *, top: float
) -> None:
    lines = [_label(dataset.isel(instance=row)) for row in rows]
    for index, (text, colour) in enumerate(zip(lines, colours, strict=False)):
        axes.text(0.99, top - 0.09 * index, text, color=colour, size=7, ha="right", va="top",
                  transform=axes.transAxes)  # fmt: skip


def _key(axes: Axes, styles: dict[str, str], *, loc: Any) -> None:
    handles = [axes.plot([], [], style, color=GREY, ms=2.5, lw=1)[0] for style in styles.values()]
    axes.legend(handles, list(styles), frameon=False, fontsize=7, loc=loc)


def _padded(axes: Axes, most: float) -> tuple[float, float]:
    low, high = axes.get_ylim()
    return low, min(high, low + most)

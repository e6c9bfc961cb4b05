"""The picture of one query and its keys, drawn with matplotlib."""

# matplotlib's stubs are partly unknown; drawing is where that stops.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vashista_theory.explore.view import View
from vashista_theory.plots import BLUE, COLUMN, GREEN, GREY, ORANGE, STYLE


def draw(*views: View, titles: tuple[str, ...] = ()) -> Figure:
    """Draw views side by side, to one scale.

    Hull grey, exposed face orange, query green, its residual the line to p*; the band behind the
    supporting line is free of keys and Δ/‖r*‖ wide. The area of a blue disc is the key's weight
    at the view's temperature, and the blue cross is the entropic point.

    Args:
        *views: From `look`.
        titles: One for each view; what the face is, if left out.

    Raises:
        ValueError: No view, or another number of titles than of views.
    """
    if not views or (titles and len(titles) != len(views)):
        raise ValueError(
            f"one or more views are expected, with no titles or one each; got {len(views)} views "
            f"and {len(titles)} titles"
        )
    low, high = frame(np.concatenate([[*view.keys, view.query] for view in views]))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(0.9 * COLUMN * len(views), COLUMN), layout="constrained")
        for index, view in enumerate(views):
            axes = figure.add_subplot(1, len(views), index + 1)
            axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
            axes.set_title(titles[index] if titles else f"face: {view.readings['face']}")
            _draw_on(axes, view)
        return figure


def frame(
    points: Float[np.ndarray, "n 2"],
) -> tuple[Float[np.ndarray, " 2"], Float[np.ndarray, " 2"]]:
    """Lower and upper corner of a square around the points, with a margin."""
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    half = 0.58 * max(np.ptp(points, axis=0).max(), 1e-9)
    return middle - half, middle + half


def _draw_on(axes: Axes, view: View) -> None:
    hull = view.keys[view.outline]
    axes.fill(*hull.T, facecolor="#eeeeee", edgecolor=GREY, lw=0.8)
    if view.normal is not None:
        _draw_support(axes, view, view.normal)
        axes.plot(*view.keys[view.face].T, color=ORANGE, lw=2.4, solid_capstyle="round")
        axes.plot(*np.stack([view.query, view.point]).T, color=GREEN, lw=1)
    discs = np.maximum(600 * view.entropic_weights, 1)
    axes.scatter(*view.keys.T, s=discs, color=BLUE, alpha=0.3, lw=0)
    colours = np.where(view.face & (not view.inside), ORANGE, "black")
    axes.scatter(*view.keys.T, s=10, color=colours.tolist(), zorder=3)
    for index, place in enumerate(view.keys):
        axes.annotate(str(index), place.tolist(), (4, 3), textcoords="offset points", fontsize=7)
    axes.plot(*view.entropic_point, "x", color=BLUE, ms=5, zorder=4)
    axes.plot(*view.point, "o", color=ORANGE, ms=4, zorder=4)
    axes.plot(*view.query, "o", color=GREEN, ms=6, zorder=5)
    axes.annotate("q", view.query.tolist(), (6, 3), textcoords="offset points", color=GREEN)
    axes.set_xlabel(f"{view.readings['gap']}, {view.readings['residual']}")


def _draw_support(axes: Axes, view: View, normal: Float[np.ndarray, " 2"]) -> None:
    """The supporting line, and the band behind it that holds no key."""
    along = np.array([-normal[1], normal[0]])
    far = 1e3 * (view.residual + np.ptp(view.keys, axis=0).max())
    ends = view.point + far * np.outer([-1.0, 1.0], along)
    axes.plot(*ends.T, color=ORANGE, lw=0.8, ls="--", scalex=False, scaley=False)
    if view.depth is not None:
        corners = np.concatenate([ends, ends[::-1] - view.depth * normal])
        axes.fill(*corners.T, color=ORANGE, alpha=0.12, lw=0)

"""The geometry in the plane and in space: hull, query, projection, face, gap, entropic points."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d.art3d import Poly3DCollection

from figures import _style as style
from vashista_theory.plots import BLUE, COLUMN, GREEN, GREY, ORANGE, PURPLE

RESULT = "schematic_geometry"
_TABLES = ("keys", "points", "path", "hull")
_INSIDE, _FACE, _GAP, _PATH = "#E6EFF5", BLUE, ORANGE, GREEN


def draw(outcome: Any) -> Figure:
    """The plane on the left, space on the right; every length in them is the computed one."""
    figure = Figure(figsize=(2 * COLUMN, 2.9))
    figure.set_layout_engine("none")
    plane = figure.add_axes((0.0, 0.01, 0.56, 0.92))
    space = figure.add_axes((0.55, -0.07, 0.43, 1.04), projection="3d", computed_zorder=False)
    _plane(plane, _Panel(outcome, "2D"))
    _space(space, _Panel(outcome, "3D"))
    titles = (
        (0.01, "In the plane: the face is an edge of the hull"),
        (0.6, "In space: the same with a triangle"),
    )
    for x, title in titles:
        figure.text(x, 0.985, title, fontsize=8, va="top")
    return figure


class _Panel:
    """The rows of one panel, as arrays."""

    def __init__(self, outcome: Any, name: str) -> None:
        rows = {t: [r for r in outcome.tables[t].rows if r["panel"] == name] for t in _TABLES}
        if not all(rows.values()):
            raise style.NothingToDrawError(f"the result has no panel {name}")
        axes = "xy" if name == "2D" else "xyz"
        place = lambda row: np.array([row[axis] for axis in axes])  # noqa: E731
        self.keys = np.stack([place(row) for row in rows["keys"]])
        self.face = np.array([row["on_face"] for row in rows["keys"]])
        depth = np.array([row["depth"] for row in rows["keys"]])
        points = {row["what"]: place(row) for row in rows["points"]}
        self.query, self.projection = points["query"], points["projection"]
        normal = self.query - self.projection
        nearest = int(np.argmin(np.where(self.face, np.inf, depth)))
        self.nearest = self.keys[nearest]
        self.foot = self.nearest + depth[nearest] * normal / np.linalg.norm(normal)
        self.path = np.stack([place(row) for row in rows["path"]])
        self.marked = [(row["epsilon"], place(row)) for row in rows["path"] if row["marked"]]
        self.sides = [
            ([row[corner] for corner in "abc" if row.get(corner) is not None], row["on_face"])
            for row in rows["hull"]
        ]


def _plane(axis: Any, of: _Panel) -> None:
    around = of.keys.mean(axis=0)
    corners = sorted({corner for side, _ in of.sides for corner in side})
    turn = [np.arctan2(*(of.keys[corner] - around)[::-1]) for corner in corners]
    axis.fill(*of.keys[np.array(corners)[np.argsort(turn)]].T, color=_INSIDE, ec=GREY, lw=0.8)
    ends = of.keys[of.face]
    reach = 0.1 * (ends[1] - ends[0])
    axis.plot(*np.stack([ends[0] - reach, of.foot + reach]).T, "--", color=_FACE, lw=0.8)
    axis.plot(*ends.T, color=_FACE, lw=3, solid_capstyle="round", zorder=2)
    axis.plot(*of.keys[~of.face].T, "o", ms=5, color="white", mec="black", mew=1, zorder=4)
    axis.plot(*ends.T, "o", ms=5, color=_FACE, mec="black", mew=1, zorder=4)
    axis.plot(*np.stack([of.nearest, of.foot]).T, color=_GAP, lw=1.8, zorder=3)
    axis.plot(*of.path.T, color=_PATH, lw=1.2, zorder=3)
    axis.plot(*np.stack([place for _, place in of.marked]).T, "o", ms=4, color=_PATH, zorder=4)
    axis.annotate("", of.query, of.projection, zorder=3, arrowprops={
        "arrowstyle": "-|>", "lw": 1.2, "color": "black", "shrinkA": 0, "shrinkB": 2})  # fmt: skip
    axis.plot(*of.query, "D", ms=5, color="black", zorder=4)
    axis.plot(*of.projection, "o", ms=6, color=PURPLE, mec="black", mew=0.8, zorder=5)
    middle = 0.6 * of.query + 0.4 * of.projection
    _say(axis, "query $q$", of.query, (8, -3), "black")
    _say(axis, "residual $r^* = q - p^*$", middle, (7, -2), "black")
    _say(axis, "projection $p^*$", of.projection, (-5, 8), PURPLE, "right")
    along = ends[1] - ends[0]
    _say(
        axis,
        "exposed face $F$: multiplier μ = 0",
        ends[0] + 0.64 * along,
        (0, 9),
        _FACE,
        "center",
        turned=float(np.degrees(np.arctan2(along[1], along[0]))),
    )
    _say(axis, "gap Δ, as the\ndistance Δ / ‖$r^*$‖", 0.5 * (of.foot + of.nearest), (6, -5), _GAP)
    _say(axis, "best key off $F$:\nits μ is the gap Δ", of.nearest, (2, -21), _GAP)
    # The first point lies on the face: its label goes below, on the other side.
    shifts = [(-2, -11), *[(6, -1)] * (len(of.marked) - 1)]
    for (epsilon, place), shift in zip(of.marked, shifts, strict=True):
        side = "right" if shift[0] < 0 else "left"
        _say(axis, f"ε = {epsilon:g}", place, shift, _PATH, side, size=6.5)
    _say(axis, "entropic\npoints $p^ε$", of.marked[-2][1], (-8, -13), _PATH, "right")
    _say(axis, "hull of the keys", of.keys[~of.face].mean(axis=0), (-12, -30), GREY, "center")
    shown = np.vstack([of.keys, of.query[None]])
    low, high = shown.min(axis=0) - 0.12, shown.max(axis=0) + 0.12
    # Room for the words on the right.
    axis.set(xlim=(low[0] - 0.35, high[0] + 1.05), ylim=(low[1], high[1]))
    axis.set_aspect("equal", anchor="W")
    axis.axis("off")


def _space(axis: Any, of: _Panel) -> None:
    for side, on_face in of.sides:
        look = {"facecolor": _FACE, "edgecolor": _FACE, "lw": 1.5, "alpha": 0.4}
        if not on_face:
            look = {"facecolor": _INSIDE, "edgecolor": GREY, "lw": 0.6, "alpha": 0.35}
        axis.add_collection3d(Poly3DCollection([of.keys[side]], zorder=1 + on_face, **look))
    dots = {"depthshade": False, "zorder": 5}
    axis.scatter(*of.keys[~of.face].T, s=20, color="white", ec="black", **dots)
    axis.scatter(*of.keys[of.face].T, s=20, color=_FACE, ec="black", **dots)
    axis.plot(*np.stack([of.projection, of.foot]).T, "--", color=_FACE, lw=0.8, zorder=3)
    axis.plot(*np.stack([of.nearest, of.foot]).T, color=_GAP, lw=1.8, zorder=4)
    axis.plot(*of.path.T, color=_PATH, lw=1.2, zorder=4)
    axis.scatter(*np.stack([place for _, place in of.marked]).T, s=12, color=_PATH, **dots)
    axis.plot(*np.stack([of.projection, of.query]).T, color="black", lw=1.2, zorder=4)
    axis.scatter(*of.query, s=26, color="black", marker="D", **dots)
    axis.scatter(*of.projection, s=26, color=PURPLE, ec="black", depthshade=False, zorder=6)
    _say_at(axis, "  $q$", of.query, "black")
    _say_at(axis, "  $r^*$", 0.5 * (of.query + of.projection), "black")
    _say_at(axis, "$p^*$   ", of.projection + np.array([-0.05, 0, 0.13]), PURPLE, "right")
    _say_at(axis, "face $F$", of.keys[of.face][-1] + 0.12, _FACE, "center")
    _say_at(axis, " Δ / ‖$r^*$‖", 0.5 * (of.foot + of.nearest), _GAP)
    _say_at(axis, "  $p^ε$", of.marked[-1][1], _PATH)
    low, high = of.keys.min(axis=0), np.maximum(of.keys.max(axis=0), of.query)
    axis.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), zlim=(low[2], high[2]))
    axis.view_init(elev=14, azim=-62)
    axis.set_box_aspect(high - low, zoom=1.12)
    axis.patch.set_visible(False)
    axis.set_axis_off()


def _say(
    axis: Any,
    text: str,
    place: Any,
    shift: tuple[float, float],
    colour: str,
    ha: str = "left",
    *,
    size: float = 7,
    turned: float = 0,
) -> None:
    look = {"fontsize": size, "color": colour, "ha": ha, "rotation": turned, "zorder": 6}
    look["va"] = "center" if turned else "baseline"
    axis.annotate(text, place, shift, textcoords="offset points", **look)


def _say_at(axis: Any, text: str, place: Any, colour: str, ha: str = "left") -> None:
    axis.text(*place, text, color=colour, fontsize=7, ha=ha, va="center", zorder=7)

"""What hull, face, residual, gap and entropic points are, on two hulls that one can draw.

Six keys in the plane and seven in space, with queries outside. Each is projected; the exposed face,
the multipliers and the gap come from the projection, the points p^ε from the relaxation, the edges
and triangles of the hull from scipy. The gap is also read off the drawing: Δ over ‖r*‖ is the
distance of the nearest key off the face from the line, or plane, through the face.

Example: python -m experiments schematic_geometry --force
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial import ConvexHull

import vashista_theory as vt
from experiments.framework.outcome import Measured, Outcome

# The face is not parallel to an axis, and p* not in its middle: nothing then looks accidental.
_PLANE = (
    ((-1.5, 0.55), (1.25, 1.1), (1.95, 0.4), (0.9, -1.25), (-0.9, -1.2), (0.15, -0.15)),
    (-1.15, 1.75),
)
_SPACE = (
    (
        (1.0, -0.45, 0.62),
        (-0.75, -0.7, 0.75),
        (0.0, 1.0, 0.95),
        (1.15, 0.85, -0.1),
        (-1.15, 0.55, -0.2),
        (0.25, -1.1, -0.6),
        (0.1, 0.2, -1.1),
    ),
    (-0.25, -0.4, 1.95),
)
_KEYS = {
    "panel": "2D or 3D",
    "key": "its number in the panel",
    "x": "coordinate",
    "y": "coordinate",
    "z": "coordinate, 0 in the plane",
    "weight": "optimal weight α*",
    "multiplier": "μ, squared length; 0 on the face",
    "on_face": "whether μ = 0",
    "depth": "distance from the line or plane through the face, μ/‖r*‖",
    "vertex": "whether it is a vertex of the hull",
}
_POINTS = {
    "panel": "2D or 3D",
    "what": "query or projection",
    "x": "coordinate",
    "y": "coordinate",
    "z": "coordinate, 0 in the plane",
}
_PATH = {
    "panel": "2D or 3D",
    "epsilon": "temperature ε, squared length",
    "x": "coordinate of p^ε",
    "y": "coordinate of p^ε",
    "z": "coordinate of p^ε, 0 in the plane",
    "displacement": "‖p^ε − p*‖",
    "leakage": "mass off the face",
    "marked": "whether the drawing has a dot there",
}
_HULL = {
    "panel": "2D or 3D",
    "a": "key at a corner",
    "b": "key at the next corner",
    "c": "key at the third corner of a triangle; empty for an edge of the plane",
    "on_face": "whether it lies in the exposed face",
}


@dataclass(frozen=True)
class Config:
    """What to compute.

    Attributes:
        marked: Temperatures that the drawing marks.
        path: Temperatures of the curve between the least and the largest of those.
        quick: A coarse curve, for tests.
    """

    marked: tuple[float, ...] = (0.3, 1.0, 3.0, 10.0)
    path: int = 61
    quick: bool = False

    def __post_init__(self) -> None:
        if not self.marked or min(self.marked) <= 0:
            raise ValueError(f"marked is {self.marked}; temperatures above 0 are expected")
        if self.path < 2:
            raise ValueError(f"path is {self.path}; 2 temperatures or more are expected")


def measure(config: Config) -> Measured:
    """Project both queries, relax them, and write down what a drawing needs."""
    tables: dict[str, list[dict[str, Any]]] = {"keys": [], "points": [], "path": [], "hull": []}
    for panel, (keys, query) in (("2D", _PLANE), ("3D", _SPACE)):
        for name, rows in _panel(panel, np.array(keys), np.array(query), config).items():
            tables[name] += rows
    return Measured(tables)


def report(found: Measured) -> Outcome:
    """The numbers of both drawings."""
    values: dict[str, Any] = {}
    said: list[str] = []
    failures: list[str] = []
    marked = found.configuration["marked"]
    for panel, dimensions in (("2D", 2), ("3D", 3)):
        keys, points, path = (
            [dict(row) for row in found.tables[name] if row["panel"] == panel]
            for name in ("keys", "points", "path")
        )
        face = [row["key"] for row in keys if row["on_face"]]
        off = min((row for row in keys if not row["on_face"]), key=lambda row: row["multiplier"])
        length = _residual(points)
        short = panel.lower()
        values |= {
            f"face_{short}": len(face),
            f"gap_{short}": off["multiplier"],
            f"residual_{short}": length,
            f"depth_{short}": off["depth"],
        }
        said.append(
            f"{panel}: the exposed face has {len(face)} of {len(keys)} keys, ‖r*‖ is "
            f"{length:.3g}, and key {off['key']} lies {off['depth']:.3g} below the face: the gap "
            f"Δ is their product, {off['multiplier']:.3g}. At ε = {max(marked):g} the mass "
            f"off the face is {_leakage(path, max(marked)):.2f}, at ε = "
            f"{min(marked):g} it is {_leakage(path, min(marked)):.2g}."
        )
        # One hull is drawn with one face: an edge, or a triangle.
        if len(face) != dimensions:
            failures.append(f"the face of panel {panel} has {len(face)} keys, not {dimensions}")
    described = {"keys": _KEYS, "points": _POINTS, "path": _PATH, "hull": _HULL}
    return Outcome(
        tables=found.described(described, hidden=["path", "hull"]),
        values=values,
        findings=said,
        notes=["Coordinates were chosen for the drawing; everything else is computed from them."],
        failures=failures,
    )


def _panel(
    panel: str, keys: np.ndarray, query: np.ndarray, config: Config
) -> dict[str, list[dict[str, Any]]]:
    projection = vt.project(keys, query)
    face, point = np.asarray(projection.face), np.asarray(projection.point)
    # On the face they are zero; what rounding leaves of that differs between machines.
    multipliers = np.where(face, 0.0, projection.multipliers)
    length = float(np.linalg.norm(query - point))
    hull = ConvexHull(keys)
    count = 5 if config.quick else config.path
    grid = np.geomspace(min(config.marked) / 100, 10 * max(config.marked), count)
    epsilons = np.union1d(grid, config.marked)
    relaxation = vt.relax(projection, epsilons)
    return {
        "keys": [
            {
                "panel": panel,
                "key": i,
                **_coordinates(key),
                "weight": float(projection.weights[i]),
                "multiplier": float(multipliers[i]),
                "on_face": bool(face[i]),
                "depth": float(multipliers[i]) / length,
                "vertex": i in set(hull.vertices.tolist()),
            }
            for i, key in enumerate(keys)
        ],
        "points": [
            {"panel": panel, "what": what, **_coordinates(place)}
            for what, place in (("query", query), ("projection", point))
        ],
        "path": [
            {
                "panel": panel,
                "epsilon": float(epsilon),
                **_coordinates(np.asarray(relaxation.point[i])),
                "displacement": float(relaxation.displacement[i]),
                "leakage": float(np.exp(relaxation.log_off_face_mass[i])),
                "marked": float(epsilon) in config.marked,
            }
            for i, epsilon in enumerate(epsilons)
        ],
        "hull": [
            {
                "panel": panel,
                **dict(zip("abc", corners, strict=False)),
                "on_face": bool(face[corners].all()),
            }
            for corners in hull.simplices.tolist()
        ],
    }


def _coordinates(place: np.ndarray) -> dict[str, float]:
    return dict(zip("xyz", [*place.tolist(), 0.0][:3], strict=True))


def _residual(points: list[dict[str, Any]]) -> float:
    query, projection = (np.array([row[axis] for axis in "xyz"]) for row in points)
    return float(np.linalg.norm(query - projection))


def _leakage(path: list[dict[str, Any]], epsilon: float) -> float:
    return next(row["leakage"] for row in path if row["epsilon"] == epsilon)

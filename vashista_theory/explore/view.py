"""Everything there is to see of one query and its keys in the plane, as plain numbers."""

import dataclasses
import math
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial import ConvexHull, QhullError

from vashista_theory._checks import as_float64, check_finite
from vashista_theory._results import name_of
from vashista_theory._types import ArrayLike
from vashista_theory.hull.projection import project
from vashista_theory.hull.relaxation import relax
from vashista_theory.hull.stability import face_stability


@dataclasses.dataclass(frozen=True)
class View:
    """One query and its keys in the plane: the exact projection, and attention at `epsilon`.

    Attributes:
        keys: as given.
        query: as given.
        outline: rows of `keys` around the hull, counter-clockwise; two ends if all lie on a line.
        point: p*, the projection of the query on the hull.
        face: F, the exposed face; every key if the query is inside the hull.
        multipliers: μ_i, squared length; μ_i / ‖r*‖ is how far key i lies behind the supporting
            line.
        gap: Δ, squared length; NaN inside the hull, +inf if every key is on the face.
        residual: ‖q − p*‖, length.
        epsilon: the temperature, squared length.
        entropic_weights: α^ε.
        entropic_point: p^ε.
        off_face_mass: Σ α_i^ε over the keys off the face.
        off_face_bound: what is proved of it (T1, T3); NaN inside the hull.
        outcome: the name of the `Result` of `face_stability`.
        readings: all of that in words, by name.
    """

    keys: Float[np.ndarray, "n 2"]
    query: Float[np.ndarray, " 2"]
    outline: Int[np.ndarray, " m"]
    point: Float[np.ndarray, " 2"]
    face: Bool[np.ndarray, " n"]
    multipliers: Float[np.ndarray, " n"]
    gap: float
    residual: float
    epsilon: float
    entropic_weights: Float[np.ndarray, " n"]
    entropic_point: Float[np.ndarray, " 2"]
    off_face_mass: float
    off_face_bound: float
    outcome: str
    readings: dict[str, str]

    @property
    def inside(self) -> bool:
        """Whether the query lies inside the hull or on it: no face, no gap."""
        return self.outcome == "inside_hull"

    @property
    def normal(self) -> Float[np.ndarray, " 2"] | None:
        """r*/‖r*‖, the unit normal of the supporting line; None inside the hull."""
        return None if self.inside else (self.query - self.point) / self.residual

    @property
    def depth(self) -> float | None:
        """Δ/‖r*‖, the distance from the supporting line to the nearest key behind it."""
        return self.gap / self.residual if math.isfinite(self.gap) else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON: lists and numbers, None for what is not finite."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        plain |= {"normal": self.normal, "depth": self.depth, "inside": self.inside}
        return {name: _plain(value) for name, value in plain.items()}


def look(keys: ArrayLike, query: ArrayLike, *, epsilon: float = 0.1) -> View:
    """Compute what there is to see, in float64 whatever the settings.

    Args:
        keys: (n, 2).
        query: (2,).
        epsilon: temperature of the entropic attention shown beside the projection, squared length.

    Raises:
        ValueError: shapes, types, NaN or infinite entries, points that are not in the plane, or a
            temperature that is not positive.
    """
    keys_, query_ = as_float64(keys, "keys"), as_float64(query, "query")
    if keys_.ndim != 2 or keys_.shape[1] != 2 or query_.shape != (2,):
        raise ValueError(
            "the plane has two dimensions: keys (n, 2) and a query (2,) are expected, got shapes "
            f"{keys_.shape} and {query_.shape}. Use `vashista_theory.diagnose` in more dimensions."
        )
    check_finite(keys_, "keys")
    check_finite(query_, "query")
    with jax.enable_x64(True), jax.ensure_compile_time_eval():
        # Whoever drags a query passes places where a multiplier is too small to call.
        projection = project(keys_, query_, throw=False)
        stability = face_stability(projection)
        relaxation = relax(projection, float(epsilon), throw=False)
        numbers: dict[str, Any] = {
            "point": np.asarray(projection.point),
            "face": np.asarray(projection.face),
            "multipliers": np.asarray(projection.multipliers),
            "gap": float(projection.gap),
            "residual": float(np.linalg.norm(query_ - np.asarray(projection.point))),
            "epsilon": float(epsilon),
            "entropic_weights": np.exp(np.asarray(relaxation.log_weights)),
            "entropic_point": np.asarray(relaxation.point),
            "off_face_mass": float(np.exp(relaxation.log_off_face_mass)),
            "off_face_bound": float(np.exp(stability.log_leakage_bound(float(epsilon)))),
            "outcome": name_of(stability.result),
        }
    return View(keys_, query_, _outline(keys_), **numbers, readings=_readings(keys_, numbers))


def _outline(keys: Float[np.ndarray, "n 2"]) -> Int[np.ndarray, " m"]:
    try:
        return np.asarray(ConvexHull(keys).vertices, np.int64)
    except (QhullError, ValueError):
        # Fewer than three keys, or all on a line: the ends of any order along it will do.
        order = np.lexsort(keys.T)
        return order[[0, -1]]


def _readings(keys: Float[np.ndarray, "n 2"], numbers: dict[str, Any]) -> dict[str, str]:
    """The numbers in words, three significant digits."""
    x, y = numbers["point"]
    return {
        "face": _face_in_words(keys, numbers),
        "projection": f"p* = ({x:.3f}, {y:.3f})",
        "residual": f"‖q − p*‖ = {numbers['residual']:.3f}",
        "gap": _gap_in_words(numbers["gap"]),
        "leakage": _leakage_in_words(numbers),
    }


def _face_in_words(keys: Float[np.ndarray, "n 2"], numbers: dict[str, Any]) -> str:
    if numbers["outcome"] == "inside_hull":
        return "none: the query is inside the hull"
    rows = np.flatnonzero(numbers["face"])
    named = ", ".join(str(row) for row in rows)
    spread = np.ptp(keys[rows], axis=0).max()
    kind = "an edge" if spread > 1e-9 * np.abs(keys).max() else "a vertex"
    degenerate = numbers["outcome"] == "degenerate_face"
    more = ", degenerate: p* is at its end" if degenerate else ""
    return f"{'key' if rows.size == 1 else 'keys'} {named} ({kind}{more})"


def _gap_in_words(gap: float) -> str:
    if math.isnan(gap):
        return "Δ does not exist"
    return "Δ = ∞: every key is on the face" if math.isinf(gap) else f"Δ = {gap:.3f}"


def _leakage_in_words(numbers: dict[str, Any]) -> str:
    if math.isnan(numbers["off_face_bound"]):
        return "no face to leak from"
    mass, bound = 100 * numbers["off_face_mass"], 100 * numbers["off_face_bound"]
    return f"{mass:.3g} % of the weight is off the face (proved: at most {bound:.3g} %)"


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    return None if isinstance(value, float) and not math.isfinite(value) else value

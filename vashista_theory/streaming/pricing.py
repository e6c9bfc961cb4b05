r"""One block against one point: multipliers, their tolerances, and the keys that violate.

.. math:: \mu_i = \langle q - p,\ p - k_i\rangle

Float64 whatever the keys are stored in, from differences, in tiles that stay in the second-level
cache: a block is read once from memory and no copy of it is made.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from vashista_theory._numerics import ROW_BLOCK
from vashista_theory.hull import kkt
from vashista_theory.hull.frame import Frame
from vashista_theory.hull.kkt import Place, Tolerance

_PRICING_SHARE = 0.5
"""Share of its tolerance that a violation must exceed: below it the solver sees none."""


@dataclass(frozen=True)
class Optimum:
    """The nearest point of the hull of some keys: rows, weights and indices of its support.

    Attributes:
        query: (d,).
        index: rows of the support.
        rows: those keys, float64.
        weights: their weights.
        place: the point seen from its heaviest key, in a unit that is a power of two.
        tolerance: what rounding does to multipliers there.
    """

    query: np.ndarray
    index: np.ndarray
    rows: np.ndarray
    weights: np.ndarray
    place: Place = field(init=False)
    tolerance: Tolerance = field(init=False)

    def __post_init__(self) -> None:
        origin = self.rows[np.argmax(self.weights)]
        from_origin = self.rows - origin
        length = np.max(np.abs(from_origin)) or np.max(np.abs(self.query - origin)) or 1.0
        unit = np.ldexp(1.0, int(np.clip(np.frexp(length)[1], -1000, 1000)) - 1)
        shifted, target = from_origin / unit, (self.query - origin) / unit
        offset = self.weights @ shifted
        spread = self.weights @ np.abs(shifted)
        # The fields of a Place are annotated as JAX's arrays; these formulas take NumPy's too.
        frame: Any = Frame(origin, unit, target)  # pyright: ignore[reportArgumentType]
        place: Any = Place(frame, offset, target - offset, spread)
        tolerance = kkt.tolerance(place)
        object.__setattr__(self, "place", place)
        object.__setattr__(self, "tolerance", tolerance)

    @property
    def point(self) -> np.ndarray:
        """The point in the coordinates of the caller."""
        return np.asarray(self.place.point)

    @property
    def residual(self) -> np.ndarray:
        """Q − p in units of the place."""
        return np.asarray(self.place.residual)

    @property
    def unit(self) -> float:
        """Length of the caller that is 1 in `place`."""
        return float(self.place.frame.unit)

    def multipliers(self, rows: np.ndarray) -> np.ndarray:
        """μ of some keys, in squared units of the place."""
        shifted = (rows - self.place.frame.origin) / self.unit - self.place.offset
        return -(shifted @ self.residual)

    @property
    def inside(self) -> bool:
        """Whether the query is this point, to rounding."""
        return bool(kkt.inside(self.place))


@dataclass(frozen=True)
class Seen:
    """What one block, or several, say about one point.

    Attributes:
        least: min μ_i.
        gap: min μ_i off the face; +inf where all keys are on it.
        face: rows with μ_i = 0 to rounding.
        face_size: how many they are, also where the rows were dropped.
        ambiguous: some μ_i is too close to its tolerance, or leaves open where the point is.
        violation: the greatest −μ_i over what is allowed for it; above 1, not the projection.
        excess: the greatest upper end of −μ_i, its rounding included.
        tolerance: the greatest tolerance of a multiplier.
        scale: max ‖k_i − q‖².
        violators: rows that lower the distance, the most violating of each tile.
        candidates: those keys, float64.
        multipliers: all μ_i.

    Multipliers and what is made of them are squared lengths of the caller.
    """

    least: float
    gap: float
    face: np.ndarray
    face_size: int
    ambiguous: bool
    violation: float
    excess: float
    tolerance: float
    scale: float
    violators: np.ndarray
    candidates: np.ndarray
    multipliers: np.ndarray

    def summary(self, *, keep_face: bool) -> "Seen":
        """Without the arrays that are used once."""
        nothing = np.zeros(0)
        face = self.face if keep_face else self.face[:0]
        return replace(
            self, face=face, candidates=nothing, multipliers=nothing, violators=self.violators[:0]
        )


def price(block: np.ndarray, start: int, optimum: Optimum, *, allowance: float, most: int) -> Seen:
    """Price every key of a block.

    Args:
        block: rows as stored.
        start: index of the first.
        optimum: the point.
        allowance: violation (squared length) that does not count; rounding never does.
        most: about how many violators to return.

    Raises:
        ValueError: NaN, infinity or a squared length that overflows, with its row.
    """
    tiles = range(0, len(block), ROW_BLOCK)
    share = -(-most // len(tiles))
    buffer = np.empty((min(ROW_BLOCK, len(block)), block.shape[1]))
    return merge([
        _tile(block[at : at + ROW_BLOCK], start + at, optimum, allowance, share, buffer)
        for at in tiles
    ])  # fmt: skip


def _tile(
    tile: np.ndarray, start: int, optimum: Optimum, allowance: float, most: int, buffer: np.ndarray
) -> Seen:
    place, unit = optimum.place, optimum.unit
    squared_unit = unit * unit
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        shifted = np.subtract(
            tile.astype(np.float64, copy=False), place.frame.origin, out=buffer[: len(tile)]
        )
        shifted /= unit
        shifted -= place.offset
        scaled = -(shifted @ optimum.residual)
        squared_reach = np.einsum("ij,ij->i", shifted, shifted)
        scale = float(kkt.squared_scale(scaled, squared_reach, place)) * squared_unit
        if not np.isfinite(scale):
            _refuse(tile, squared_reach, start)
        tolerances = np.abs(shifted, out=shifted) @ optimum.tolerance.slope
        tolerances += optimum.tolerance.level
        multipliers = scaled * unit * unit
        excess = kkt.excess(scaled, tolerances, tile.shape[1], len(optimum.weights))
    exposed, ambiguous = kkt.exposed_face(scaled, tolerances, optimum.tolerance.inputs)
    ambiguous |= kkt.undetermined(tolerances, squared_reach, exposed, place)
    allowed = np.maximum(tolerances, allowance / unit / unit)
    violations = np.divide(-scaled, allowed, out=np.zeros_like(scaled), where=allowed > 0)
    worst = np.flatnonzero(violations > _PRICING_SHARE)
    if len(worst) > most:
        worst = worst[np.argpartition(violations[worst], -most)[-most:]]
    face = start + np.flatnonzero(exposed)
    return Seen(
        least=float(multipliers.min()),
        gap=float(np.min(multipliers, where=~exposed, initial=np.inf)),
        face=face,
        face_size=len(face),
        ambiguous=bool(ambiguous),
        violation=float(violations.max()),
        excess=float(excess.max()),
        tolerance=float(tolerances.max()),
        scale=scale,
        violators=start + worst,
        candidates=tile[worst].astype(np.float64),
        multipliers=multipliers,
    )


def merge(parts: Sequence[Seen]) -> Seen:
    """What several blocks say together."""
    if len(parts) == 1:
        return parts[0]
    return Seen(
        least=min(part.least for part in parts),
        gap=min(part.gap for part in parts),
        face=np.concatenate([part.face for part in parts]),
        face_size=sum(part.face_size for part in parts),
        ambiguous=any(part.ambiguous for part in parts),
        violation=max(part.violation for part in parts),
        excess=max(part.excess for part in parts),
        tolerance=max(part.tolerance for part in parts),
        scale=max(part.scale for part in parts),
        violators=np.concatenate([part.violators for part in parts]),
        candidates=np.concatenate([part.candidates for part in parts]),
        multipliers=np.concatenate([part.multipliers for part in parts]),
    )


def _refuse(tile: np.ndarray, squared: np.ndarray, start: int) -> None:
    values = tile.astype(np.float64)
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        row, column = (int(i) for i in bad[0])
        raise ValueError(
            f"`keys` must be finite, but keys[{start + row}, {column}] is {values[row, column]}. "
            "Remove the row or replace it by a copy of another, which changes no hull."
        )
    row = start + int(np.argmax(squared))
    raise ValueError(
        f"the squared length of keys[{row}] overflows float64. Divide keys and query by a power "
        "of two."
    )

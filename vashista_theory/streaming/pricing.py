r"""One block against one point: multipliers, their tolerances, and the keys that violate.

.. math:: \mu_i = \langle q - p,\ p - k_i\rangle

Float64 whatever the keys are stored in, from differences, in tiles that stay in the second-level
cache: a block is read once from memory and no copy of it is made.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from vashista_theory._numerics import ROW_BLOCK, unit_roundoff
from vashista_theory.hull.kkt import AMBIGUOUS_BAND, FACE_NOISE

ROUNDOFF = unit_roundoff(np.float64)
_PRICING_NOISE = 8.0  # of a violation, in roundoff; below it the active-set method sees none


@dataclass(frozen=True)
class Optimum:
    """The nearest point of the hull of some keys: rows, weights and indices of its support."""

    query: np.ndarray
    index: np.ndarray
    rows: np.ndarray
    weights: np.ndarray
    point: np.ndarray
    residual: np.ndarray = field(init=False)
    residual_norm: float = field(init=False)
    magnitude: float = field(init=False)
    support_reach: float = field(init=False)

    def __post_init__(self) -> None:
        residual = self.query - self.point
        reach = np.linalg.norm(self.rows - self.point, axis=1).max()
        found = {
            "residual": residual,
            "residual_norm": float(np.linalg.norm(residual)),
            "magnitude": float(np.linalg.norm(self.query) + np.linalg.norm(self.point)),
            "support_reach": float(reach),
        }
        for name, value in found.items():
            object.__setattr__(self, name, value)

    @property
    def inside(self) -> bool:
        """Whether the query is this point, to rounding."""
        noise = FACE_NOISE * ROUNDOFF
        return self.residual_norm <= noise * (self.support_reach + self.magnitude)


@dataclass(frozen=True)
class Seen:
    """What one block, or several, say about one point.

    Attributes:
        least: min μ_i.
        gap: min μ_i off the face; +inf where all keys are on it.
        face: rows with μ_i = 0 to rounding.
        face_size: how many they are, also where the rows were dropped.
        ambiguous: some μ_i is too close to its tolerance.
        scale: max ‖k_i − q‖².
        violators: rows that lower the distance, the most violating of each tile.
        candidates: those keys, float64.
        multipliers: all μ_i.
    """

    least: float
    gap: float
    face: np.ndarray
    face_size: int
    ambiguous: bool
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
    tile: np.ndarray,
    start: int,
    optimum: Optimum,
    allowance: float,
    most: int,
    buffer: np.ndarray,
) -> Seen:
    residual = optimum.residual
    with np.errstate(invalid="ignore", over="ignore"):
        shifted = np.subtract(
            tile.astype(np.float64, copy=False), optimum.point, out=buffer[: len(tile)]
        )
        multipliers = -(shifted @ residual)
        squared = np.einsum("ij,ij->i", shifted, shifted)
        # ‖k − q‖² from ‖k − p‖² needs no second difference.
        scale = float(np.max(squared + 2 * multipliers)) + optimum.residual_norm**2
    if not np.isfinite(scale) or not np.isfinite(squared.sum()):
        _refuse(tile, squared, start)
    reach = np.sqrt(squared)
    unit = FACE_NOISE * ROUNDOFF * (optimum.residual_norm + optimum.support_reach)
    tolerance = unit * (reach + optimum.magnitude)
    exposed = multipliers <= tolerance
    excess = -multipliers - np.maximum(tolerance * (_PRICING_NOISE / FACE_NOISE), allowance)
    worst = np.flatnonzero(excess > 0)
    if len(worst) > most:
        worst = worst[np.argpartition(excess[worst], -most)[-most:]]
    face = start + np.flatnonzero(exposed)
    low, high = AMBIGUOUS_BAND
    size = np.abs(multipliers)
    return Seen(
        least=float(multipliers.min()),
        gap=float(np.min(multipliers, where=~exposed, initial=np.inf)),
        face=face,
        face_size=len(face),
        ambiguous=bool(np.any((size > low * tolerance) & (size < high * tolerance))),
        scale=max(scale, 0.0),
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

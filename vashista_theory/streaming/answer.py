"""What a projection by passes answers."""

from dataclasses import dataclass, field

import numpy as np

from vashista_theory._results import Result
from vashista_theory.hull.kkt import Residuals


@dataclass(frozen=True)
class Pass:
    """One pass over the keys, the last one as far as it went.

    Attributes:
        rows: rows priced.
        nbytes: their bytes as stored, uncompressed.
        seconds: time it took, reading and solving together.
        solving: seconds of that spent on working sets.
        improvements: how often violators entered and the point moved.
    """

    rows: int
    nbytes: int
    seconds: float
    solving: float
    improvements: int


@dataclass(frozen=True)
class BlockProjection:
    """The projection of a query on the hull of keys that stay on disk, with the evidence for it.

    Means what `Projection` means, with rows by index in place of arrays of length n, and in NumPy's
    float64. Every statement about all keys was measured at the final point.

    Attributes:
        shape: (n, d) of the keys.
        query: (d,).
        point: (d,), p*, the nearest point of the hull.
        support: rows that carry weight, in rising order.
        weights: their weights α, p* = Σ α_i k_i.
        face: rows of the exposed face F = {i : μ_i = 0 to rounding}, in rising order; None inside
            the hull, where it is all of them, and where it has more than 4,194,304 rows.
        face_size: how many they are.
        gap: Δ, the least multiplier off the face, squared length; +inf if all keys are on it, NaN
            inside.
        residuals: primal, dual, complementarity, stationarity.
        duality_gap: squared length; ‖p − p*‖ ≤ √duality_gap.
        scale: max_i ‖k_i − q‖², the unit in which tolerances are stated.
        passes: rows priced over n; whole passes and a fraction.
        solves: projections on a working set.
        history: the passes one by one.
        result: a `Result`.
    """

    shape: tuple[int, int]
    query: np.ndarray = field(repr=False)
    point: np.ndarray = field(repr=False)
    support: np.ndarray = field(repr=False)
    weights: np.ndarray = field(repr=False)
    face: np.ndarray | None = field(repr=False)
    face_size: int
    gap: float
    residuals: Residuals = field(repr=False)
    duality_gap: float
    scale: float
    passes: float
    solves: int
    history: tuple[Pass, ...] = field(repr=False)
    result: Result

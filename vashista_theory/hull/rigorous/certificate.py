"""A certificate: what is proved of one projection, and the bounds that follow from it."""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from vashista_theory import check
from vashista_theory._checks import as_float64
from vashista_theory._files import write_atomically
from vashista_theory._results import Result
from vashista_theory._types import ArrayLike
from vashista_theory.hull.rigorous import bounds, safe_epsilon
from vashista_theory.hull.rigorous.balls import Enclosure, Rational, ceil_float, flint
from vashista_theory.hull.rigorous.bounds import Constants
from vashista_theory.hull.safe_epsilon import check_log_mass

PROVED = frozenset({"successful", "degenerate_face", "inside_hull"})


@dataclass(frozen=True)
class Witness:
    """What lets a stranger check the face by exact arithmetic.

    Attributes:
        sha256: of the inputs, see `digest`.
        weights: exact positive weights by key; their point is p*.
        margin: integers y, constant on the support and larger on the rest of the face.
        tilt: floats w for which log Σ e^{⟨w, v_j⟩} over the support bounds the entropy from above.
    """

    sha256: str
    weights: dict[int, Rational]
    margin: list[int] | None
    tilt: list[float]


@dataclass(frozen=True)
class Certificate:
    """What ball and rational arithmetic prove of one query and its keys.

    Every statement is about the exact binary numbers given. Where nothing is proved the arrays are
    NaN, the face is empty, and the bounds are the trivial ones; `reason` says what is open.

    Attributes:
        outcome: name of the `Result`: successful, degenerate_face, inside_hull, or ambiguous_face
            where a proof was not found.
        reason: why something is not proved, or what is remarkable about it; else empty.
        face: (n,) F, proved: μ_i = 0 on it and μ_i > 0 off it.
        gap_lower: Δ is not below; +inf if every key is on the face, NaN inside the hull.
        gap_upper: Δ is not above.
        residual_norm: enclosure of ‖r*‖ = ‖q − p*‖.
        point: enclosure (d,) of p*.
        multipliers: enclosure (n,) of μ.
        weights: enclosure (n,) of the maximum-entropy weights α*; inside the hull of some optimum.
        tangent: enclosure (d,) of w₀; NaN without strict complementarity and inside the hull.
        entropy: enclosure of h in nats.
        steps: how often the proposed support had to be corrected.
        keys: (n, d), the numbers this is about.
        query: (d,), likewise.
    """

    outcome: str
    reason: str
    face: Bool[np.ndarray, " n"]
    gap_lower: float
    gap_upper: float
    residual_norm: Enclosure
    point: Enclosure
    multipliers: Enclosure
    weights: Enclosure
    tangent: Enclosure
    entropy: Enclosure
    steps: int
    keys: Float64[np.ndarray, "n d"] = field(repr=False)
    query: Float64[np.ndarray, " d"] = field(repr=False)
    constants: Constants | None = field(repr=False)
    witness: Witness | None = field(repr=False)

    @property
    def result(self) -> Any:
        """The outcome as a `Result`, whose text is advice."""
        return getattr(Result, self.outcome)

    @property
    def proved(self) -> bool:
        """Whether face, gap and strict complementarity are settled, whatever the answer."""
        return self.outcome in PROVED

    def displacement_bound(self, epsilon: ArrayLike) -> Any:
        """Upper end of the least of T1, T2 and its bootstrap: ‖p^ε − p*‖ is proved not above.

        Args:
            epsilon: () or (E,) temperatures, squared length.
        """
        return self._at(epsilon, bounds.displacement_bound, math.inf)

    def log_leakage_bound(self, epsilon: ArrayLike) -> Any:
        """Upper end of min(0, T1, T3): log off-face mass in nats is proved not above.

        −inf with every key on the face; NaN inside the hull, where there is no face to leak from.

        Args:
            epsilon: () or (E,) temperatures, squared length.
        """
        return self._at(epsilon, bounds.log_leakage_bound, 0.0)

    def largest_safe_epsilon(self, log_mass: float) -> float:
        """A temperature at which, and below which, the leakage is proved at most e^log_mass.

        Args:
            log_mass: tolerated log off-face mass in nats, for instance `math.log(0.01)`.

        Returns:
            Squared length; +inf if no ε leaks more, 0 if none is proved safe, NaN inside the hull.

        Raises:
            ValueError: `log_mass` is above 0 or NaN.
        """
        check_log_mass(log_mass)
        if self.constants is None:
            return 0.0
        return safe_epsilon.largest_safe_epsilon(self.constants, float(log_mass))

    def save(self, path: str | Path) -> None:
        """Write the certificate as a file that `python -m vashista_theory.check` verifies.

        That check is made before anything is written. Where the entropy cannot be checked to the
        last place (lengths near the ends of the float range), the file states a wider interval.
        A symbolic link at `path` is replaced, not followed.

        Args:
            path: of the JSON file; `vashista_theory/check.py` documents the format.

        Raises:
            ValueError: nothing is proved, or it is too large to be checked.
            OSError: the file cannot be written; an older one is left as it was.
        """
        write_atomically(Path(path), _accepted(self))

    def _at(
        self, epsilon: ArrayLike, bound: Callable[[Constants, float], float], trivial: float
    ) -> Any:
        values = as_float64(epsilon, "epsilon")
        if values.ndim > 1 or not np.all((values > 0) & np.isfinite(values)):
            raise ValueError(
                "`epsilon` must be a positive finite number or a list (E,) of them, got "
                f"{np.array2string(values, threshold=6)}."
            )
        constants = self.constants
        found = [
            trivial if constants is None else bound(constants, float(e)) for e in values.ravel()
        ]
        return np.array(found).reshape(values.shape) if values.ndim else found[0]


def digest(keys: Float64[np.ndarray, "n d"], query: Float64[np.ndarray, " d"]) -> str:
    """SHA-256 of n, d (8 bytes each), keys by row and query as float64, all little-endian.

    −0.0 counts as 0.0; float32 input has the hash of the same numbers in float64.
    """
    start = np.array(keys.shape, "<u8").tobytes()
    parts = (start, (keys + 0.0).astype("<f8").tobytes(), (query + 0.0).astype("<f8").tobytes())
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _accepted(certificate: Certificate) -> str:
    """The text of the file, after the checker has read it."""
    keys, query = ((a + 0.0).ravel().tolist() for a in (certificate.keys, certificate.query))
    stated, refusal = _content(certificate), ""
    # At the ends of the float range a tilt in float64 proves no entropy to the last place. The
    # entropy of weights on so many keys is proved without one, between 0 and their logarithm.
    widest = Enclosure(0.0, ceil_float(flint.arb(len(stated["support"])).log()))
    untilted = {"entropy": _interval(widest), "tilt": [(0.0).hex()] * certificate.keys.shape[1]}
    for attempt in (stated, stated | untilted):
        text = json.dumps(attempt, indent=1) + "\n"
        try:
            check.verify(check.read_certificate(text.encode()), keys, query)
        except check.Refused as error:
            refusal = str(error)
        else:
            return text
    raise ValueError(
        f"nothing to save: the checker would not accept it ({refusal}). A certificate file holds a "
        "proof that can be checked, or nothing."
    )


def _content(certificate: Certificate) -> dict[str, Any]:
    """What the file holds: integers in hexadecimal, floats as `float.hex` writes them.

    Raises:
        ValueError: nothing is proved, so there is nothing to certify.
    """
    witness = certificate.witness
    if witness is None or not certificate.proved:
        raise ValueError(
            f"nothing to save: {certificate.reason} A certificate file holds a proof or nothing."
        )
    common = flint.fmpz(1)
    for weight in witness.weights.values():
        common = common.lcm(weight.q)
    order = sorted(witness.weights)
    inside = certificate.outcome == "inside_hull"
    strict = certificate.outcome == "successful"
    return {
        "format": check.FORMAT,
        "keys": certificate.keys.shape[0],
        "dimension": certificate.keys.shape[1],
        "sha256": witness.sha256,
        "outcome": certificate.outcome,
        "face": np.flatnonzero(certificate.face).tolist(),
        "support": order,
        "weights": [hex(int((witness.weights[i] * common).p)) for i in order],
        "denominator": hex(int(common)),
        "margin": None if witness.margin is None else [hex(y) for y in witness.margin],
        "gap": None if inside else [certificate.gap_lower.hex(), certificate.gap_upper.hex()],
        "residual_norm": _interval(certificate.residual_norm),
        "point": _intervals(certificate.point),
        "entropy": _interval(certificate.entropy),
        "tilt": [value.hex() for value in witness.tilt],
        "tangent": _intervals(certificate.tangent)
        if strict and not np.isnan(certificate.tangent.lower).any()
        else None,
    }


def _interval(enclosure: Enclosure) -> list[str]:
    lower, upper = float(enclosure.lower), float(enclosure.upper)
    return [lower.hex(), upper.hex()]


def _intervals(enclosure: Enclosure) -> list[list[str]]:
    pairs = zip(enclosure.lower.tolist(), enclosure.upper.tolist(), strict=True)
    return [[low.hex(), high.hex()] for low, high in pairs]

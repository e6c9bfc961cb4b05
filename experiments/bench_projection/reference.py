"""A projection certified by its own KKT conditions in extended arithmetic.

Takes only the support (which keys carry weight) from a solver, solves that face's equations by
iterative refinement at 40 digits, and then checks every condition of optimality. If the support
was wrong, a check fails; so who proposed it does not matter.
"""

from dataclasses import dataclass

import numpy as np

_DIGITS = 40
_CHUNK = 8192


@dataclass(frozen=True)
class Reference:
    """The certified answer.

    Attributes:
        point: p*, rounded to float64.
        multipliers: μ = ⟨q − p*, p* − k_i⟩ in `numpy.longdouble`.
        support: Keys with weight.
        smallest_weight: The least of their weights, positive.
        gap: The least multiplier off the support, positive.
        equation_error: Worst |μ_i| on the support at 40 digits: zero but for that rounding.
    """

    point: np.ndarray
    multipliers: np.ndarray
    support: np.ndarray
    smallest_weight: float
    gap: float
    equation_error: float

    def point_error(self, point: np.ndarray) -> float:
        """‖p − p*‖, a length."""
        return float(np.linalg.norm(point - self.point))

    def multiplier_error(self, multipliers: np.ndarray) -> float:
        """The largest |μ_i − μ*_i|, a squared length."""
        return float(np.max(np.abs(multipliers.astype(np.longdouble) - self.multipliers)))


class NotCertifiedError(ValueError):
    """The proposed support is not that of the projection."""


def certify(keys: np.ndarray, query: np.ndarray, support: np.ndarray) -> Reference:
    """Solve on a support and prove that the solution is the projection.

    Args:
        keys: (n, d) float64.
        query: (d,) float64, outside the hull.
        support: Indices of affinely independent keys that carry the weight.

    Raises:
        NotCertifiedError: A weight is not positive, a multiplier off the support is not, or the
            equations cannot be solved.
    """
    import mpmath

    with mpmath.workdps(_DIGITS):
        weights, residual = _solve_face(keys[support], query)
        if min(weights) <= 0:
            raise NotCertifiedError(
                f"a weight on the proposed support is {float(min(weights)):.3g}"
            )
        exact_query = [mpmath.mpf(float(x)) for x in query]
        point = [x - r for x, r in zip(exact_query, residual, strict=True)]
        level = mpmath.fdot(residual, point)
        on_support = [
            abs(level - mpmath.fdot(residual, [mpmath.mpf(float(x)) for x in key]))
            for key in keys[support]
        ]
        long_residual, long_level = _as_long(residual), _as_long([level])[0]
        rounded = np.array([float(x) for x in point])
    multipliers = np.concatenate(
        [
            long_level - keys[start : start + _CHUNK].astype(np.longdouble) @ long_residual
            for start in range(0, len(keys), _CHUNK)
        ]
    )
    off_support = np.delete(multipliers, support)
    gap = float(off_support.min()) if off_support.size else np.inf
    scale = float(np.max(np.sum((keys[support] - query) ** 2, axis=1)))
    # Extended rounding of a dot product is some 1e-18 of scale; a margin of 1e-13 is ample.
    if gap <= 1e-13 * scale:
        raise NotCertifiedError(f"a multiplier off the proposed support is {gap:.3g}")
    return Reference(
        point=rounded,
        multipliers=multipliers,
        support=support,
        smallest_weight=float(min(weights)),
        gap=gap,
        equation_error=float(max(on_support)),
    )


def _solve_face(face: np.ndarray, query: np.ndarray) -> tuple[list, list]:
    """Weights of the point of the face's affine hull nearest to the query, and q − that point.

    Solves G α = s 1, Σα = 1 with G the Gram matrix of k − q: float64 factors, exact residuals.
    """
    import mpmath

    m = len(face)
    exact_query = [mpmath.mpf(float(x)) for x in query]
    rows = [
        [mpmath.mpf(float(x)) - c for x, c in zip(key, exact_query, strict=True)] for key in face
    ]
    shifted = face - query
    size = float(np.max(np.sum(shifted**2, axis=1)))
    system = np.zeros((m + 1, m + 1))
    system[:m, :m] = shifted @ shifted.T / size
    system[:m, m] = system[m, :m] = 1.0
    unknown = [mpmath.mpf(0)] * (m + 1)
    columns = list(zip(*rows, strict=True))
    for _ in range(60):
        weights, level = unknown[:m], unknown[m]
        combined = [mpmath.fdot(weights, column) for column in columns]
        defect = [-level - mpmath.fdot(row, combined) / size for row in rows]
        defect.append(1 - mpmath.fsum(weights))
        worst = max(abs(x) for x in defect)
        if worst < mpmath.mpf(10) ** (6 - _DIGITS):
            return weights, [-x for x in combined]
        # The correction is computed in float64, so it has to be brought to its size first.
        step = np.linalg.solve(system, np.array([float(x / worst) for x in defect]))
        unknown = [x + worst * mpmath.mpf(float(y)) for x, y in zip(unknown, step, strict=True)]
    raise NotCertifiedError("the equations of the proposed support are too ill-conditioned")


def _as_long(values: list) -> np.ndarray:
    """Convert mpmath to `numpy.longdouble`, as a sum of two float64 where that type is longer."""
    high = np.array([float(x) for x in values])
    low = np.array([float(x - h) for x, h in zip(values, high.tolist(), strict=True)])
    return high.astype(np.longdouble) + low

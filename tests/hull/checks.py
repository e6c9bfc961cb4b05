"""What theory.md promises, recomputed here in extended precision from a solution's own arrays.

Nothing below calls the package: a `Solved` is read, never asked to judge itself.
"""

from typing import NamedTuple

import numpy as np

from tests.hull.strategies import UNIT, Solved

LONG = np.longdouble
ROUNDINGS = 64 * UNIT
"""What a bound may be exceeded by, relative to the scale: see `exceeds`."""


class View(NamedTuple):
    """One solution in extended precision: v_i = k_i − p*, multipliers, face, scale."""

    shifted: np.ndarray
    multipliers: np.ndarray
    face: np.ndarray
    scale: float

    @property
    def lengths(self) -> np.ndarray:
        return np.sqrt(np.sum(self.shifted**2, axis=1))


def view(solved: Solved) -> View:
    """Multipliers from keys, query and point alone; exactly zero on the face, as T1 to T4 say."""
    projection = solved.projection
    point = np.asarray(projection.point).astype(LONG)
    shifted = solved.problem.keys.astype(LONG) - point[None]
    multipliers = -shifted @ (solved.problem.query.astype(LONG) - point)
    face = np.asarray(projection.face)
    return View(shifted, np.where(face, 0, multipliers), face, solved.problem.scale or 1.0)


def log_sum_exp(values: np.ndarray) -> np.ndarray:
    top = np.max(values, axis=-1, initial=-np.inf)
    anchor = np.where(np.isfinite(top), top, 0)
    with np.errstate(divide="ignore"):
        return np.log(np.sum(np.exp(values - anchor[..., None]), axis=-1)) + anchor


class KktDefects(NamedTuple):
    """Violations of the optimality conditions relative to scale (lengths: to its root)."""

    primal: float
    dual: float
    complementarity: float
    stationarity: float
    reported_multipliers: float


def kkt_defects(keys: np.ndarray, query: np.ndarray, projection: object) -> KktDefects:
    """The four residuals, and how far the reported multipliers are from those of the point."""
    scale = float(np.max(np.sum((keys - query[None]) ** 2, axis=1))) or 1.0
    keys, query = keys.astype(LONG), query.astype(LONG)
    point = np.asarray(projection.point).astype(LONG)
    weights = np.asarray(projection.weights).astype(LONG)
    multipliers = (point[None] - keys) @ (query - point)
    return KktDefects(
        primal=float(max(-weights.min(), abs(weights.sum() - 1))),
        dual=float(max(-multipliers.min(), 0)) / scale,
        complementarity=float(np.abs(weights * multipliers).max()) / scale,
        stationarity=float(np.sqrt(np.sum((weights @ keys - point) ** 2))) / scale**0.5,
        reported_multipliers=float(
            np.abs(np.asarray(projection.multipliers) - multipliers).max()
        ) / scale,
    )  # fmt: skip


def identity_terms(
    solved: Solved, log_weights: np.ndarray, epsilon: float, *, at_tangent: bool
) -> np.ndarray:
    """The five terms of (★), signed so that they sum to zero: δ from the weights themselves."""
    seen, stability = view(solved), solved.stability
    log_optimal = np.asarray(stability.log_optimal_weights).astype(LONG)
    carrying = np.isfinite(log_optimal)
    optimal = np.where(carrying, np.exp(log_optimal), 0)
    # h is recomputed, so that a wrong one shows.
    entropy = -np.sum(optimal[carrying] * log_optimal[carrying])
    direction = np.asarray(stability.tangent).astype(LONG) * (1 if at_tangent else np.nan)
    direction = direction if at_tangent else np.zeros(seen.shifted.shape[1], LONG)
    log_alpha = log_weights.astype(LONG)
    log_alpha = log_alpha - log_sum_exp(log_alpha)
    alpha = np.exp(log_alpha)
    delta = alpha @ seen.shifted
    logits = seen.shifted @ direction - seen.multipliers / LONG(epsilon)
    log_total = log_sum_exp(logits)
    kl_optimal = np.sum(optimal[carrying] * (log_optimal - log_alpha)[carrying])
    kl_tilted = np.sum(np.where(alpha > 0, alpha * (log_alpha - logits + log_total), 0))
    return np.array(
        [
            delta @ delta,
            epsilon * (direction @ delta),
            epsilon * kl_optimal,
            epsilon * kl_tilted,
            -epsilon * (log_total - entropy),
        ]
    )


class Statements(NamedTuple):
    """Logarithms of T1, T2 and its bootstrap for ‖δ‖, T1 and T3 for weights: (E,) and (E, n)."""

    t1: np.ndarray
    t2: np.ndarray
    bootstrap: np.ndarray
    weights_t1: np.ndarray
    weights_t3: np.ndarray
    leading: np.ndarray


def statements(solved: Solved) -> Statements:
    """T1 to T3 as the paper displays them, in extended precision and without logarithms' tricks."""
    seen, epsilons = view(solved), solved.epsilons.astype(LONG)[:, None]
    off = ~seen.face
    h = LONG(float(solved.stability.entropy))
    w0 = np.asarray(solved.stability.tangent).astype(LONG)
    tilts, slope = seen.shifted @ w0, np.sqrt(w0 @ w0)
    base = -seen.multipliers[None] / epsilons
    size = int(seen.face.sum())
    with np.errstate(divide="ignore", over="ignore"):
        b = np.sqrt(
            epsilons[:, 0] * np.maximum(
                np.log1p(np.sum(np.exp(base[:, off]), axis=1) / size) + (np.log(LONG(size)) - h), 0
            )
        )  # fmt: skip
        weights_t1 = base - h + seen.lengths[None] * b[:, None] / epsilons
        log_sum = log_sum_exp((tilts[None] - h + base)[:, off]) if off.any() else np.full(
            len(epsilons), -np.inf, LONG
        )  # fmt: skip
        # The sum itself overflows where keys differ in scale by ten orders of magnitude.
        capped = np.where(log_sum > 50, log_sum, np.log1p(np.exp(np.minimum(log_sum, 50))))
        r = np.minimum(np.exp(log_sum - 1), capped)
        e = epsilons[:, 0]
        t2 = 0.5 * (e * slope + np.sqrt(e**2 * slope**2 + 4 * e * r))
        t3 = base - h + 0.5 * tilts[None] + seen.lengths[None] * np.sqrt(
            slope**2 / 4 + r / e
        )[:, None]  # fmt: skip
        least = np.minimum(np.minimum(weights_t1, t3), 0)
        reach = np.sum((seen.lengths[None] * np.exp(least))[:, off], axis=1)
        bootstrap = np.sqrt((e * slope) ** 2 + reach**2)
        return Statements(np.log(b), np.log(t2), np.log(bootstrap), weights_t1, t3, log_sum)


def exceeds(
    log_value: np.ndarray, log_bound: np.ndarray, scale: float, epsilons: np.ndarray
) -> np.ndarray:
    """Violation of a bound on a logarithm: by more than 1e-12 × bound + 64 u × scale/ε.

    At high temperature scale/ε is below one, and the logarithm's own rounding is what is left.
    """
    epsilons = epsilons.reshape(-1, *(1,) * (np.ndim(log_bound) - 1))
    allowed = 1e-12 * np.abs(log_bound) + ROUNDINGS * np.maximum(scale / epsilons, 1.0)
    with np.errstate(invalid="ignore"):
        return (log_value > log_bound) & (log_value > log_bound + allowed)


def exceeds_length(log_value: np.ndarray, log_bound: np.ndarray, scale: float) -> np.ndarray:
    """Violation of a bound on a length: by more than 1e-12 × bound + 64 u × √scale."""
    return np.exp(log_value) > np.exp(log_bound) * (1 + 1e-12) + ROUNDINGS * scale**0.5

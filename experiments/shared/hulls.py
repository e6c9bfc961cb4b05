"""Hull instances of the experiments of the theorem, solved and bounded along temperatures."""

from collections.abc import Iterable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

import vashista_theory as vt
from vashista_theory.hull import instances
from vashista_theory.hull.instances import Instance

DECADE = float(np.log(10.0))
"""Nats in a factor of ten."""

HEADS_AT_ONE_POSITION = 63
"""Recorded heads of the packaged sample at its last position: 7 layers of 9."""

_RELATIVE, _ROUNDINGS = 1e-12, 64


class Problem(NamedTuple):
    """One instance with its exact projection and the constants of the theorem."""

    instance: Instance
    projection: vt.Projection
    stability: vt.FaceStability

    @property
    def gap(self) -> float:
        """Δ; NaN inside the hull, +inf where every key is exposed."""
        return float(self.projection.gap)

    @property
    def scale(self) -> float:
        """The largest ‖k_i − q‖², which rounding is relative to."""
        return float(self.projection.scale)

    @property
    def generic(self) -> bool:
        """Strict complementarity and a finite gap: where T2 to T4 speak."""
        return bool(self.stability.strict) and bool(np.isfinite(self.gap))


class Followed(NamedTuple):
    """One problem along temperatures (E,); logarithms are natural.

    Attributes:
        epsilon: ε.
        log_weights: (E, n), log α^ε.
        log_mass: log m, the true leakage.
        log_moved: log ‖δ‖, the true displacement.
        published: T1′ with θ = ½ summed over the keys off the face, whether in its range or not.
        t1: T1 for the leakage.
        t3: The least of T3 and T1 for the leakage.
        asymptote: T4.
        moved_t1: T1 for the displacement.
        moved_t2: The least of T2 and its bootstrap.
        solved: Whether the relaxation converged.
    """

    epsilon: np.ndarray
    log_weights: np.ndarray
    log_mass: np.ndarray
    log_moved: np.ndarray
    published: np.ndarray
    t1: np.ndarray
    t3: np.ndarray
    asymptote: np.ndarray
    moved_t1: np.ndarray
    moved_t2: np.ndarray
    solved: np.ndarray


def check_counts(heads: int, *, instances: int = 1, least: int = 1) -> None:
    """Refuse fewer instances than one, or heads that the sample does not have."""
    if instances < 1:
        raise ValueError(f"instances is {instances}; expected at least 1")
    if not least <= heads <= HEADS_AT_ONE_POSITION:
        raise ValueError(
            f"heads is {heads}; expected {least} to {HEADS_AT_ONE_POSITION} heads, those that the "
            "sample holds at its last position"
        )


def problem(instance: Instance) -> Problem:
    """Project the query and find the constants."""
    projection = vt.project(instance.keys, instance.query, throw=False)
    return Problem(instance, projection, vt.face_stability(projection))


def spread_heads(count: int) -> list[Instance]:
    """So many heads, spread evenly over the layers and heads of the packaged sample."""
    total = HEADS_AT_ONE_POSITION
    return [instances.make("heads", seed=i * total // count) for i in range(min(count, total))]


def head_name(instance: Instance) -> str:
    """What a recorded head is called in tables."""
    return f"layer {instance.parameters['layer']}, head {instance.parameters['head']}"


def follow(given: Problem, epsilon: np.ndarray) -> Followed:
    """Solve along the temperatures, and evaluate every statement."""
    relaxation = vt.relax(given.projection, jnp.asarray(epsilon), throw=False)
    stability = given.stability
    leakage = stability.leakage_bounds(epsilon)
    moved = stability.displacement_bounds(epsilon)
    off = ~np.asarray(given.projection.face)
    return Followed(
        epsilon,
        np.asarray(relaxation.log_weights),
        np.asarray(relaxation.log_off_face_mass),
        np.asarray(relaxation.log_displacement),
        log_sum(np.asarray(stability.log_published_bound(epsilon))[:, off]),
        np.asarray(leakage.t1),
        np.asarray(leakage.t3),
        np.asarray(stability.log_leakage_asymptote(epsilon)),
        np.asarray(moved.t1),
        np.minimum(np.asarray(moved.t2), np.asarray(moved.bootstrap)),
        np.asarray(relaxation.result == vt.Result.successful),
    )


def allowance(given: Problem, epsilon: np.ndarray, log_bound: np.ndarray) -> np.ndarray:
    """By how much rounding alone may lift the logarithm of a weight over its bound.

    The logarithm holds μ/ε, so it has the rounding of scale/ε beside its own.
    """
    unit = np.finfo(np.float64).eps
    rounding = _ROUNDINGS * unit * np.maximum(given.scale / epsilon, 1.0)
    return _RELATIVE * np.abs(log_bound) + rounding


def log_sum(logs: np.ndarray) -> np.ndarray:
    """Logarithm of the sum of exponentials over the last axis; −inf of nothing."""
    if not logs.shape[-1]:
        return np.full(logs.shape[:-1], -np.inf)
    return np.logaddexp.reduce(logs, axis=-1)


def spread(values: Iterable[float]) -> dict[str, float | None]:
    """Median, tenth and ninetieth percentile of what is finite; None of nothing."""
    found = np.asarray(list(values), float)
    found = found[np.isfinite(found)]
    if not found.size:
        return {"median": None, "low": None, "high": None}
    middle, low, high = np.percentile(found, (50, 10, 90))
    return {"median": float(middle), "low": float(low), "high": float(high)}

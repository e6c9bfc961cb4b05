"""One instance, measured: the theorem's quantities and by how much each bound is exceeded."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vashista_theory._numerics import unit_roundoff
from vashista_theory._results import Result, name_of
from vashista_theory.hull.minimal_face import project_quietly
from vashista_theory.hull.oracle import project_qp
from vashista_theory.hull.projection import Projection
from vashista_theory.hull.relaxation import relax
from vashista_theory.hull.stability import FaceStability, face_stability_by_steps
from vashista_theory.sweep.plan import EXTRA_TEMPERATURES, Task, parameters_text

RELATIVE, ROUNDINGS = 1e-12, 64
"""A bound is violated when exceeded by more than RELATIVE × bound + ROUNDINGS × u × scale."""

LEAK = 0.01
"""The leakage that users are told a temperature for."""

OUTCOMES = (
    "successful",
    "inside_hull",
    "degenerate_face",
    "ambiguous_face",
    "max_steps_reached",
    "stagnated",
    "nonfinite_input",
)
"""What the analysis of an instance can end with; from the fourth on it counts as failed."""

_HURRIED = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
}
_SMALL = 2**16
"""Numbers of an instance up to which compiling takes so much longer than computing that it pays to
leave out optimisations: a third of the processor's time, measured."""

_REFINEMENTS = 3

Row = dict[str, np.ndarray]


class Located(NamedTuple):
    """Everything about an instance that needs no temperature."""

    projection: Projection
    stability: FaceStability
    published_range: Float[Array, ""]
    safe_epsilon: Float[Array, ""]
    log_constant: Float[Array, ""]


def _constants(stability: FaceStability) -> tuple[Array, Array, Array]:
    return (
        stability.published_range(),
        stability.largest_safe_epsilon(float(np.log(LEAK))),
        stability.log_asymptote_constant,
    )


def _follow_any(located: Located, epsilon: Float[Array, " e"]) -> dict[str, Array]:
    """Solve along the temperatures and compare with every statement."""
    projection, stability = located.projection, located.stability
    relaxation = relax(projection, epsilon, throw=False)
    displacement = stability.displacement_bounds(epsilon)
    leakage = stability.leakage_bounds(epsilon)
    weights = stability.log_weight_bounds(epsilon)
    scale, face = projection.scale, projection.face
    u = unit_roundoff(scale.dtype)
    length_unit = ROUNDINGS * u * jnp.sqrt(scale)
    # The logarithm of a weight holds μ/ε, so it has the rounding of scale/ε, and its own.
    log_unit = ROUNDINGS * u * jnp.maximum(scale / epsilon, 1.0)

    def of_length(log_value: Array, log_bound: Array) -> Array:
        return _excess(jnp.exp(log_value), jnp.exp(log_bound), length_unit)

    def of_weights(bound: Array, on_face: bool = False) -> Array:
        each = _excess(relaxation.log_weights, bound, log_unit[:, None])
        each = each if on_face else jnp.where(face[None], jnp.nan, each)
        return _worst(jnp.moveaxis(each, -1, 0))

    # T2's ball. It needs strict complementarity; its centre has no meaning without.
    moved = jnp.linalg.norm(
        0.5 * jnp.outer(epsilon, stability.tangent) - epsilon[:, None] * relaxation.tilt, axis=-1
    )
    allowed = stability.ball_radius(epsilon)
    mass = relaxation.log_off_face_mass
    defects = jnp.abs(
        jnp.stack([stability.identity_defect(relaxation, at_tangent=at) for at in (False, True)])
    )
    defect = _worst(defects) / (scale + epsilon)
    factor_one = -projection.multipliers[None] / epsilon[:, None]
    return {
        "log_off_face_mass": mass,
        "log_displacement": relaxation.log_displacement,
        "relaxation_residual": relaxation.residual,
        "solved": relaxation.result == Result.successful,
        "log_displacement_t1": displacement.t1,
        "log_displacement_t2": displacement.t2,
        "log_displacement_bootstrap": displacement.bootstrap,
        "log_leakage_t1": leakage.t1,
        "log_leakage_t3": leakage.t3,
        "log_asymptote": stability.log_leakage_asymptote(epsilon),
        "log_first_order": stability.log_leakage_asymptote(epsilon, first_order=True),
        "identity_defect": defect,
        "excess_identity": defect / RELATIVE,
        "excess_t1": _worst(
            jnp.stack([
                of_length(relaxation.log_displacement, displacement.t1),
                _excess(mass, leakage.t1, log_unit),
                of_weights(weights.t1, on_face=True),
            ])
        ),
        "excess_t1_published": of_weights(stability.log_published_bound(epsilon)),
        "excess_t2": _worst(
            jnp.stack([
                of_length(relaxation.log_displacement, displacement.t2),
                of_length(relaxation.log_displacement, displacement.bootstrap),
                _excess(moved, allowed, length_unit),
            ])
        ),
        "excess_t3": _worst(
            jnp.stack([_excess(mass, leakage.t3, log_unit), of_weights(weights.t3)])
        ),
        "excess_factor_one": jnp.where(
            jnp.isfinite(stability.gap), of_weights(factor_one), jnp.nan
        ),
    }  # fmt: skip


def _excess(value: Array, bound: Array, absolute: Array) -> Array:
    """(value − bound) / allowance; NaN where there is no bound, +inf where there is no value."""
    says = ~jnp.isnan(bound) & (bound < jnp.inf)
    finite = jnp.isfinite(bound)
    allowance = RELATIVE * jnp.abs(jnp.where(finite, bound, 0.0)) + absolute
    excess = (value - jnp.where(finite, bound, 0.0)) / allowance
    # −inf promises that nothing leaks: any value above it breaks the promise.
    excess = jnp.where(finite, excess, jnp.where(value == -jnp.inf, 0.0, jnp.inf))
    return jnp.where(says, jnp.where(jnp.isnan(value), jnp.inf, excess), jnp.nan)


def _worst(excesses: Array) -> Array:
    """Largest along the first axis, NaN counting as nothing to say unless all are."""
    none = jnp.all(jnp.isnan(excesses), axis=0)
    return jnp.where(none, jnp.nan, jnp.max(jnp.where(jnp.isnan(excesses), -jnp.inf, excesses), 0))


def measure(task: Task, ratios: np.ndarray, epsilon_unit: str) -> Row:
    """Every variable of one instance's row. Sets float64 and full precision for its thread.

    Args:
        task: The instance.
        ratios: The temperature grid in units of `epsilon_unit`.
        epsilon_unit: "scale" or "gap".
    """
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        instance = task.make()
        located = _locate(jnp.asarray(instance.keys), jnp.asarray(instance.query))
        row = _instance_row(located)
        row["parameters"] = np.array(parameters_text(instance))
        finite_gap = epsilon_unit == "gap" and np.isfinite(row["gap"])
        unit = float(row["gap"] if finite_gap else row["scale"]) or 1.0
        model = float(instance.parameters.get("temperature", np.nan))
        extras = {"model": model, "published": float(row["published_range"])}
        wanted = np.array([*(ratios * unit), *(extras[name] for name in EXTRA_TEMPERATURES)])
        exists = np.isfinite(wanted) & (wanted > 0)
        # An extra temperature that does not exist repeats a grid point, and is blanked below.
        epsilon = np.where(exists, wanted, wanted[0])
        path = {name: np.array(v) for name, v in _follow(located, jnp.asarray(epsilon)).items()}
        for values in path.values():
            values[~exists] = False if values.dtype == bool else np.nan
        row |= path | {"epsilon": np.where(exists, wanted, np.nan)}
        row["leak_epsilon"] = np.array(
            _leak_epsilon(located, row) if np.isfinite(model) else np.nan
        )
        row["oracle_distance"] = np.array(
            _oracle_distance(instance.keys, instance.query, row, located) if task.oracle else np.nan
        )
        return row


def _locate(keys: Float[Array, "n d"], query: Float[Array, " d"]) -> Located:
    compiled = functools.partial(_compiled, hurried=keys.size <= _SMALL)
    # Step by step: as one program it would hold the projection twice, the second for faces of which
    # a key carries no weight, and compiling takes longer than everything else.
    projection = compiled(project_quietly)(keys, query)
    stability = face_stability_by_steps(projection, compiled)
    return Located(projection, stability, *compiled(_constants)(stability))


def _follow(located: Located, epsilon: Float[Array, " e"]) -> dict[str, Array]:
    small = located.projection.keys.size <= _SMALL
    return _compiled(_follow_any, small)(located, epsilon)


@functools.cache
def _compiled(function: Callable[..., Any], hurried: bool) -> Callable[..., Any]:
    return jax.jit(function, compiler_options=_known_options() if hurried else None)


@functools.cache
def _known_options() -> dict[str, bool | int]:
    """The options of a hurried compilation that this release of XLA knows: another is an error."""

    def known(name: str, value: bool | int) -> bool:
        try:
            jax.jit(lambda: 0, compiler_options={name: value})()
        except (RuntimeError, ValueError):  # what XLA and JAX say of an unknown option
            return False
        return True

    return {name: value for name, value in _HURRIED.items() if known(name, value)}


def _instance_row(located: Located) -> Row:
    projection, stability = located.projection, located.stability
    scale = float(projection.scale)
    length = np.sqrt(scale) if scale else 1.0
    residuals = projection.residuals
    kkt = max(
        float(residuals.primal),
        float(residuals.dual) / length**2,
        float(residuals.complementarity) / length**2,
        float(residuals.stationarity) / length,
    )
    weights = np.asarray(stability.log_optimal_weights)
    inside = bool(projection.result == Result.inside_hull)
    values = {
        "result": name_of(stability.result),
        "n": projection.keys.shape[0],
        "d": projection.keys.shape[1],
        "scale": scale,
        "residual_norm": float(jnp.linalg.norm(projection.query - projection.point)),
        "face_size": int(projection.face.sum()),
        "gap": float(projection.gap),
        "inside": inside,
        "degenerate": not bool(stability.strict) and not inside,
        "min_weight": float(np.exp(weights[np.isfinite(weights)].min(initial=0.0))),
        "tangent_norm": float(stability.tangent_norm),
        "entropy": float(stability.entropy),
        "degeneracy_distance": float(stability.degeneracy_distance),
        "log_constant": float(located.log_constant),
        "published_range": float(located.published_range),
        "safe_epsilon": float(located.safe_epsilon),
        "kkt_residual": kkt,
    }
    return {name: np.array(value) for name, value in values.items()}


def _leak_epsilon(located: Located, row: Row) -> float:
    """First ε, from below, at which the leakage reaches LEAK: bracketed again and again."""
    epsilon, mass = row["epsilon"], row["log_off_face_mass"]
    target = np.log(LEAK)
    for _ in range(_REFINEMENTS):
        order = np.argsort(epsilon)
        order = order[np.isfinite(epsilon[order])]
        epsilon, mass = epsilon[order], mass[order]
        above = np.flatnonzero(mass >= target)
        if above.size == 0 or above[0] == 0:
            return np.nan
        low, high = epsilon[above[0] - 1], epsilon[above[0]]
        epsilon = np.geomspace(low, high, row["epsilon"].size)
        mass = np.asarray(_follow(located, jnp.asarray(epsilon))["log_off_face_mass"])
    return float(np.exp(np.interp(target, mass, np.log(epsilon))))


def _oracle_distance(keys: np.ndarray, query: np.ndarray, row: Row, located: Located) -> float:
    try:
        point = project_qp(keys, query).point
    except RuntimeError:  # the other solver gave up: that says nothing about this one
        return np.nan
    length = float(np.sqrt(row["scale"])) or 1.0
    return float(np.linalg.norm(point - np.asarray(located.projection.point))) / length

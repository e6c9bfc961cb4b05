r"""The bounds T1 to T4 at one temperature, every one in logarithms.

Pure functions of numbers that `face_stability` computes once. Notation: :math:`v_i = k_i - p^*`,
:math:`t_i = \langle w_0, v_i\rangle`, h the face entropy, n keys, Δ the gap.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vashista_theory._numerics import log_softplus, masked_logsumexp, unit_roundoff


class Geometry(NamedTuple):
    """What the statements are about. Units: lengths L, multipliers and gap L², tangent 1/L.

    L is whatever length keeps their squares in range; temperatures and answers are in it too.
    """

    multipliers: Float[Array, " n"]
    face: Bool[Array, " n"]
    lengths: Float[Array, " n"]
    tilts: Float[Array, " n"]
    curvature_tilts: Float[Array, " n"]
    tangent_norm: Float[Array, ""]
    entropy: Float[Array, ""]
    gap: Float[Array, ""]
    least_curvature: Float[Array, ""]
    diameter: Float[Array, ""]
    strict: Bool[Array, ""]


class DisplacementBounds(NamedTuple):
    """Logarithms of upper bounds on ‖p^ε − p*‖; +inf where a statement does not apply."""

    t1: Float[Array, "*e"]
    t2: Float[Array, "*e"]
    bootstrap: Float[Array, "*e"]


class WeightBounds(NamedTuple):
    """Upper bounds on log α_i^ε in nats, by key; +inf where a statement does not apply."""

    t1: Float[Array, "*e n"]
    t3: Float[Array, "*e n"]


class LeakageBounds(NamedTuple):
    """Upper bounds on log off-face mass in nats; +inf where a statement does not apply."""

    t1: Float[Array, "*e"]
    t3: Float[Array, "*e"]


class Statements(NamedTuple):
    """Everything T1 to T4 say at one temperature."""

    displacement: DisplacementBounds
    leakage: LeakageBounds
    asymptote: Float[Array, "*e"]
    first_order: Float[Array, "*e"]


def log_t1_displacement(geometry: Geometry, epsilon: Float[Array, ""]) -> Float[Array, ""]:
    """T1: log B(ε), B = √(ε (log(|F| + Σ_{i∉F} e^{−μ_i/ε}) − h)). For every face."""
    size = jnp.sum(geometry.face).astype(epsilon.dtype)
    # log|F| − h is rounded up: it is exactly zero for a vertex and for uniform weights, where a
    # square root would turn one lost rounding into half the digits.
    up = jnp.where(size > 1, 8 * unit_roundoff(epsilon.dtype) * (1.0 + jnp.log(size)), 0.0)
    on_face = jnp.maximum(jnp.log(size) - geometry.entropy, 0.0) + up
    off_face = masked_logsumexp(-geometry.multipliers / epsilon, ~geometry.face)
    log_excess = jnp.logaddexp(jnp.log(on_face), log_softplus(off_face - jnp.log(size)))
    return 0.5 * (jnp.log(epsilon) + log_excess)


def log_off_face_factor(geometry: Geometry, epsilon: Float[Array, ""]) -> Float[Array, ""]:
    """Log r(ε): r = min(S/e, log(1 + S)) with S = Σ_{i∉F} e^{t_i − h − μ_i/ε}, kept in logs."""
    log_sum = log_leading_leakage(geometry, epsilon)
    return jnp.minimum(log_sum - 1.0, log_softplus(log_sum))


def log_leading_leakage(geometry: Geometry, epsilon: Float[Array, ""]) -> Float[Array, ""]:
    """T4's leading term over all off-face keys: log Σ_{i∉F} e^{t_i − h − μ_i/ε}.

    Keys with μ_i > Δ vanish in the limit, so this has T4's limit, ties included, and is closer
    to the leakage at every ε > 0.
    """
    logits = geometry.tilts - geometry.entropy - geometry.multipliers / epsilon
    return masked_logsumexp(logits, ~geometry.face)


def weight_bounds(geometry: Geometry, epsilon: Float[Array, ""]) -> WeightBounds:
    """T1 and T3 for the logarithm of each weight."""
    base = -geometry.multipliers / epsilon - geometry.entropy
    b_over_epsilon = jnp.exp(log_t1_displacement(geometry, epsilon) - jnp.log(epsilon))
    t1 = base + geometry.lengths * b_over_epsilon
    root = jnp.sqrt(
        0.25 * geometry.tangent_norm**2
        + jnp.exp(log_off_face_factor(geometry, epsilon) - jnp.log(epsilon))
    )
    t3 = base + 0.5 * geometry.tilts + geometry.lengths * root
    usable = geometry.strict & ~geometry.face
    return WeightBounds(t1=t1, t3=jnp.where(usable, t3, jnp.inf))


def log_off_face_reach(geometry: Geometry, epsilon: Float[Array, ""]) -> Float[Array, ""]:
    """Log A, A = Σ_{i∉F} ‖v_i‖ e^{b_i} with b_i the least bound on log α_i."""
    bounds = weight_bounds(geometry, epsilon)
    least = jnp.minimum(jnp.minimum(bounds.t1, bounds.t3), 0.0)
    return masked_logsumexp(jnp.log(geometry.lengths) + least, ~geometry.face)


def displacement_bounds(geometry: Geometry, epsilon: Float[Array, ""]) -> DisplacementBounds:
    """T1, T2 and its bootstrap √(ε²‖w₀‖² + A²), A the off-face reach, for log ‖p^ε − p*‖.

    The bootstrap holds as δ lies in the ball that has −εw₀ and δ's off-face part at the ends of a
    diameter (the paper's proof of T2), and implies ε‖w₀‖ + A and ε‖w₀‖ + 2A.
    """
    linear = jnp.log(epsilon) + jnp.log(geometry.tangent_norm)
    spread = 0.5 * (jnp.log(4 * epsilon) + log_off_face_factor(geometry, epsilon))
    root = 0.5 * jnp.logaddexp(2 * linear, 2 * spread)
    t2 = jnp.logaddexp(linear, root) - jnp.log(2.0)
    bootstrap = 0.5 * jnp.logaddexp(2 * linear, 2 * log_off_face_reach(geometry, epsilon))
    return DisplacementBounds(
        t1=log_t1_displacement(geometry, epsilon),
        t2=jnp.where(geometry.strict, t2, jnp.inf),
        bootstrap=jnp.where(geometry.strict, bootstrap, jnp.inf),
    )


def ball_radius(geometry: Geometry, epsilon: Float[Array, ""]) -> Float[Array, ""]:
    """T2 as it is proved: √(¼ε²‖w₀‖² + εr), the radius about p* − ½εw₀ within which p^ε lies."""
    half = 0.5 * epsilon * geometry.tangent_norm
    spread = jnp.exp(jnp.log(epsilon) + log_off_face_factor(geometry, epsilon))
    return jnp.where(geometry.strict, jnp.sqrt(half**2 + spread), jnp.nan)


def leakage_bounds(geometry: Geometry, epsilon: Float[Array, ""]) -> LeakageBounds:
    """T1 (the better of its mass form and its sum over keys) and T3 for log off-face mass."""
    bounds = weight_bounds(geometry, epsilon)
    off = ~geometry.face
    n = geometry.face.shape[0]
    excess = jnp.maximum(jnp.log(float(n)) - geometry.entropy, 0.0)
    mass = jnp.log(epsilon) + jnp.log(excess) - jnp.log(geometry.gap)
    t1 = jnp.minimum(mass, masked_logsumexp(bounds.t1, off))
    t3 = masked_logsumexp(jnp.minimum(bounds.t1, bounds.t3), off)
    everything = jnp.isposinf(geometry.gap)
    inside = jnp.isnan(geometry.gap)
    t1 = jnp.where(everything, -jnp.inf, jnp.where(inside, jnp.nan, t1))
    t3 = jnp.where(everything, -jnp.inf, jnp.where(inside, jnp.nan, t3))
    return LeakageBounds(t1=t1, t3=jnp.where(geometry.strict | inside, t3, jnp.inf))


def statements(geometry: Geometry, epsilon: Float[Array, ""]) -> Statements:
    """All bounds on displacement and leakage, and T4's asymptote with its first-order remainder."""
    first = geometry.tilts - epsilon * geometry.curvature_tilts
    logits = first - geometry.entropy - geometry.multipliers / epsilon
    defined = geometry.strict & ~jnp.isnan(geometry.gap)
    return Statements(
        displacement=displacement_bounds(geometry, epsilon),
        leakage=leakage_bounds(geometry, epsilon),
        asymptote=jnp.where(defined, log_leading_leakage(geometry, epsilon), jnp.nan),
        first_order=jnp.where(defined, masked_logsumexp(logits, ~geometry.face), jnp.nan),
    )


def asymptote_error(geometry: Geometry, epsilon: Float[Array, ""]) -> Float[Array, " n"]:
    """T4 quantified: bound on |log α_i + μ_i/ε − t_i + h|, by key; +inf where it says nothing.

    With M ≥ m, A ≥ the off-face reach, σ² the least curvature on the face and R its diameter:
    x = −R⁻¹ log(1 − R (T2 + A) / (σ² (1 − M))) bounds ‖P w − w₀‖.
    """
    bounds = statements(geometry, epsilon)
    reach = jnp.exp(log_off_face_reach(geometry, epsilon))
    mass = jnp.exp(jnp.minimum(jnp.minimum(bounds.leakage.t1, bounds.leakage.t3), 0.0))
    moved = jnp.exp(jnp.min(jnp.stack(list(bounds.displacement)))) + reach
    share = geometry.diameter * moved / (geometry.least_curvature * (1.0 - mass))
    vertex = geometry.diameter == 0
    shift = -jnp.log1p(-jnp.minimum(share, 1.0)) / jnp.where(vertex, 1.0, geometry.diameter)
    shift = jnp.where(vertex, 0.0, shift)
    error = (
        geometry.lengths * (shift + reach / epsilon)
        + shift * moved / (1.0 - mass)
        - jnp.log1p(-mass)
    )
    usable = geometry.strict & (mass < 1.0) & (share < 1.0)
    return jnp.where(usable, error, jnp.inf)

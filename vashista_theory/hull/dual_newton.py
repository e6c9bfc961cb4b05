r"""Newton's method for the tilt w: one solver for the relaxation and for the tangent.

.. math:: \min_w\ \tfrac12 \epsilon \|w\|^2 + \log \sum_i \exp(\langle w, z_i\rangle + o_i)

With offsets :math:`o_i = -\mu_i/\epsilon` the minimiser is the shifted dual of the relaxation;
with ε = 0 and offsets 0 on a face, −∞ off it, it is the tangent of the maximum-entropy weights.
d unknowns whatever n is, and no cancellation as ε → 0.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vashista_theory._numerics import default_tolerance, safe_norm, unit_roundoff, weighted_gram

MAX_NEWTON_STEPS = 100
_HALVINGS = 40


class Tilt(NamedTuple):
    """The minimiser, and what it induces.

    Attributes:
        tilt: w.
        log_weights: log softmax of ⟨w, z_i⟩ + o_i.
        residual: ‖gradient‖.
        steps: Newton steps taken.
        converged: the gradient is zero to a few thousand of its own roundings, or the last step
            changed no logarithm of a weight by more.
    """

    tilt: Float[Array, " d"]
    log_weights: Float[Array, " n"]
    residual: Float[Array, ""]
    steps: Int[Array, ""]
    converged: Bool[Array, ""]


class _State(NamedTuple):
    tilt: Float[Array, " d"]
    logits: Float[Array, " n"]
    steps: Int[Array, ""]
    last: Float[Array, ""]
    finished: Bool[Array, ""]


def objective(
    logits: Float[Array, " n"], tilt: Float[Array, " d"], epsilon: Float[Array, ""]
) -> Float[Array, ""]:
    """Value of the minimised function where the logits are ⟨w, z_i⟩ + o_i."""
    return 0.5 * epsilon * (tilt @ tilt) + jax.nn.logsumexp(logits)


def solve_tilt(
    coordinates: Float[Array, "n d"],
    offsets: Float[Array, " n"],
    epsilon: Float[Array, ""],
    start: Float[Array, " d"],
    *,
    free: Bool[Array, " d"] | None = None,
) -> Tilt:
    """Minimise by damped Newton steps until rounding stops them.

    Steps are measured by what they change in the logarithms of the weights, and the gradient by
    the terms that it is the sum of: units of length and single long rows do not enter.

    Args:
        coordinates: rows z_i.
        offsets: o_i, −inf to leave a row out.
        epsilon: strong convexity ε ≥ 0 of the objective.
        start: first tilt.
        free: coordinates that may move (all, by default).

    Returns:
        A `Tilt`. Because the objective is ε-strongly convex, the error of −εw is at most
        `residual`.
    """
    d = start.shape[0]
    roundoff = unit_roundoff(coordinates.dtype)
    free_ = jnp.ones((d,), bool) if free is None else free
    fixed_identity = jnp.diag(jnp.where(free_, 0.0, 1.0).astype(start.dtype))

    def gradient(logits: Array, tilt: Array) -> tuple[Array, Array, Array]:
        weights = jax.nn.softmax(logits)
        mean = weights @ coordinates
        return jnp.where(free_, epsilon * tilt + mean, 0.0), weights, mean

    def newton(state: _State) -> _State:
        slope, weights, mean = gradient(state.logits, state.tilt)
        moment = weighted_gram(coordinates, weights)
        covariance = moment - jnp.outer(mean, mean)
        covariance = jnp.where(free_[:, None] & free_[None, :], covariance, 0.0)
        # A ridge of a few roundings keeps the factorisation defined on flat directions; Newton
        # corrects itself, so it costs steps, never accuracy. By coordinate: a short direction of
        # the face would drown in the rounding of a long one.
        ridge = epsilon + (4 + d) * roundoff * jnp.diag(moment) + jnp.finfo(start.dtype).tiny
        hessian = covariance + fixed_identity + jnp.diag(jnp.where(free_, ridge, 0.0))
        factor = jnp.linalg.cholesky(hessian)
        step = -jax.scipy.linalg.cho_solve((factor, True), slope)
        step = jnp.where(jnp.all(jnp.isfinite(step)), step, -slope)
        change = coordinates @ step
        value = objective(state.logits, state.tilt, epsilon)
        decrease = slope @ step
        slack = 8 * roundoff * (1.0 + jnp.abs(value))

        def too_long(carry: tuple[Array, Array]) -> Array:
            length, halvings = carry
            trial = objective(state.logits + length * change, state.tilt + length * step, epsilon)
            acceptable = trial <= value + 1e-4 * length * decrease + slack
            return ~acceptable & (halvings < _HALVINGS)

        length, _ = jax.lax.while_loop(
            too_long, lambda c: (0.5 * c[0], c[1] + 1), (jnp.ones((), start.dtype), jnp.int32(0))
        )
        tilt = state.tilt + length * step
        logits = coordinates @ tilt + offsets
        # Relative to the logarithm of the weight itself: a key at −1e8 has no more digits.
        depth = 1.0 + jnp.abs(logits - jax.nn.logsumexp(logits))
        moved = jnp.max(jnp.where(jnp.isfinite(offsets), jnp.abs(length * change) / depth, 0.0))
        # Converged, or no longer contracting although the objective cannot tell the steps apart,
        # or the gradient may be rounding of the terms that it is the sum of.
        at_floor = (moved <= 1e4 * roundoff) | (jnp.abs(decrease) <= roundoff * slack)
        terms = jnp.sqrt(jnp.diag(moment)) + epsilon * jnp.abs(state.tilt)
        at_floor |= jnp.all(jnp.abs(slope) <= 2 * roundoff * terms)
        small = (moved <= 4 * roundoff) | (at_floor & (moved >= 0.5 * state.last))
        return _State(tilt, logits, state.steps + 1, moved, small)

    first = _State(
        start,
        coordinates @ start + offsets,
        jnp.int32(0),
        jnp.asarray(jnp.inf, start.dtype),
        jnp.asarray(False),
    )
    last = jax.lax.while_loop(lambda s: ~s.finished & (s.steps < MAX_NEWTON_STEPS), newton, first)
    slope, weights, _ = gradient(last.logits, last.tilt)
    terms = weights @ jnp.abs(coordinates) + epsilon * jnp.abs(last.tilt)
    residual, tolerance = safe_norm(slope), default_tolerance(start.dtype)
    settled = (residual <= tolerance * safe_norm(terms)) | (last.last <= tolerance)
    return Tilt(
        last.tilt,
        jax.nn.log_softmax(last.logits),
        residual,
        last.steps,
        settled & (last.steps < MAX_NEWTON_STEPS),
    )

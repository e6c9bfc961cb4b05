r"""Entropic relaxation of the projection: a path over temperatures, accurate at every one.

.. math:: \alpha^\epsilon = \arg\min_{\alpha \in \mathrm{simplex}}
          \tfrac12\|K^\top\alpha - q\|^2 + \epsilon \sum_i \alpha_i \log \alpha_i

Solved in the shifted dual: with :math:`q - p^\epsilon = r^* + \epsilon w`,
:math:`\alpha^\epsilon = \mathrm{softmax}(-\mu/\epsilon + (K - p^*) w)` and w minimises an
ε-strongly convex function of d unknowns (`hull.dual_newton`).
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vashista_theory._checks import as_array, as_float_array, is_traced
from vashista_theory._numerics import log_share, masked_logsumexp, safe_norm
from vashista_theory._results import Result
from vashista_theory._types import ArrayLike
from vashista_theory.hull.dual_newton import objective, solve_tilt
from vashista_theory.hull.face_basis import centred, face_basis, face_coordinates
from vashista_theory.hull.problem import no_projection, settle
from vashista_theory.hull.projection import Projection

UNSOLVED = (Result.stagnated, Result.max_steps_reached, Result.nonfinite_input)
"""Outcomes of a projection with which there is nothing to relax."""


class Relaxation(eqx.Module):
    """Entropic attention at one temperature or along a path, beside the exact projection.

    Attributes:
        epsilon: (E,) or (), temperatures in squared length, in the caller's order.
        log_weights: (…, n), log α^ε in nats.
        point: (…, d), p^ε = Kᵀα^ε.
        displacement: (…), ‖p^ε − p*‖, length.
        log_displacement: (…), its logarithm, which does not underflow at a vertex.
        log_off_face_mass: (…), log Σ_{i ∉ F} α_i^ε in nats; −inf if every key is on the face.
        tilt: (…, d), w with p^ε = p* − εw.
        residual: (…), length; bounds the distance of `point` from the exact p^ε.
        steps: (…), Newton steps.
        result: a `Result`, by temperature.
    """

    epsilon: Float[Array, "*e"]
    log_weights: Float[Array, "*e n"]
    point: Float[Array, "*e d"]
    displacement: Float[Array, "*e"]
    log_displacement: Float[Array, "*e"]
    log_off_face_mass: Float[Array, "*e"]
    tilt: Float[Array, "*e d"]
    residual: Float[Array, "*e"]
    steps: Int[Array, "*e"]
    result: Result


def _path(projection: Projection, epsilons: Array) -> dict[str, Any]:
    """Solve for temperatures in descending order, each warm-started from the ones before."""
    keys, face, multipliers = projection.keys, projection.face, projection.multipliers
    dtype = keys.dtype
    view = centred(keys, projection.weights, face, multipliers)
    basis = face_basis(view, face)
    coordinates = face_coordinates(view, face, basis)
    excess = jnp.where(face, 0.0, multipliers)
    local = view.temperature(epsilons)

    def solve(
        carry: tuple[Array, ...], temperatures: tuple[Array, Array]
    ) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        tilt, log_epsilon, older, older_log_epsilon = carry
        given, epsilon = temperatures
        offsets = -excess / given
        span = log_epsilon - older_log_epsilon
        ratio = jnp.where(span < 0, (jnp.log(epsilon) - log_epsilon) / span, 0.0)
        starts = jnp.stack(
            [tilt, tilt + ratio * (tilt - older), tilt * jnp.exp(log_epsilon - jnp.log(epsilon))]
        )
        values = jnp.stack([objective(coordinates @ s + offsets, s, epsilon) for s in starts])
        best = starts[jnp.argmin(jnp.where(jnp.isnan(values), jnp.inf, values))]
        found = solve_tilt(coordinates, offsets, epsilon, best)
        outputs = _describe(found.log_weights, coordinates, found.tilt, epsilon, face, basis.along)
        carry = (found.tilt, jnp.log(epsilon), tilt, log_epsilon)
        told = (found.log_weights, found.tilt, found.residual, found.steps, found.converged)
        return carry, (*outputs, *told)

    zero = jnp.zeros((keys.shape[1],), dtype)
    first = jnp.log(local[0])
    _, outputs = jax.lax.scan(solve, (zero, first, zero, first), (epsilons, local))
    log_displacement, log_off_face_mass, log_weights, tilt, residual, steps, converged = outputs
    log_displacement = log_displacement + jnp.log(view.unit)
    tilt = tilt @ basis.columns.T
    return {
        "log_weights": log_weights,
        "point": projection.point[None] - view.unit * (local[:, None] * tilt),
        "displacement": jnp.exp(log_displacement),
        "log_displacement": log_displacement,
        "log_off_face_mass": log_off_face_mass,
        "tilt": tilt / view.unit,
        "residual": residual * view.unit,
        "steps": steps,
        "result": jax.vmap(lambda one: _outcome(projection, one))(converged),
    }


def _describe(
    log_weights: Array, coordinates: Array, tilt: Array, epsilon: Array, face: Array, on_span: Array
) -> tuple[Array, Array]:
    """Log ‖p^ε − p*‖ and log off-face mass, each in a form that keeps its digits when tiny."""
    on_face = masked_logsumexp(log_weights, face)
    off_face = masked_logsumexp(log_weights, ~face)
    # Off the span of the face, the displacement is carried by off-face keys alone: sum it in logs.
    top = jnp.max(jnp.where(face, -jnp.inf, log_weights), initial=-jnp.inf)
    anchor = jnp.where(jnp.isfinite(top), top, 0.0)
    leaked = jnp.where(face, 0.0, jnp.exp(log_weights - anchor)) @ coordinates
    log_across = anchor + jnp.log(safe_norm(jnp.where(on_span, 0.0, leaked)))
    log_along = jnp.log(epsilon) + jnp.log(safe_norm(jnp.where(on_span, tilt, 0.0)))
    return 0.5 * jnp.logaddexp(2 * log_along, 2 * log_across), log_share(off_face, on_face)


def unless_unsolved(projection: Projection, own: Result) -> Result:
    """A result, or the failure of the projection that it rests on.

    Ambiguity is no such failure: it moves weights by no more than the multiplier's rounding does.
    Multipliers off the face that have left the range of their type are one, whatever was said.
    """
    off = projection.multipliers
    least = jnp.finfo(off.dtype).tiny
    told = jnp.all(projection.face | ((off >= least) & jnp.isfinite(off)))
    result = Result.where(told, own, Result.nonfinite_input)
    for failure in UNSOLVED:
        result = Result.where(projection.result == failure, failure, result)
    return result


def _outcome(projection: Projection, converged: Array) -> Result:
    own = Result.where(converged, Result.successful, Result.stagnated)
    return unless_unsolved(projection, own)


@jax.jit
def _relax_path(projection: Projection, epsilons: Array) -> dict[str, Any]:
    with jax.default_matmul_precision("highest"):
        return _path(projection, epsilons)


def as_epsilon(epsilon: ArrayLike, dtype: jnp.dtype) -> Array:
    """Check temperatures: a positive finite number or a non-empty list of them.

    Raises:
        ValueError: naming the first bad value.
    """
    if not is_traced(epsilon):
        values = np.asarray(as_array(epsilon, "epsilon"))
        if values.dtype.kind not in "fiu" or values.ndim > 1 or values.size == 0:
            raise ValueError(
                "`epsilon` must be a positive number or a non-empty one-dimensional list of them, "
                f"got {values.dtype} of shape {values.shape}."
            )
        info = np.finfo(np.dtype(dtype))
        # Below the smallest normal number digits are lost, and some devices read zero.
        bad = np.argwhere(~((values >= info.smallest_normal) & (values <= info.max)))
        if len(bad):
            place = tuple(int(i) for i in bad[0])
            name = f"epsilon[{place[0]}]" if place else "epsilon"
            raise ValueError(
                f"`{name}` is {values[place]}; a temperature must be positive and finite, "
                f"{info.smallest_normal:.2g} to {info.max:.2g} in {info.dtype} "
                "(squared length; try multiples of `projection.scale`)."
            )
        return as_float_array(values.astype(np.dtype(dtype)), "epsilon")
    return jnp.asarray(epsilon, dtype)


def relax(projection: Projection, epsilon: ArrayLike, *, throw: bool = True) -> Relaxation:
    """Entropic attention at given temperatures, relative to an exact projection.

    One path from the largest temperature to the smallest, each solve started from the last ones,
    whatever the order of `epsilon`. Log-domain throughout: off-face masses of exp(−1e8) keep
    their digits. Relative accuracy about 1e-12 × max(1, scale/Δ) in float64 for ε from 1e3 down to
    1e-8 times the scale, for displacements above the rounding of p* itself. Powers of two, shifts
    and single distant keys change nothing in that: a weight's own key sets its rounding.

    Args:
        projection: from `project`; one problem, not a batch (use `jax.vmap` or `jax.lax.map`).
        epsilon: () or (E,), squared length, in any order.
        throw: raise if a temperature could not be solved; otherwise see `result`.

    Returns:
        A `Relaxation` in the caller's order, without the leading axis for a scalar `epsilon`.

    Raises:
        ValueError: an epsilon that is not positive and finite; a batched projection.
        RuntimeError: Newton's method stagnated, or the projection had failed, when `throw` is
            true.
    """
    if not isinstance(projection, Projection):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise no_projection(projection, "relax")
    keys = projection.keys
    if keys.ndim != 2:
        raise ValueError(
            f"`relax` takes one projection, got a batch with keys of shape {keys.shape}. "
            "Use `jax.lax.map(lambda p: relax(p, epsilon), projections)`."
        )
    epsilon_ = as_epsilon(epsilon, keys.dtype)
    flat = jnp.atleast_1d(epsilon_)
    # A path that already descends is left as it is: no second copy of the log-weights.
    descends = not is_traced(flat) and bool(jnp.all(flat[1:] <= flat[:-1]))
    order = jnp.argsort(-flat)
    fields = _relax_path(projection, flat if descends else flat[order])
    if not epsilon_.ndim:
        fields = jax.tree.map(lambda leaf: leaf[0], fields)
    elif not descends:
        restore = jnp.argsort(order)
        fields = jax.tree.map(lambda leaf: leaf[restore], fields)
    relaxation = Relaxation(epsilon=epsilon_, **fields)
    if not throw:
        return relaxation
    detail = (
        ""
        if is_traced(relaxation)
        else (
            f"(residual up to {float(jnp.max(relaxation.residual)):.3g} at scale "
            f"{float(projection.scale):.3g})."
        )
    )
    return settle(relaxation, relaxation.result, failures=UNSOLVED, doing="relax", detail=detail)

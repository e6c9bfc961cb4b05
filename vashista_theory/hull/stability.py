r"""Face stability: how entropic attention approaches the exposed face, with explicit constants.

.. math:: \|p^\epsilon - p^*\| \le \tfrac12\bigl(\epsilon\|w_0\|
          + \sqrt{\epsilon^2\|w_0\|^2 + 4\epsilon r}\bigr), \qquad
          \log m(\epsilon) + \Delta/\epsilon \to \log\!\!\sum_{\mu_i = \Delta}
          e^{\langle w_0, v_i\rangle - h}
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vashista_theory._checks import is_positive, is_traced
from vashista_theory._numerics import safe_norm, unit_roundoff, weighted_gram
from vashista_theory._results import Result
from vashista_theory._types import ArrayLike
from vashista_theory.hull import bounds
from vashista_theory.hull.bounds import (
    DisplacementBounds,
    Geometry,
    LeakageBounds,
    Statements,
    WeightBounds,
)
from vashista_theory.hull.dual_newton import solve_tilt
from vashista_theory.hull.face_basis import Centred, centred, face_basis, face_coordinates
from vashista_theory.hull.minimal_face import Compiled, MinimalFace, as_it_is, minimal_face
from vashista_theory.hull.problem import no_projection
from vashista_theory.hull.projection import Projection
from vashista_theory.hull.relaxation import Relaxation, as_epsilon, unless_unsolved
from vashista_theory.hull.safe_epsilon import largest_safe_epsilon

_TIE_NOISE = 64.0
"""Units of roundoff, relative to lengths, within which two multipliers count as equal: they come
out at 1 to 10 units."""


class FaceStability(eqx.Module):
    """The constants of the face-stability theorem at one projection, and its bounds.

    Methods take `epsilon` () or (E,) in squared length and return that shape. The numbers that the
    bounds are made of are kept in units of `unit`, so that no square of them leaves the range.

    Attributes:
        projection: what this is about.
        tangent: w₀ (d,), 1/length; −δ/ε tends to it. NaN on a degenerate face.
        entropy: h in nats, of the maximum-entropy optimal weights.
        gap: Δ, as in the projection.
        minimal_face: G (n,) bool, smallest face that contains p*; equals F if `strict`.
        strict: strict complementarity.
        log_optimal_weights: (n,) log α*, the maximum-entropy optimum; −inf off G.
        degeneracy_distance: ρ of T5, length; NaN if `strict`.
        margin: y of T5 (d,), 1/length; NaN if `strict`.
        unit: a power of two, length.
        geometry: the numbers the bounds are made of, in units of `unit`.
        result: `inside_hull`, `degenerate_face`, or the projection's own outcome.
    """

    projection: Projection
    tangent: Float[Array, " d"]
    entropy: Float[Array, ""]
    gap: Float[Array, ""]
    minimal_face: Bool[Array, " n"]
    strict: Bool[Array, ""]
    log_optimal_weights: Float[Array, " n"]
    degeneracy_distance: Float[Array, ""]
    margin: Float[Array, " d"]
    unit: Float[Array, ""]
    geometry: Geometry
    result: Result

    @property
    def tangent_norm(self) -> Float[Array, ""]:
        """‖w₀‖, the slope of the displacement: 0 at a vertex, NaN on a degenerate face."""
        return self.geometry.tangent_norm / self.unit

    @property
    def log_asymptote_constant(self) -> Float[Array, ""]:
        """T4's constant: log Σ_{μ_i = Δ} e^{⟨w₀, v_i⟩ − h} in nats, ties to rounding included."""
        return _log_asymptote_constant(self)

    def displacement_bound(self, epsilon: ArrayLike) -> Array:
        """Upper bound on ‖p^ε − p*‖: the least of T1, T2 and its bootstrap that apply."""
        return jnp.exp(self.log_displacement_bound(epsilon))

    def log_displacement_bound(self, epsilon: ArrayLike) -> Array:
        """Logarithm of `displacement_bound`, for where it underflows."""
        three = self.displacement_bounds(epsilon)
        return jnp.minimum(jnp.minimum(three.t1, three.t2), three.bootstrap)

    def displacement_bounds(self, epsilon: ArrayLike) -> DisplacementBounds:
        """Logarithms of T1, T2 and the bootstrap one by one."""
        three = self._statements(epsilon).displacement
        return DisplacementBounds(*(bound + jnp.log(self.unit) for bound in three))

    def ball_radius(self, epsilon: ArrayLike) -> Array:
        """T2 as it is proved: p^ε is within this of p* − ½εw₀. NaN on a degenerate face."""
        return _ball_radius(self.geometry, self._epsilon(epsilon)) * self.unit

    def log_leakage_bound(self, epsilon: ArrayLike) -> Array:
        """Upper bound on log off-face mass in nats: min(0, T1, T3). NaN inside the hull."""
        two = self.leakage_bounds(epsilon)
        return jnp.minimum(jnp.minimum(two.t1, two.t3), 0.0)

    def leakage_bounds(self, epsilon: ArrayLike) -> LeakageBounds:
        """T1 and T3 summed over off-face keys, one by one."""
        return self._statements(epsilon).leakage

    def log_weight_bounds(self, epsilon: ArrayLike) -> WeightBounds:
        """T1 and T3 by key, (…, n): upper bounds on log α_i^ε in nats (T3 off the face only)."""
        return _weight_bounds(self.geometry, self._epsilon(epsilon))

    def log_leakage_asymptote(self, epsilon: ArrayLike, *, first_order: bool = False) -> Array:
        """T4: log Σ_{i∉F} e^{⟨w₀, v_i⟩ − h − μ_i/ε}, with the −ε⟨C⁺w₀, v_i⟩ term on request.

        It is a limit, not a bound. NaN on a degenerate face and inside the hull.
        """
        both = self._statements(epsilon)
        return both.first_order if first_order else both.asymptote

    def log_weight_asymptote_error(self, epsilon: ArrayLike) -> Array:
        """T4 quantified, (…, n): bound on |log α_i + μ_i/ε − ⟨w₀, v_i⟩ + h|, +inf if void."""
        return _asymptote_error(self.geometry, self._epsilon(epsilon))

    def published_range(self, theta: float = 0.5) -> Float[Array, ""]:
        """T1′: the largest ε for which α_i ≤ e^{−h} e^{−(1−θ)μ_i/ε} is proved for all i ∉ F.

        θ²κ²/(log n − h) with κ = min_{i∉F} μ_i/‖v_i‖; the published e^{−Δ/(2ε)} is θ = ½.

        Raises:
            ValueError: `theta` is not strictly between 0 and 1.
        """
        _check_theta(theta)
        g = self.geometry
        ratio = jnp.min(jnp.where(g.face, jnp.inf, g.multipliers / g.lengths))
        limit = theta**2 * ratio**2 / (jnp.log(float(g.face.shape[0])) - g.entropy)
        return jnp.where(jnp.isnan(self.gap), jnp.nan, limit * self.unit * self.unit)

    def log_published_bound(self, epsilon: ArrayLike, theta: float = 0.5) -> Array:
        """T1′ by key, (…, n): −h − (1 − θ)μ_i/ε. A bound only for ε ≤ `published_range`.

        Raises:
            ValueError: `theta` is not strictly between 0 and 1.
        """
        _check_theta(theta)
        per_epsilon = jnp.multiply.outer(1 / self._epsilon(epsilon), self.geometry.multipliers)
        return -self.entropy - (1 - theta) * per_epsilon

    def largest_safe_epsilon(self, log_mass: float) -> Float[Array, ""]:
        """The knob: largest ε such that the leakage bound stays below at every smaller ε too.

        Args:
            log_mass: tolerated log off-face mass in nats, for instance `math.log(0.01)`.

        Returns:
            Squared length; +inf if no ε leaks more, 0 if none is proved safe, NaN inside the hull.

        Raises:
            ValueError: `log_mass` is above 0 or NaN.
        """
        return largest_safe_epsilon(self.geometry, log_mass) * self.unit * self.unit

    def identity_defect(self, relaxation: Relaxation, *, at_tangent: bool = False) -> Array:
        """Left minus right side of the master identity (★) at w̄ = 0 or w̄ = w₀, squared length.

        ‖δ‖² + ε⟨w̄, δ⟩ + ε KL(α*‖α^ε) + ε KL(α^ε‖π_w̄) − ε(Λ(w̄) − h): zero to rounding for every
        correct pair of projection and relaxation, strict complementarity or not.
        """
        tilts = self.geometry.tilts if at_tangent else jnp.zeros_like(self.geometry.tilts)
        tangent = self.tangent if at_tangent else jnp.zeros_like(self.tangent)
        local = self._epsilon(relaxation.epsilon)
        tilt, tangent = relaxation.tilt * self.unit, tangent * self.unit
        defect = _identity_defect(self, relaxation.log_weights, tilt, local, tilts, tangent)
        return defect * self.unit * self.unit

    def _epsilon(self, epsilon: ArrayLike) -> Array:
        """Checked, and in units."""
        return as_epsilon(epsilon, self.gap.dtype) / self.unit / self.unit

    def _statements(self, epsilon: ArrayLike) -> Statements:
        return _evaluate(self.geometry, self._epsilon(epsilon))


def _check_theta(theta: Any) -> None:
    if not is_traced(theta) and not (is_positive(theta) and theta < 1):
        raise ValueError(f"`theta` must lie strictly between 0 and 1, got {theta!r}.")


@jax.jit
def _evaluate(geometry: Geometry, epsilon: Array) -> Statements:
    flat = jax.lax.map(lambda e: bounds.statements(geometry, e), jnp.atleast_1d(epsilon))
    return jax.tree.map(lambda leaf: leaf.reshape(epsilon.shape), flat)


@jax.jit
def _weight_bounds(geometry: Geometry, epsilon: Array) -> WeightBounds:
    flat = jax.lax.map(lambda e: bounds.weight_bounds(geometry, e), jnp.atleast_1d(epsilon))
    return jax.tree.map(lambda leaf: leaf.reshape(*epsilon.shape, -1), flat)


@jax.jit
def _asymptote_error(geometry: Geometry, epsilon: Array) -> Array:
    flat = jax.lax.map(lambda e: bounds.asymptote_error(geometry, e), jnp.atleast_1d(epsilon))
    return flat.reshape(*epsilon.shape, -1)


@jax.jit
def _ball_radius(geometry: Geometry, epsilon: Array) -> Array:
    flat = jax.lax.map(lambda e: bounds.ball_radius(geometry, e), jnp.atleast_1d(epsilon))
    return flat.reshape(epsilon.shape)


@jax.jit
def _log_asymptote_constant(stability: FaceStability) -> Array:
    g = stability.geometry
    # Two multipliers tie where they differ by less than the rounding of the two keys.
    off = jnp.where(g.face, jnp.inf, g.multipliers)
    residual = safe_norm(stability.projection.query - stability.projection.point) / stability.unit
    reach = g.lengths + g.lengths[jnp.argmin(off)] + 0.5 * g.diameter
    tie = _TIE_NOISE * unit_roundoff(g.gap.dtype) * (residual + 0.5 * g.diameter) * reach
    nearest = ~g.face & (g.multipliers <= g.gap + tie)
    constant = jax.nn.logsumexp(jnp.where(nearest, g.tilts - g.entropy, -jnp.inf))
    return jnp.where(stability.strict & ~jnp.isnan(g.gap), constant, jnp.nan)


@jax.jit
def _identity_defect(
    stability: FaceStability,
    log_weights: Array,
    tilt: Array,
    epsilon: Array,
    tilts: Array,
    tangent: Array,
) -> Array:
    g = stability.geometry
    members = stability.minimal_face

    def one(log_alpha: Array, w: Array, eps: Array) -> Array:
        displacement = -eps * w
        logits = tilts - g.multipliers / eps
        log_total = jax.nn.logsumexp(logits)
        log_optimal = jnp.where(members, stability.log_optimal_weights, 0.0)
        optimal = jnp.where(members, jnp.exp(log_optimal), 0.0)
        kl_optimal = jnp.sum(optimal * (log_optimal - log_alpha))
        alpha = jnp.exp(log_alpha)
        kl_tilted = jnp.sum(jnp.where(alpha > 0, alpha * (log_alpha - logits + log_total), 0.0))
        left = displacement @ displacement + eps * (tangent @ displacement)
        return left + eps * (kl_optimal + kl_tilted) - eps * (log_total - stability.entropy)

    with jax.default_matmul_precision("highest"):
        if epsilon.ndim == 0:
            return one(log_weights, tilt, epsilon)
        return jax.lax.map(lambda row: one(*row), (log_weights, tilt, epsilon))


@jax.jit
def _see(projection: Projection) -> Centred:
    """The keys seen from the projection."""
    with jax.default_matmul_precision("highest"):
        return centred(projection.keys, projection.weights, projection.face, projection.multipliers)


@jax.jit
def _analyse(projection: Projection, view: Centred, minimal: MinimalFace) -> dict[str, Any]:
    with jax.default_matmul_precision("highest"):
        return _face_stability(projection, view, minimal)


def _face_stability(projection: Projection, view: Centred, minimal: MinimalFace) -> dict[str, Any]:
    """Every field but the projection itself, whose keys need not be copied."""
    keys, face = projection.keys, projection.face
    unit = view.unit
    basis = face_basis(view, minimal.members)
    coordinates = face_coordinates(view, minimal.members, basis)
    d = keys.shape[1]
    free = basis.along
    zero = jnp.zeros((), keys.dtype)
    found = solve_tilt(
        coordinates,
        jnp.where(minimal.members, zero, -jnp.inf),
        zero,
        jnp.zeros((d,), keys.dtype),
        free=free,
    )
    tilt = jnp.where(free, found.tilt, 0.0)
    optimal = jnp.where(minimal.members, jnp.exp(found.log_weights), 0.0)
    # 0.0 − x and not −x: the entropy of a vertex is 0.0, not −0.0.
    entropy = 0.0 - jnp.sum(jnp.where(optimal > 0, optimal * found.log_weights, 0.0))
    moment = weighted_gram(coordinates, optimal)
    covariance = moment + jnp.diag(jnp.where(free, 0.0, 1.0))
    curvature = jnp.where(free, jnp.linalg.solve(covariance, tilt), 0.0)
    # Fixed coordinates carry an eigenvalue that must not pass for the least one, and eigenvalues
    # have the rounding of the largest.
    trace = jnp.sum(jnp.where(free, jnp.diag(moment), 0.0))
    lifted = covariance + jnp.diag(jnp.where(free, 0.0, trace))
    least = jnp.linalg.eigvalsh(lifted)[0] - 4 * d * unit_roundoff(keys.dtype) * trace
    least = jnp.where(basis.rank > 0, jnp.maximum(least, 0.0), jnp.inf)
    lengths = safe_norm(coordinates)
    strict = minimal.strict
    undefined = jnp.where(strict, zero, jnp.nan)
    inside = projection.result == Result.inside_hull
    gap = view.temperature(projection.gap)
    geometry = Geometry(
        multipliers=jnp.where(face, 0.0, view.temperature(projection.multipliers)),
        face=face,
        lengths=lengths,
        tilts=coordinates @ tilt + undefined,
        curvature_tilts=coordinates @ curvature + undefined,
        tangent_norm=safe_norm(tilt) + undefined,
        entropy=entropy,
        gap=gap,
        least_curvature=least,
        diameter=2 * jnp.max(jnp.where(face, lengths, 0.0)),
        strict=strict,
    )
    result = Result.where(found.converged, projection.result, Result.stagnated)
    result = Result.where(strict, result, Result.degenerate_face)
    result = unless_unsolved(projection, Result.where(inside, Result.inside_hull, result))
    return {
        "tangent": basis.columns @ tilt / unit + undefined,
        "entropy": entropy,
        "gap": projection.gap,
        "minimal_face": minimal.members,
        "strict": strict,
        "log_optimal_weights": jnp.where(minimal.members, found.log_weights, -jnp.inf),
        "degeneracy_distance": minimal.distance * unit,
        "margin": minimal.margin / unit,
        "unit": unit,
        "geometry": geometry,
        "result": result,
    }


def face_stability(projection: Projection) -> FaceStability:
    """Tangent, entropy and every bound of the face-stability theorem at a projection.

    Decides strict complementarity. A degenerate face is a fact, not a failure: `tangent` is NaN,
    `entropy` is that of the maximum-entropy weights on the minimal face, T1 remains, and the
    numbers of T5 (`degeneracy_distance`, `margin`) are filled in.

    Args:
        projection: from `project`; one problem, not a batch.

    Returns:
        A `FaceStability`.

    Raises:
        ValueError: a batched projection.
    """
    if not isinstance(projection, Projection):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise no_projection(projection, "face_stability")
    if projection.keys.ndim != 2:
        raise ValueError(
            "`face_stability` takes one projection, got a batch with keys of shape "
            f"{projection.keys.shape}. Use `jax.lax.map(face_stability, projections)`."
        )
    return face_stability_by_steps(projection, as_it_is)


def face_stability_by_steps(projection: Projection, compiled: Compiled) -> FaceStability:
    """`face_stability` of one projection, each of its steps as `compiled` makes it."""
    view = compiled(_see)(projection)
    minimal = minimal_face(view, projection.face, projection.weights > 0, compiled)
    return FaceStability(projection=projection, **compiled(_analyse)(projection, view, minimal))

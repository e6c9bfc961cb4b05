r"""Sampled reads (T8): what the error of a read of randomly drawn tokens is, and what bounds it.

Tokens have masses :math:`w_i = e^{s_i}`, sum Z, values :math:`v_i` and dense output o. Token i is
read with probability :math:`\pi_i = \min(1, \hat w_i / \tau)`, independently of the others, from a
proxy :math:`\hat w_i > 0` that was known before the draw, and then counts :math:`1/\pi_i` times:

.. math:: \hat Z = \sum_i \frac{I_i}{\pi_i} w_i, \qquad
          \hat o = \frac{1}{\hat Z} \sum_i \frac{I_i}{\pi_i} w_i v_i, \qquad
          \hat o - o = \frac{S}{\hat Z}, \quad
          S = \sum_i \Bigl(\frac{I_i}{\pi_i} - 1\Bigr) w_i (v_i - o), \quad E S = 0.

Tokens with :math:`\pi_i = 1` are sure and add nothing to S; the others are the tail. Masses and
probabilities are natural logarithms. Divide masses by Z or by the :math:`\hat Z` that was seen, and
every result is in units of the values: then a variance is that of the output.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vashista_theory._numerics import masked_logsumexp, unit_roundoff
from vashista_theory.attention.bounds.rounding import raising

SHORTEST = 1.0 / 16.0
"""Part of the longest value of the tail as which any shorter one counts: o is not known before."""
LEAST, MOST = 0.5, 1.5
"""Tokens that a kv head may draw, in terms of what each would draw if all drew the same."""
_NEWTON_STEPS = 12
_SERIES = 17  # terms of atanh: the next one is below 9^-18 of the first


def log_inclusion_probability(
    log_proxy: Float[Array, "*n U"], log_threshold: Float[Array, "*n"]
) -> Float[Array, "*n U"]:
    """Log of π = min(1, ŵ/τ)."""
    return jnp.minimum(log_proxy - log_threshold[..., None], 0.0)


def exact_variance(
    log_mass: Float[Array, "*n U"],
    log_inclusion: Float[Array, "*#n U"],
    distance: Float[Array, "*n U"],
) -> Float[Array, "*n"]:
    r"""E‖S‖² = Σ w² (1/π − 1) ‖v − o‖², for distances ‖v − o‖."""
    odds = -jnp.expm1(log_inclusion)
    return jnp.sum(jnp.exp(2 * log_mass - log_inclusion) * odds * distance**2, axis=-1)


def estimated_variance(
    log_mass: Float[Array, "*n C"],
    log_inclusion: Float[Array, "*#n C"],
    distance: Float[Array, "*n C"],
) -> Float[Array, "*n"]:
    r"""V̂ = Σ w² (1 − π)/π² ‖v − ô‖² over the tokens that were drawn, by their distances from ô.

    With distances from o its mean is `exact_variance`. Not a bound.
    """
    odds = -jnp.expm1(log_inclusion)
    return jnp.sum(jnp.exp(2 * (log_mass - log_inclusion)) * odds * distance**2, axis=-1)


def two_stage_variance(
    log_mass: Float[Array, "*n C"],
    log_unit: Float[Array, "*#n K"],
    log_inclusion: Float[Array, "*#n C"],
    away: Float[Array, "*n C D"],
    members: Bool[Array, "*#n C K"],
) -> Float[Array, "*n"]:
    r"""V̂ of a draw in two stages: units u with probability π₁, then tokens of those with π₂.

    With :math:`y_i = w_i (v_i - \hat o) / (\pi_1 \pi_2)`, of tokens that were drawn,

    .. math:: \hat V = \sum_i \pi_1 (1 - \pi_2) \|y_i\|^2
              + \sum_u (1 - \pi_1) \Bigl\|\sum_{i \in u} y_i\Bigr\|^2,

    whose mean is, but for ô in place of o and of units drawn independently, the variance: with
    x = w(v − o), E Σ_u π₁⁻² Σ_i (1/π₂ − 1) ‖x_i‖² over the units drawn, as π₂ may depend on
    which are, + Σ_u (1/π₁ − 1) ‖Σ_i x_i‖² (Särndal,
    Swensson and Wretman, Model Assisted Survey Sampling, chapter 4). With π₁ = 1 it is
    `estimated_variance`. Not a bound.

    Args:
        log_mass: Of the drawn tokens.
        log_unit: Log π₁ of each unit.
        log_inclusion: Log π₂ of each token.
        away: v − ô.
        members: Which unit each token is of; one that is of none counts nothing.
    """
    dtype, exact = away.dtype, jax.lax.Precision.HIGHEST
    unit = jnp.sum(jnp.where(members, log_unit[..., None, :], 0.0), axis=-1)
    counted = jnp.any(members, axis=-1)
    weight = jnp.where(counted, jnp.exp(log_mass - unit - log_inclusion), 0.0)
    terms = jnp.where(counted[..., None], weight[..., None] * away, 0.0)
    squares = jnp.sum(terms**2, axis=-1)
    within = jnp.sum(jnp.exp(unit) * -jnp.expm1(log_inclusion) * squares, axis=-1)
    sums = jnp.einsum("...cd,...ck->...kd", terms, members.astype(dtype), precision=exact)
    between = jnp.sum(-jnp.expm1(log_unit) * jnp.sum(sums**2, axis=-1), axis=-1)
    return within + between


class Spread(NamedTuple):
    r"""What V̂ is made of while ô is not yet known, of some of the drawn tokens.

    With c = (w/π)² (1 − π), V̂ = Σ c ‖v − ô‖² is the scatter of the values about their own mean m,
    and what the distance of ô from it adds: neither is a difference of large numbers.

    .. math:: \hat V = M + A \|\hat o - m\|^2, \qquad A = \sum c, \quad m = \frac1A \sum c v,
              \quad M = \sum c \|v - m\|^2.

    Attributes:
        mass: A.
        mean: m; anything where A is 0.
        scatter: M.
    """

    mass: Float[Array, "*n"]
    mean: Float[Array, "*n D"]
    scatter: Float[Array, "*n"]

    def about(self, output: Float[Array, "*n D"]) -> Float[Array, "*n"]:
        """V̂ for the output ô, or any other point."""
        away = jnp.sum((output - self.mean) ** 2, axis=-1)
        return self.scatter + jnp.where(self.mass > 0, self.mass * away, 0.0)

    def joined(self) -> "Spread":
        """That of all parts along the first axis, whose masses are in the same unit."""
        mass = jnp.sum(self.mass, axis=0)
        shares = self.mass / jnp.where(mass > 0, mass, 1.0)[None]
        mean = jnp.sum(shares[..., None] * self.mean, axis=0)
        of_parts = self.about(jnp.broadcast_to(mean[None], self.mean.shape))
        return Spread(mass, mean, jnp.sum(of_parts, axis=0))


def sketch_dispersion(log_mass: Float[Array, "*n U"], log_proxy: Float[Array, "*n U"]) -> Array:
    r"""How badly proxies follow masses: ρ = (Σ w²/ŵ)(Σ ŵ)/(Σ w)² over the tail, at least 1.

    No more than :math:`\cosh^2 \zeta` where log(ŵ/w) varies by 2ζ at most.
    """
    kept = log_mass > -jnp.inf
    squares = masked_logsumexp(2 * log_mass - log_proxy, kept)
    masses, proxies = (masked_logsumexp(logs, kept) for logs in (log_mass, log_proxy))
    return jnp.exp(squares + proxies - 2 * masses)


def size_bound(
    radius: Float[Array, "*n"],
    tail_share: Float[Array, "*n"],
    dispersion: Float[Array, "*n"],
    drawn: Float[Array, "*n"],
) -> Float[Array, "*n"]:
    r"""√(E‖S‖²)/Z ≤ R t √(ρ/m): no length of the context, no gap.

    Args:
        radius: R, the greatest distance of a value of the tail from the dense output.
        tail_share: t, the share of the mass that the tail holds.
        dispersion: ρ.
        drawn: m, the expected number of tokens drawn from the tail.
    """
    return radius * tail_share * jnp.sqrt(dispersion / drawn)


def bennett_radius(
    variance: Float[Array, "*n"], largest: Float[Array, "*n"], failure: float
) -> Float[Array, "*n"]:
    r"""The least r at which Bennett's bound on P(‖S‖ ≥ r) is ≤ failure, from above.

    Pinelis' form of it, whatever the dimension: with E‖S‖² ≤ V and no term longer than B,

    .. math:: P(\|S\| \ge r) \le 2 \exp\Bigl(-\frac{V}{B^2} h\Bigl(\frac{B r}{V}\Bigr)\Bigr),
              \qquad h(u) = (1 + u) \log(1 + u) - u.

    As B → 0 it becomes √(2 V log(2/failure)); it is 0 where V is.

    Args:
        variance: V, an upper bound.
        largest: B, an upper bound; where it is 0 terms are taken to be arbitrarily small.
        failure: Probability that ‖S‖ may exceed r, in (0, 1).
    """
    info = jnp.finfo(variance.dtype)
    level = jnp.log(jnp.asarray(2.0, info.dtype)) - jnp.log(jnp.asarray(failure, info.dtype))
    deviation = jnp.sqrt(variance)
    ratio = jnp.where(deviation > 0, largest / jnp.where(deviation > 0, deviation, 1.0), 0.0)
    # Where V is so small beside B² that squares leave the range, a larger V is a bound as well.
    most = float(info.max) ** 0.375
    deviation = jnp.where(ratio > most, largest / most, deviation)
    ratio = jnp.minimum(ratio, most)
    target = level * ratio**2 * (1.0 + 32 * unit_roundoff(info.dtype))
    reached = _inverse_of_bennett(target)
    stretch = jnp.where(target > 0, reached / jnp.sqrt(2 * jnp.where(target > 0, target, 1.0)), 1.0)
    radius = deviation * jnp.sqrt(2 * level) * stretch * (1.0 + 32 * unit_roundoff(info.dtype))
    radius = jnp.where(variance > 0, radius, variance)
    return jnp.where(jnp.isfinite(variance) & jnp.isfinite(largest), radius, jnp.inf)


def _inverse_of_bennett(target: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """The u ≥ 0 with h(u) = target, from above.

    h is convex and increasing, and Bernstein's u lies above: from there Newton's steps go down and
    never pass the root, so that every one of them is a bound.
    """
    third = target / 3

    def descend(_: Array, u: Array) -> Array:
        slope = jnp.log1p(u)
        step = (_bennett(u) - target) / jnp.where(slope > 0, slope, 1.0)
        return u - jnp.where(slope > 0, jnp.maximum(step, 0.0), 0.0)

    start = third + jnp.sqrt(third) * jnp.sqrt(third + 6.0)
    return jax.lax.fori_loop(jnp.int32(0), _NEWTON_STEPS, descend, start)


def _bennett(u: Float[Array, "*n"]) -> Float[Array, "*n"]:
    r"""h(u) = (1 + u) log(1 + u) − u to rounding, small u included.

    With x = u/(2 + u), log(1 + u) = 2 atanh x, and the series of atanh leaves a sum of positive
    terms, (2x² + 2(1 + x)(x³/3 + x⁵/5 + …))/(1 − x), where the formula itself would cancel.
    """
    x = jnp.minimum(u, 1.0) / (2.0 + jnp.minimum(u, 1.0))
    series = jnp.zeros_like(x)
    for k in range(_SERIES, 0, -1):
        series = (series + 1.0 / (2 * k + 1)) * x**2
    small = 2 * x * (x + (1 + x) * series) / (1 - x)
    large = (1 + u) * jnp.log1p(u) - u
    return jnp.where(u <= 1.0, small, large)


class TailMoments(NamedTuple):
    r"""What V and B are made of while the length y of the dense output is not yet known.

    No value is longer than its ℓ, so ‖v − o‖ ≤ ℓ + y, and with upper ends
    :math:`\bar w` of the masses

    .. math:: V(y) = \sum \bar w^2 (1/\pi - 1) (\ell + y)^2, \qquad
              B(y) = \max \bar w \max(1, 1/\pi - 1) (\ell + y).

    Attributes:
        sums: Σ w̄² (1/π − 1) times 1, ℓ and ℓ².
        greatest: Greatest w̄ max(1, 1/π − 1), and greatest such number times ℓ.
    """

    sums: Float[Array, "*n 3"]
    greatest: Float[Array, "*n 2"]


def tail_moments(
    log_mass_above: Float[Array, "*n P S"],
    log_inclusion: Float[Array, "*#n P S"],
    value_bounds: Float[Array, "*#n P #S"],
) -> TailMoments:
    """Moments of the tail from log-masses from above; tokens with π = 1 do not enter.

    Pages that are not meant have log-masses of −inf. Values are bounded by token, or by page.
    """
    # What is no number counts as the worst there can be.
    log_mass_above = jnp.where(jnp.isnan(log_mass_above), jnp.inf, log_mass_above)
    log_inclusion = jnp.where(jnp.isnan(log_inclusion), -jnp.inf, log_inclusion)
    drawn = (log_inclusion < 0) & (log_mass_above > -jnp.inf)
    u = unit_roundoff(log_mass_above.dtype)
    mass = jnp.where(drawn, log_mass_above, 0.0)
    inclusion = jnp.where(drawn, log_inclusion, 0.0)
    room = 8 * u * (2 * jnp.abs(mass) + jnp.abs(inclusion) + 1.0)
    undrawn = -jnp.expm1(inclusion) * (1.0 + 8 * u)
    square = jnp.exp(2 * mass - inclusion + room) * undrawn
    above = jnp.exp(mass + room)
    term = jnp.maximum(above, jnp.exp(mass - inclusion + room) * undrawn)
    tiny = float(jnp.finfo(mass.dtype).tiny)  # what underflows
    squares, terms = (jnp.where(drawn, part + tiny, 0.0) for part in (square, term))
    value_bounds = jnp.where(drawn, value_bounds, 0.0)  # anything, of what is not drawn
    axes = (-2, -1)
    factor = raising(log_mass_above.shape[-1] * log_mass_above.shape[-2] + 8, mass.dtype)
    sums = [jnp.sum(squares * value_bounds**k, axis=axes) * factor for k in (0, 1, 2)]
    greatest = [jnp.max(terms * value_bounds**k, axis=axes, initial=0.0) for k in (0, 1)]
    return TailMoments(jnp.stack(sums, axis=-1), jnp.stack(greatest, axis=-1) * (1.0 + 8 * u))


def confident_error(
    moments: TailMoments,
    failure: float,
    output_norm: Float[Array, "*n"],
    longest: Float[Array, "*n"],
) -> Float[Array, "*n"]:
    r"""Bound on ‖ô − o‖ that fails with probability at most `failure`.

    Where ‖S‖ < r(‖o‖) the dense output is no longer than ‖ô‖ + r(‖o‖), and r grows with ‖o‖: so
    from any y ≥ ‖o‖ follows the next, min(y, ‖ô‖ + r(y)), by the same draw that r(‖o‖) speaks of.

    Args:
        moments: Of masses divided by Ẑ.
        failure: In (0, 1).
        output_norm: ‖ô‖, from above.
        longest: A bound on ‖o‖ that does not depend on the draw.
    """

    def radius(length: Array) -> Array:
        # Where nothing is drawn any length, an infinite one too, counts for nothing.
        one, first, second = (moments.sums[..., k] for k in range(3))
        length_of_drawn = jnp.where(one > 0, length, 0.0)
        variance = second + 2 * length_of_drawn * first + length_of_drawn**2 * one
        largest = moments.greatest[..., 1] + length_of_drawn * moments.greatest[..., 0]
        rounding = 1.0 + 8 * unit_roundoff(length.dtype)
        return bennett_radius(variance * rounding, largest * rounding, failure)

    def shorten(_: Array, length: Array) -> Array:
        return jnp.minimum(length, output_norm + radius(length))

    length = jax.lax.fori_loop(jnp.int32(0), 3, shorten, longest)
    # Two outputs are never further apart than the sum of their lengths.
    bound = jnp.minimum(radius(length), output_norm + longest)
    return jnp.where(jnp.isnan(bound), jnp.inf, bound)  # NaN would say that none was asked for

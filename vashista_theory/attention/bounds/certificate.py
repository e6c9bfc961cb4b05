r"""The page certificate (T7): how much softmax mass a sparse read can have dropped.

If the unread pages' masses are at most :math:`b_P` and the read keys hold :math:`Z`, then

.. math:: m \le \frac{\sum_P b_P}{\sum_P b_P + Z}.

Everything is in logarithms of masses and in logits, that is scores times the scale. Each bound
carries the rounding of its own evaluation, so it bounds exact arithmetic, not just its like.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vashista_theory._numerics import finite_or_zero, log_share, masked_logsumexp, unit_roundoff

_NEWTON_STEPS = 5


def dropped_mass(unread: Float[Array, "*n"], read: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Share e^unread / (e^unread + e^read) of the mass, 0 where nothing is unread."""
    return jnp.exp(log_share(unread, read))


def dropped_mass_bound(
    unread: Float[Array, "*n"], read: Float[Array, "*n"], slack: Float[Array, "*n"]
) -> Float[Array, "*n"]:
    """T7, where `read` may exceed the exact log-mass by up to `slack`.

    0 only if nothing is unread, and never NaN: what overflowed may be everything.
    """
    log = log_share(unread, read - slack)
    # The exponential of a rounded logarithm is off by as much as that, and may underflow.
    room = 1.0 + 8 * unit_roundoff(read.dtype) * (2.0 + jnp.abs(log))
    share = jnp.minimum(jnp.exp(log) * room + float(jnp.finfo(read.dtype).tiny), 1.0)
    return jnp.where(unread == -jnp.inf, 0.0, jnp.where(jnp.isnan(share), 1.0, share))


def dropped_mass_lower(
    log_lower: Float[Array, "*n P"],
    unread: Bool[Array, "*#n P"],
    read: Float[Array, "*n"],
    slack: Float[Array, "*n"],
) -> Float[Array, "*n"]:
    """The same mass from below, by lower bounds of the unread pages; `slack` is that of `read`."""
    u = unit_roundoff(read.dtype)
    total = masked_logsumexp(log_lower, unread) - slack - 4 * (log_lower.shape[-1] + 8) * u
    log = log_share(total, read + slack)
    share = jnp.exp(log) * (1.0 - 8 * u * (2.0 + jnp.abs(log)))
    return jnp.where(share > 0, share, 0.0)


def score_gap(
    read: Float[Array, "*n"], unread: Float[Array, "*n"], scale: Float[Array, ""]
) -> Float[Array, "*n"]:
    """Greatest score read less the greatest unread, from below, by logits from below and above."""
    info = jnp.finfo(read.dtype)
    room = 4 * float(info.eps) * (jnp.abs(read) + jnp.abs(unread))
    gap = (read - unread - room) / scale
    gap = jnp.minimum(gap - 4 * float(info.eps) * jnp.abs(gap), float(info.max))
    return jnp.where(jnp.isnan(gap), -jnp.inf, gap)


def unread_log_mass(
    log_mass: Float[Array, "*n P"], unread: Bool[Array, "*#n P"]
) -> Float[Array, "*n"]:
    """Total log-mass of the unread pages, rounded up by the error of the sum."""
    total = masked_logsumexp(log_mass, unread)
    return total + 4 * (log_mass.shape[-1] + 8) * unit_roundoff(total.dtype)


def output_error_bound(
    log_upper: Float[Array, "*n P"],
    log_read: Float[Array, "*n"],
    value_bounds: Float[Array, "*#n P"],
    output_norm: Float[Array, "*n"],
) -> Float[Array, "*n"]:
    r"""Bound on ‖output − dense output‖ from the mass and the longest value of each unread page.

    The error is :math:`\|\sum_P z_P (\bar v_P - y)\| / (Z + \sum_P z_P)` with unknown page masses
    :math:`0 \le z_P \le b_P` and page means no longer than :math:`\nu_P`, so at most the maximum
    f* of :math:`\sum z_P d_P / (Z + \sum z_P)` with :math:`d_P = \nu_P + \|y\|`. Newton's method
    climbs to f* from below; every f ≤ f* gives the upper bound :math:`\sum b_P (d_P - f)_+ / Z`.
    Pages that were read have `log_upper` −inf; one that nothing bounds, +inf, may be as far away
    as its values allow.
    """
    info, count = jnp.finfo(log_upper.dtype), log_upper.shape[-1]
    u, tiny = float(info.eps), float(info.tiny)
    shown = ~(log_upper == -jnp.inf)
    bounded = log_upper < jnp.inf
    distance = (value_bounds + output_norm[..., None]) * (1.0 + 64 * u)
    farthest = jnp.max(jnp.where(shown, distance, 0.0), axis=-1, initial=0.0)
    # In units of the farthest page, so that nothing overflows. Each sum, and each factor that
    # underflows, errs towards a greater bound: their errors are those of `count` terms.
    unit = jnp.where(jnp.isfinite(farthest) & (farthest > 0), farthest, 1.0)[..., None]
    relative = jnp.where(shown & jnp.isfinite(distance), distance / unit, 0.0)
    finite = jnp.where(shown & bounded, log_upper, -jnp.inf)
    anchor = jnp.maximum(jnp.max(finite, axis=-1, initial=-jnp.inf), log_read)
    anchor = finite_or_zero(anchor)
    mass = jnp.where(finite > -jnp.inf, jnp.exp(finite - anchor[..., None]) + tiny, 0.0)
    read = jnp.exp(log_read - anchor)
    least = jnp.zeros_like(read)
    for _ in range(_NEWTON_STEPS):
        counted = jnp.where(relative > least[..., None], mass, 0.0)
        total = read + jnp.sum(counted, axis=-1)
        ratio = jnp.sum(counted * relative, axis=-1) / jnp.where(total > 0, total, 1.0)
        least = jnp.maximum(least, ratio * (1.0 - (count + 64) * u))
    excess = jnp.maximum(relative - least[..., None], 0.0)
    by_newton = jnp.sum(mass * excess, axis=-1) + 2 * count * tiny
    by_newton = jnp.where(read > 0, by_newton / jnp.where(read > 0, read, 1.0), jnp.inf)
    share = dropped_mass_bound(unread_log_mass(log_upper, shown), log_read, jnp.zeros_like(read))
    bound = jnp.minimum(by_newton, share) * (1.0 + 4 * (count + 64) * u)
    boundless = jnp.any(shown & ~bounded, axis=-1) | jnp.isnan(bound) | ~jnp.isfinite(farthest)
    bound = jnp.where(boundless, farthest, farthest * bound + tiny)
    bound = jnp.where(jnp.isnan(bound), jnp.inf, bound)  # NaN would say that none was asked for
    return jnp.where(jnp.any(shown, axis=-1), bound, 0.0)

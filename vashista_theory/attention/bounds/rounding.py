"""Rounding in a chosen direction: what makes a stored bound a bound."""

import functools
import operator

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from vashista_theory._numerics import unit_roundoff
from vashista_theory.attention.bounds.row_sums import row_sum


def work_dtype(*dtypes: DTypeLike) -> jnp.dtype:
    """The precision scores are computed in: float64 if any input is, float32 otherwise."""
    return jnp.dtype("float64" if any(jnp.dtype(d) == jnp.float64 for d in dtypes) else "float32")


def round_to(value: Float[Array, "*n"], dtype: DTypeLike) -> Float[Array, "*n"]:
    """The nearest normal number of `dtype` or 0, in the type of `value`.

    Casting there and back does not do it: XLA may drop the pair of casts as excess precision.
    Numbers below the normal ones are taken for 0 by processors that read them.
    """
    target = jnp.finfo(dtype)
    if target.bits >= jnp.finfo(value.dtype).bits:
        return value
    nearest = jax.lax.reduce_precision(value, target.nexp, target.nmant)
    return jnp.where(jnp.abs(nearest) < float(target.tiny), 0.0, nearest)


def round_up(value: Float[Array, "*n"], dtype: DTypeLike) -> Float[Array, "*n"]:
    """The least number of `dtype` that is not below `value`, up to one step."""
    nearest = round_to(value, dtype)
    stored = nearest.astype(dtype)
    raised = jnp.nextafter(stored, jnp.full_like(stored, jnp.inf))
    raised = jnp.where(stored == 0, jnp.finfo(dtype).tiny, raised)
    return jnp.where(nearest < value, raised, stored)


def round_down(value: Float[Array, "*n"], dtype: DTypeLike) -> Float[Array, "*n"]:
    """The greatest number of `dtype` that is not above `value`, up to one step."""
    return -round_up(-value, dtype)


def counted_logits(logits: Float[Array, "*n"], counted: Bool[Array, "*#n"]) -> Float[Array, "*n"]:
    """−inf where a key does not count; NaN where one does whose score overflowed.

    An overflow to −inf would pass for a weight of 0, though the exact score may be the greatest.
    """
    known = jnp.where(jnp.isfinite(logits), logits, jnp.nan)
    return jnp.where(counted, known, -jnp.inf)


def norm_from_above(vector: Float[Array, "*n d"]) -> Float[Array, "*n"]:
    """Euclidean norm along the last axis, never below the exact one.

    The relative term covers the rounding of d products and their sum, the absolute one squares
    that underflow and coordinates that processors take for 0. +inf where squares overflow.
    """
    d, dtype = vector.shape[-1], vector.dtype
    return jnp.sqrt(row_sum(vector * vector)) * raising(d, dtype) + lost_length(d, dtype)


def length_of_greatest(greatest: Float[Array, "*n"], d: int) -> Float[Array, "*n"]:
    """Length of a vector of d coordinates no greater than that, as `norm_from_above` has it."""
    u = unit_roundoff(greatest.dtype)
    return greatest * (d**0.5 * (1.0 + 4 * u)) + lost_length(d, greatest.dtype)


def raising(terms: int, dtype: DTypeLike) -> float:
    """A factor that a computed sum of so many products, none negative, needs to be a bound."""
    return 1.0 + (terms + 8) * unit_roundoff(dtype)


def lost_length(d: int, dtype: DTypeLike) -> float:
    """The greatest length of a vector whose squares all underflow."""
    return (d * float(jnp.finfo(dtype).tiny)) ** 0.5


def log_sum_slack(terms: int, *log_masses: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """How far a computed log-mass of so many terms may be from the exact one, given its size.

    With several log-masses, what a combination of them may be off by.
    """
    u = unit_roundoff(log_masses[0].dtype)
    sizes = functools.reduce(operator.add, (jnp.abs(one) for one in log_masses))
    return 4 * (terms + 16) * u + 8 * u * sizes


def raised(log_mass: Float[Array, "*n"], terms: int = 1) -> Float[Array, "*n"]:
    """A computed log-mass of so many terms, from above also after its rounding."""
    return log_mass + log_sum_slack(terms, log_mass)


def score_slack(
    reach: Float[Array, "..."], query_norm: Float[Array, "..."], d: int
) -> Float[Array, "..."]:
    """How far a computed ⟨q, k⟩ may be from the exact one, for keys no longer than `reach`.

    A sum of d products in any order errs by at most d u Σ|q_i k_i| ≤ d u ‖q‖ ‖k‖; the factor 3
    covers keys rebuilt as lower corner plus code × step, whose parts can be that much larger.
    Numbers below the least normal one, t, count as 0: as products that is 4 d t at most, as
    coordinates t (‖q‖ + ‖k‖) √d, which is less than what `norm_from_above` adds to both lengths
    makes of the relative term. +inf where a part of the sum might overflow: then the computed
    one says nothing.
    """
    return product_slack(query_norm * reach, d)


def product_slack(parts: Float[Array, "..."], d: int) -> Float[Array, "..."]:
    """The same, from a bound of Σ|q_i k_i|."""
    info = jnp.finfo(parts.dtype)
    return 0.75 * (d + 16) * float(info.eps) * (4.0 * parts) + 4.0 * d * float(info.tiny)

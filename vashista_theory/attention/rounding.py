"""Rounding in a chosen direction: what makes a stored bound a bound."""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from vashista_theory._numerics import unit_roundoff
from vashista_theory.attention.row_sums import row_sum


def work_dtype(*dtypes: DTypeLike) -> jnp.dtype:
    """The precision scores are computed in: float64 if any input is, float32 otherwise."""
    return jnp.dtype("float64" if any(jnp.dtype(d) == jnp.float64 for d in dtypes) else "float32")


def round_to(value: Float[Array, "*n"], dtype: DTypeLike) -> Float[Array, "*n"]:
    """The nearest number of `dtype`, in the type of `value`.

    Casting there and back does not do it: XLA may drop the pair of casts as excess precision.
    """
    target = jnp.finfo(dtype)
    if target.bits >= jnp.finfo(value.dtype).bits:
        return value
    return jax.lax.reduce_precision(value, target.nexp, target.nmant)


def round_up(value: Float[Array, "*n"], dtype: DTypeLike) -> Float[Array, "*n"]:
    """The least number of `dtype` that is not below `value`, up to one step."""
    nearest = round_to(value, dtype)
    stored = nearest.astype(dtype)
    raised = jnp.nextafter(stored, jnp.full_like(stored, jnp.inf))
    return jnp.where(nearest < value, raised, stored)


def round_down(value: Float[Array, "*n"], dtype: DTypeLike) -> Float[Array, "*n"]:
    """The greatest number of `dtype` that is not above `value`, up to one step."""
    return -round_up(-value, dtype)


def norm_from_above(vector: Float[Array, "*n d"]) -> Float[Array, "*n"]:
    """Euclidean norm along the last axis, never below the exact one.

    The relative term covers the rounding of d products and their sum, the absolute one squares
    that underflow.
    """
    d, u = vector.shape[-1], unit_roundoff(vector.dtype)
    lost = (d * float(jnp.finfo(vector.dtype).tiny)) ** 0.5
    return jnp.sqrt(row_sum(vector * vector)) * (1.0 + (d + 8) * u) + lost


def score_slack(
    reach: Float[Array, "..."], query_norm: Float[Array, "..."], d: int
) -> Float[Array, "..."]:
    """How far a computed ⟨q, k⟩ may be from the exact one, for keys no longer than `reach`.

    A sum of d products in any order errs by at most d u Σ|q_i k_i| ≤ d u ‖q‖ ‖k‖; the factor 3
    covers keys rebuilt as lower corner plus code × step, whose parts can be that much larger.
    """
    return 3.0 * (d + 16) * unit_roundoff(reach.dtype) * query_norm * reach

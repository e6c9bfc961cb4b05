r"""Optimality of a projection, measured: multipliers, residuals, exposed face, gap.

.. math:: \min_{\alpha \ge 0,\ \sum\alpha = 1} \tfrac12\|K^\top\alpha - q\|^2,
          \qquad \mu_i = \langle q - p,\ p - k_i\rangle.

Nobody should have to trust a solver's flag: everything here is computed from the answer alone.
"""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vashista_theory._numerics import map_rows, unit_roundoff

FACE_NOISE = 64.0
"""Units of roundoff, relative to lengths, below which a multiplier counts as zero.

Multipliers of face keys come out at 1 to 10 units for d up to 128; rounding the input moves exact
ties by as much as the input's own magnitude times one unit."""

AMBIGUOUS_BAND = (0.5, 8.0)
"""A multiplier between these multiples of its tolerance is too close to call."""


class Residuals(eqx.Module):
    """How far (weights, point) are from satisfying the optimality conditions.

    Attributes:
        primal: max(−min α, |Σα − 1|), no unit.
        dual: max(−min μ, 0), squared length.
        complementarity: max |α_i μ_i|, squared length (the sum is zero identically).
        stationarity: ‖p − Kᵀα‖, length.
    """

    primal: Float[Array, "*b"]
    dual: Float[Array, "*b"]
    complementarity: Float[Array, "*b"]
    stationarity: Float[Array, "*b"]


class Reach(NamedTuple):
    """Lengths that set tolerances: ‖k_i − p‖ by key, and scale = max ‖k_i − q‖²."""

    from_point: Float[Array, " n"]
    scale: Float[Array, ""]


def multipliers(
    keys: Float[Array, "n d"], query: Float[Array, " d"], point: Float[Array, " d"]
) -> tuple[Float[Array, " n"], Reach]:
    """Multipliers ⟨q − p, p − k_i⟩ from differences, and the lengths met on the way: one pass."""
    residual = query - point

    def block(rows: Array) -> tuple[Array, Array, Array]:
        shifted = rows - point[None]
        lengths = jnp.sqrt(jnp.sum(shifted * shifted, axis=1))
        products = shifted @ residual
        # ‖k − q‖² = ‖k − p‖² − 2⟨k − p, r⟩ + ‖r‖², which needs no second difference.
        squared = lengths**2 - 2 * products + residual @ residual
        return -products, lengths, squared

    values, lengths, squared = map_rows(block, keys)
    return values, Reach(lengths, jnp.max(jnp.maximum(squared, 0.0)))


def residuals(
    keys: Float[Array, "m d"],
    point: Float[Array, " d"],
    weights: Float[Array, " m"],
    multipliers: Float[Array, " n"],
    face_multipliers: Float[Array, " m"],
) -> Residuals:
    """The four residuals, from the m keys that carry weight and the multipliers of all n.

    Args:
        keys: keys of the support, rows with zero weight allowed.
        point: computed projection.
        weights: weights of those keys.
        multipliers: multipliers of every key of the hull.
        face_multipliers: multipliers of the keys of the support.
    """
    return Residuals(
        primal=jnp.maximum(jnp.max(-weights, initial=0.0), jnp.abs(jnp.sum(weights) - 1.0)),
        dual=jnp.maximum(jnp.max(-multipliers), 0.0),
        complementarity=jnp.max(jnp.abs(weights * face_multipliers)),
        stationarity=jnp.linalg.norm(
            weights @ (keys - point[None]) + (jnp.sum(weights) - 1.0) * point
        ),
    )


def face_tolerance(
    reach: Float[Array, " n"],
    support_reach: Float[Array, ""],
    residual_norm: Float[Array, ""],
    magnitude: Float[Array, ""],
) -> Float[Array, " n"]:
    """Largest multiplier, by key, that rounding can make of a zero (squared length).

    The error of p* is some units of roundoff of the support's lengths and of the input's own
    magnitude, whatever the other keys are: one distant key does not blur the rest.
    """
    unit = FACE_NOISE * unit_roundoff(reach.dtype)
    return unit * (residual_norm + support_reach) * (reach + magnitude)


def exposed_face(
    multipliers: Float[Array, " n"], tolerance: Float[Array, " n"]
) -> tuple[Bool[Array, " n"], Bool[Array, ""]]:
    """The keys whose multiplier is zero to rounding, and whether any is too close to call."""
    low, high = AMBIGUOUS_BAND
    size = jnp.abs(multipliers)
    ambiguous = jnp.any((size > low * tolerance) & (size < high * tolerance))
    return multipliers <= tolerance, ambiguous


def support_gap(
    multipliers: Float[Array, " n"], face: Bool[Array, " n"], inside: Bool[Array, ""]
) -> Float[Array, ""]:
    """Δ = least multiplier off the face; +inf if every key is on it, NaN inside the hull."""
    least = jnp.min(jnp.where(face, jnp.inf, multipliers))
    return jnp.where(inside, jnp.nan, least)

r"""Optimality of a projection, measured: multipliers, residuals, exposed face, gap.

.. math:: \min_{\alpha \ge 0,\ \sum\alpha = 1} \tfrac12\|K^\top\alpha - q\|^2,
          \qquad \mu_i = \langle q - p,\ p - k_i\rangle.

Nobody should have to trust a solver's flag: everything here is computed from the answer alone.

Tolerances. What rounding does to a multiplier depends on its own key: on the residual, on how far
the key is from p, coordinate by coordinate, and on the rounding that the input came with. No other
key has a part in it, so that one distant key blurs nothing and columns of unlike size are judged
each by its own size.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vashista_theory._numerics import map_rows, unit_roundoff
from vashista_theory.hull.frame import Frame

FACE_ROUNDINGS = 16.0
"""Roundings of the arithmetic below which a multiplier counts as zero.

True zeros of well-placed keys come out at up to 1 for d up to 128, in float32 and float64 alike."""

INPUT_ROUNDINGS = 4.0
"""Roundings of the keys themselves within which exact ties may be ties no more: a multiplier that
is not zero but no larger than that is too close to call."""

AMBIGUOUS_BAND = (0.5, 2.0)
"""A multiplier between these multiples of its tolerance is too close to call."""

_SHARE_OF_THE_WAY = 0.125
"""Share of the way to another key of the face that rounding may leave open. A judgement, not a
bound: beyond an eighth, where on the face the point lies is no longer an answer."""

_SMALL_FACE = 2.0**-20
"""A key of the face this much nearer to p than the position itself moves it by nothing visible."""


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


class Place(NamedTuple):
    """A point of the hull, seen from one of the keys that carry it, in the unit of the frame.

    Attributes:
        frame: its origin is the key of largest weight.
        offset: p from the origin.
        residual: q − p.
        spread: by coordinate, the size of what was summed up to p: the rounding of p and of the
            residual is some units of roundoff of it.
    """

    frame: Frame
    offset: Float[Array, " d"]
    residual: Float[Array, " d"]
    spread: Float[Array, " d"]

    @property
    def point(self) -> Any:
        """The point in the coordinates of the caller: (d,), of the kind of the fields."""
        return self.frame.origin + self.offset * self.frame.unit


class Tolerance(NamedTuple):
    """The largest multiplier that rounding can make of a zero is |k − p| @ slope + level.

    `inputs` is what the rounding of the keys' own coordinates, before they came here, can add.
    """

    slope: Float[Array, " d"]
    level: Float[Array, ""]
    inputs: Float[Array, ""]


class Prices(NamedTuple):
    """What one pass over the keys says about one point, in squared units of the frame.

    Attributes:
        multipliers: μ_i.
        tolerances: by key, the largest μ_i that rounding can make of a zero, or more where that
            decides as well.
        squared_reach: by key, ‖k_i − p‖².
    """

    multipliers: Float[Array, " n"]
    tolerances: Float[Array, " n"]
    squared_reach: Float[Array, " n"]


def tolerance(place: Place) -> Tolerance:
    """What rounding does to the multipliers of a point, for NumPy's and for JAX's arrays.

    The products ⟨r, k − p⟩ round by a unit of |r|·|k − p|, the residual by a unit of the spread,
    the differences k − o by a unit of |k − p| and of the offset p − o.
    """
    unit = unit_roundoff(place.residual.dtype)
    size = abs(place.residual)
    position = abs(place.point * (1 / place.frame.unit))
    return Tolerance(
        FACE_ROUNDINGS * unit * (size + place.spread),
        2.0 * unit * (size @ abs(place.offset)),
        INPUT_ROUNDINGS * unit * (size @ position),
    )


def price(keys: Float[Array, "n d"], place: Place, support: Int[Array, " slots"]) -> Prices:
    """Multipliers ⟨q − p, p − k_i⟩ of all keys, from differences, with their tolerances: one pass.

    By Cauchy and Schwarz ‖k − p‖ ‖slope‖ is never below a tolerance and costs no product with the
    keys. Where it decides about every key without weight, as it does unless one is nearly on the
    face, the tolerances of these keys are left at that; otherwise a second pass makes them exact.

    Args:
        keys: (n, d).
        place: the point.
        support: keys that carry it, −1 for none. Their tolerances are always exact.
    """
    n, d = keys.shape
    frame, residual = place.frame, place.residual
    slope, level, inputs = tolerance(place)

    def exact(rows: Array) -> tuple[Array]:
        return (jnp.abs(frame.shifted(rows) - place.offset[None]) @ slope + level,)

    def block(rows: Array) -> tuple[Array, Array]:
        shifted = frame.shifted(rows) - place.offset[None]
        return -(shifted @ residual), jnp.sum(shifted * shifted, axis=1)

    multipliers, squared_reach = map_rows(block, keys)
    coarse = jnp.sqrt(squared_reach) * jnp.linalg.norm(slope) + level
    slots = jnp.where(support >= 0, support, n)
    carrying = jnp.zeros((n,), bool).at[slots].set(True, mode="drop")
    band = max(AMBIGUOUS_BAND[1], _proof_roundings(d, support.shape[0]))
    clear = carrying | (jnp.abs(multipliers) > band * coarse + inputs)
    tolerances = jax.lax.cond(
        jnp.all(clear),
        lambda: coarse.at[slots].set(exact(keys[jnp.maximum(support, 0)])[0], mode="drop"),
        lambda: map_rows(exact, keys)[0],
    )
    return Prices(multipliers, tolerances, squared_reach)


def squared_scale(multipliers: Any, squared_reach: Any, place: Place) -> Any:
    """max_i ‖k_i − q‖² = max(‖k − p‖² + 2μ) + ‖r‖², for NumPy's and for JAX's arrays."""
    across = (squared_reach + 2 * multipliers).max() + place.residual @ place.residual
    return 0.5 * (across + abs(across))


def violation(prices: Prices, allowance: Float[Array, ""]) -> Float[Array, " n"]:
    """−μ_i over what is allowed for it, by key: above 1 the point is not the projection."""
    allowed = jnp.maximum(prices.tolerances, allowance)
    return jnp.where(allowed > 0, -prices.multipliers / jnp.where(allowed > 0, allowed, 1.0), 0.0)


def excess(multipliers: Any, tolerances: Any, dimension: int, support_size: int) -> Any:
    """Upper end of −μ_i, by key, for NumPy's and for JAX's arrays.

    d + m + 16 roundings are the most that a multiplier can be off.
    """
    return _proof_roundings(dimension, support_size) * tolerances - multipliers


def _proof_roundings(dimension: int, support_size: int) -> float:
    """Tolerances in d + m + 16 roundings: one is `FACE_ROUNDINGS` spacings, two roundings each."""
    return (dimension + support_size + 16) / (2 * FACE_ROUNDINGS)


def duality_gap(greatest_excess: Any, place: Place, support_size: int) -> Any:
    """Upper end of the duality gap, in squared units of the frame: ‖p − p*‖ ≤ its root.

    In exact arithmetic the gap of a point of the hull is −min μ. To its upper end comes the
    rounding of the point to the caller's coordinates, so that the promise is about the point as
    reported.

    Args:
        greatest_excess: the greatest `excess` of all keys.
        place: the point.
        support_size: keys that may carry it.
    """
    position = abs(place.point) * (1 / place.frame.unit)
    rounding = unit_roundoff(place.residual.dtype) * (position + 0.5 * support_size * place.spread)
    gap = 0.5 * (greatest_excess + abs(greatest_excess))
    return (gap**0.5 + (rounding @ rounding) ** 0.5) ** 2


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


def inside(place: Place) -> Any:
    """Whether the query is the point itself to rounding, in every coordinate by its own size.

    For NumPy's and for JAX's arrays.
    """
    noise = FACE_ROUNDINGS * unit_roundoff(place.residual.dtype) * place.spread
    return (abs(place.residual) <= noise).all()


def is_clear(greatest_tolerance: Any, place: Place) -> Any:
    """Whether the query is outside a hull that is exposed as a whole, beyond rounding.

    Were it inside, some key would have ⟨r, k − p⟩ ≥ ‖r‖². For NumPy's and for JAX's arrays.
    """
    return greatest_tolerance < place.residual @ place.residual


def hidden_by_underflow(
    keys: Float[Array, "n d"], query: Float[Array, " d"], place: Place
) -> Bool[Array, ""]:
    """Whether keys and query look alike, or are so small, that a difference may have been lost.

    Processors take numbers below the least normal one for zeros; their bits tell them apart.
    """
    unit = place.frame.unit
    smallest = float(jnp.finfo(keys.dtype).tiny) / unit_roundoff(keys.dtype)
    alike = jnp.all(place.residual == 0) & jnp.all(place.spread == 0) & (unit == 1.0)
    lost = jax.lax.cond(
        alike, lambda: _has_subnormal(keys) | _has_subnormal(query), lambda: jnp.asarray(False)
    )
    return lost | (unit < smallest)


def _has_subnormal(values: Array) -> Bool[Array, ""]:
    info = jnp.finfo(values.dtype)
    whole = jnp.int64 if info.bits == 64 else jnp.int32
    bits = jax.lax.bitcast_convert_type(values, whole) & jnp.array(2 ** (info.bits - 1) - 1, whole)
    return jnp.any((bits > 0) & (bits < 2**info.nmant))


def exposed_face(multipliers: Any, tolerances: Any, inputs: Any) -> tuple[Any, Any]:
    """The keys whose multiplier is zero to rounding, and whether any is too close to call.

    For NumPy's and for JAX's arrays.
    """
    low, high = AMBIGUOUS_BAND
    size = abs(multipliers)
    ambiguous = (size > low * tolerances) & (size < high * tolerances + inputs)
    return multipliers <= tolerances, ambiguous.any()


def undetermined(tolerances: Any, squared_reach: Any, face: Any, place: Place) -> Any:
    """Whether rounding leaves open where on its face the point is; NumPy's and JAX's arrays.

    Going from p towards a key of the face changes its multiplier by ‖k − p‖² in all, so a
    tolerance of that size says nothing about the way: a query so far away that its rounding is as
    large as the face. Keys that rounding itself keeps apart from p do not matter.
    """
    position = abs(place.point * (1 / place.frame.unit)).max() + place.spread.max()
    matters = squared_reach > (_SMALL_FACE * position) ** 2
    return (face & matters & (tolerances > _SHARE_OF_THE_WAY * squared_reach)).any()


def support_gap(
    multipliers: Float[Array, " n"], face: Bool[Array, " n"], inside: Bool[Array, ""]
) -> Float[Array, ""]:
    """Δ = least multiplier off the face; +inf if every key is on it, NaN inside the hull."""
    least = jnp.min(jnp.where(face, jnp.inf, multipliers))
    return jnp.where(inside, jnp.nan, least)

r"""The corral of Wolfe's method: affinely independent keys and their dual basis.

Write :math:`a_j = (k_j - o, s)` for a key of the corral, with a fixed origin :math:`o` and length
:math:`s`: the keys are affinely independent exactly when the rows :math:`a_j` are linearly
independent. Their *dual basis* :math:`b_j` (:math:`\langle b_i, a_j\rangle = 1_{i=j}`, same span)
gives barycentric coordinates by one product, and changes by one rank-one update when a key enters
or leaves. It carries the condition number of the keys, where the Gram matrix carries its square.

Slots not in use hold zero rows, so that every shape is fixed.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vashista_theory._numerics import unit_roundoff
from vashista_theory.hull.frame import Frame

_DEPENDENT = 64.0
"""Units of roundoff below which a key counts as affinely dependent on the corral."""

WEIGHT_NOISE = 8.0
"""Units of roundoff, relative to the mean reach of the support, below which a weight is none."""


class Corral(NamedTuple):
    """Keys in use (`key_index` −1 for a free slot), rows a_j and b_j, and the current weights."""

    key_index: Int[Array, " slots"]
    rows: Float[Array, "slots d1"]
    dual: Float[Array, "slots d1"]
    weights: Float[Array, " slots"]
    reach: Float[Array, " slots"]

    @property
    def used(self) -> Bool[Array, " slots"]:
        """Slots that hold a key."""
        return self.key_index >= 0

    def shifted_point(self) -> Float[Array, " d"]:
        """The point of the current weights, seen from the frame's origin."""
        return self.weights @ self.rows[:, :-1]


def homogeneous(shifted: Float[Array, "... d"]) -> Float[Array, "... d1"]:
    """Rows (k − o, s): s is the length of a vector whose coordinates are all one unit."""
    d = shifted.shape[-1]
    last = jnp.full((*shifted.shape[:-1], 1), d**0.5, shifted.dtype)
    return jnp.concatenate([shifted, last], axis=-1)


def start(index: Int[Array, ""], frame: Frame, slots: int) -> Corral:
    """The corral of one key: the origin of the frame itself."""
    d = frame.origin.shape[0]
    dtype = frame.origin.dtype
    first = jnp.zeros((slots, d + 1), dtype).at[0, d]
    return Corral(
        key_index=jnp.full((slots,), -1, jnp.int32).at[0].set(index.astype(jnp.int32)),
        rows=first.set(d**0.5),
        dual=first.set(d**-0.5),
        weights=jnp.zeros((slots,), dtype).at[0].set(1.0),
        reach=jnp.zeros((slots,), dtype),
    )


def weight_floor(
    weights: Float[Array, " slots"], reach: Float[Array, " slots"]
) -> Float[Array, " slots"]:
    """The weight, by key, that is rounding and no more.

    A weight moves the point by weight × reach: a distant key counts with a weight that is far
    below the roundoff of 1.
    """
    noise = WEIGHT_NOISE * unit_roundoff(weights.dtype)
    mean_reach = jnp.sum(weights * reach)
    far = reach > mean_reach
    return noise * jnp.where(far, mean_reach / jnp.where(far, reach, 1.0), 1.0)


def step_towards(
    weights: Float[Array, " slots"], wanted: Float[Array, " slots"], falling: Bool[Array, " slots"]
) -> tuple[Float[Array, " slots"], Int[Array, ""]]:
    """As far towards the affine optimum as weights stay positive, and the slot that stops it.

    The slot is one of `falling`, so that a loop that drops it comes to an end: a weight that is
    rounding already and would not move stops the step where it is.
    """
    drop_rate = weights - wanted
    falls = falling & (drop_rate > 0)
    share = jnp.clip(jnp.where(falls, weights / jnp.where(falls, drop_rate, 1.0), 0.0), 0.0, 1.0)
    slot = jnp.argmin(jnp.where(falling, share, jnp.inf))
    return weights + share[slot] * (wanted - weights), slot


def add(
    corral: Corral, index: Int[Array, ""], shifted: Float[Array, " d"]
) -> tuple[Corral, Bool[Array, ""]]:
    """Add the key at `index` (at `shifted` from the origin) with weight 0.

    Returns the corral and whether the key was refused as affinely dependent. The part of the row
    outside the span is orthogonalised twice: once leaves an error of κ·u, twice leaves u.
    """
    row = homogeneous(shifted)
    first = corral.dual @ row
    outside = row - first @ corral.rows
    second = corral.dual @ outside
    outside = outside - second @ corral.rows
    squared = outside @ outside
    dependent = squared <= (_DEPENDENT * unit_roundoff(row.dtype)) ** 2 * (row @ row)
    dependent |= jnp.all(corral.used)
    new_dual = jnp.where(dependent, 0.0, outside / jnp.where(dependent, 1.0, squared))
    # Only the refused case must leave the slot free; `entering` is then false everywhere.
    entering = (jnp.arange(corral.key_index.shape[0]) == jnp.argmin(corral.used)) & ~dependent
    coordinates = jnp.where(entering, -1.0, first + second)
    return (
        Corral(
            key_index=jnp.where(entering, index.astype(jnp.int32), corral.key_index),
            rows=jnp.where(entering[:, None], row[None], corral.rows),
            dual=corral.dual - jnp.outer(coordinates, new_dual),
            weights=corral.weights,
            reach=jnp.where(entering, jnp.max(jnp.abs(shifted)), corral.reach),
        ),
        dependent,
    )


def drop(corral: Corral, slot: Int[Array, ""]) -> Corral:
    """Remove the key in `slot`."""
    leaving = jnp.arange(corral.key_index.shape[0]) == slot
    old = corral.dual[slot]
    overlap = corral.dual @ old
    ratio = overlap / jnp.where(overlap[slot] > 0, overlap[slot], 1.0)
    dual = jnp.where(leaving[:, None], 0.0, corral.dual - jnp.outer(ratio, old))
    return Corral(
        key_index=jnp.where(leaving, -1, corral.key_index),
        rows=jnp.where(leaving[:, None], 0.0, corral.rows),
        dual=dual,
        weights=jnp.where(leaving, 0.0, corral.weights),
        reach=jnp.where(leaving, 0.0, corral.reach),
    )


def affine_weights(corral: Corral, frame: Frame) -> Float[Array, " slots"]:
    """Barycentric coordinates of the query's projection on the affine hull of the corral.

    The projection of (q − o, s) on the span of the rows, moved along the projection of the last
    unit vector until its last coordinate is s again, that is until the weights sum to 1.
    """
    inside = corral.dual @ homogeneous(frame.target)
    upward = corral.dual[:, -1]
    return inside + upward * ((1.0 - jnp.sum(inside)) / jnp.sum(upward))


def correct(corral: Corral, frame: Frame) -> Corral:
    """One step of iterative refinement on the corral's own optimality conditions.

    At the optimum ⟨r, k_j − p⟩ is zero for every key of the corral; what is left of it is
    computed from differences and removed, which brings multipliers to the last digits.
    """
    point = corral.shifted_point()
    residual = frame.target - point
    shifted = corral.rows[:, :-1]
    defect = jnp.where(corral.used, (shifted - point[None]) @ residual, 0.0)
    change = corral.dual @ (corral.dual.T @ defect)
    upward = corral.dual[:, -1]
    change = change - upward * (jnp.sum(change) / jnp.sum(upward))
    return corral._replace(weights=corral.weights + change)


def polish(corral: Corral, frame: Frame) -> Corral:
    """Two corrections; a key whose weight they bring down to rounding leaves."""
    floor = weight_floor(corral.weights, corral.reach)

    def spoiled(corral: Corral) -> Bool[Array, " slots"]:
        return corral.used & (corral.weights <= floor)

    def mend(corral: Corral) -> Corral:
        corral = drop(corral, jnp.argmin(jnp.where(spoiled(corral), corral.weights, jnp.inf)))
        return correct(corral._replace(weights=affine_weights(corral, frame)), frame)

    return jax.lax.while_loop(
        lambda corral: jnp.any(spoiled(corral)), mend, correct(correct(corral, frame), frame)
    )


def rebuild(corral: Corral) -> Corral:
    """The same corral with its dual basis computed afresh, free of accumulated rounding."""
    slots = corral.key_index.shape[0]
    empty = jax.tree.map(jnp.zeros_like, corral)
    empty = empty._replace(key_index=jnp.full_like(corral.key_index, -1))

    def body(slot: Array, fresh: Corral) -> Corral:
        position = jnp.argmin(fresh.used)
        grown, refused = add(fresh, corral.key_index[slot], corral.rows[slot, :-1])
        keep = corral.used[slot] & ~refused
        weights = jnp.where(jnp.arange(slots) == position, corral.weights[slot], fresh.weights)
        grown = grown._replace(weights=weights)
        return jax.tree.map(lambda new, old: jnp.where(keep, new, old), grown, fresh)

    return jax.lax.fori_loop(0, slots, body, empty)

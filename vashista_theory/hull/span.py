"""Orthonormal coordinates adapted to a face: first the directions of the face, then the rest."""

from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vashista_theory._numerics import unit_roundoff

SPAN_NOISE = 256.0
"""Units of roundoff, relative to the input's lengths, that a new direction must exceed."""

_State: TypeAlias = tuple[Array, Array, Array, Array, Array]


def face_basis(
    shifted: Float[Array, "n d"], face: Bool[Array, " n"], magnitude: Float[Array, ""]
) -> tuple[Float[Array, "d d"], Int[Array, ""]]:
    """Orthonormal columns whose first `rank` span {k_j − p* : j on the face}, completed to d.

    Gram-Schmidt with the longest remainder as pivot (a rank-revealing QR that needs no gathered
    copy of the face, whatever its size).

    Args:
        shifted: rows k_i − p*.
        face: rows that count.
        magnitude: length of the input before the shift, which sets its rounding.

    Returns:
        Basis (d, d) as columns and the rank.
    """
    d = shifted.shape[1]
    remainder = jnp.where(face[:, None], shifted, 0.0)
    longest = jnp.sqrt(jnp.max(jnp.sum(remainder**2, axis=1)))
    threshold = SPAN_NOISE * unit_roundoff(shifted.dtype) * (longest + magnitude)

    def pivot(remainder: Array) -> tuple[Array, Array]:
        squared = jnp.sum(remainder**2, axis=1)
        best = jnp.argmax(squared)
        return best, jnp.sqrt(squared[best]) > threshold

    def extend(state: _State) -> _State:
        basis, rank, remainder, best, _ = state
        direction = remainder[best]
        direction = direction - basis @ (basis.T @ direction)
        direction = direction / jnp.linalg.norm(direction)
        basis = basis.at[:, rank].set(direction)
        remainder = remainder - (remainder @ direction)[:, None] * direction
        return basis, rank + 1, remainder, *pivot(remainder)

    def more(state: _State) -> Array:
        return state[4] & (state[1] < d)

    empty = jnp.zeros((d, d), shifted.dtype)
    basis, rank, *_ = jax.lax.while_loop(
        more, extend, (empty, jnp.int32(0), remainder, *pivot(remainder))
    )
    # The QR factors of [basis | 0] complete it: Householder reflections give d columns always.
    complete, _ = jnp.linalg.qr(basis, mode="complete")
    return jnp.where(jnp.arange(d) < rank, basis, complete), rank


def face_coordinates(
    shifted: Float[Array, "n d"],
    face: Bool[Array, " n"],
    basis: Float[Array, "d d"],
    rank: Int[Array, ""],
) -> Float[Array, "n d"]:
    """Rows in the basis, with the components of face keys off their span set to exactly zero.

    Exactly zero is the mathematical value; the rounding there, divided by ε, would otherwise be
    read as displacement.
    """
    coordinates = shifted @ basis
    off_span = jnp.arange(basis.shape[0]) >= rank
    return jnp.where(face[:, None] & off_span, 0.0, coordinates)

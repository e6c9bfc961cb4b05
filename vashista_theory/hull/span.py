"""Orthonormal coordinates adapted to a face: first the directions of the face, then the rest."""

from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vashista_theory._numerics import map_rows, unit_roundoff

SPAN_NOISE = 256.0
"""Units of roundoff, relative to the input's lengths, that a new direction must exceed."""

_State: TypeAlias = tuple[Array, Array, Array, Array]


class Centred(NamedTuple):
    """Keys to be seen from p* in units of a length, without a copy of them being made."""

    keys: Float[Array, "n d"]
    point: Float[Array, " d"]
    length: Float[Array, ""]
    magnitude: Float[Array, ""]

    def rows(self, keys: Float[Array, "... d"]) -> Float[Array, "... d"]:
        """(k − p*) / length for some of the keys."""
        return (keys - jnp.broadcast_to(self.point, keys.shape)) / self.length


def centred(
    keys: Float[Array, "n d"],
    query: Float[Array, " d"],
    point: Float[Array, " d"],
    scale: Float[Array, ""],
) -> Centred:
    """Centre at the projection; the unit is √scale, and `magnitude` sets the input's rounding."""
    length = jnp.sqrt(jnp.where(scale > 0, scale, 1.0))
    magnitude = (jnp.linalg.norm(point) + jnp.linalg.norm(query)) / length
    return Centred(keys, point, length, magnitude)


class Basis(NamedTuple):
    """Orthonormal columns, of which the first `rank` span the face's directions."""

    columns: Float[Array, "d d"]
    rank: Int[Array, ""]

    @property
    def along(self) -> Bool[Array, " d"]:
        """Which columns lie along the face."""
        return jnp.arange(self.columns.shape[0], dtype=self.rank.dtype) < self.rank


def face_basis(view: Centred, face: Bool[Array, " n"]) -> Basis:
    """Span of {k_j − p* : j on the face}, completed to all of space.

    Gram-Schmidt with the longest remainder as pivot, a rank-revealing QR: first over a gathered
    part of the face, which as a rule is all of it, then one pass over the keys for each direction
    still missing, so that a face of any size needs no copy.
    """
    n, d = view.keys.shape
    roundoff = unit_roundoff(view.keys.dtype)
    some = jnp.nonzero(face, size=min(n, 2 * (d + 1)), fill_value=n)[0]
    gathered = jnp.where((some < n)[:, None], view.rows(view.keys[jnp.minimum(some, n - 1)]), 0.0)
    longest = jnp.sqrt(jnp.max(jnp.sum(gathered**2, axis=1)))
    threshold = SPAN_NOISE * roundoff * (longest + view.magnitude)

    def extend(columns: Array, rank: Array, direction: Array) -> tuple[Array, Array]:
        direction = direction - columns @ (columns.T @ direction)
        return columns.at[:, rank].set(direction / jnp.linalg.norm(direction)), rank + 1

    def longest_gathered(remainder: Array) -> tuple[Array, Array]:
        squared = jnp.sum(remainder**2, axis=1)
        best = jnp.argmax(squared)
        return remainder[best], jnp.sqrt(squared[best])

    def from_gathered(state: _State) -> _State:
        columns, rank, remainder, direction = state
        columns, rank = extend(columns, rank, direction)
        newest = columns[:, rank - 1]
        remainder = remainder - jnp.outer(remainder @ newest, newest)
        return columns, rank, remainder, longest_gathered(remainder)[0]

    def longest_anywhere(columns: Array) -> tuple[Array, Array]:
        def block(keys: Array) -> tuple[Array]:
            rows = view.rows(keys)
            across = rows - (rows @ columns) @ columns.T
            return (jnp.sum(across**2, axis=1),)

        squared = jnp.where(face, map_rows(block, view.keys)[0], 0.0)
        best = jnp.argmax(squared)
        row = view.rows(view.keys[best])
        return row - columns @ (columns.T @ row), jnp.sqrt(squared[best])

    def from_anywhere(state: _State) -> _State:
        columns, rank = extend(*state[:2], state[2])
        return columns, rank, *longest_anywhere(columns)

    columns, rank = jnp.zeros((d, d), view.keys.dtype), jnp.int32(0)
    columns, rank, *_ = jax.lax.while_loop(
        lambda s: (jnp.linalg.norm(s[3]) > threshold) & (s[1] < d),
        from_gathered,
        (columns, rank, gathered, longest_gathered(gathered)[0]),
    )
    columns, rank, *_ = jax.lax.while_loop(
        lambda s: (s[3] > threshold) & (s[1] < d),
        from_anywhere,
        (columns, rank, *longest_anywhere(columns)),
    )
    # The QR factors of [columns | 0] complete them: Householder reflections give d columns always.
    complete, _ = jnp.linalg.qr(columns, mode="complete")
    along = jnp.arange(d, dtype=rank.dtype) < rank
    return Basis(jnp.where(along[None], columns, complete), rank)


def face_coordinates(view: Centred, face: Bool[Array, " n"], basis: Basis) -> Float[Array, "n d"]:
    """Rows in the basis, with the components of face keys off their span set to exactly zero.

    Exactly zero is the mathematical value; the rounding there, divided by ε, would otherwise be
    read as displacement.
    """
    (coordinates,) = map_rows(lambda keys: (view.rows(keys) @ basis.columns,), view.keys)
    return jnp.where(face[:, None] & ~basis.along[None], 0.0, coordinates)

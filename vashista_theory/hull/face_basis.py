"""Keys seen from p*, and orthonormal coordinates adapted to a face: its directions first.

Lengths are in units of a power of two near the size of the face, so that no square of them
underflows or overflows and nothing is rounded by the change of units. What counts as rounding is
told for each key from its own distance to p*: one distant key blurs no other, and where the origin
lies does not matter.
"""

from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vashista_theory._numerics import map_rows, safe_norm, unit_roundoff

SPAN_NOISE = 256.0
"""Units of roundoff, relative to the lengths that enter, that a new direction must exceed."""

_Pivot: TypeAlias = tuple[Array, Array, Array]
"""A row, its part across the columns so far, and that over its rounding."""


class Centred(NamedTuple):
    """Keys to be seen from p* in units of a length, without a copy of them being made.

    p* is where the weights put it relative to a key that carries much of them: differences of keys
    keep their digits far from the origin, where p* itself as an absolute number does not.

    Attributes:
        keys: as given.
        anchor: the key of largest weight, as given.
        offset: p* − anchor, in units.
        unit: a power of two, length.
        blur: Σ α_j ‖k_j − p*‖ in units, the lengths that enter the sum p*.
    """

    keys: Float[Array, "n d"]
    anchor: Float[Array, " d"]
    offset: Float[Array, " d"]
    unit: Float[Array, ""]
    blur: Float[Array, ""]

    def rows(self, keys: Float[Array, "... d"]) -> Float[Array, "... d"]:
        """(k − p*) / unit for some of the keys."""
        shape = keys.shape
        near = (1 / self.unit) * keys - jnp.broadcast_to(self.anchor / self.unit, shape)
        return near - jnp.broadcast_to(self.offset, shape)

    def temperature(self, epsilon: Float[Array, "*e"]) -> Float[Array, "*e"]:
        """A squared length in units."""
        return epsilon / self.unit / self.unit


def centred(
    keys: Float[Array, "n d"],
    weights: Float[Array, " n"],
    face: Bool[Array, " n"],
    multipliers: Float[Array, " n"],
) -> Centred:
    """See keys from the point of these weights; the unit is the size of the face.

    At a vertex it is the distance of the key whose multiplier is least, and 1 where there is none.
    """
    n, d = keys.shape
    anchor = keys[jnp.argmax(weights)]
    # Halves: the difference of two numbers near the largest one must not overflow.
    (sizes,) = map_rows(
        lambda rows: (jnp.max(jnp.abs(0.5 * rows - 0.5 * anchor[None]), axis=1),), keys
    )
    reach = jnp.max(jnp.where(face, sizes, 0.0))
    nearest = sizes[jnp.argmin(jnp.where(face, jnp.inf, multipliers))]
    size = jnp.where(reach > 0, reach, jnp.where(nearest > 0, nearest, 0.5))
    unit = _power_of_two(size)
    bare = Centred(keys, anchor, jnp.zeros((d,), keys.dtype), unit, jnp.zeros((), keys.dtype))
    carrying = jnp.nonzero(weights > 0, size=min(n, d + 1), fill_value=n)[0]
    used = carrying < n
    carrying = jnp.minimum(carrying, n - 1)
    shares = jnp.where(used, weights[carrying], 0.0)
    rows = bare.rows(keys[carrying])
    offset = shares @ rows
    return bare._replace(offset=offset, blur=shares @ safe_norm(rows - offset[None]))


def _power_of_two(half: Float[Array, ""]) -> Float[Array, ""]:
    """The power of two at or above 2·half, kept where its inverse is a normal number too."""
    info = jnp.finfo(half.dtype)
    exponent = jnp.frexp(half)[1] + 1
    kept = jnp.clip(exponent, info.minexp + 2, -info.minexp - 2)
    return jnp.ldexp(jnp.ones((), half.dtype), kept)


class Basis(NamedTuple):
    """Orthonormal columns, of which the first `rank` span the face's directions.

    Attributes:
        columns: (d, d).
        rank: dimension of the face.
        tilts: (d,), how much a column may lean by the rounding of the key that it is taken from.
        blur: the view's.
    """

    columns: Float[Array, "d d"]
    rank: Int[Array, ""]
    tilts: Float[Array, " d"]
    blur: Float[Array, ""]

    @property
    def along(self) -> Bool[Array, " d"]:
        """Which columns lie along the face."""
        return jnp.arange(self.columns.shape[0], dtype=self.rank.dtype) < self.rank

    def noise(self, rows: Float[Array, "n d"]) -> Float[Array, " n"]:
        """What rounding makes of the part of rows across the face: a length for each.

        A key's own rounding and that of p*, and the lean of each column times the part along it.
        """
        own = SPAN_NOISE * unit_roundoff(rows.dtype) * (safe_norm(rows) + self.blur)
        return own + jnp.abs(rows @ self.columns) @ jnp.where(self.along, self.tilts, 0.0)

    def across(self, rows: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """The part of rows across the face."""
        along = jnp.where(self.along[None], self.columns, 0.0)
        return rows - (rows @ along) @ along.T


def face_basis(view: Centred, face: Bool[Array, " n"]) -> Basis:
    """Span of {k_j − p* : j on the face}, completed to all of space.

    Gram-Schmidt whose pivot is the remainder that exceeds its own rounding most, a rank-revealing
    QR that no long key dominates: first over a gathered part of the face, which as a rule is all of
    it, then one pass over the keys for each direction still missing, so that a face of any size
    needs no copy.
    """
    n, d = view.keys.shape
    dtype = view.keys.dtype
    some = jnp.nonzero(face, size=min(n, 2 * (d + 1)), fill_value=n)[0]
    gathered = jnp.where((some < n)[:, None], view.rows(view.keys[jnp.minimum(some, n - 1)]), 0.0)

    def signal(basis: Basis, rows: Array, remainder: Array) -> Array:
        """Remainders over their rounding."""
        noise = basis.noise(rows)
        return jnp.where(noise > 0, safe_norm(remainder) / jnp.where(noise > 0, noise, 1.0), 0.0)

    def extend(basis: Basis, row: Array, direction: Array) -> Basis:
        direction = direction - basis.columns @ (basis.columns.T @ direction)
        length = safe_norm(direction)
        return basis._replace(
            columns=basis.columns.at[:, basis.rank].set(direction / length),
            rank=basis.rank + 1,
            tilts=basis.tilts.at[basis.rank].set(basis.noise(row[None])[0] / length),
        )

    def clearest(basis: Basis, remainder: Array) -> _Pivot:
        clear = signal(basis, gathered, remainder)
        best = jnp.argmax(clear)
        return gathered[best], remainder[best], clear[best]

    def from_gathered(state: tuple[Basis, Array, _Pivot]) -> tuple[Basis, Array, _Pivot]:
        basis, remainder, (row, direction, _) = state
        basis = extend(basis, row, direction)
        newest = basis.columns[:, basis.rank - 1]
        remainder = remainder - jnp.outer(remainder @ newest, newest)
        return basis, remainder, clearest(basis, remainder)

    def clearest_anywhere(basis: Basis) -> _Pivot:
        def block(keys: Array) -> tuple[Array]:
            rows = view.rows(keys)
            return (signal(basis, rows, basis.across(rows)),)

        clear = jnp.where(face, map_rows(block, view.keys)[0], 0.0)
        best = jnp.argmax(clear)
        row = view.rows(view.keys[best])
        return row, basis.across(row[None])[0], clear[best]

    def from_anywhere(state: tuple[Basis, _Pivot]) -> tuple[Basis, _Pivot]:
        basis = extend(state[0], *state[1][:2])
        return basis, clearest_anywhere(basis)

    empty = Basis(jnp.zeros((d, d), dtype), jnp.int32(0), jnp.zeros((d,), dtype), view.blur)
    basis, *_ = jax.lax.while_loop(
        lambda s: (s[2][2] > 1) & (s[0].rank < d),
        from_gathered,
        (empty, gathered, clearest(empty, gathered)),
    )
    basis, _ = jax.lax.while_loop(
        lambda s: (s[1][2] > 1) & (s[0].rank < d), from_anywhere, (basis, clearest_anywhere(basis))
    )
    # The QR factors of [columns | 0] complete them: Householder reflections give d columns always.
    complete, _ = jnp.linalg.qr(basis.columns, mode="complete")
    return basis._replace(columns=jnp.where(basis.along[None], basis.columns, complete))


def face_coordinates(view: Centred, face: Bool[Array, " n"], basis: Basis) -> Float[Array, "n d"]:
    """Rows in the basis, with the components of face keys off their span set to exactly zero.

    Exactly zero is the mathematical value; the rounding there, divided by ε, would otherwise be
    read as displacement.
    """
    (coordinates,) = map_rows(lambda keys: (view.rows(keys) @ basis.columns,), view.keys)
    return jnp.where(face[:, None] & ~basis.along[None], 0.0, coordinates)

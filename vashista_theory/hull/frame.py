"""Where a projection is computed from: an origin among the keys and a unit that is a power of two.

Nothing depends on where the coordinates have their zero, nor on the unit they are given in: the
solvers work with ``(k − origin) / unit``, and a power of two changes no digit.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vashista_theory._numerics import power_of_two

SAMPLE = 128
"""Keys that are looked at to choose origin and unit."""


class Frame(NamedTuple):
    """Origin (a key), unit (a power of two), and the query seen from the origin in that unit."""

    origin: Float[Array, " d"]
    unit: Float[Array, ""]
    target: Float[Array, " d"]

    def shifted(self, keys: Float[Array, "m d"]) -> Float[Array, "m d"]:
        """Keys seen from the origin, in the unit."""
        return (keys - self.origin[None]) * (1 / self.unit)

    def moved_to(self, origin: Float[Array, " d"], query: Float[Array, " d"]) -> "Frame":
        """The frame of another origin, in the same unit."""
        return Frame(origin, self.unit, (query - origin) * (1 / self.unit))


def frame_at(keys: Float[Array, "n d"], query: Float[Array, " d"]) -> tuple[Frame, Int[Array, ""]]:
    """Origin at the sampled key nearest to the query; unit from the keys' distances to it.

    Their geometric mean, since one distant key must not set the unit for all others. Lengths are
    largest coordinates: a square would leave the range of the type long before.

    Returns:
        The frame, and the index of its origin.
    """
    n = keys.shape[0]
    count = min(SAMPLE, n)
    sample = jnp.arange(count) * (n // count)
    points = keys[sample]
    distances = jnp.max(jnp.abs(points - query[None]), axis=1)
    nearest = sample[jnp.argmin(distances)].astype(jnp.int32)
    origin = keys[nearest]
    distances = jnp.max(jnp.abs(points - origin[None]), axis=1)
    apart = distances > 0
    exponents = jnp.sum(jnp.where(apart, jnp.frexp(distances)[1], 0), dtype=jnp.int32)
    mean = exponents // jnp.maximum(jnp.sum(apart, dtype=jnp.int32), 1)
    away = power_of_two(jnp.max(jnp.abs(query - origin)))
    typical = jnp.ldexp(jnp.ones_like(away), mean - 1)
    frame = Frame(origin, jnp.where(jnp.any(apart), power_of_two(typical), away), origin)
    return frame.moved_to(origin, query), nearest

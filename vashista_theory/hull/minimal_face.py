r"""The smallest face of conv F that contains p*, and how far the other exposed keys stay from it.

Strict complementarity asks whether p* lies in the *relative interior* of conv F. The support of
the computed weights spans part of the smallest face G. Seen across that span, the remaining keys
of F either have the origin in their hull, and then those that carry it belong to G too, or stay
at a distance ρ > 0 from it, and then strict complementarity fails with exactly that ρ (T5). So
the question is answered by a few more projections, of the origin.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vashista_theory._numerics import unit_roundoff
from vashista_theory.hull import corral as corrals
from vashista_theory.hull.active_set import search
from vashista_theory.hull.span import SPAN_NOISE, face_basis


class MinimalFace(NamedTuple):
    """G, whether it is all of F, and the margin of the rest.

    Attributes:
        members: keys of the smallest face that contains p*.
        strict: G = F, that is strict complementarity.
        distance: ρ, distance of the origin from the rest of F across span G; NaN if strict.
        margin: y with ‖y‖ = 1/ρ, y ⟂ span G, ⟨y, v_j⟩ ≥ 1 on F∖G; NaN if strict.
    """

    members: Bool[Array, " n"]
    strict: Bool[Array, ""]
    distance: Float[Array, ""]
    margin: Float[Array, " d"]


class _State(NamedTuple):
    members: Bool[Array, " n"]
    nearest: Float[Array, " d"]
    decided: Bool[Array, ""]


def minimal_face(
    shifted: Float[Array, "n d"],
    face: Bool[Array, " n"],
    support: Bool[Array, " n"],
    magnitude: Float[Array, ""],
) -> MinimalFace:
    """Find G from the rows v_i = k_i − p*, the exposed face, and a support of p* within it.

    Args:
        shifted: rows v_i, scaled to lengths of order one.
        face: F.
        support: keys with positive weight in one optimum.
        magnitude: length of the input before the shift, which sets its rounding.
    """
    n, d = shifted.shape
    roundoff = unit_roundoff(shifted.dtype)
    longest = jnp.sqrt(jnp.max(jnp.where(face, jnp.sum(shifted**2, axis=1), 0.0)))
    negligible = 4 * SPAN_NOISE * roundoff * (longest + magnitude)
    zero = jnp.zeros((d,), shifted.dtype)

    def enlarge(state: _State) -> _State:
        basis, rank = face_basis(shifted, state.members, magnitude)
        along = jnp.where(jnp.arange(d) < rank, basis, 0.0)
        across = shifted - (shifted @ along) @ along.T
        lengths = jnp.sqrt(jnp.sum(across**2, axis=1))
        members = state.members | (face & (lengths <= negligible))
        rest = face & ~members
        # Rows that do not count are replaced by one that does: a duplicate changes no hull.
        rows = jnp.where(rest[:, None], across, across[jnp.argmax(rest)])
        exact, most = jnp.zeros((), shifted.dtype), jnp.int32(50 * (d + 2))
        found = search(rows, zero, None, exact, most)
        corral = corrals.correct(found.corral, found.frame)
        nearest = found.frame.origin + corral.shifted_point()
        separated = jnp.linalg.norm(nearest) > negligible
        carrying = (
            jnp.zeros((n,), bool)
            .at[jnp.where(corral.used, corral.key_index, n)]
            .set(True, mode="drop")
        )
        grown = jnp.where(separated | ~jnp.any(rest), members, members | (carrying & rest))
        done = separated | ~jnp.any(face & ~grown) | jnp.all(grown == state.members)
        return _State(grown, jnp.where(separated & jnp.any(rest), nearest, zero), done)

    members = support & face
    start = _State(members, zero, ~jnp.any(face & ~members))
    last = jax.lax.while_loop(lambda s: ~s.decided, enlarge, start)
    strict = ~jnp.any(face & ~last.members)
    distance = jnp.where(strict, jnp.nan, jnp.linalg.norm(last.nearest))
    return MinimalFace(last.members, strict, distance, last.nearest / distance**2)

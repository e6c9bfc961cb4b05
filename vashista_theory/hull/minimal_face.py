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

from vashista_theory._numerics import map_rows, safe_norm
from vashista_theory.hull.projection import project
from vashista_theory.hull.span import Centred, face_basis


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


def minimal_face(view: Centred, face: Bool[Array, " n"], support: Bool[Array, " n"]) -> MinimalFace:
    """Find G from the keys seen from p*, the exposed face, and a support of p* within it.

    Args:
        view: keys seen from p*.
        face: F.
        support: keys with positive weight in one optimum.

    Returns:
        A `MinimalFace`, in units of the view's length.
    """
    d = view.keys.shape[1]
    zero = jnp.zeros((d,), view.keys.dtype)

    def enlarge(state: _State) -> _State:
        basis = face_basis(view, state.members)

        def split(keys: Array) -> tuple[Array, Array]:
            rows = view.rows(keys)
            return basis.across(rows), basis.noise(rows)

        across, noise = map_rows(split, view.keys)
        members = state.members | (face & (safe_norm(across) <= noise))
        rest = face & ~members
        # Rows that do not count are replaced by one that does: a duplicate changes no hull.
        filler = jnp.argmax(rest)
        rows = jnp.where(rest[:, None], across, across[filler][None])
        found = project(rows, zero, throw=False)
        rounding = found.weights @ jnp.where(rest, noise, noise[filler])
        separated = safe_norm(found.point) > rounding
        carrying = (found.weights > 0) & rest
        carrying |= (jnp.arange(len(rest)) == filler) & jnp.any((found.weights > 0) & ~rest)
        grown = jnp.where(separated | ~jnp.any(rest), members, members | (carrying & rest))
        nearest = found.point
        done = separated | ~jnp.any(face & ~grown) | jnp.all(grown == state.members)
        return _State(grown, jnp.where(separated & jnp.any(rest), nearest, zero), done)

    members = support & face
    start = _State(members, zero, ~jnp.any(face & ~members))
    last = jax.lax.while_loop(lambda s: ~s.decided, enlarge, start)
    strict = ~jnp.any(face & ~last.members)
    distance = jnp.where(strict, jnp.nan, jnp.linalg.norm(last.nearest))
    return MinimalFace(last.members, strict, distance, last.nearest / distance**2)

r"""The smallest face of conv F that contains p*, and how far the other exposed keys stay from it.

Strict complementarity asks whether p* lies in the *relative interior* of conv F. The support of
the computed weights spans part of the smallest face G. Seen across that span, the remaining keys
of F either have the origin in their hull, and then those that carry it belong to G too, or stay
at a distance ρ > 0 from it, and then strict complementarity fails with exactly that ρ (T5). So
the question is answered by a few more projections, of the origin.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vashista_theory._checks import is_traced
from vashista_theory._numerics import map_rows, safe_norm
from vashista_theory.hull.face_basis import Centred, face_basis
from vashista_theory.hull.projection import Projection, project

Compiled = Callable[[Callable[..., Any]], Callable[..., Any]]
"""Makes of a step what is called in its place."""


def as_it_is(step: Callable[..., Any]) -> Callable[..., Any]:
    """Each step is compiled by itself already."""
    return step


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


class _Question(NamedTuple):
    """Whether the origin is in the hull of these rows, keys of F seen across span G."""

    rows: Float[Array, "n d"]
    noise: Float[Array, " n"]
    members: Bool[Array, " n"]
    rest: Bool[Array, " n"]


def minimal_face(
    view: Centred,
    face: Bool[Array, " n"],
    support: Bool[Array, " n"],
    compiled: Compiled = as_it_is,
) -> MinimalFace:
    """Find G from the keys seen from p*, the exposed face, and a support of p* within it.

    Outside transformations the projections are made only where a key of F carries no weight, and
    share what `project` has compiled already.

    Args:
        view: keys seen from p*.
        face: F.
        support: keys with positive weight in one optimum.
        compiled: how each step is compiled, outside transformations.

    Returns:
        A `MinimalFace`, in units of the view's length.
    """

    def enlarge(state: _State) -> _State:
        question = compiled(_ask)(view, face, state.members)
        found = compiled(project_quietly)(question.rows, jnp.zeros_like(state.nearest))
        return compiled(_enlarged)(state, face, question, found.weights, found.point)

    state = compiled(_start)(view, face, support)
    if is_traced(state):
        state = jax.lax.while_loop(lambda s: ~s.decided, enlarge, state)
    else:
        while not bool(state.decided):
            state = enlarge(state)
    return compiled(_concluded)(state, face)


def project_quietly(keys: Float[Array, "n d"], query: Float[Array, " d"]) -> Projection:
    """`project`, which says only in its result what failed."""
    return project(keys, query, throw=False)


@jax.jit
def _start(view: Centred, face: Array, support: Array) -> _State:
    members = support & face
    zero = jnp.zeros_like(view.anchor)
    return _State(members, zero, ~jnp.any(face & ~members))


@jax.jit
def _ask(view: Centred, face: Array, members: Array) -> _Question:
    with jax.default_matmul_precision("highest"):
        basis = face_basis(view, members)

        def split(keys: Array) -> tuple[Array, Array]:
            rows = view.rows(keys)
            return basis.across(rows), basis.noise(rows)

        across, noise = map_rows(split, view.keys)
    members = members | (face & (safe_norm(across) <= noise))
    rest = face & ~members
    # Rows that do not count are replaced by one that does: a duplicate changes no hull.
    filler = jnp.argmax(rest)
    rows = jnp.where(rest[:, None], across, across[filler][None])
    return _Question(rows, jnp.where(rest, noise, noise[filler]), members, rest)


@jax.jit
def _enlarged(
    state: _State, face: Array, question: _Question, weights: Array, point: Array
) -> _State:
    members, rest = question.members, question.rest
    with jax.default_matmul_precision("highest"):
        rounding = weights @ question.noise
    separated = safe_norm(point) > rounding
    carrying = (weights > 0) & rest
    is_filler = jnp.arange(len(rest)) == jnp.argmax(rest)
    carrying |= is_filler & jnp.any((weights > 0) & ~rest)
    grown = jnp.where(separated | ~jnp.any(rest), members, members | (carrying & rest))
    done = separated | ~jnp.any(face & ~grown) | jnp.all(grown == state.members)
    return _State(grown, jnp.where(separated & jnp.any(rest), point, 0.0), done)


@jax.jit
def _concluded(state: _State, face: Array) -> MinimalFace:
    strict = ~jnp.any(face & ~state.members)
    distance = jnp.where(strict, jnp.nan, jnp.linalg.norm(state.nearest))
    return MinimalFace(state.members, strict, distance, state.nearest / distance**2)

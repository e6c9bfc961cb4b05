"""The solved projection problem, and its implicit derivative on the fixed face."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vashista_theory._numerics import map_rows
from vashista_theory.hull.active_set import pose, search
from vashista_theory.hull.refinement import Optimum, refine


class Solution(NamedTuple):
    """What the active-set method returns; the first three have derivatives."""

    point: Float[Array, " d"]
    weights: Float[Array, " n"]
    multipliers: Float[Array, " n"]
    optimum: Optimum


@jax.custom_jvp
def solve(
    keys: Float[Array, "n d"],
    query: Float[Array, " d"],
    initial_face: Bool[Array, " n"] | None,
    allowance: Float[Array, ""],
    max_steps: Int[Array, ""],
) -> Solution:
    """Search, then refine.

    Args:
        keys: (n, d).
        query: (d,).
        initial_face: keys to start from, or None.
        allowance: duality gap (squared length) at which to stop early; 0 for full accuracy.
        max_steps: most keys that may enter.
    """
    problem = pose(keys, query, allowance, max_steps)
    optimum = refine(problem, search(problem, initial_face))
    support, unit = optimum.support, problem.frame.unit
    slots = jnp.where(support.used, support.key_index, keys.shape[0])
    return Solution(
        optimum.place.point,
        jnp.zeros(keys.shape[0], keys.dtype).at[slots].add(support.weights, mode="drop"),
        optimum.prices.multipliers * unit * unit,
        optimum,
    )


@solve.defjvp
def _solve_jvp(
    primals: tuple[Array, Array, Array | None, Array, Array],
    tangents: tuple[Array, Array, Array | None, Array, Array],
) -> tuple[Solution, Solution]:
    """Implicit derivative on the fixed face: differentiate the support's own KKT system.

    Moving keys carry the point along at fixed weights; the query's motion relative to that, and
    the tilt of the face against the residual, change the weights.
    """
    keys = primals[0]
    solution = solve(*primals)
    support, place = solution.optimum.support, solution.optimum.place
    inverse = 1 / place.frame.unit
    keys_dot, query_dot = tangents[0] * inverse, tangents[1] * inverse
    index = jnp.maximum(support.key_index, 0)
    support_dot = jnp.where(support.used[:, None], keys_dot[index], 0.0)
    shifted = jnp.where(
        support.used[:, None], place.frame.shifted(keys[index]) - place.offset[None], 0.0
    )
    carried = support.weights @ support_dot
    pull = support_dot @ place.residual + shifted @ (query_dot - carried)
    change = _weight_change(shifted, support.weights, support.used, pull)
    point_dot = carried + change @ shifted
    slots = jnp.where(support.used, support.key_index, keys.shape[0])
    weights_dot = jnp.zeros_like(solution.weights).at[slots].add(change, mode="drop")
    residual_dot = query_dot - point_dot

    def block(rows: Array) -> tuple[Array]:
        return ((place.offset[None] - place.frame.shifted(rows)) @ residual_dot,)

    multipliers_dot = (
        map_rows(block, keys)[0] + place.residual @ point_dot - keys_dot @ place.residual
    )
    unit = place.frame.unit
    still = jax.tree.map(_zero_tangent, solution)
    return solution, still._replace(
        point=point_dot * unit, weights=weights_dot, multipliers=multipliers_dot * unit * unit
    )


def _weight_change(
    shifted: Float[Array, "slots d"],
    weights: Float[Array, " slots"],
    used: Bool[Array, " slots"],
    pull: Float[Array, " slots"],
) -> Float[Array, " slots"]:
    """The c with Σc = 0 and ⟨k_j − k_0, Σ c_i k_i⟩ = pull_j − pull_0: from a QR."""
    slots = shifted.shape[0]
    pivot = jnp.argmax(jnp.where(used, weights, -jnp.inf))
    others = used & (jnp.arange(slots) != pivot)
    rows = jnp.where(others[:, None], shifted - shifted[pivot][None], 0.0)
    # A slot without a key has a coordinate of its own, which nothing else shares.
    padded = jnp.concatenate([rows, jnp.diag(jnp.where(others, 0.0, 1.0)).astype(rows.dtype)], 1)
    triangle = jnp.linalg.qr(padded.T, mode="r")
    tilted = jnp.where(others, pull - pull[pivot], 0.0)
    half = jax.scipy.linalg.solve_triangular(triangle.T, tilted, lower=True)
    change = jnp.where(others, jax.scipy.linalg.solve_triangular(triangle, half), 0.0)
    return change.at[pivot].set(-jnp.sum(change))


def _zero_tangent(value: Array) -> Array:
    if jnp.issubdtype(value.dtype, jnp.floating):
        return jnp.zeros_like(value)
    return jnp.zeros(value.shape, jax.dtypes.float0)

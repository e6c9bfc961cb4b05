r"""Projection of a query on the convex hull of its keys, exact to rounding.

.. math:: p^* = \arg\min_{p \in \mathrm{conv}\{k_i\}} \tfrac12 \|p - q\|^2
"""

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vashista_theory._checks import check_finite, is_traced
from vashista_theory._numerics import default_tolerance, map_rows
from vashista_theory._results import Result
from vashista_theory._types import ArrayLike
from vashista_theory.hull import kkt
from vashista_theory.hull.active_set import pose, search, slots_for
from vashista_theory.hull.kkt import Residuals
from vashista_theory.hull.problem import as_problem, settle
from vashista_theory.hull.refinement import Optimum, refine, support_violation

FAILURES = (
    Result.nonfinite_input,
    Result.max_steps_reached,
    Result.stagnated,
    Result.ambiguous_face,
)
"""Outcomes for which `throw=True` raises; `inside_hull` is a fact about the input."""


class Projection(eqx.Module):
    """The projection of a query on the hull of its keys, with the evidence for it.

    A leading batch axis on every array comes from `project_many` or `jax.vmap`.

    Attributes:
        keys: (n, d), as given.
        query: (d,), as given.
        point: p*, the nearest point of the hull.
        weights: a sparse optimum α with p* = Kᵀα (not unique when keys are dependent).
        multipliers: μ_i = ⟨q − p*, p* − k_i⟩, squared length; all zero inside the hull.
        face: F = {i : μ_i = 0 to rounding}, the exposed face.
        gap: Δ, the least multiplier off the face; +inf if all keys are on it, NaN inside.
        residuals: primal, dual, complementarity, stationarity.
        duality_gap: primal minus dual objective (squared length); ‖p − p*‖ ≤ √duality_gap.
        scale: max_i ‖k_i − q‖², the unit in which tolerances are stated.
        steps: keys that entered the active set.
        passes: multiplications by all the keys.
        result: a `Result`.
    """

    keys: Float[Array, "*b n d"]
    query: Float[Array, "*b d"]
    point: Float[Array, "*b d"]
    weights: Float[Array, "*b n"]
    multipliers: Float[Array, "*b n"]
    face: Bool[Array, "*b n"]
    gap: Float[Array, "*b"]
    residuals: Residuals
    duality_gap: Float[Array, "*b"]
    scale: Float[Array, "*b"]
    steps: Int[Array, "*b"]
    passes: Int[Array, "*b"]
    result: Result


class _Solution(NamedTuple):
    """What the active-set method returns; the first three have derivatives."""

    point: Float[Array, " d"]
    weights: Float[Array, " n"]
    multipliers: Float[Array, " n"]
    optimum: Optimum
    support_violation: Float[Array, ""]
    allowance: Float[Array, ""]


@jax.custom_jvp
def _solve(
    keys: Float[Array, "n d"],
    query: Float[Array, " d"],
    initial_face: Bool[Array, " n"] | None,
    allowance: Float[Array, ""],
    max_steps: Int[Array, ""],
) -> _Solution:
    problem = pose(keys, query, allowance, max_steps)
    optimum = refine(problem, search(problem, initial_face))
    support, unit = optimum.support, problem.frame.unit
    slots = jnp.where(support.used, support.key_index, keys.shape[0])
    return _Solution(
        optimum.place.point,
        jnp.zeros(keys.shape[0], keys.dtype).at[slots].add(support.weights, mode="drop"),
        optimum.prices.multipliers * unit * unit,
        optimum,
        support_violation(problem, optimum),
        problem.allowance,
    )


@_solve.defjvp
def _solve_jvp(
    primals: tuple[Array, Array, Array | None, Array, Array],
    tangents: tuple[Array, Array, Array | None, Array, Array],
) -> tuple[_Solution, _Solution]:
    """Implicit derivative on the fixed face: differentiate the support's own KKT system.

    Moving keys carry the point along at fixed weights; the query's motion relative to that, and
    the tilt of the face against the residual, change the weights.
    """
    keys = primals[0]
    solution = _solve(*primals)
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
        point=point_dot * unit,
        weights=weights_dot,
        multipliers=multipliers_dot * unit * unit,
    )


def _weight_change(
    shifted: Float[Array, "slots d"],
    weights: Float[Array, " slots"],
    used: Bool[Array, " slots"],
    pull: Float[Array, " slots"],
) -> Float[Array, " slots"]:
    """C with Σc = 0 and ⟨k_j − k_0, Σ c_i k_i⟩ = pull_j − pull_0: from the R of the differences."""
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


def _project(
    keys: Float[Array, "n d"],
    query: Float[Array, " d"],
    initial_face: Bool[Array, " n"] | None,
    tolerance: Float[Array, ""],
    max_steps: Int[Array, ""],
) -> tuple[dict[str, Any], Bool[Array, ""]]:
    """Solve, then judge the answer from itself.

    Returns every field of a `Projection` but its keys and query, which need no copy, and whether
    the outcome counts as a failure.
    """
    exact = tolerance <= default_tolerance(keys.dtype)
    sketch = jnp.max(jnp.sum((keys[:: max(1, keys.shape[0] // 128)] - query[None]) ** 2, axis=1))
    allowance = jnp.where(exact, 0.0, tolerance * sketch)
    solution = _solve(keys, query, initial_face, allowance, max_steps)
    judged = jax.lax.stop_gradient(solution)
    optimum = judged.optimum
    support, place, prices = optimum.support, optimum.place, optimum.prices
    unit = place.frame.unit
    inside = kkt.inside(place)
    inputs = kkt.tolerance(place).inputs
    face, ambiguous = kkt.exposed_face(prices.multipliers, prices.tolerances, inputs)
    ambiguous |= kkt.undetermined(prices.tolerances, prices.squared_reach, face, place)
    ambiguous |= jnp.all(face) & ~kkt.is_clear(jnp.max(prices.tolerances), place)
    multipliers = jnp.where(inside, 0.0, solution.multipliers)
    worst = jnp.maximum(jnp.max(kkt.violation(prices, judged.allowance)), judged.support_violation)
    index = jnp.maximum(support.key_index, 0)
    residuals = kkt.residuals(
        keys[index],
        solution.point,
        support.weights,
        solution.multipliers,
        jnp.where(support.used, solution.multipliers[index], 0.0),
    )
    slots = support.key_index.shape[0]
    excess = kkt.excess(prices.multipliers, prices.tolerances, keys.shape[1], slots)
    duality_gap = kkt.duality_gap(jnp.max(excess), place, slots)
    scale = kkt.squared_scale(prices.multipliers, prices.squared_reach, place) * unit * unit
    gap = kkt.support_gap(multipliers, face, inside)
    tiny = jnp.finfo(keys.dtype).tiny
    unsolved = ~(worst <= 1.0) & ~inside
    unusable = ~jnp.isfinite(scale) | (gap < tiny) | kkt.hidden_by_underflow(keys, query, place)
    result = Result.successful
    for happened, outcome in (
        (ambiguous, Result.ambiguous_face),
        (inside, Result.inside_hull),
        (unsolved, Result.stagnated),
        (unsolved & (optimum.steps >= max_steps), Result.max_steps_reached),
        (unusable, Result.nonfinite_input),
    ):
        result = Result.where(happened, outcome, result)
    failed = functools.reduce(jnp.logical_or, [result == failure for failure in FAILURES])
    return {
        "point": solution.point,
        "weights": solution.weights,
        "multipliers": multipliers,
        "face": face | inside,
        "gap": gap,
        "residuals": jax.lax.stop_gradient(residuals),
        # Differences below the least normal number are not seen.
        "duality_gap": jnp.maximum(duality_gap * unit * unit, tiny),
        "scale": scale,
        "steps": optimum.steps,
        "passes": optimum.passes,
        "result": result,
    }, failed


@jax.jit
def _project_one(
    keys: Array,
    query: Array,
    initial_face: Array | None,
    tolerance: ArrayLike,
    max_steps: ArrayLike,
) -> tuple[dict[str, Any], Array]:
    with jax.default_matmul_precision("highest"):
        return _project(keys, query, initial_face, jnp.asarray(tolerance), jnp.asarray(max_steps))


@jax.jit
def _project_batch(keys: Array, queries: Array, *rest: Array) -> tuple[dict[str, Any], Array]:
    def one(pair: tuple[Array, Array]) -> tuple[dict[str, Any], Array]:
        return _project(*pair, None, *rest)

    with jax.default_matmul_precision("highest"):
        if jax.default_backend() == "cpu":
            return jax.lax.map(one, (keys, queries))
        return jax.vmap(lambda *pair: one(pair))(keys, queries)


def _controls(
    keys: Array, tolerance: float | None, max_steps: int | None
) -> tuple[ArrayLike, ArrayLike]:
    default = default_tolerance(keys.dtype)
    if tolerance is not None and not is_traced(tolerance) and not 0 < tolerance < jnp.inf:
        raise ValueError(
            f"`tolerance` must be a positive number (relative to scale), got {tolerance}."
        )
    if max_steps is not None and not is_traced(max_steps) and max_steps < 1:
        raise ValueError(f"`max_steps` must be at least 1, got {max_steps}.")
    steps = max_steps if max_steps is not None else max(1000, 50 * slots_for(*keys.shape[-2:]))
    if is_traced(tolerance, steps):
        return jnp.asarray(tolerance or default, keys.dtype), jnp.asarray(steps, jnp.int32)
    return np.asarray(tolerance or default, keys.dtype), np.asarray(steps, np.int32)


def _finish(projection: Projection, failed: Array, throw: bool, doing: str) -> Projection:
    traced = is_traced(failed)
    if not throw or not (traced or np.any(failed)):
        return projection
    if not traced and bool(jnp.any(projection.result == Result.nonfinite_input)):
        check_finite(projection.keys, "keys")
        check_finite(projection.query, "query")
    detail = (
        ""
        if traced
        else (
            f"(duality gap {float(jnp.max(projection.duality_gap)):.3g}, "
            f"scale {float(jnp.max(projection.scale)):.3g}, "
            f"steps {int(jnp.max(projection.steps))})."
        )
    )
    return settle(projection, projection.result, failures=FAILURES, doing=doing, detail=detail)


def project(
    keys: ArrayLike,
    query: ArrayLike,
    *,
    tolerance: float | None = None,
    max_steps: int | None = None,
    throw: bool = True,
    initial_face: ArrayLike | None = None,
) -> Projection:
    """Project a query on the convex hull of its keys.

    Wolfe's active-set method, finite and exact to rounding: a multiplier comes out to a few
    roundings of ‖q − p‖ times the distance of its own key from p, whatever the other keys are, the
    unit and the origin. A multiplier too near to the 16 roundings that count as zero is
    `ambiguous_face`, and so is a query that may be inside a hull too thin to tell. Works under
    `jax.jit`, `jax.vmap`, `jax.lax.map` and `jax.grad` (point, weights, multipliers and gap have
    the derivative of the fixed face). For batches prefer `project_many`.

    Args:
        keys: (n, d) array-like of real numbers, n ≥ 1.
        query: (d,) array-like.
        tolerance: duality gap, relative to scale, at which the answer counts as solved. A value
            above the default (9e-13 in float64, 5e-4 in float32) also stops the search early.
        max_steps: most keys that may enter the active set; default max(1000, 50 (d + 1)).
        throw: raise on failure; otherwise return what was found, with `result`.
        initial_face: (n,) bool, keys to start from (for instance the face of a nearby query).

    Returns:
        A `Projection`. A query inside the hull is not a failure: `result` says so, `gap` is NaN.

    Raises:
        ValueError: shapes, types, NaN or infinite entries.
        RuntimeError: a failure named by `Result`, when `throw` is true.
    """
    keys_, query_ = as_problem(keys, query)
    face = None
    if initial_face is not None:
        face = jnp.asarray(initial_face)
        if face.shape != keys_.shape[:1] or face.dtype != jnp.bool_:
            raise ValueError(
                f"`initial_face` must be bool of shape {keys_.shape[:1]}, one entry a key, got "
                f"{face.dtype} of shape {face.shape}. Pass the `.face` of another projection."
            )
    fields, failed = _project_one(keys_, query_, face, *_controls(keys_, tolerance, max_steps))
    projection = Projection(keys=keys_, query=query_, **fields)
    return _finish(projection, failed, throw, "project")


def project_many(
    keys: ArrayLike,
    queries: ArrayLike,
    *,
    tolerance: float | None = None,
    max_steps: int | None = None,
    throw: bool = True,
) -> Projection:
    """Project a batch of queries, each on the hull of its own keys.

    On a CPU the instances are solved one after the other on every core: lanes of a `jax.vmap` run
    in lockstep and copy their state, which was measured several times slower. Elsewhere, `vmap`.

    Args:
        keys: (b, n, d).
        queries: (b, d).
        tolerance: as in `project`.
        max_steps: as in `project`.
        throw: raise if any instance fails.

    Returns:
        A `Projection` with a leading batch axis.

    Raises:
        ValueError: shapes, types, NaN or infinite entries.
        RuntimeError: a failure named by `Result`, when `throw` is true.
    """
    keys_, queries_ = as_problem(keys, queries, batched=True)
    controls = _controls(keys_, tolerance, max_steps)
    cores = os.cpu_count() or 1
    run: Callable[..., tuple[dict[str, Any], Array]] = partial(_across_cores, cores=cores)
    if is_traced(keys_, queries_) or jax.default_backend() != "cpu" or len(keys_) < 2 * cores:
        run = _project_batch
    fields, failed = run(keys_, queries_, *controls)
    projection = Projection(keys=keys_, query=queries_, **fields)
    return _finish(projection, failed, throw, "project_many")


def _across_cores(
    keys: Array, queries: Array, *controls: ArrayLike, cores: int
) -> tuple[dict[str, Any], Array]:
    """Equal parts of the batch, a thread each; the last overlaps so that one shape serves."""
    size = -(-len(keys) // cores)
    starts = [min(part * size, len(keys) - size) for part in range(cores)]
    x64 = jnp.result_type(float) == np.float64

    def part(start: int) -> tuple[dict[str, Any], Array]:
        # `jax.enable_x64(True)` holds for one thread: without this, these would be in float32.
        with jax.enable_x64(x64):
            some = keys[start : start + size], queries[start : start + size]
            return jax.block_until_ready(_project_batch(*some, *controls))

    with ThreadPoolExecutor(cores) as pool:
        parts = list(pool.map(part, starts))
    fresh = [part * size - start for part, start in enumerate(starts)]
    trimmed = [
        jax.tree.map(lambda leaf, k=k: leaf[k:], p) for k, p in zip(fresh, parts, strict=True)
    ]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *trimmed)

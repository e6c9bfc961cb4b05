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
from vashista_theory._numerics import default_tolerance, unit_roundoff
from vashista_theory._results import Result
from vashista_theory._types import ArrayLike
from vashista_theory.hull import corral as corrals
from vashista_theory.hull import kkt
from vashista_theory.hull.active_set import search, slots_for
from vashista_theory.hull.kkt import Residuals
from vashista_theory.hull.problem import as_problem, settle

FAILURES = (
    Result.nonfinite_input,
    Result.max_steps_reached,
    Result.stagnated,
    Result.ambiguous_face,
)
"""Outcomes for which `throw=True` raises; `inside_hull` is a fact about the input."""

_INSIDE_NOISE = 64.0


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
    corral: corrals.Corral
    reach: Float[Array, " n"]
    scale: Float[Array, ""]
    steps: Int[Array, ""]
    passes: Int[Array, ""]


@jax.custom_jvp
def _solve(
    keys: Float[Array, "n d"],
    query: Float[Array, " d"],
    initial_face: Bool[Array, " n"] | None,
    allowance: Float[Array, ""],
    max_steps: Int[Array, ""],
) -> _Solution:
    found = search(keys, query, initial_face, allowance, max_steps)
    frame = found.frame
    corral = corrals.polish(found.corral, frame)
    point = frame.origin + corral.shifted_point()
    slots = jnp.where(corral.used, corral.key_index, keys.shape[0])
    weights = jnp.zeros(keys.shape[0], keys.dtype).at[slots].add(corral.weights, mode="drop")
    multipliers, reach = kkt.multipliers(keys, query, point)
    return _Solution(
        point,
        weights,
        multipliers,
        corral,
        reach.from_point,
        reach.scale,
        found.steps,
        found.passes + 1,
    )


@_solve.defjvp
def _solve_jvp(
    primals: tuple[Array, Array, Array | None, Array, Array],
    tangents: tuple[Array, Array, Array | None, Array, Array],
) -> tuple[_Solution, _Solution]:
    """Implicit derivative on the fixed face: differentiate the corral's own KKT system."""
    keys, query = primals[:2]
    keys_dot, query_dot = tangents[:2]
    solution = _solve(*primals)
    corral, point = solution.corral, solution.point
    residual = query - point
    support_dot = jnp.where(corral.used[:, None], keys_dot[corral.key_index], 0.0)
    shifted = corral.rows[:, :-1]
    # Moving keys carry the point along at fixed weights; the query's motion relative to that, and
    # the tilt of the face against the residual, change the weights.
    carried = corral.weights @ support_dot
    pull = support_dot @ residual + shifted @ (query_dot - carried)
    change = corral.dual @ (corral.dual.T @ pull)
    upward = corral.dual[:, -1]
    change = change - upward * (jnp.sum(change) / jnp.sum(upward))
    point_dot = carried + change @ shifted
    slots = jnp.where(corral.used, corral.key_index, keys.shape[0])
    weights_dot = jnp.zeros_like(solution.weights).at[slots].add(change, mode="drop")
    residual_dot = query_dot - point_dot
    multipliers_dot = (
        point @ residual_dot - keys @ residual_dot + residual @ point_dot - keys_dot @ residual
    )
    still = jax.tree.map(_zero_tangent, solution)
    return solution, still._replace(
        point=point_dot, weights=weights_dot, multipliers=multipliers_dot
    )


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
    point, corral = solution.point, solution.corral
    residual_norm = jnp.linalg.norm(jax.lax.stop_gradient(query - point))
    magnitude = jnp.linalg.norm(query) + jnp.linalg.norm(point)
    support_reach = jnp.max(jnp.where(corral.used, solution.reach[corral.key_index], 0.0))
    noise = _INSIDE_NOISE * unit_roundoff(keys.dtype)
    inside = residual_norm <= noise * (support_reach + magnitude)
    face_tolerance = kkt.face_tolerance(solution.reach, support_reach, residual_norm, magnitude)
    face, ambiguous = kkt.exposed_face(solution.multipliers, face_tolerance)
    multipliers = jnp.where(inside, 0.0, solution.multipliers)
    residuals = kkt.residuals(
        keys[corral.key_index],
        point,
        corral.weights,
        solution.multipliers,
        jnp.where(corral.used, solution.multipliers[corral.key_index], 0.0),
    )
    duality_gap = residuals.dual
    nonfinite = ~jnp.isfinite(solution.scale) | ~jnp.isfinite(magnitude)
    unsolved = duality_gap > tolerance * (solution.scale + magnitude**2)
    result = Result.successful
    for happened, outcome in (
        (ambiguous, Result.ambiguous_face),
        (inside, Result.inside_hull),
        (unsolved, Result.stagnated),
        (unsolved & (solution.steps >= max_steps), Result.max_steps_reached),
        (nonfinite, Result.nonfinite_input),
    ):
        result = Result.where(happened, outcome, result)
    failed = functools.reduce(jnp.logical_or, [result == failure for failure in FAILURES])
    return {
        "point": point,
        "weights": solution.weights,
        "multipliers": multipliers,
        "face": face | inside,
        "gap": kkt.support_gap(multipliers, face, inside),
        "residuals": jax.lax.stop_gradient(residuals),
        "duality_gap": jax.lax.stop_gradient(duality_gap),
        "scale": solution.scale,
        "steps": solution.steps,
        "passes": solution.passes,
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

    Wolfe's active-set method, finite and exact to rounding: multipliers come out to about
    1e-15 × scale in float64 and 1e-6 × scale in float32, scale = max ‖k_i − q‖². Works under
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

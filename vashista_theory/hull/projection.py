r"""Projection of a query on the convex hull of its keys, exact to rounding.

.. math:: p^* = \arg\min_{p \in \mathrm{conv}\{k_i\}} \tfrac12 \|p - q\|^2
"""

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vashista_theory._checks import check_finite, is_positive, is_traced
from vashista_theory._numerics import default_tolerance
from vashista_theory._results import Result
from vashista_theory._types import ArrayLike
from vashista_theory.hull import kkt
from vashista_theory.hull.active_set import slots_for
from vashista_theory.hull.kkt import Residuals
from vashista_theory.hull.problem import as_problem, settle
from vashista_theory.hull.solution import solve

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
    solution = solve(keys, query, initial_face, allowance, max_steps)
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
    unsolved = ~(optimum.violation <= 1.0) & ~inside
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
    if tolerance is not None and not is_traced(tolerance) and not is_positive(tolerance):
        raise ValueError(
            f"`tolerance` must be a positive number (relative to scale), got {tolerance!r}."
        )
    given: Any = 1 if max_steps is None or is_traced(max_steps) else max_steps
    if not is_positive(given) or int(given) != given:
        raise ValueError(f"`max_steps` must be an integer of at least 1, got {max_steps!r}.")
    steps = max_steps if max_steps is not None else max(1000, 50 * slots_for(*keys.shape[-2:]))
    if is_traced(tolerance, steps):
        return jnp.asarray(tolerance or default, keys.dtype), jnp.asarray(steps, jnp.int32)
    return np.asarray(tolerance or default, keys.dtype), np.asarray(steps, np.int32)


def _finish(projection: Projection, failed: Array, throw: bool, doing: str) -> Projection:
    traced = is_traced(failed)
    # On the host: `any` of a JAX array is one dispatch more.
    if not throw or not (traced or np.asarray(failed).any()):
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
        throw: raise on failure, and for NaN and infinite entries; otherwise return what was
            found, with `result`.
        initial_face: (n,) bool, keys to start from (for instance the face of a nearby query).

    Returns:
        A `Projection`. A query inside the hull is not a failure: `result` says so, `gap` is NaN.

    Raises:
        ValueError: shapes and types; NaN or infinite entries, when `throw` is true.
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
        ValueError: shapes and types; NaN or infinite entries, when `throw` is true.
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

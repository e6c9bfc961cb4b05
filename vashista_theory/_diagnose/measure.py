"""The measurements behind a diagnosis."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from vashista_theory._checks import as_float64, as_numbers, check_finite, is_traced
from vashista_theory._diagnose.page import Diagnosis
from vashista_theory._diagnose.record import FaceKeys, Softmax, Solution, Support, Temperatures
from vashista_theory._diagnose.verdict import TOLERATED_LOG_MASS, judge
from vashista_theory._numerics import unit_roundoff
from vashista_theory._results import Result, name_of
from vashista_theory._types import ArrayLike
from vashista_theory.hull.kkt import FACE_ROUNDINGS
from vashista_theory.hull.problem import as_problem
from vashista_theory.hull.projection import Projection, project
from vashista_theory.hull.relaxation import Relaxation, relax
from vashista_theory.hull.stability import FaceStability, face_stability

_GAP_MULTIPLES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_MODEL_MULTIPLES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 10.0)
_PATH = 33
_HOTTEST = 1e3


def diagnose(keys: ArrayLike, query: ArrayLike, *, scale: float | None = None) -> Diagnosis:
    """Everything the toolkit knows about one query and its keys; `print` the answer for a page.

    Computed in float64 whatever the input's type, with x64 switched on for this call alone.

    Args:
        keys: (n, d) array-like of real numbers.
        query: (d,) array-like.
        scale: the model's factor s on the scores, so that its own temperature is ε = 1/s;
            1/√d if left out, as in ordinary attention.

    Returns:
        A `Diagnosis`. A query inside the hull or a degenerate face is diagnosed, not refused.

    Raises:
        ValueError: shapes, types, NaN or infinite entries, a scale that is not positive, or
            tracers.
    """
    if is_traced(keys, query, scale):
        raise ValueError(
            "`diagnose` writes a page about concrete numbers and cannot run under jax.jit, vmap "
            "or grad. Call it outside, or use `project` and `face_stability`, which are traceable."
        )
    # Of the constants of a jitted function this is a constant too.
    with jax.enable_x64(True), jax.ensure_compile_time_eval():
        keys_, query_ = as_problem(as_float64(keys, "keys"), as_float64(query, "query"))
        dtype = _names_of_types(keys, query)
        check_finite(keys_, "keys")
        check_finite(query_, "query")
        factor = _checked_scale(scale, dimensions=query_.shape[0])
        return _measure(keys_, query_, factor, dtype)


def _names_of_types(keys: ArrayLike, query: ArrayLike) -> str:
    first, second = (str(as_numbers(a, n).dtype) for a, n in ((keys, "keys"), (query, "query")))
    return first if first == second else f"{first} keys, {second} query"


def _checked_scale(scale: float | None, *, dimensions: int) -> float:
    if scale is None:
        return 1.0 / math.sqrt(dimensions)
    try:
        factor = float(scale)
    except (TypeError, ValueError):
        factor = math.nan
    if not 0 < factor < math.inf or math.isinf(1.0 / factor):
        raise ValueError(
            f"`scale` must be a positive number, the factor on the scores, got {scale!r}. Leave it "
            "out for 1/sqrt(d)."
        )
    return factor


def _measure(keys: Array, query: Array, scale: float, dtype: str) -> Diagnosis:
    projection = project(keys, query, throw=False)
    if bool(projection.result == Result.nonfinite_input):
        raise ValueError(f"{Result[Result.nonfinite_input]}")
    stability = face_stability(projection)
    outcome = stability.result
    safe = float(stability.largest_safe_epsilon(TOLERATED_LOG_MASS))
    table = _temperatures(1.0 / scale, float(stability.gap))
    # The table leads one path of a fixed length, so that every call compiles to the same shapes.
    path = np.concatenate([table, _search_grid(projection, safe, _PATH - len(table))])
    relaxation = relax(projection, path, throw=False)
    rows = slice(len(table))
    at_model = int(np.searchsorted(table, 1.0 / scale))
    log_weights = np.asarray(relaxation.log_weights[at_model])
    softmax, softmax_weights, ranks = _softmax(
        keys, query, scale, np.asarray(projection.face), log_weights, relaxation.point[at_model]
    )
    found = Diagnosis(
        n=keys.shape[0],
        d=keys.shape[1],
        dtype=dtype,
        scale=scale,
        result=name_of(outcome),
        advice=Result[outcome],
        solution=_solution(projection, stability, relaxation, rows),
        face=_face_keys(stability, log_weights, softmax_weights, ranks),
        gap=float(stability.gap),
        residual_norm=float(jnp.linalg.norm(query - projection.point)),
        largest_squared_distance=float(projection.scale),
        strict=bool(stability.strict),
        tangent_norm=float(stability.tangent_norm),
        entropy=float(stability.entropy),
        degeneracy_distance=float(stability.degeneracy_distance),
        published_range=float(stability.published_range()),
        safe_epsilon=safe,
        one_percent_epsilon=_first_leaking(projection, safe, relaxation),
        temperatures=Temperatures(
            epsilon=table,
            log_leakage=np.asarray(relaxation.log_off_face_mass)[rows],
            log_leakage_bound=np.asarray(stability.log_leakage_bound(path))[rows],
            log_leakage_asymptote=np.asarray(stability.log_leakage_asymptote(path))[rows],
            log_displacement=np.asarray(relaxation.log_displacement)[rows],
            log_displacement_bound=np.asarray(stability.log_displacement_bound(path))[rows],
            at_model=at_model,
        ),
        entropic_support=_support(np.exp(log_weights)),
        softmax=softmax,
    )
    regime, verdict = judge(found)
    return dataclasses.replace(found, regime=regime, verdict=verdict)


def _temperatures(epsilon: float, gap: float) -> Float[np.ndarray, " e"]:
    """Coldest first: decades of Δ up to Δ, the model's ε, and one halfway (in logarithm)."""
    if not math.isfinite(gap):
        return np.array(sorted([epsilon, *(epsilon * m for m in _MODEL_MULTIPLES)]))
    between = math.sqrt(gap) * math.sqrt(epsilon)
    wanted = sorted([epsilon, between, *(gap * m for m in _GAP_MULTIPLES)])
    # A neighbour within 20 % of the model's own temperature says nothing new.
    kept = [e for e in wanted if e == epsilon or abs(math.log(e / epsilon)) > 0.2]
    return np.array(kept)


def _search_grid(projection: Projection, proved: float, size: int) -> Float[np.ndarray, " e"]:
    """Temperatures among which leakage of 1 % is looked for: from the proved one to very hot."""
    scale, gap = float(projection.scale) or 1.0, float(projection.gap)
    low = proved if 0 < proved < math.inf else 1e-6 * (gap if 0 < gap < math.inf else scale)
    return np.geomspace(low, max(_HOTTEST * scale, 10.0 * low), size)


def _first_leaking(projection: Projection, proved: float, relaxation: Relaxation) -> float:
    """The ε at which leakage first exceeds 1 %: bracketed on a path, refined on two more."""
    gap = float(projection.gap)
    if not math.isfinite(gap) or math.isinf(proved):
        return math.nan if math.isnan(gap) else math.inf
    found = math.inf
    for _ in range(3):
        order = np.argsort(relaxation.epsilon)
        epsilon = np.asarray(relaxation.epsilon)[order]
        over = np.flatnonzero(np.asarray(relaxation.log_off_face_mass)[order] > TOLERATED_LOG_MASS)
        if len(over) == 0:
            return found
        if over[0] == 0:
            return float(epsilon[0])
        low, high = epsilon[over[0] - 1], epsilon[over[0]]
        found = math.sqrt(low * high)
        relaxation = relax(projection, np.geomspace(low, high, _PATH), throw=False)
    return found


def _solution(
    projection: Projection, stability: FaceStability, relaxation: Relaxation, rows: slice
) -> Solution:
    measured = projection.residuals
    return Solution(
        result=name_of(projection.result),
        steps=int(projection.steps),
        passes=int(projection.passes),
        primal=float(measured.primal),
        dual=float(measured.dual),
        complementarity=float(measured.complementarity),
        stationarity=float(measured.stationarity),
        duality_gap=float(projection.duality_gap),
        identity_defect=float(np.abs(stability.identity_defect(relaxation))[rows].max()),
        relaxation_residual=float(np.asarray(relaxation.residual)[rows].max()),
    )


def _face_keys(
    stability: FaceStability,
    log_weights: Float[np.ndarray, " n"],
    softmax_weights: Float[np.ndarray, " n"],
    ranks: np.ndarray,
) -> FaceKeys:
    optimal = np.exp(np.asarray(stability.log_optimal_weights))
    members = np.flatnonzero(np.asarray(stability.projection.face))
    index = members[np.argsort(-optimal[members], kind="stable")]
    return FaceKeys(
        index, optimal[index], np.exp(log_weights)[index], softmax_weights[index], ranks[index]
    )


def _softmax(
    keys: Array,
    query: Array,
    scale: float,
    face: Bool[np.ndarray, " n"],
    log_entropic: Float[np.ndarray, " n"],
    point: Array,
) -> tuple[Softmax, Float[np.ndarray, " n"], np.ndarray]:
    rows, direction = np.asarray(keys), np.asarray(query)
    scores = rows @ direction
    rounding = np.abs(rows) @ np.abs(direction)
    tie = FACE_ROUNDINGS * unit_roundoff(np.float64) * (rounding + rounding[np.argmax(scores)])
    tops = scores >= scores.max() - tie
    logits = scale * (scores - scores.max())
    weights = np.exp(logits) / np.exp(logits).sum()
    order = np.argsort(-scores, kind="stable")
    ranks = np.empty(len(scores), dtype=np.int64)
    ranks[order] = np.arange(1, len(scores) + 1)
    rest = scores[~tops]
    # In logarithms: a dropped mass below the smallest float64 still has one.
    log_rest = jax.nn.logsumexp(scale * (rest - scores.max())) if rest.size else -math.inf
    log_leakage = log_rest - jax.nn.logsumexp(logits)
    across = rows @ np.asarray(point)
    facts = Softmax(
        top=np.flatnonzero(tops),
        top_score=float(scores.max()),
        score_gap=float(scores.max() - rest.max()) if rest.size else math.inf,
        log_leakage=float(log_leakage),
        support=_support(weights),
        mass_on_face=float(weights[face].sum()),
        distance=float(0.5 * np.abs(weights - np.exp(log_entropic)).sum()),
        distance_bound=math.tanh(scale * float(across.max() - across.min()) / 4),
    )
    return facts, weights, ranks


def _support(weights: Float[np.ndarray, " n"]) -> Support:
    held = np.cumsum(np.sort(weights)[::-1])
    counts = [int(np.searchsorted(held, share * held[-1])) + 1 for share in (0.9, 0.99)]
    positive = weights[weights > 0]
    entropy = -float(positive @ np.log(positive))
    return Support(min(counts[0], len(held)), min(counts[1], len(held)), math.exp(entropy))

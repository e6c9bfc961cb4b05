"""The measurements behind a diagnosis."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from vashista_theory._diagnose.leaking import PATH, first_leaking, search_grid
from vashista_theory._diagnose.page import Diagnosis
from vashista_theory._diagnose.record import FaceKeys, Softmax, Solution, Support, Temperatures
from vashista_theory._diagnose.verdict import TOLERATED_LOG_MASS, judge
from vashista_theory._numerics import unit_roundoff
from vashista_theory._results import Result, name_of
from vashista_theory.hull.kkt import FACE_ROUNDINGS
from vashista_theory.hull.projection import Projection, project
from vashista_theory.hull.relaxation import Relaxation, relax
from vashista_theory.hull.stability import FaceStability, face_stability

_GAP_MULTIPLES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_MODEL_MULTIPLES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 10.0)


def measure(keys: Array, query: Array, scale: float, dtype: str) -> Diagnosis:
    """The page of one query and its keys, both in float64."""
    projection = project(keys, query, throw=False)
    if bool(projection.result == Result.nonfinite_input):
        raise ValueError(f"{Result[Result.nonfinite_input]}")
    stability = face_stability(projection)
    outcome = stability.result
    safe = float(stability.largest_safe_epsilon(TOLERATED_LOG_MASS))
    table = _temperatures(1.0 / scale, float(stability.gap))
    # The table leads one path of a fixed length, so that every call compiles to the same shapes.
    path = np.concatenate([table, search_grid(projection, safe, PATH - len(table))])
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
        one_percent_epsilon=first_leaking(projection, safe, relaxation),
        temperatures=Temperatures(
            epsilon=table,
            log_leakage=np.asarray(relaxation.log_off_face_mass)[rows],
            log_leakage_bound=np.asarray(stability.log_leakage_bound(path))[rows],
            log_leakage_asymptote=np.asarray(stability.log_leakage_asymptote(path))[rows],
            log_displacement=np.asarray(relaxation.log_displacement)[rows],
            log_displacement_bound=np.asarray(stability.log_displacement_bound(path))[rows],
            at_model=at_model,
        ),
        entropic_support=Support.of(np.exp(log_weights)),
        softmax=softmax,
    )
    regime, said = judge(found)
    return dataclasses.replace(found, regime=regime, regime_verdict=said)


def _temperatures(epsilon: float, gap: float) -> Float[np.ndarray, " e"]:
    """Coldest first: decades of Δ up to Δ, the model's ε, and one halfway (in logarithm)."""
    if not math.isfinite(gap):
        return np.array(sorted([epsilon, *(epsilon * m for m in _MODEL_MULTIPLES)]))
    between = math.sqrt(gap) * math.sqrt(epsilon)
    wanted = sorted([epsilon, between, *(gap * m for m in _GAP_MULTIPLES)])
    # A neighbour within 20 % of the model's own temperature says nothing new.
    kept = [e for e in wanted if e == epsilon or abs(math.log(e / epsilon)) > 0.2]
    return np.array(kept)


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
        support=Support.of(weights),
        mass_on_face=float(weights[face].sum()),
        distance=float(0.5 * np.abs(weights - np.exp(log_entropic)).sum()),
        distance_bound=math.tanh(scale * float(across.max() - across.min()) / 4),
    )
    return facts, weights, ranks

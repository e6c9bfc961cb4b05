"""The simplex and the cross-polytope, on which projection has a closed form."""

import math

import numpy as np

from vashista_theory.hull.instances.registry import Draw, Drawn, Known, family, require


def _fit_cross(n: int, d: int) -> tuple[int, int]:
    axes = max(1, min(n // 2, d))
    return 2 * axes, axes


@family("simplex", default_shape=(64, 64), nearest_shape=lambda n, d: (min(n, d), d))
def simplex(draw: Draw, *, query_scale: float = 0.5) -> Drawn:
    """The first n basis vectors of R^d, n ≤ d, and a normal query `query_scale` wide.

    Everything is known, by soft thresholding: p_i = (q_i − θ)₊ on the first n axes, and the keys
    are affinely independent.
    """
    n, d = draw.n, draw.d
    require(n <= d, "simplex", f"n = {n} basis vectors in d = {d} dimensions", "give n <= d")
    query = query_scale * draw.rng.normal(size=d)
    theta = _threshold(query[:n])
    # The residual is θ on the support and q_i ≤ θ off it, along the first n axes.
    on = query[:n] > theta
    weights = np.where(on, query[:n] - theta, 0.0)
    multipliers = np.where(on, 0.0, theta - query[:n])
    point = np.zeros(d)
    point[:n] = weights
    return Drawn(np.eye(n, d), query, _known(point, multipliers, weights, np.eye(n, d)))


@family("cross_polytope", default_shape=(128, 64), nearest_shape=_fit_cross)
def cross_polytope(draw: Draw, *, query_scale: float = 0.5) -> Drawn:
    """Keys ±e_i, n = 2d (first all +, then all −), and a normal query `query_scale` wide.

    Everything is known, by soft thresholding, if the query is outside. If ‖q‖₁ ≤ 1 it is inside,
    and then the point, the multipliers and the face are known.
    """
    n, d = draw.n, draw.d
    require(
        n == 2 * d,
        "cross_polytope",
        f"n = {n} keys ±e_i in d = {d} dimensions",
        f"give n = 2d = {2 * d}",
    )
    keys = np.concatenate([np.eye(d), -np.eye(d)])
    query = query_scale * draw.rng.normal(size=d)
    if math.fsum(np.abs(query)) <= 1.0:
        known = Known(
            point=query,
            multipliers=np.zeros(n),
            face=np.ones(n, np.bool_),
            gap=math.nan,
            strict_complementarity=True,
        )
        return Drawn(keys, query, known)
    theta = _threshold(np.abs(query))
    size = np.maximum(np.abs(query) - theta, 0.0)
    residual = np.clip(query, -theta, theta)
    positive = query > 0.0
    weights = np.concatenate([np.where(positive, size, 0.0), np.where(positive, 0.0, size)])
    multipliers = theta - np.concatenate([residual, -residual])
    point = np.where(positive, size, -size)
    return Drawn(keys, query, _known(point, multipliers, weights, keys))


def _threshold(values: np.ndarray) -> float:
    """θ with Σ (values − θ)₊ = 1, by the sorted scan of Duchi et al. (2008)."""
    descending = np.sort(values)[::-1]
    theta = -math.inf
    for count, value in enumerate(descending, start=1):
        candidate = (math.fsum(descending[:count]) - 1.0) / count
        if value <= candidate:
            break
        theta = candidate
    return theta


def _known(
    point: np.ndarray, multipliers: np.ndarray, weights: np.ndarray, keys: np.ndarray
) -> Known:
    face = weights > 0.0
    logs = np.log(weights[face])
    entropy = -math.fsum(weights[face] * logs)
    return Known(
        point=point,
        multipliers=multipliers,
        face=face,
        gap=float(np.min(multipliers[~face], initial=math.inf)),
        weights=weights,
        min_weight=float(weights[face].min()),
        entropy=entropy,
        # The face's keys are orthonormal, so log α_j minus its mean, placed on them, has
        # ⟨w₀, k_j − p*⟩ = log α_j + h and lies in the span.
        tangent=(logs - logs.mean()) @ keys[face],
        strict_complementarity=True,
    )

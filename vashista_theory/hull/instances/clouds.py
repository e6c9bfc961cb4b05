"""Random clouds: families known by their law, and at most in part by their answer."""

import math

import numpy as np

from vashista_theory.hull.instances.registry import Draw, Drawn, Known, family, require


@family("gaussian", default_shape=(1024, 64), generator=np.random.default_rng)
def gaussian(draw: Draw, *, query_scale: float = 1.5) -> Drawn:
    """Standard normal keys, and a normal query `query_scale` times as wide.

    Nothing is known from the construction. Seed 0 at (1024, 64) is the project's reference
    instance, drawn by exactly ``rng = default_rng(0); rng.normal(size=(n, d));
    1.5 * rng.normal(size=d)``: a gap of 0.28012510083585 and a face of 14 keys were measured.
    """
    _require_positive("gaussian", "query_scale", query_scale)
    keys = draw.rng.normal(size=(draw.n, draw.d))
    return Drawn(keys, query_scale * draw.rng.normal(size=draw.d))


@family("sphere")
def sphere(draw: Draw, *, query_radius: float = 1.5) -> Drawn:
    """Keys uniform on the unit sphere, and a query in a random direction at `query_radius`.

    Nothing is known from the construction, except that a radius above 1 is outside the hull.
    """
    _require_positive("sphere", "query_radius", query_radius)
    points = draw.rng.normal(size=(draw.n + 1, draw.d))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return Drawn(points[1:], query_radius * points[0])


@family("low_rank")
def low_rank(draw: Draw, *, rank: int = 4, query_scale: float = 1.5) -> Drawn:
    """Gaussian keys in a random subspace of dimension `rank` through 0, and a query outside it.

    Keys lie in the subspace to rounding only. Nothing is known from the construction; with the
    query over the hull's inside, the whole set is exposed and the gap is infinite.
    """
    require(
        1 <= rank <= draw.d,
        "low_rank",
        f"rank = {rank!r} in dimension {draw.d}",
        f"give a rank from 1 to {draw.d}",
    )
    _require_positive("low_rank", "query_scale", query_scale)
    basis = np.linalg.qr(draw.rng.normal(size=(draw.d, rank)))[0]
    keys = draw.rng.normal(size=(draw.n, rank)) @ basis.T
    return Drawn(keys, query_scale * draw.rng.normal(size=draw.d))


@family("inside")
def inside(draw: Draw) -> Drawn:
    """Gaussian keys, and a query that is a positive combination of all of them.

    Known: the projection is the query, every multiplier is 0, every key is on the face, there is
    no gap (NaN) and strict complementarity holds. With n ≤ d the hull is thin and the query is in
    it to rounding only.
    """
    keys = draw.rng.normal(size=(draw.n, draw.d))
    query = draw.rng.dirichlet(np.ones(draw.n)) @ keys
    known = Known(
        point=query,
        multipliers=np.zeros(draw.n),
        face=np.ones(draw.n, np.bool_),
        gap=math.nan,
        strict_complementarity=True,
    )
    return Drawn(keys, query, known)


@family("far_query")
def far_query(draw: Draw, *, coupling: float = 0.01, query_scale: float = 1.5) -> Drawn:
    """A Gaussian instance whose query is divided by the coupling γ of T6.

    As γ → 0 the projection tends to the key of the highest score. Everything is known whenever
    that key solves the variational inequality ⟨q/γ − k_a, k_a − k_i⟩ > 0 for all i ≠ a, which is
    checked; otherwise nothing is.
    """
    _require_positive("far_query", "coupling", coupling)
    _require_positive("far_query", "query_scale", query_scale)
    keys = draw.rng.normal(size=(draw.n, draw.d))
    query = query_scale * draw.rng.normal(size=draw.d) / coupling
    vertex = int(np.argmax(keys @ query))
    steps = keys[vertex] - keys
    multipliers = steps @ (query - keys[vertex])
    others = np.delete(multipliers, vertex)
    # Well above the rounding of the products, so that the sign is certain.
    rounding = 1e-13 * float(np.max(np.sum((keys - query) ** 2, axis=1)))
    if others.size and float(others.min()) <= rounding:
        return Drawn(keys, query)
    face = np.arange(draw.n) == vertex
    known = Known(
        point=keys[vertex],
        multipliers=np.where(face, 0.0, multipliers),
        face=face,
        gap=float(others.min(initial=math.inf)),
        weights=face.astype(np.float64),
        min_weight=1.0,
        entropy=0.0,
        tangent=np.zeros(draw.d),
        strict_complementarity=True,
    )
    return Drawn(keys, query, known)


def _require_positive(name: str, parameter: str, value: float) -> None:
    require(
        bool(np.isfinite(value)) and value > 0.0,
        name,
        f"{parameter} = {value!r}",
        "it must be positive and finite",
    )

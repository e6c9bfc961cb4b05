"""A sweep's dataset in few numbers: by family, and for the heads by layer."""

import dataclasses
import json

import numpy as np
import xarray as xr

from vashista_theory._numerics import unit_roundoff
from vashista_theory.sweep.measure import OUTCOMES, RELATIVE, ROUNDINGS

RATE_WINDOW = (10.0, 1e3)
"""Δ/ε between which the leakage rate is fitted."""

CONSTANT_ROUNDING = 1e-6
"""T4's constant is read at the least ε at which rounding moves log m by less than this (nats)."""

VERTEX = 1e-9
"""‖w₀‖·√scale below which there is no slope to divide by; the displacement is reported."""

VERTEX_RATIO = 30.0
"""Δ/ε near which the displacement of those is reported."""

Spread = tuple[float, float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FamilySummary:
    """One line of the closing table; medians with least and largest where there are three.

    Attributes:
        family: Its name.
        instances: How many.
        failed: Solver failures among them.
        face_size: |F|.
        gap: Δ, of those with a finite one.
        rate_over_gap: Fitted leakage rate over Δ.
        constant_error: |log m + Δ/ε − T4's constant| in nats.
        decay_order: p in |log m − T4| ~ ε^p; NaN at vertices, where it decays exponentially.
        slope_over_tangent: ‖δ‖/(ε‖w₀‖) at the least ε of the grid.
        vertices: Instances with ‖w₀‖ = 0, which have no slope.
        vertex_log_displacement: Largest log(‖δ‖/√scale) of those near Δ/ε = 30.
        violations: By statement, (instance, ε) pairs.
        checks: By statement, pairs that the statement speaks about.
        factor_one: Pairs that violate the false form α_i ≤ e^{−μ_i/ε}.
        factor_one_checks: Pairs compared.
        kkt_residual: Worst of four, relative.
        oracle_distance: Largest ‖p* − p*(cvxpy)‖/√scale.
        oracle_sample: How many cvxpy solved.
        inside: Share inside the hull.
        degenerate: Share without strict complementarity.
    """

    family: str
    instances: int
    failed: int
    face_size: Spread
    gap: Spread
    rate_over_gap: Spread
    constant_error: Spread
    decay_order: Spread
    slope_over_tangent: Spread
    vertices: int
    vertex_log_displacement: float
    violations: dict[str, int]
    checks: dict[str, int]
    factor_one: int
    factor_one_checks: int
    kkt_residual: float
    oracle_distance: float
    oracle_sample: int
    inside: float
    degenerate: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerSummary:
    """The heads of one layer at the model's own temperature; medians.

    Attributes:
        layer: The model's number.
        heads: How many were measured.
        temperature: The model's ε, 1/scale = √d.
        leakage: m there.
        bound: Its upper bound there; 1 says nothing.
        leak_epsilon: ε at which the leakage is 1 %.
        safe_epsilon: ε up to which the bound promises at most 1 %.
    """

    layer: int
    heads: int
    temperature: float
    leakage: float
    bound: float
    leak_epsilon: float
    safe_epsilon: float


def by_family(dataset: xr.Dataset) -> tuple[FamilySummary, ...]:
    """One summary a family, in the order of the dataset."""
    names = list(dict.fromkeys(dataset["family"].values.tolist()))
    families = dataset["family"].values
    return tuple(_summarise(dataset.isel(instance=families == name), name) for name in names)


def excess(dataset: xr.Dataset, statement: str) -> np.ndarray:
    """(instance, temperature) excess of a statement over its bound where it speaks, else NaN."""
    values = dataset[f"excess_{statement}"].values
    if statement != "t1_published":
        return values
    return np.where(in_published_range(dataset), values, np.nan)


def in_published_range(dataset: xr.Dataset) -> np.ndarray:
    """Which (instance, ε) pairs T1′ is proved for."""
    return dataset["epsilon"].values <= dataset["published_range"].values[:, None]


def _summarise(data: xr.Dataset, name: str) -> FamilySummary:
    statements = ("identity", "t1", "t1_published", "t2", "t3")
    excesses = {statement: excess(data, statement) for statement in statements}
    factor_one = data["excess_factor_one"].values
    solved = data["solved"].values | np.isnan(data["epsilon"].values)
    failed = np.isin(data["result"].values, OUTCOMES[3:]) | ~solved.all(axis=1)
    gap = data["gap"].values
    distance = data["oracle_distance"].values
    vertex, displacement = vertices(data)
    inside = data["inside"].values
    return FamilySummary(
        family=name,
        instances=data.sizes["instance"],
        failed=int(failed.sum()),
        face_size=_spread(data["face_size"].values),
        gap=_spread(gap[np.isfinite(gap)]),
        rate_over_gap=_spread(leakage_rates(data)),
        constant_error=_spread(constant_errors(data)),
        decay_order=_spread(decay_orders(data)),
        slope_over_tangent=_spread(slopes(data)),
        vertices=int(vertex.sum()),
        vertex_log_displacement=float(np.max(displacement, initial=-np.inf)),
        violations={key: int((value > 1).sum()) for key, value in excesses.items()},
        checks={key: int((~np.isnan(value)).sum()) for key, value in excesses.items()},
        factor_one=int((factor_one > 1).sum()),
        factor_one_checks=int((~np.isnan(factor_one)).sum()),
        kkt_residual=float(data["kkt_residual"].values.max()),
        oracle_distance=float(np.max(distance[~np.isnan(distance)], initial=-np.inf)),
        oracle_sample=int((~np.isnan(distance)).sum()),
        inside=float(inside.mean()),
        degenerate=float(data["degenerate"].values.mean()),
    )


def _grid(data: xr.Dataset) -> xr.Dataset:
    return data.isel(temperature=data["kind"].values == "grid")


def _rounding(grid: xr.Dataset) -> np.ndarray:
    """By how much rounding may move log m, nats."""
    epsilon, scale = grid["epsilon"].values, grid["scale"].values[:, None]
    gap = np.nan_to_num(grid["gap"].values, nan=0.0, posinf=0.0)[:, None]
    u = unit_roundoff(np.float64)
    return ROUNDINGS * u * np.maximum(scale / epsilon, 1.0) + RELATIVE * gap / epsilon


def leakage_rates(data: xr.Dataset) -> np.ndarray:
    """Slope of −log m against Δ/ε by least squares; 1 by T4. NaN without a finite gap."""
    grid = _grid(data)
    rates = np.full(grid.sizes["instance"], np.nan)
    ratio = grid["gap"].values[:, None] / grid["epsilon"].values
    for i, (x, y) in enumerate(zip(ratio, grid["log_off_face_mass"].values, strict=True)):
        use = (x >= RATE_WINDOW[0]) & (x <= RATE_WINDOW[1]) & np.isfinite(y)
        if use.sum() >= 3:
            rates[i] = -np.polyfit(x[use], y[use], 1)[0]
    return rates


def constant_errors(data: xr.Dataset) -> np.ndarray:
    """|log m + Δ/ε − T4's constant| at the least ε that rounding allows, nats."""
    grid = _grid(data)
    at = np.argmin(np.where(_rounding(grid) < CONSTANT_ROUNDING, grid["epsilon"].values, np.inf), 1)
    rows = np.arange(at.size)
    gap = np.where(np.isfinite(grid["gap"].values), grid["gap"].values, np.nan)
    left = grid["log_off_face_mass"].values[rows, at] + gap / grid["epsilon"].values[rows, at]
    return np.abs(left - grid["log_constant"].values)


def decay_orders(data: xr.Dataset) -> np.ndarray:
    """The p of |log m − T4| ~ ε^p, where the difference is small and yet above rounding."""
    grid = _grid(data)
    orders = np.full(grid.sizes["instance"], np.nan)
    rounding, epsilon = _rounding(grid), grid["epsilon"].values
    with np.errstate(invalid="ignore"):  # −inf − −inf where every key is exposed
        difference = np.abs(grid["log_off_face_mass"].values - grid["log_asymptote"].values)
        use = (difference > 10 * rounding) & (difference < 0.1)
        use &= grid["gap"].values[:, None] / epsilon >= RATE_WINDOW[0]
    vertex, _ = vertices(data)
    for i in np.flatnonzero((use.sum(axis=1) >= 3) & ~vertex):
        pick = use[i]
        orders[i] = np.polyfit(np.log(epsilon[i, pick]), np.log(difference[i, pick]), 1)[0]
    return orders


def slopes(data: xr.Dataset) -> np.ndarray:
    """‖δ‖/(ε‖w₀‖) at the least ε of the grid; 1 by T2. NaN at vertices and degenerate faces."""
    grid, (vertex, _) = _grid(data), vertices(data)
    tangent = np.where(vertex, np.nan, grid["tangent_norm"].values)
    rows, at = np.arange(vertex.size), np.argmin(grid["epsilon"].values, axis=1)
    slope = np.exp(grid["log_displacement"].values[rows, at]) / grid["epsilon"].values[rows, at]
    return slope / tangent


def vertices(data: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Which instances have ‖w₀‖ = 0, and their log(‖δ‖/√scale) near Δ/ε = `VERTEX_RATIO`."""
    grid = _grid(data)
    length = np.sqrt(grid["scale"].values)
    found = grid["tangent_norm"].values * length <= VERTEX
    ratio = grid["gap"].values / np.where(found, 1.0, np.nan)
    finite = np.flatnonzero(found & np.isfinite(ratio))
    epsilon = grid["epsilon"].values[finite]
    near = np.argmin(np.abs(np.log(ratio[finite, None] / epsilon / VERTEX_RATIO)), axis=1)
    return found, grid["log_displacement"].values[finite, near] - np.log(length[finite])


def degenerate_laws(data: xr.Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """T5 on the three lowest decades of ε, one entry a degenerate instance.

    Returns:
        Slope of log ‖δ‖ against log(ε log(1/ε)), which tends to 1; against log ε, which the
        linear law would make 1; and ρ times the slope of ‖δ‖/ε against log(1/ε), which tends to
        1 as slowly as a logarithm of a logarithm.
    """
    grid = _grid(data.isel(instance=data["degenerate"].values))
    found: list[tuple[float, float, float]] = []
    for i, epsilon in enumerate(grid["epsilon"].values):
        low = (epsilon <= 1e3 * epsilon.min()) & (epsilon < 0.1)
        if low.sum() < 3:
            continue
        e, log_moved = epsilon[low], grid["log_displacement"].values[i, low]
        per_log = np.polyfit(-np.log(e), np.exp(log_moved) / e, 1)[0]
        found.append(
            (
                float(np.polyfit(np.log(e * np.log(1 / e)), log_moved, 1)[0]),
                float(np.polyfit(np.log(e), log_moved, 1)[0]),
                float(per_log * grid["degeneracy_distance"].values[i]),
            )
        )
    columns = np.array(found).reshape(-1, 3).T
    return columns[0], columns[1], columns[2]


def by_layer(dataset: xr.Dataset) -> tuple[LayerSummary, ...]:
    """The heads at the model's own temperature, by layer; empty without heads."""
    data = dataset.isel(
        instance=dataset["family"].values == "heads", temperature=dataset["kind"].values == "model"
    ).squeeze("temperature")
    layers = np.array([json.loads(text)["layer"] for text in data["parameters"].values], int)
    bound = np.minimum(data["log_leakage_t1"].values, data["log_leakage_t3"].values)
    found: list[LayerSummary] = []
    for layer in np.unique(layers):
        at = layers == layer
        found.append(
            LayerSummary(
                layer=int(layer),
                heads=int(at.sum()),
                temperature=float(np.median(data["epsilon"].values[at])),
                leakage=float(np.median(np.exp(data["log_off_face_mass"].values[at]))),
                bound=float(np.median(np.exp(np.minimum(bound[at], 0.0)))),
                leak_epsilon=float(_median(data["leak_epsilon"].values[at])),
                safe_epsilon=float(_median(data["safe_epsilon"].values[at])),
            )
        )
    return tuple(found)


def _median(values: np.ndarray) -> float:
    values = values[~np.isnan(values)]
    return float(np.median(values)) if values.size else np.nan


def _spread(values: np.ndarray) -> Spread:
    values = np.asarray(values, float)
    values = values[~np.isnan(values)]
    if values.size == 0:
        return (np.nan, np.nan, np.nan)
    return (float(np.median(values)), float(values.min()), float(values.max()))

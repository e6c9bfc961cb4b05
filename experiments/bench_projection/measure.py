"""The exact projection beside seven QP solvers: time, accuracy and passes over the keys.

Aims: faster than DAQP at every size and twice as fast from n = 4,096 on; p* and multipliers to
1e-12 of scale; 1,000 times cvxpy at n = 16,384; over 3,000 projections a second at (1024, 64).
Where an aim is missed, the findings say by how much and what bounds it.

Keys are normal, the query is 1.5 times normal, as in the reference instance of the tests. All
solvers run on the same instance in turn, repetition by repetition, in float64. Install the peers
with `pip install -e ".[bench]"`; one that is missing is left out and said to be.

Example: python -m experiments bench_projection --sizes 1024 4096 --dimensions 64 --instances 1
"""

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import vashista_theory as vt
from experiments.bench_projection.names import EAGER, FLOOR, OURS, START
from experiments.bench_projection.peers import PEERS, Peer, Prepared
from experiments.bench_projection.reference import NotCertifiedError, Reference, certify
from experiments.framework.outcome import Measured
from experiments.shared.timing import Forecast, Timing, available_memory, interleaved

BY_HAND = "times want an idle machine and seven solvers"

_FEW = 8  # keys, in the instance that shows what does not depend on n


@dataclass(frozen=True)
class Config:
    """What to measure.

    Attributes:
        sizes: Numbers of keys.
        dimensions: Of a key.
        instances: Random instances of each size.
        repetitions: Most timed calls of a solver on an instance.
        budget: Seconds for all of a solver's repetitions on an instance.
        time_limit: A solver predicted to take longer on one call is skipped, in seconds.
        batch: Instances in one call of `project_many`.
        seed: Of the instances.
        quick: Small sizes and few repetitions, for tests.
    """

    sizes: tuple[int, ...] = (1024, 4096, 16384, 65536, 131072)
    dimensions: tuple[int, ...] = (16, 64, 128)
    instances: int = 3
    repetitions: int = 15
    budget: float = 3.0
    time_limit: float = 60.0
    batch: int = 256
    seed: int = 0
    quick: bool = False

    def __post_init__(self) -> None:
        numbers = (*self.sizes, *self.dimensions, self.instances, self.repetitions, self.batch)
        if not self.sizes or not self.dimensions or min(numbers) < 1:
            raise ValueError(f"sizes, dimensions and counts must be at least 1; got {self}")

    def reduced(self) -> "Config":
        """The configuration of a quick run."""
        return Config(
            sizes=(256, 512),
            dimensions=(8,),
            instances=1,
            repetitions=2,
            budget=0.5,
            time_limit=5.0,
            batch=8,
            seed=self.seed,
            quick=True,
        )


def measure(config: Config) -> Measured:
    """Measure every solver on every instance."""
    rows: list[dict[str, Any]] = []
    forecasts = {d: Forecast() for d in config.dimensions}
    for d, n in itertools.product(config.dimensions, sorted(config.sizes)):
        for instance in range(config.instances):
            print(f"n = {n:,}, d = {d}, instance {instance}", flush=True)
            rows += _measure(config, n, d, instance, forecasts[d])
    return Measured({"measurements": rows}, _throughput(config))


def draw(config: Config, n: int, d: int, instance: int) -> tuple[np.ndarray, np.ndarray]:
    """Keys and query of an instance, float64."""
    rng = np.random.default_rng([config.seed, n, d, instance])
    return rng.normal(size=(n, d)), 1.5 * rng.normal(size=d)


def _measure(
    config: Config, n: int, d: int, instance: int, forecast: Forecast
) -> list[dict[str, Any]]:
    """Time all solvers on one instance and hold their answers against the reference."""
    keys, query = draw(config, n, d, instance)
    floor = _floor(keys, query)
    calls = _our_calls(keys, query)
    prepared: dict[str, Prepared] = {}
    skipped: dict[str, str] = {}
    for peer in PEERS:
        expected = forecast.seconds(peer.name, n)
        if reason := _reason_to_skip(peer, (n, d), instance, expected, config.time_limit):
            skipped[peer.name] = f"skipped: {reason}"
        else:
            prepared[peer.name] = peer.prepare(keys, query)
            calls[peer.name] = prepared[peer.name].solve
    timings = interleaved(calls, repetitions=config.repetitions, budget=config.budget)
    for name, timing in timings.items():
        forecast.record(name, n, timing)
    points = {
        name: problem.point(timings[name].value)
        for name, problem in prepared.items()
        if timings[name].value is not None
    }
    label = {"n": n, "d": d, "instance": instance}
    rows: list[dict[str, Any]] = [
        {**label, "solver": FLOOR, "median_ms": 1e3 * floor, "floors": 1.0, "passes": 1},
        {**label, "solver": START, **_times(timings[START], floor)},
    ]
    projection: dict[str, Any] | None = timings[OURS].value
    if projection is not None:
        points[OURS] = points[EAGER] = np.asarray(projection["point"])
    reference = _reference(keys, query, points)
    for name in (OURS, EAGER, *(peer.name for peer in PEERS)):
        row = {**label, "solver": name, "note": skipped.get(name)}
        if name in timings:
            row |= _times(timings[name], floor)
        if name in (OURS, EAGER) and projection is not None:
            row |= {"passes": int(projection["passes"]), "steps": int(projection["steps"])}
            multipliers = np.asarray(projection["multipliers"])
        elif name in points:
            point = points[name]
            multipliers = (query - point) @ point - keys @ (query - point)
        else:
            multipliers = None
        if multipliers is not None and reference is not None:
            scale = float(np.max(np.sum((keys - query) ** 2, axis=1)))
            row["point_error"] = reference.point_error(points[name]) / np.sqrt(scale)
            row["multiplier_error"] = reference.multiplier_error(multipliers) / scale
        rows.append(row)
    return rows


def _floor(keys: np.ndarray, query: np.ndarray) -> float:
    """Seconds of one pass K u, by JAX or by NumPy, whichever is faster.

    Timed apart from the solvers: OpenBLAS keeps its threads spinning after a call, and they would
    take the cores from whoever comes next.
    """
    multiply = jax.jit(jnp.matmul)
    keys_, query_ = jnp.asarray(keys), jnp.asarray(query)
    calls = {
        "JAX": lambda: jax.block_until_ready(multiply(keys_, query_)),
        "NumPy": lambda: keys @ query,
    }
    timings = interleaved(calls, repetitions=15, budget=1.0).values()
    return min(timing.median or np.inf for timing in timings)


def _our_calls(keys: np.ndarray, query: np.ndarray) -> dict[str, Callable[[], Any]]:
    """Our own calls, compiled."""
    keys_, query_ = jnp.asarray(keys), jnp.asarray(query)
    few = keys_[:_FEW]
    calls: dict[str, Callable[[], Any]] = {
        START: lambda: jax.block_until_ready(_jitted(few, query_)),
        OURS: lambda: jax.block_until_ready(_jitted(keys_, query_)),
        EAGER: lambda: jax.block_until_ready(vt.project(keys_, query_)),
    }
    for call in calls.values():
        with contextlib.suppress(RuntimeError):  # comes again when it is timed, and is recorded
            call()
    return calls


@jax.jit
def _jitted(keys: jax.Array, query: jax.Array) -> dict[str, Any]:
    """All of a `Projection` but its keys: returned from jit, they would be copied."""
    projection = vt.project(keys, query, throw=False)
    names = [field.name for field in dataclasses.fields(projection)]
    return {name: getattr(projection, name) for name in names if name != "keys"}


def _reason_to_skip(
    peer: Peer, shape: tuple[int, int], instance: int, expected: float | None, time_limit: float
) -> str:
    if not peer.installed:
        return f"{peer.package} is not installed"
    needed, free = 8.0 * peer.copies * shape[0] * (shape[1] + 1), available_memory()
    if needed > free:
        return f"needs about {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free"
    if expected is not None and expected > time_limit:
        return f"predicted to take {expected:.0f} s, the limit is {time_limit:.0f} s"
    if instance > 0 and expected is not None and expected > time_limit / 10:
        return f"takes {expected:.0f} s: measured on one instance only"
    return ""


def _times(timing: Timing, floor: float) -> dict[str, Any]:
    if timing.median is None or timing.best is None:
        return {"note": f"failed: {timing.failure}"}
    return {
        "median_ms": 1e3 * timing.median,
        "best_ms": 1e3 * timing.best,
        "repetitions": len(timing.seconds),
        "floors": timing.median / floor,
    }


def _reference(
    keys: np.ndarray, query: np.ndarray, points: dict[str, np.ndarray]
) -> Reference | None:
    """Certified by its own KKT conditions, so any solver may propose the support.

    The peers propose first. None if no proposal can be certified, as inside the hull.
    """
    proposals = [points[name] for name in sorted(points, key=lambda name: name in (OURS, EAGER))]
    scale = float(np.max(np.sum((keys - query) ** 2, axis=1)))
    for point in proposals:
        residual = query - point
        multipliers = residual @ point - keys @ residual
        for threshold in (1e-11, 1e-8):
            support = np.flatnonzero(multipliers - multipliers.min() <= threshold * scale)
            if len(support) > keys.shape[1] + 1:
                continue
            try:
                return certify(keys, query, support)
            except (NotCertifiedError, np.linalg.LinAlgError):
                continue
    return None


def _throughput(config: Config) -> dict[str, float | int]:
    n, d = (256, 8) if config.quick else (1024, 64)
    drawn = [draw(config, n, d, instance) for instance in range(config.batch)]
    keys, queries = (jnp.asarray(np.stack(part)) for part in zip(*drawn, strict=True))

    def solve() -> vt.Projection:
        return jax.block_until_ready(vt.project_many(keys, queries))

    solve()  # compiles
    timing = interleaved(
        {"project_many": solve}, repetitions=max(3, config.repetitions), budget=5.0
    )["project_many"]
    if timing.median is None or timing.best is None:
        raise RuntimeError(f"project_many failed: {timing.failure}")
    return {
        "project_many_n": n,
        "project_many_d": d,
        "project_many_batch": config.batch,
        "project_many_cores": os.cpu_count() or 1,
        "project_many_per_second": config.batch / timing.median,
        "project_many_per_second_best": config.batch / timing.best,
    }

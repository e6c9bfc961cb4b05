"""A path of 33 temperatures: its time, its Newton steps, and the peak memory of a long context.

Aims: under 150 ms for the path at (1024, 64); under 10 Newton steps at every temperature from 1e3
to 1e-8 times the scale; peak memory at (131072, 64), returned arrays aside and the keys themselves
included, under 3.5 times the keys, for the projection and for projection and path together.

Keys are normal, the query is 1.5 times normal. Memory is measured in a process of its own.

Example: python -m experiments bench_relaxation --instances 3 --force
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import vashista_theory as vt
from experiments.framework.outcome import Measured, Outcome
from experiments.shared import memory
from experiments.shared.timing import interleaved

BY_HAND = "times want an idle machine"

_HIGH, _LOW = 1e3, 1e-8  # ε over scale
_TIME_AIM, _STEPS_AIM, _MEMORY_AIM = 150.0, 10, 3.5

_PATHS = {
    "n": "keys",
    "d": "dimensions",
    "instance": "its seed is [seed, n, d, instance]",
    "median_ms": "median time of the path, milliseconds",
    "best_ms": "least time of the path, milliseconds",
    "steps_mean": "Newton steps, mean over the temperatures",
    "steps_max": "Newton steps, most at one temperature",
    "epsilon_of_max": "the temperature that took most steps, over scale",
    "residual": "largest measured residual, over √scale",
    "result": "outcome, empty for success",
}
_STEPS = {"epsilon": "temperature over scale", "mean": "Newton steps", "max": "Newton steps"}
_MEMORY = {
    "what": "the call",
    "keys_mb": "the keys, 10⁶ bytes",
    "returned_mb": "other arrays returned, 10⁶ bytes",
    "peak_mb": "peak above the baseline, returned arrays taken off, 10⁶ bytes",
    "multiple": "peak over keys",
}


@dataclass(frozen=True)
class Config:
    """What to measure.

    Attributes:
        n: Keys of the timed path.
        d: Dimensions.
        temperatures: Of the path.
        instances: Random instances of the timed path.
        repetitions: Timed calls on an instance.
        long_n: Keys where memory is measured.
        seed: Of the instances.
        quick: Small sizes and few repetitions, for tests.
    """

    n: int = 1024
    d: int = 64
    temperatures: int = 33
    instances: int = 10
    repetitions: int = 9
    long_n: int = 131072
    seed: int = 0
    quick: bool = False

    def __post_init__(self) -> None:
        numbers = (self.n, self.d, self.instances, self.repetitions, self.long_n)
        if min(numbers) < 1 or self.temperatures < 2:
            raise ValueError(f"sizes and counts must be at least 1, temperatures 2; got {self}")

    def reduced(self) -> "Config":
        """The configuration of a quick run."""
        return Config(256, 8, 5, 1, 2, 2048, self.seed, quick=True)


def measure(config: Config) -> Measured:
    """Time paths, count their steps, measure memory."""
    relative = np.geomspace(_HIGH, _LOW, config.temperatures)
    paths, steps = [], []
    for instance in range(config.instances):
        row, counts = _path(config, relative, instance)
        paths.append(row)
        steps.append(counts)
    counts = np.array(steps)
    by_temperature = [
        {"epsilon": float(e), "mean": float(m), "max": int(w)}
        for e, m, w in zip(relative, counts.mean(axis=0), counts.max(axis=0), strict=True)
    ]
    peaks = [_peak(what, config) for what in ("project", "relax")]
    return Measured(
        {"paths": paths, "steps by temperature": by_temperature, "peak memory": peaks},
        {"steps_mean": float(counts.mean())},
    )


def _path(config: Config, relative: np.ndarray, instance: int) -> tuple[dict[str, Any], np.ndarray]:
    rng = np.random.default_rng([config.seed, config.n, config.d, instance])
    keys = jnp.asarray(rng.normal(size=(config.n, config.d)))
    query = jnp.asarray(1.5 * rng.normal(size=config.d))
    projection = jax.block_until_ready(vt.project(keys, query))
    epsilon = jnp.asarray(relative) * projection.scale
    relax = jax.jit(lambda p, e: vt.relax(p, e, throw=False))

    def solve() -> vt.Relaxation:
        return jax.block_until_ready(relax(projection, epsilon))

    path = solve()  # compiles
    timing = interleaved({"path": solve}, repetitions=config.repetitions, budget=5.0)["path"]
    if timing.median is None or timing.best is None:
        raise RuntimeError(f"relax failed: {timing.failure}")
    steps = np.asarray(path.steps)
    failed = ~np.asarray(path.result == vt.Result.successful)
    row = {
        "n": config.n,
        "d": config.d,
        "instance": instance,
        "median_ms": 1e3 * timing.median,
        "best_ms": 1e3 * timing.best,
        "steps_mean": float(steps.mean()),
        "steps_max": int(steps.max()),
        "epsilon_of_max": float(relative[steps.argmax()]),
        "residual": float(np.max(np.asarray(path.residual))) / float(projection.scale) ** 0.5,
        "result": f"{failed.sum()} of {failed.size} not converged" if failed.any() else "",
    }
    return row, steps


def _peak(what: str, config: Config) -> dict[str, Any]:
    found = memory.measure(what, n=config.long_n, d=config.d, temperatures=config.temperatures)
    return {
        "what": what,
        "keys_mb": found["keys"] / 1e6,
        "returned_mb": found["returned"] / 1e6,
        "peak_mb": found["peak"] / 1e6,
        "multiple": found["multiple"],
    }


def report(found: Measured) -> Outcome:
    """Each aim: met or missed."""
    paths, peaks = found.tables["paths"], found.tables["peak memory"]
    values = {
        "path_ms": float(np.median([row["median_ms"] for row in paths])),
        "path_ms_worst": max(row["median_ms"] for row in paths),
        **found.values,
        "steps_max": max(row["steps_max"] for row in paths),
        **{f"memory_multiple_{row['what']}": row["multiple"] for row in peaks},
    }
    columns = {"paths": _PATHS, "steps by temperature": _STEPS, "peak memory": _MEMORY}
    return Outcome(
        tables=found.described(columns, hidden=["steps by temperature"]),
        values=values,
        findings=_findings(values, found),
        notes=[
            "The path is `relax` under jit, on a projection computed before.",
            "Memory: the eager calls, compiled before; `relax` is a projection and a whole path.",
        ],
    )


def _findings(values: dict[str, Any], found: Measured) -> list[str]:
    paths, by_temperature = found.tables["paths"], found.tables["steps by temperature"]
    asked = found.configuration

    def verdict(value: float, aim: float) -> str:
        return "Met" if value < aim else f"Missed by {value / aim:.2f} times"

    time, steps = values["path_ms_worst"], values["steps_max"]
    hardest = max(by_temperature, key=lambda row: row["mean"])
    over = [row for row in by_temperature if row["max"] >= _STEPS_AIM]
    lines = [
        (
            f"Aim: a path of {asked['temperatures']} temperatures at ({asked['n']:,}, "
            f"{asked['d']}) in under {_TIME_AIM:.0f} ms. {verdict(time, _TIME_AIM)}: median "
            f"{values['path_ms']:.3g} ms, slowest instance {time:.3g} ms."
        ),
        (
            f"Aim: under {_STEPS_AIM} Newton steps at every temperature. "
            f"{verdict(steps, _STEPS_AIM)}: most {steps}, mean {values['steps_mean']:.1f}; hardest "
            f"at ε = {hardest['epsilon']:.1e} of scale with {hardest['mean']:.1f} on average"
            + (f"; {len(over)} temperatures reach {_STEPS_AIM} on some instance." if over else ".")
        ),
    ]
    for what in ("project", "relax"):
        multiple = values[f"memory_multiple_{what}"]
        lines.append(
            f"Aim: peak memory of {what} at ({asked['long_n']:,}, {asked['d']}) under "
            f"{_MEMORY_AIM} times the keys. {verdict(multiple, _MEMORY_AIM)}: {multiple:.2f}, "
            "the keys included."
        )
    failed = [row for row in paths if row["result"]]
    if failed:
        lines.append(f"{len(failed)} of {len(paths)} paths did not converge everywhere.")
    return lines

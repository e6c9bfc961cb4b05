"""Which instances a sweep consists of, in order, and the dataset they fill."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import xarray as xr

from vashista_theory._version import __version__
from vashista_theory._words import count
from vashista_theory.hull.heads import load_heads
from vashista_theory.hull.instances import Instance, make, nearest_shape
from vashista_theory.runs import refuse_beyond_memory
from vashista_theory.runs.manifest import package_versions
from vashista_theory.sweep import variables
from vashista_theory.sweep.config import SweepConfig

EXTRA_TEMPERATURES = ("model", "published")
"""Behind the grid: the temperature at which a model runs the head, and the end of T1′'s range."""

_ELSEWHERE = (
    "output", "store", "format", "figures", "progress", "threads", "workers", "scheduler", "quick"
)  # fmt: skip

_WEIGHT_RANGE = (1e-1, 1e-6)
_GAP_RANGE = (1.0, 1e-4)
_MARGINS = (0.5, 1.0, 2.0)
_GAPS = (0.1, 0.5, 2.0)


@dataclasses.dataclass(frozen=True)
class Task:
    """One instance to make and to measure.

    Attributes:
        family: The family's name.
        seed: The seed within the family.
        n: Keys; None where data decide.
        d: Dimension; None where data decide.
        parameters: Of the family.
        oracle: Whether cvxpy solves it as well.
    """

    family: str
    seed: int
    n: int | None
    d: int | None
    parameters: Mapping[str, Any]
    oracle: bool

    def make(self) -> Instance:
        """The instance, the same bit for bit every time."""
        return make(self.family, seed=self.seed, n=self.n, d=self.d, **self.parameters)


def tasks(config: SweepConfig) -> tuple[Task, ...]:
    """Every instance of a resolved configuration, by family.

    Raises:
        ValueError: A family has no instance of the shape asked for, the heads file is bad, or the
            sweep is larger than memory.
    """
    _refuse_beyond_memory(config)
    found: list[Task] = []
    for family in config.families:
        n, d = nearest_shape(family, n=config.n, d=config.d)
        for index, (seed, parameters) in enumerate(_variants(config, family)):
            oracle = index < config.oracle_sample
            found.append(Task(family, seed, n, d, parameters, oracle))
    for family in config.families:  # refuse an impossible shape now, not after minutes
        next(task for task in found if task.family == family).make()
    return tuple(found)


_TEXT, _TASK = 100, 500
"""Bytes that a text of the dataset, and a task with its parameters, take about."""


def _refuse_beyond_memory(config: SweepConfig) -> None:
    temperatures = config.grid_size() + len(EXTRA_TEMPERATURES)
    counts = {family: _count(config, family) for family in config.families}
    row = _TASK
    for variable in variables.ALL.values():
        size = _TEXT if isinstance(variable.missing, str) else np.asarray(variable.missing).nbytes
        # Twice: what stands for "not computed", and what was.
        row += 2 * size * (temperatures if "temperature" in variable.dims else 1)
    named = ", ".join(f"{family} {count:,}" for family, count in counts.items())
    refuse_beyond_memory(
        f"a sweep of {count(sum(counts.values()), 'instance')} ({named}) at "
        f"{count(temperatures, 'temperature')}",
        row * sum(counts.values()),
        "Ask for fewer instances (instances, regime_side, head_instances), fewer families, or a "
        "coarser grid (temperatures_per_decade)",
    )
    for family in counts:
        n, d = nearest_shape(family, n=config.n, d=config.d)
        if n is not None and d is not None:
            # The keys, and their weights at every temperature, in float64.
            needed = 8 * n * (d + temperatures)
            refuse_beyond_memory(
                f"instances of {family} with n = {n:,} and d = {d:,} at {temperatures:,} "
                "temperatures",
                needed,
                "Ask for fewer keys (n), a smaller dimension (d), or a coarser grid "
                "(temperatures_per_decade)",
            )


def _count(config: SweepConfig, family: str) -> int:
    """How many instances `_variants` gives."""
    if family == "heads":
        return config.head_instances
    return config.regime_side**2 if family == "near_degenerate" else config.instances


def _variants(config: SweepConfig, family: str) -> Iterator[tuple[int, dict[str, Any]]]:
    if family == "heads":
        yield from _heads(config)
        return
    if family == "near_degenerate":
        side = config.regime_side
        # One seed: the same cloud in every cell, so that the map shows weight and gap alone.
        for weight in np.geomspace(*_WEIGHT_RANGE, side):
            for gap in np.geomspace(*_GAP_RANGE, side):
                yield config.seed, {"min_weight": float(weight), "gap": float(gap)}
        return
    for index in range(config.instances):
        parameters: dict[str, Any] = {}
        if family == "degenerate":
            parameters = {"margin": _MARGINS[index % len(_MARGINS)]}
        elif family == "planted":
            parameters = {"gap": _GAPS[index % len(_GAPS)]}
        yield config.seed + index, parameters


def _heads(config: SweepConfig) -> Iterator[tuple[int, dict[str, Any]]]:
    path = None if config.heads is None else str(config.heads)
    recorded = load_heads(path)
    if config.head_instances > recorded.count:
        layers, heads, positions, _ = recorded.queries.shape
        held, axes = recorded.count, ((layers, "layer"), (heads, "head"), (positions, "position"))
        raise ValueError(
            f"head_instances is {config.head_instances}, but {path or 'the packaged sample'} has "
            f"{count(held, 'query')} ({' × '.join(count(*axis) for axis in axes)}). Ask for at "
            f"most {held} (--head-instances {held}, in Python head_instances={held}), or capture "
            "more positions"
        )
    # The last position comes first in the file's order: stay there while it has enough heads.
    layers, heads, _, _ = recorded.queries.shape
    pool = layers * heads if config.head_instances <= layers * heads else recorded.count
    for index in range(config.head_instances):
        yield index * pool // config.head_instances, {"path": path}


def template(config: SweepConfig, planned: tuple[Task, ...]) -> xr.Dataset:
    """Coordinates of the dataset, and what stands for "not computed"."""
    ratios = config.ratios()
    kinds = ["grid"] * ratios.size + list(EXTRA_TEMPERATURES)
    sizes = {"instance": len(planned), "temperature": len(kinds)}
    fields: dict[str, Any] = {}
    for name, variable in variables.ALL.items():
        shape = tuple(sizes[dim] for dim in variable.dims)
        attributes = {"units": variable.units, "description": variable.description}
        fields[name] = (variable.dims, np.full(shape, variable.missing), attributes)
    ratio = np.concatenate([ratios, np.full(len(EXTRA_TEMPERATURES), np.nan)])
    return xr.Dataset(
        fields,
        coords={
            "instance": np.arange(len(planned)),
            "family": ("instance", [task.family for task in planned]),
            "seed": ("instance", [task.seed for task in planned]),
            "temperature": np.arange(len(kinds)),
            "kind": ("temperature", kinds),
            "ratio": ("temperature", ratio, {"units": config.epsilon_unit}),
        },
        attrs={"title": "Face stability of entropic attention, measured"},
    )


def identity(config: SweepConfig) -> dict[str, Any]:
    """Everything that the values depend on, and nothing else: what a store is compared by."""
    fields: dict[str, Any] = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.name not in _ELSEWHERE
    }
    if (digest := heads_sha256(config)) is not None:
        fields["heads_sha256"] = digest
    versions = package_versions()
    fields["software"] = {"vashista-theory": __version__, "jax": versions["jax"]}
    return fields


def heads_sha256(config: SweepConfig) -> str | None:
    """Of the heads file, where the configuration names one.

    Raises:
        OSError: There is no such file.
    """
    if config.heads is None:
        return None
    if config.heads.exists() and not config.heads.is_file():  # a pipe gives its content once
        raise OSError(f"heads file {str(config.heads)!r} is not a regular file")
    return hashlib.sha256(config.heads.read_bytes()).hexdigest()


def parameters_text(instance: Instance) -> str:
    """An instance's parameters as JSON."""
    return json.dumps(dict(instance.parameters), sort_keys=True, default=str)

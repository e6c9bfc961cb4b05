"""What a sweep computes, where it goes, and which requests are refused before any work."""

import dataclasses
import math
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from vashista_theory.hull.instances import families as registered_families
from vashista_theory.hull.instances import nearest_shape
from vashista_theory.runs import check_choice, check_integer, check_request, take_as_declared
from vashista_theory.runs.progress import Mode

_QUICK: dict[str, int] = {
    "instances": 2,
    "regime_side": 3,
    "head_instances": 2,
    "n": 48,
    "d": 8,
    "oracle_sample": 1,
    "temperatures_per_decade": 3,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """Verify the face-stability theorem on families of hulls, constants included.

    Temperatures are a logarithmic grid relative to scale = max ‖k_i − q‖² by default: accuracy
    is stated relative to it, and it exists for every instance, where the gap does not.
    """

    families: tuple[str, ...] = ()
    """Families by name; by default all of them."""
    instances: int = 8
    """Instances a family, unless it has a number of its own below."""
    regime_side: int = 6
    """near_degenerate takes its square: least weight 0.1 to 1e-6 by gap 1 to 1e-4."""
    head_instances: int = 14
    """Attention heads, spread evenly over layers and heads of the file."""
    heads: Path | None = None
    """A heads file (.npz); by default the sample inside the package."""
    n: int = 256
    """Keys; polytopes take the nearest number they can have, heads that of the file."""
    d: int = 16
    """Dimension, likewise."""
    epsilon_unit: Literal["scale", "gap"] = "scale"
    """What the grid multiplies; an instance without a finite gap takes its scale."""
    epsilon_max: float = 10.0
    """Largest temperature of the grid, in that unit."""
    epsilon_min: float = 1e-8
    """Smallest one; below 1e-8 of the scale float64 no longer keeps its digits."""
    temperatures_per_decade: int = 5
    """How fine the grid is."""
    seed: int = 0
    """First seed of every synthetic family."""
    oracle_sample: int = 2
    """Instances a family that cvxpy solves as well."""
    block_size: int = 8
    """Instances that are stored, and resumed, together."""
    threads: int = 2
    """Threads of this process; the results do not depend on it."""
    workers: int | None = None
    """Processes of a local Dask cluster instead; nor on this."""
    scheduler: str | None = None
    """A running Dask scheduler instead, such as tcp://10.0.0.5:8786; nor on this."""
    output: Path = Path("vashista_sweep")
    """Folder for the store, the report and the figures; new, empty, or of the same sweep."""
    store: str | None = None
    """Where the store goes if not there: a path or URL that all workers reach (s3://bucket/x)."""
    format: Literal["table", "json"] = "table"
    """What is printed at the end: tables for people, JSON for programs."""
    figures: bool = True
    """Whether to draw."""
    progress: Mode = "bar"
    """A bar with the remaining time, a line now and then, or nothing."""
    quick: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Small instances of one shape, seconds instead of a minute; leaves `heads` and the polytopes
    out unless they are named."""

    def __post_init__(self) -> None:
        take_as_declared(self, paths=("heads", "output"), several=("families",))
        for name, least in (
            ("instances", 1), ("regime_side", 1), ("head_instances", 1), ("n", 1), ("d", 1),
            ("temperatures_per_decade", 1), ("seed", 0), ("oracle_sample", 0), ("block_size", 1),
            ("threads", 1),
        ):  # fmt: skip
            check_integer(name, getattr(self, name), least)
        for name in ("epsilon_min", "epsilon_max"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
                raise ValueError(
                    f"{name} is {value!r}; a temperature must be positive and finite "
                    f"(it counts in units of the {self.epsilon_unit})"
                )
        check_request(self.workers, self.scheduler)
        if self.epsilon_min > self.epsilon_max:
            raise ValueError(
                f"epsilon_min = {self.epsilon_min} is above epsilon_max = {self.epsilon_max}"
            )
        check_choice("epsilon_unit", self.epsilon_unit, ("scale", "gap"))
        check_choice("format", self.format, ("table", "json"))
        check_choice("progress", self.progress, ("bar", "log", "none"))
        for family in self.families:
            check_choice("families", family, registered_families())
        if len(set(self.families)) < len(self.families):
            raise ValueError(f"families names one twice: {', '.join(self.families)}")

    def resolved(self) -> "SweepConfig":
        """With every default that depends on other fields filled in; idempotent.

        `quick` sets only what is left at its default.
        """
        changes: dict[str, Any] = {}
        if self.quick:
            defaults = {field.name: field.default for field in dataclasses.fields(self)}
            changes = {k: v for k, v in _QUICK.items() if getattr(self, k) == defaults[k]}
        shape = (changes.get("n", self.n), changes.get("d", self.d))
        if not self.families:
            changes["families"] = tuple(
                family
                for family in registered_families()
                if not self.quick or nearest_shape(family, n=shape[0], d=shape[1]) == shape
            )
        return dataclasses.replace(self, quick=False, **changes)

    def grid_size(self) -> int:
        """How many temperatures the grid has."""
        decades = math.log10(self.epsilon_max) - math.log10(self.epsilon_min)
        return max(1, round(decades * self.temperatures_per_decade) + 1)

    def ratios(self) -> np.ndarray:
        """The temperature grid, descending, in units of `epsilon_unit`."""
        return np.geomspace(self.epsilon_max, self.epsilon_min, self.grid_size())

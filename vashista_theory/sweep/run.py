"""Running a sweep: check the request, compute what is missing, record, draw."""

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path

import numpy as np
import xarray as xr

from vashista_theory.runs import (
    BlockStore,
    Manifest,
    Progress,
    check_writable,
    open_store,
    run_blocks,
)
from vashista_theory.sweep import plan, variables
from vashista_theory.sweep.config import SweepConfig
from vashista_theory.sweep.measure import Row, measure

STORE, FIGURES = "store", "figures"


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A sweep that was accepted: nothing left that a user could have asked for wrongly."""

    config: SweepConfig
    tasks: tuple[plan.Task, ...]
    store: BlockStore


def prepare(config: SweepConfig) -> Prepared:
    """Check everything that can be refused, and open the store.

    Raises:
        ValueError: An impossible shape, a bad heads file, or a store of another configuration.
        OSError: The output cannot be written, or holds something else.
    """
    config = config.resolved()
    planned = plan.tasks(config)
    identity = plan.identity(config)
    _refuse_foreign(config.output)
    check_writable(config.output)
    store = open_store(
        config.output / STORE,
        plan.template(config, planned),
        identity,
        block_size=config.block_size,
    )
    return Prepared(config, planned, store)


def execute(prepared: Prepared) -> xr.Dataset:
    """Compute the missing blocks and return the whole dataset; draws if the figures are on."""
    config, store = prepared.config, prepared.store
    missing = store.missing()
    if missing:
        manifest = Manifest.start(plan.identity(config), seed=config.seed, precision="float64")
        one = partial(measure, ratios=config.ratios(), epsilon_unit=config.epsilon_unit)

        def block(number: int) -> list[plan.Task]:
            return list(prepared.tasks[store.block_slice(number)])

        _compile([task for number in missing for task in block(number)], one, config)
        run_blocks(
            store,
            lambda number: _dataset([one(task) for task in block(number)]),
            workers=config.workers,
            progress=config.progress,
            description="Sweep",
        )
        resumed = len(missing) < store.block_count
        store.annotate(manifest.finish().attributes() | {"resumed": str(resumed).lower()})
    return store.load()


def run(config: SweepConfig | None = None) -> xr.Dataset:
    """Run a sweep, or go on with one that was stopped.

    float64 is switched on for the run's own threads only. Killed at any moment, the same call
    resumes from the last stored block and gives the same dataset bit for bit.

    Args:
        config: By default `SweepConfig()`.

    Returns:
        A dataset over `instance` and `temperature`; `.attrs` has seed, versions, device,
        precision, commit and configuration.

    Raises:
        ValueError: A request that cannot be met, or a store of another configuration.
        OSError: The output cannot be written, or holds something else.
    """
    prepared = prepare(config or SweepConfig())
    dataset = execute(prepared)
    if prepared.config.figures:
        draw(dataset, prepared.config.output)
    return dataset


def draw(dataset: xr.Dataset, output: Path) -> list[Path]:
    """Write the figures that the dataset has data for, as PNG and PDF."""
    from vashista_theory import plots

    return plots.save_all(dataset, output / FIGURES)


def _compile(tasks: list[plan.Task], one: Callable[[plan.Task], Row], config: SweepConfig) -> None:
    """Measure one instance of each shape: side by side here, each compilation happens once."""
    shapes: dict[tuple[int, ...], plan.Task] = {}
    for task in tasks:
        shapes.setdefault(task.make().keys.shape, dataclasses.replace(task, oracle=False))
    # The largest shape compiles longest.
    order = [shapes[shape] for shape in sorted(shapes, reverse=True)]
    watch = Progress(len(order), description="Compile", mode=config.progress, unit="shapes")
    with watch, ThreadPoolExecutor(config.workers) as pool:
        for measured in as_completed([pool.submit(one, task) for task in order]):
            measured.result()
            watch.advance()


def _dataset(rows: list[Row]) -> xr.Dataset:
    return xr.Dataset(
        {
            name: (variable.dims, np.stack([row[name] for row in rows]))
            for name, variable in variables.ALL.items()
        }
    )


def _refuse_foreign(output: Path) -> None:
    if not output.is_dir() or (output / STORE / "store.json").is_file():
        return
    strange = sorted(entry.name for entry in output.iterdir() if not entry.name.startswith("."))
    if strange:
        raise FileExistsError(
            f"{output} holds files that are not from a sweep ({strange[0]}, …); nothing was "
            "changed. Choose a new or empty output folder"
        )

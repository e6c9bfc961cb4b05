"""Running a sweep: check the request, compute what is missing, record, draw."""

import dataclasses
import functools
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import xarray as xr

from vashista_theory._reading import read_text
from vashista_theory._words import count
from vashista_theory.runs import (
    BlockStore,
    Manifest,
    Progress,
    check_writable,
    if_asked,
    open_store,
    run_blocks,
    write_atomically,
)
from vashista_theory.sweep import plan, variables
from vashista_theory.sweep.config import SweepConfig
from vashista_theory.sweep.measure import Row, measure

STORE, FIGURES = "store", "figures"
# In the output folder: where the store is, if not there.
ELSEWHERE = "store.txt"


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A sweep that was accepted: nothing left that a user could have asked for wrongly."""

    config: SweepConfig
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
    _refuse_foreign(config.output, config.store)
    check_writable(config.output)
    store = open_store(
        config.store or config.output / STORE,
        plan.template(config, planned),
        identity,
        block_size=config.block_size,
    )
    if config.store is not None:
        write_atomically(config.output / ELSEWHERE, config.store + "\n")
    return Prepared(config, store)


def execute(prepared: Prepared) -> xr.Dataset:
    """Compute the missing blocks and return the whole dataset.

    Raises:
        ClusterError: The cluster that was asked for cannot be used, or not any longer.
        OSError: The store cannot be written.
    """
    config, store = prepared.config, prepared.store
    missing = store.missing()
    if missing:
        manifest = Manifest.start(plan.identity(config), seed=config.seed, precision="float64")
        compute = Blocks(config, plan.heads_sha256(config))
        with if_asked(config.workers, config.scheduler) as cluster:
            if cluster is None:
                _compile(
                    [task for number in missing for task in compute.tasks_of(number)],
                    compute,
                    config,
                )
            run_blocks(
                store,
                compute,
                threads=config.threads,
                cluster=cluster,
                progress=config.progress,
                description="Sweep",
            )
        resumed = len(missing) < store.block_count
        store.annotate(manifest.finish().attributes() | {"resumed": str(resumed).lower()})
    return store.load()


@dataclasses.dataclass(frozen=True)
class Blocks:
    """From a block's number to its variables, in any process.

    It goes to workers with every block, so it holds what the instances follow from, not them.

    Attributes:
        config: A resolved configuration.
        heads_sha256: Of the heads file that it names.
    """

    config: SweepConfig
    heads_sha256: str | None = None

    def tasks_of(self, number: int) -> tuple[plan.Task, ...]:
        """The instances of one block."""
        size = self.config.block_size
        return _tasks(self.config, self.heads_sha256)[number * size : (number + 1) * size]

    def row(self, task: plan.Task) -> Row:
        """One instance, measured."""
        config = self.config
        return measure(task, ratios=config.ratios(), epsilon_unit=config.epsilon_unit)

    def __call__(self, number: int) -> xr.Dataset:
        """Every variable of one block."""
        rows = [self.row(task) for task in self.tasks_of(number)]
        return xr.Dataset(
            {
                name: (variable.dims, np.stack([row[name] for row in rows]))
                for name, variable in variables.ALL.items()
            }
        )


@functools.lru_cache(maxsize=1)
def _tasks(config: SweepConfig, heads_sha256: str | None) -> tuple[plan.Task, ...]:
    if plan.heads_sha256(config) != heads_sha256:
        raise OSError(
            f"{config.heads} has changed, or is another file on this worker than where the sweep "
            "was started; give a file that is the same for all of them"
        )
    return plan.tasks(config)


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
        ClusterError: The cluster that was asked for cannot be used, or not any longer.
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


def _compile(tasks: list[plan.Task], compute: Blocks, config: SweepConfig) -> None:
    """Measure an instance of each shape and family: here each compilation happens once.

    Shapes side by side, and the families of one after another: what only some of them need is
    compiled with the first of those.
    """
    shapes: dict[tuple[int, ...], dict[str, plan.Task]] = {}
    for task in tasks:
        families = shapes.setdefault(task.make().keys.shape, {})
        families.setdefault(task.family, dataclasses.replace(task, oracle=False))
    # The largest shape compiles longest.
    order = [list(shapes[shape].values()) for shape in sorted(shapes, reverse=True)]
    watch = Progress(
        len(order),
        description="Compiling for each shape of instance",
        mode=config.progress,
        unit="shapes",
        at_once=config.threads,
    )
    if config.progress != "none":
        watch.note(
            f"Compiling for {count(len(order), 'shape')} of instances, the largest {max(shapes)}: "
            "most of the time of a first run goes here, none of a later one in this process."
        )

    def measured(families: list[plan.Task]) -> None:
        for task in families:
            compute.row(task)

    with watch, ThreadPoolExecutor(config.threads) as pool:
        try:
            for one in as_completed([pool.submit(measured, families) for families in order]):
                one.result()
                watch.advance()
        except KeyboardInterrupt:
            watch.note("Stopped before the first block. Run the same command again to go on.")
            raise
        finally:  # or all the others would be waited for
            pool.shutdown(wait=False, cancel_futures=True)


def _refuse_foreign(output: Path, store: str | None) -> None:
    if not output.is_dir():
        return
    if (output / ELSEWHERE).is_file():
        known = read_text(output / ELSEWHERE).strip()
        if known != store:
            raise FileExistsError(
                f"{output} is for the sweep stored at {known}, not at {store or output / STORE}; "
                "nothing was changed. Choose another output folder, or that store"
            )
        return
    if store is None and (output / STORE / "store.json").is_file():
        return
    strange = sorted(entry.name for entry in output.iterdir() if not entry.name.startswith("."))
    if strange:
        raise FileExistsError(
            f"{output} holds files that are not from this sweep ({strange[0]}, …); nothing was "
            "changed. Choose a new or empty output folder"
        )

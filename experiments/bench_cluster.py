"""Two warm workers of a local Dask cluster against one, on the same sweep.

Aim: at least 1.6 times as fast on two cores, over a sweep of ten minutes or more on one worker.
Workers are warm when they have computed blocks of the same shape before; the datasets have to be
equal bit for bit, with `--quick` to that of threads of this process as well.

Example: python -m experiments bench_cluster --instances 1000 --force
"""

import hashlib
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import xarray as xr

from experiments.framework.outcome import Measured, Outcome
from vashista_theory import runs
from vashista_theory.sweep.config import SweepConfig
from vashista_theory.sweep.run import Blocks, execute, prepare

BY_HAND = "a comparison of workers wants an idle machine"

_AIM = 1.6
_LONG = 600.0
_COLUMNS = {
    "workers": "processes, each computing on one thread",
    "start_s": "starting the cluster, seconds",
    "warm_up_s": "first blocks of the shape, compilation included, seconds",
    "sweep_s": "the sweep, seconds",
    "blocks": "blocks of the sweep",
}


@dataclass(frozen=True)
class Config:
    """What to measure.

    Attributes:
        families: Of one shape.
        instances: Of each family.
        n: Keys.
        d: Dimensions.
        block_size: Instances of a block.
        quick: Few small instances, for tests.
    """

    families: tuple[str, ...] = ("gaussian", "inside", "far_query")
    instances: int = 2000
    n: int = 256
    d: int = 16
    block_size: int = 8
    quick: bool = False

    def __post_init__(self) -> None:
        self.sweep(Path())

    def sweep(self, output: Path) -> SweepConfig:
        """The sweep's own configuration; refuses what it refuses."""
        return SweepConfig(
            families=self.families,
            instances=16 if self.quick else self.instances,
            n=48 if self.quick else self.n,
            d=8 if self.quick else self.d,
            block_size=2 if self.quick else self.block_size,
            oracle_sample=0,
            output=output,
            figures=False,
            progress="log",
        )


def measure(config: Config) -> Measured:
    """Run the sweep on one worker, then on two."""
    rows, datasets = [], []
    with tempfile.TemporaryDirectory() as folder:
        for workers in (1, 2):
            row, dataset = _timed(config, workers, Path(folder) / str(workers))
            rows.append(row)
            datasets.append(dataset)
        if config.quick:
            datasets.append(execute(prepare(config.sweep(Path(folder) / "threads"))))
    same = len({_bytes(dataset) for dataset in datasets}) == 1
    return Measured(
        {"workers": rows},
        {"cores": os.cpu_count() or 0},
        failures=[] if same else ["the datasets differ with the number of workers"],
    )


def report(found: Measured) -> Outcome:
    """How much faster two workers are."""
    one, two = (float(row["sweep_s"]) for row in found.tables["workers"])
    speed_up = one / two
    length = "" if one >= _LONG else f" (a short sweep: the aim is about {_LONG / 60:.0f} minutes)"
    finding = (
        f"Two warm workers take {two:.0f} s where one takes {one:.0f} s: {speed_up:.2f} times "
        f"as fast, aim {_AIM} {'met' if speed_up >= _AIM else 'missed'}{length}."
    )
    return Outcome(
        tables=found.described({"workers": _COLUMNS}),
        values={"speed_up": speed_up, "one_worker_s": one, **found.values},
        findings=[finding],
        notes=[
            "Each worker has one thread for its work: of XLA, of BLAS and of its own.",
            f"{found.values['cores']} cores; the client and the scheduler run on them too.",
        ],
        failures=found.failures,
    )


def _timed(config: Config, workers: int, folder: Path) -> tuple[dict[str, float | int], xr.Dataset]:
    start = time.perf_counter()
    with runs.connect(workers=workers) as cluster:
        started = time.perf_counter()
        prepared = prepare(config.sweep(folder))
        store, compute = prepared.store, Blocks(prepared.config)
        again = prepare(config.sweep(folder.with_name(f"{folder.name}-warm-up"))).store
        # Enough blocks for each worker to meet the shape.
        few = again.missing()[: 4 * workers]
        runs.run_blocks(again, compute, few, cluster=cluster, description="Warm up")
        warm = time.perf_counter()
        runs.run_blocks(store, compute, cluster=cluster, description=f"{workers} workers")
        done = time.perf_counter()
    row: dict[str, float | int] = {
        "workers": workers,
        "start_s": started - start,
        "warm_up_s": warm - started,
        "sweep_s": done - warm,
        "blocks": store.block_count,
    }
    return row, store.load()


def _bytes(dataset: xr.Dataset) -> str:
    digest = hashlib.sha256()
    for name in sorted(map(str, dataset.variables)):
        values = dataset[name].values
        text = values.dtype.kind in "UOT"
        digest.update(repr(values.tolist()).encode() if text else values.tobytes())
    return digest.hexdigest()

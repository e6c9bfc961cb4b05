"""Ten million keys in a file of 5 GB: passes, time per pass, peak memory, and what bounds them.

Aims: n = 10,000,000, d = 64 projected in under 20 minutes with peak anonymous memory under 1.5 GiB
(the whole process, interpreter and JAX included). Cold: the file was dropped from the page cache
before; warm: it lies there. Disk and memory rates were measured on the same file and machine.

A machine with less free disk measures a smaller n, or nothing. `--folder` names a disk.

Example: python -m experiments bench_out_of_core --n 1000000 --force
"""

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.bench_out_of_core import work
from experiments.framework.outcome import Measured, NotMeasured

BY_HAND = "times want an idle machine, and the file takes 5 GB of disk"

LARGE = 100_000_000
_WORKERS_ON_PAPER = (1, 16, 256)
WARM_TIMES = 3
_BLOCK_ROWS = 2**16  # of a worker on paper
NETWORK = 1e9  # bytes per second into the one process that solves
LATENCY = 1e-3  # seconds of one exchange with all workers


@dataclass(frozen=True)
class Config:
    """What to measure.

    Attributes:
        n: Keys; 8 n d bytes of free disk are needed.
        d: Dimensions.
        seed: Of keys and query.
        folder: Where the file is written, and removed from; the system's temporary folder if empty.
        quick: A small file, for tests.
    """

    n: int = 10_000_000
    d: int = 64
    seed: int = 0
    folder: str = ""
    quick: bool = False

    def __post_init__(self) -> None:
        if min(self.n, self.d) < 1:
            raise ValueError(f"n and d must be at least 1; got {self}")

    def reduced(self) -> "Config":
        """The configuration of a quick run."""
        return Config(100_000, 16, self.seed, self.folder, quick=True)


def measure(config: Config) -> Measured:
    """Write the keys, measure the machine, project cold and warm, remove the keys."""
    if not hasattr(os, "posix_fadvise") or not Path("/proc/self/status").exists():
        raise NotMeasured("anonymous memory and the page cache are measured on Linux only.")
    folder, size = config.folder or tempfile.gettempdir(), 8 * config.n * config.d
    free = shutil.disk_usage(folder).free
    if free < 1.2 * size:
        raise NotMeasured(
            f"{folder} has {free / 1e9:.1f} GB free and the keys take {size / 1e9:.1f} GB. Name "
            "another disk with --folder, or a smaller --n."
        )
    with tempfile.TemporaryDirectory(dir=folder) as place:
        return _measure(config, Path(place))


def _measure(config: Config, place: Path) -> Measured:
    keys, query_file = place / "keys.npy", place / "query.npy"
    query = 1.5 * np.random.default_rng([config.seed, 1]).normal(size=config.d)
    np.save(query_file, query)
    work.write_keys(keys, n=config.n, d=config.d, seed=config.seed)
    work.forget(keys)
    disk, cached = work.read_rate(keys), work.read_rate(keys)
    memory = {threads: work.memory_rate(threads) for threads in (1, 2)}
    answers: dict[tuple[str, int], dict[str, Any]] = {}
    for workers in (1, 2):
        work.forget(keys)
        answers["cold", workers] = work.project(keys, query_file, workers)
        answers["warm", workers] = work.project(keys, query_file, workers, 0, WARM_TIMES)
    cut = max(1, _BLOCK_ROWS * config.n // LARGE)
    large = {workers: work.project(keys, query_file, workers, cut) for workers in _WORKERS_ON_PAPER}
    audit = work.audit(keys, query, answers["cold", 1])

    base = _Base(config, answers["warm", 1], disk)
    runs = [
        {
            "cache": cache,
            "workers": workers,
            "seconds": found["seconds"],
            "passes": found["passes"],
            "solves": found["solves"],
            "peak_mib": found["peak"] / 2**20,
            "before_mib": found["before"] / 2**20,
            "predicted": base.seconds(config.n, 2, found, machines=False)
            if (cache, workers) == ("warm", 2)
            else None,
        }
        for (cache, workers), found in answers.items()
    ]
    passes = [row for key, found in answers.items() for row in _passes(*key, found, config.n)]
    scaling = [
        {
            "n": LARGE,
            "workers": workers,
            "passes": found["passes"],
            "solves": found["solves"],
            "pass_memory": base.one_pass(LARGE, workers),
            "pass_disk": base.one_pass(LARGE, workers, from_disk=True),
            "total_memory": base.seconds(LARGE, workers, found),
            "total_disk": base.seconds(LARGE, workers, found, from_disk=True),
        }
        for workers, found in large.items()
    ]
    spread = max(
        float(np.abs(np.subtract(found["point"], answers["cold", 1]["point"])).max())
        for found in (*answers.values(), *large.values())
    )
    values = {
        "file_gb": 8 * config.n * config.d / 1e9,
        "disk_gbs": disk / 1e9,
        "page_cache_gbs": cached / 1e9,
        "memory_gbs_1": memory[1] / 1e9,
        "memory_gbs_2": memory[2] / 1e9,
        "pass_gbs_1": base.rate / 1e9,
        "solve_ms": 1e3 * base.solve,
        "seconds_worst": max(row["seconds"] for row in runs),
        "peak_mib_worst": max(row["peak_mib"] for row in runs),
        "speedup_2": answers["warm", 1]["seconds"] / answers["warm", 2]["seconds"],
        "predicted_over_measured_2": base.seconds(config.n, 2, answers["warm", 2], machines=False)
        / answers["warm", 2]["seconds"],
        "face": len(answers["cold", 1]["face"]),
        "gap": answers["cold", 1]["gap"],
        "scale": answers["cold", 1]["scale"],
        "point_spread": spread,
        "load_average": os.getloadavg()[0],
        **{f"audit_{name}": value for name, value in audit.items()},
    }
    wrong = audit["unlisted"] > 0 or max(audit["dual"], audit["complementarity"]) > 1e-12
    return Measured(
        {"runs": runs, "passes": passes, "scaling, on paper": scaling},
        values,
        failures=["the plain pass disagrees with the answer"] if wrong else [],
    )


class _Base:
    """The model: time = passes × bytes / (workers × rate) + solves × (solve + exchange)."""

    def __init__(self, config: Config, found: dict[str, Any], disk: float) -> None:
        self._d, self._disk = config.d, disk
        solving = sum(one["solving"] for one in found["history"])
        nbytes = sum(one["nbytes"] for one in found["history"])
        self.rate = nbytes / (sum(one["seconds"] for one in found["history"]) - solving)
        self.solve = solving / max(1, found["solves"])

    def one_pass(self, n: int, workers: int, *, from_disk: bool = False) -> float:
        rate = min(self.rate, self._disk) if from_disk else self.rate
        return 8 * n * self._d / (workers * rate)

    def seconds(
        self,
        n: int,
        workers: int,
        found: dict[str, Any],
        *,
        from_disk: bool = False,
        machines: bool = True,
    ) -> float:
        gathered = 512 * (self._d + 1) * 8  # half a working set, in all
        exchange = LATENCY + gathered / NETWORK if machines and workers > 1 else 0.0
        passes = found["passes"] * self.one_pass(n, workers, from_disk=from_disk)
        return passes + found["solves"] * (self.solve + exchange)


def _passes(cache: str, workers: int, found: dict[str, Any], n: int) -> list[dict[str, Any]]:
    return [
        {
            "cache": cache,
            "workers": workers,
            "pass": number,
            "share": one["rows"] / n,
            "seconds": one["seconds"],
            "rate_gbs": one["nbytes"] / one["seconds"] / 1e9,
            "solving": one["solving"],
            "improvements": one["improvements"],
        }
        for number, one in enumerate(found["history"], start=1)
    ]

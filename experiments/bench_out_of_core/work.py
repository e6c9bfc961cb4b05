"""A file of keys, what the machine can do with it, and one projection in a process of its own.

Run as `python -m experiments.bench_out_of_core.work KEYS.npy QUERY.npy WORKERS ROWS TIMES`;
prints JSON. Peak memory is the largest RssAnon of the whole process, interpreter and JAX included:
a memory-mapped file does not count, since the system drops its pages at will.
"""

import dataclasses
import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from experiments.shared import process

_CHUNK = 2**25


def write_keys(path: Path, *, n: int, d: int, seed: int) -> None:
    """Normal keys in float64, written a block at a time, and on the disk when this returns."""
    rng = np.random.Generator(np.random.SFC64(seed))
    keys = np.lib.format.open_memmap(path, mode="w+", dtype=np.float64, shape=(n, d))
    rows = max(1, _CHUNK // (8 * d))
    for start in range(0, n, rows):
        stop = min(start + rows, n)
        rng.standard_normal(out=keys[start:stop])
    keys.flush()


def forget(path: Path) -> None:
    """Ask the system to drop the file's pages from its cache, so that the disk is read again."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def read_rate(path: Path) -> float:
    """Bytes per second of reading the file from its beginning to its end into one buffer."""
    buffer = bytearray(_CHUNK)
    started = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    return path.stat().st_size / (time.perf_counter() - started)


def memory_rate(threads: int) -> float:
    """Bytes per second at which threads sum arrays of 256 MiB each: the best of five."""
    arrays = [np.ones(2**25) for _ in range(threads)]
    best = np.inf
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(5):
            started = time.perf_counter()
            list(pool.map(np.sum, arrays))
            best = min(best, time.perf_counter() - started)
    return threads * arrays[0].nbytes / best


def project(
    keys: Path, query: Path, workers: int, block_rows: int = 0, times: int = 1
) -> dict[str, Any]:
    """The fastest of several projections in a fresh process, with their peak of anonymous memory.

    A block of 0 rows is the default.
    """
    return process.run(
        "experiments.bench_out_of_core.work", keys, query, workers, block_rows, times
    )


def audit(path: Path, query: np.ndarray, answer: dict[str, Any]) -> dict[str, float]:
    """The optimality conditions from the answer alone, by a plain pass that shares no code.

    Returns:
        Over scale: the most negative multiplier, the support's largest, the distance between the
        point and the weighted keys (over its root); and the number of keys that are nearer to the
        supporting plane than the gap and not listed on the face.
    """
    keys = np.load(path, mmap_mode="r")
    point, support = np.array(answer["point"]), np.array(answer["support"])
    weights, face = np.array(answer["weights"]), np.array(answer["face"])
    residual, scale, least, off = query - point, answer["scale"], np.inf, []
    rows = max(1, _CHUNK // keys[:1].nbytes)
    for start in range(0, len(keys), rows):
        values = residual @ point - keys[start : start + rows] @ residual
        least = min(least, values.min())
        off.append(start + np.flatnonzero(values < answer["gap"] * (1 - 1e-9)))
    held = keys[support]
    return {
        "dual": float(max(-least, 0.0)) / scale,
        "complementarity": float(np.abs((point - held) @ residual).max()) / scale,
        "stationarity": float(np.linalg.norm(weights @ held - point)) / scale**0.5,
        "unlisted": len(np.setdiff1d(np.concatenate(off), face)),
    }


def _anonymous() -> int:
    return process.memory("RssAnon")


def measured(
    keys: str, query: str, workers: int, block_rows: int = 0, times: int = 1
) -> dict[str, Any]:
    """What the fresh process does: project, watched."""
    import vashista_theory as vt

    peak, stop = [_anonymous()], threading.Event()

    def watch() -> None:
        while not stop.wait(0.005):
            peak[0] = max(peak[0], _anonymous())

    rows, target = np.load(keys, mmap_mode="r"), np.load(query)
    watcher = threading.Thread(target=watch)
    watcher.start()
    # A thousand rows first: what is compiled once a process is no part of the passes.
    started = time.perf_counter()
    vt.project_blocks(np.asarray(rows[:1000]), target, throw=False)
    compiled, before = time.perf_counter() - started, _anonymous()
    seconds, found = float("inf"), None
    for _ in range(times):
        started = time.perf_counter()
        answer = vt.project_blocks(rows, target, workers=workers, block_rows=block_rows or None)
        took = time.perf_counter() - started
        if took < seconds:
            seconds, found = took, answer
    assert found is not None
    stop.set()
    watcher.join()
    return {
        "seconds": seconds,
        "compile_seconds": compiled,
        "peak": max(peak[0], _anonymous()),
        "before": before,
        "passes": found.passes,
        "solves": found.solves,
        "history": list(map(dataclasses.asdict, found.history)),
        "point": found.point.tolist(),
        "support": found.support.tolist(),
        "weights": found.weights.tolist(),
        "face": [] if found.face is None else found.face.tolist(),
        "gap": found.gap,
        "scale": found.scale,
        "duality_gap": found.duality_gap,
    }


if __name__ == "__main__":
    print(json.dumps(measured(*sys.argv[1:3], *map(int, sys.argv[3:]))))

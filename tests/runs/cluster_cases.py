"""What workers are made to do in the tests, importable there; and a client that can be killed."""

import errno
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import xarray as xr

from tests.runs import problem
from vashista_theory import runs
from vashista_theory.runs import _arrays


class KillsItsWorker:
    """Block 2 takes its process along: once, if there is a folder to remember it in."""

    def __init__(self, memory: Path | None) -> None:
        self.memory = memory

    def __call__(self, block: int) -> xr.Dataset:
        if block == 2 and (self.memory is None or not (self.memory / "killed").exists()):
            if self.memory is not None:
                (self.memory / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return problem.compute(block)


def fails(block: int) -> xr.Dataset:
    if block == 3:
        raise ArithmeticError(f"in block {block}")
    return problem.compute(block)


def slow(block: int) -> xr.Dataset:
    time.sleep(0.3)
    return problem.compute(block)


class DiskThatFillsUp:
    """From block 3 on there is no room; a worker's later runs find some again."""

    def __call__(self, block: int) -> xr.Dataset:
        found = problem.compute(block)
        write: Callable[..., None] = _arrays.BlockArrays.write

        def full(*_: object) -> None:
            _arrays.BlockArrays.write = write  # type: ignore[method-assign]
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        if block >= 3:
            _arrays.BlockArrays.write = full  # type: ignore[method-assign]
        return found


if __name__ == "__main__":
    with runs.connect(workers=2) as cluster:
        store = problem.open_store(Path(sys.argv[1]))
        runs.run_blocks(store, slow, cluster=cluster, progress="none")

"""A sweep of one small shape, a recorded head among its instances; also a program to be killed."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from vashista_theory.sweep import SweepConfig

N, D = 24, 6
FAMILIES = ("gaussian", "inside", "degenerate", "near_degenerate", "heads")


def write_heads(path: Path) -> Path:
    """Two random heads in the format of a heads file, of the sweep's own shape."""
    rng = np.random.default_rng(5)
    shape = (1, 2, N, D)
    np.savez(
        path,
        queries=3 * rng.normal(size=(1, 2, 1, D)),
        keys=rng.normal(size=shape),
        values=rng.normal(size=shape),
        layers=np.array([3]),
        positions=np.array([N - 1]),
        scale=np.array(D**-0.5),
        provenance=np.array(json.dumps({"text": "random numbers"})),
    )
    return path


def config(output: Path, heads: Path, **changes: Any) -> SweepConfig:
    fields: dict[str, Any] = {
        "families": FAMILIES, "instances": 4, "regime_side": 3, "head_instances": 2,
        "heads": heads, "n": N, "d": D, "oracle_sample": 1, "block_size": 3,
        "temperatures_per_decade": 3, "output": output, "figures": False, "progress": "none",
    }  # fmt: skip
    return SweepConfig(**(fields | changes))


def arguments(output: Path, heads: Path) -> list[str]:
    """The same sweep on the command line."""
    return [
        "--families", *FAMILIES, "--instances", "4", "--regime-side", "3", "--head-instances", "2",
        "--heads", str(heads), "--n", str(N), "--d", str(D), "--oracle-sample", "1",
        "--block-size", "3", "--temperatures-per-decade", "3", "--output", str(output),
        "--no-figures", "--progress", "none",
    ]  # fmt: skip


if __name__ == "__main__":
    # Slowed down after each block, so that there is time to kill it.
    import time

    from vashista_theory import runs
    from vashista_theory.sweep import run

    write = runs.BlockStore.write

    def slow(self: runs.BlockStore, *block: Any) -> None:
        write(self, *block)
        time.sleep(0.5)

    runs.BlockStore.write = slow  # type: ignore[method-assign]
    run(config(Path(sys.argv[1]), Path(sys.argv[2]), threads=1))

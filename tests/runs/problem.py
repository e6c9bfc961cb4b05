"""A small labelled computation for the store's tests; also a program that can be killed."""

import sys
import time
from pathlib import Path

import numpy as np
import xarray as xr

from vashista_theory import runs

INSTANCES, BLOCK_SIZE, BLOCKS = 22, 4, 6
CONFIGURATION = {"seed": 7, "families": ["gaussian", "sphere"], "scale": 1.0}


def template() -> xr.Dataset:
    shape = (INSTANCES, 3)
    return xr.Dataset(
        {
            "gap": ("instance", np.full(INSTANCES, np.nan)),
            "leakage": (("instance", "epsilon"), np.full(shape, np.nan)),
            "steps": (("epsilon", "instance"), np.full(shape[::-1], -1)),
            "degenerate": ("instance", np.zeros(INSTANCES, bool)),
            "status": ("instance", np.full(INSTANCES, "not computed")),
            "weights": ("epsilon", np.array([0.2, 0.3, 0.5])),
        },
        coords={
            "instance": np.arange(INSTANCES),
            "epsilon": [1e-3, 1e-2, 0.1],
            "family": ("instance", np.repeat(["gaussian", "sphere"], INSTANCES // 2)),
        },
        attrs={"title": "a test"},
    )


def compute(block: int) -> xr.Dataset:
    """Values that depend on the block alone, with signs of zero and infinities among them."""
    start = block * BLOCK_SIZE
    size = min(BLOCK_SIZE, INSTANCES - start)
    rng = np.random.default_rng([CONFIGURATION["seed"], block])
    leakage = rng.normal(size=(size, 3))
    leakage[0] = [-0.0, np.inf, np.nan]
    return xr.Dataset(
        {
            "gap": ("instance", rng.normal(size=size)),
            "leakage": (("instance", "epsilon"), leakage),
            "steps": (("epsilon", "instance"), rng.integers(0, 9, size=(3, size))),
            "degenerate": ("instance", rng.random(size) < 0.5),
            "status": ("instance", np.full(size, f"block {block}")),
        }
    )


class Laden:
    """The same computation with a load that has to travel along."""

    def __init__(self, load: bytes) -> None:
        self.load = load

    def __call__(self, block: int) -> xr.Dataset:
        assert self.load
        return compute(block)


def open_store(path: Path) -> runs.BlockStore:
    return runs.open_store(path, template(), CONFIGURATION, block_size=BLOCK_SIZE)


def expected() -> xr.Dataset:
    """The dataset put together without a store."""
    whole = template()
    for block in range(BLOCKS):
        where = slice(block * BLOCK_SIZE, min((block + 1) * BLOCK_SIZE, INSTANCES))
        for name, values in compute(block).data_vars.items():
            index = tuple(where if dim == "instance" else slice(None) for dim in values.dims)
            whole[name].values[index] = values.values
    return whole


def assert_identical(got: xr.Dataset, wanted: xr.Dataset) -> None:
    """Equal bit for bit in data and coordinates."""
    assert set(got.variables) == set(wanted.variables)
    for name in wanted.variables:
        left, right = got[name].values, wanted[name].values
        assert got[name].dims == wanted[name].dims
        assert left.dtype.kind == right.dtype.kind, name
        if right.dtype.kind == "U":
            assert left.tolist() == right.tolist(), name
        else:
            assert left.dtype == right.dtype, name
            assert left.tobytes() == right.tobytes(), name


if __name__ == "__main__":

    def slow(block: int) -> xr.Dataset:
        time.sleep(0.3)
        return compute(block)

    runs.run_blocks(open_store(Path(sys.argv[1])), slow, threads=int(sys.argv[2]), progress="none")

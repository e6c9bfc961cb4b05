from pathlib import Path

import pytest
import xarray as xr

from tests.sweep import small
from vashista_theory.sweep import run


@pytest.fixture(scope="session")
def heads_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.write_heads(tmp_path_factory.mktemp("heads") / "heads.npz")


@pytest.fixture(scope="session")
def output(tmp_path_factory: pytest.TempPathFactory, heads_file: Path) -> Path:
    """The folder of one uninterrupted sweep; tests must not write to it."""
    folder = tmp_path_factory.mktemp("sweep") / "whole"
    run(small.config(folder, heads_file))
    return folder


@pytest.fixture(scope="session")
def dataset(output: Path) -> xr.Dataset:
    from vashista_theory.runs import load_dataset

    return load_dataset(output / "store")

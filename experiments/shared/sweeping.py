"""A sweep that one experiment needs and nobody keeps."""

import tempfile
from pathlib import Path
from typing import Any

import xarray as xr

from vashista_theory import sweep


def swept(*, silent: bool, **asked: Any) -> xr.Dataset:
    """Its dataset, by the options of `SweepConfig`."""
    with tempfile.TemporaryDirectory() as folder:
        output, progress = Path(folder) / "sweep", "none" if silent else "bar"
        config = sweep.SweepConfig(output=output, progress=progress, figures=False, **asked)
        return sweep.run(config).load()

"""A sweep on a cluster is the local sweep, bit for bit; what cannot be is said in one line."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import xarray as xr

from tests.runs.interrupted import started
from tests.runs.problem import assert_identical
from tests.sweep import small
from tests.sweep.refusals import refused
from vashista_theory import runs
from vashista_theory.sweep import plan, run
from vashista_theory.sweep.__main__ import main
from vashista_theory.sweep.run import Blocks

pytest.importorskip("distributed")

ROOT = Path(__file__).resolve().parents[2]


def test_unreachable_scheduler(
    tmp_path: Path,
    heads_file: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.modules["vashista_theory.runs.cluster"], "SECONDS_TO_CONNECT", 0.5)
    arguments = small.arguments(tmp_path / "out", heads_file)
    said = refused([*arguments, "--scheduler", "tcp://127.0.0.1:1"], capsys)
    assert "no Dask scheduler answers at tcp://127.0.0.1:1" in said


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--workers", "0"], "workers is 0; expected an integer of at least 1"),
        (["--workers", "2", "--scheduler", "tcp://a:1"], "give one of them"),
        (["--store", "nosuch://x"], "nosuch"),
    ],
)
def test_bad_use(
    arguments: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert expected in refused(["--quick", *arguments, "--output", "out"], capsys)


def test_a_store_elsewhere(
    tmp_path: Path, output: Path, heads_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Finished already, so nothing is computed: the report alone goes to the output folder."""
    folder = tmp_path / "report"
    arguments = [*small.arguments(folder, heads_file), "--store", str(output / "store")]
    for _ in range(2):
        assert main(arguments) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["report.json", "store.txt"]
    assert "store/data.zarr" in "".join(capsys.readouterr().out.split())
    said = refused(small.arguments(folder, heads_file), capsys)
    assert "is for the sweep stored at" in said


def test_a_heads_file_that_changed_is_refused(tmp_path: Path, heads_file: Path) -> None:
    """On a worker it may be another file, and in a long session a newer one."""
    mine = tmp_path / "mine.npz"
    mine.write_bytes(heads_file.read_bytes())
    config = small.config(tmp_path / "out", mine).resolved()
    blocks = Blocks(config, plan.heads_sha256(config))
    assert len(blocks.tasks_of(0)) == config.block_size
    mine.write_bytes(heads_file.read_bytes() + b"more")
    assert plan.heads_sha256(config) != blocks.heads_sha256
    with pytest.raises(OSError, match=r"mine\.npz has changed, or is another file"):
        Blocks(config, "0" * 64).tasks_of(0)


@pytest.mark.slow  # two workers compile the sweep apart
@pytest.mark.parametrize("victim", ["worker", "client"])
def test_killed_midway(victim: str, tmp_path: Path, heads_file: Path, dataset: xr.Dataset) -> None:
    """The worker's blocks go to others; the client is started again, with fewer workers."""
    folder = tmp_path / "killed"
    finished = folder / "store" / "finished"
    command = [sys.executable, "-m", "vashista_theory.sweep"]
    command += [*small.arguments(folder, heads_file), "--workers", "2"]
    process = started(command, finished, blocks=1)
    if victim == "client":
        process.send_signal(signal.SIGKILL)
        process.wait()
        run(small.config(folder, heads_file, workers=1))
    else:
        os.kill(_busiest_child(process.pid), signal.SIGKILL)
        assert process.wait(timeout=300) == 0
    assert_identical(runs.load_dataset(folder / "store"), dataset)


def _busiest_child(pid: int) -> int:
    import psutil

    found = psutil.Process(pid).children()
    return max(found, key=lambda child: child.cpu_times().user).pid


@pytest.mark.slow  # the default sweep twice, on instances large enough for threads in BLAS
def test_default_sweep(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vashista_theory.sweep", "--no-figures", "--output"]
    for name, workers in (("here", []), ("cluster", ["--workers", "3"])):
        subprocess.run(
            [*command, str(tmp_path / name), *workers],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=True,
        )
    here, cluster = (runs.load_dataset(tmp_path / name / "store") for name in ("here", "cluster"))
    assert_identical(cluster, here)

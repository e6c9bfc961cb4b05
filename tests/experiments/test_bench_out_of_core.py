"""Keys on disk: the experiment runs, cleans up, and refuses a disk without room."""

from pathlib import Path

import pytest

from experiments.__main__ import OK, main
from tests.experiments.quick_runs import quick


@pytest.mark.slow  # seven processes, each of which compiles
def test_quick_run(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    found = quick("bench_out_of_core", tmp_path, "--folder", str(disk))
    assert found.failures == []
    assert found.values["audit_unlisted"] == 0
    assert found.values["point_spread"] < 1e-13
    assert {(row["cache"], row["workers"]) for row in found.tables["runs"].rows} == {
        ("cold", 1), ("warm", 1), ("cold", 2), ("warm", 2)
    }  # fmt: skip
    assert list(disk.iterdir()) == []


def test_a_disk_without_room(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["bench_out_of_core", "--n", str(10**13), "--results", str(tmp_path)]
    assert main([*command, "--folder", str(tmp_path)]) == OK
    said = capsys.readouterr().out
    assert "not measured" in said
    assert "--folder" in said
    assert not list(tmp_path.iterdir())

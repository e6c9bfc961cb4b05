"""The benchmarks run, record every solver at every size, and judge their own aims."""

from pathlib import Path

import pytest

from experiments.__main__ import BAD_USE, main
from experiments.bench_projection import report
from experiments.bench_projection.peers import PEERS
from tests.experiments.quick_runs import quick


@pytest.mark.slow
def test_projection_benchmark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = quick("bench_projection", tmp_path)
    rows = content.tables["measurements"].rows
    shapes = {(row["n"], row["d"]) for row in rows}
    for n, d in shapes:
        found = {row["solver"]: row for row in rows if (row["n"], row["d"]) == (n, d)}
        assert {peer.name for peer in PEERS} <= found.keys()
        for name, row in found.items():
            assert row.get("median_ms") or row["note"], f"{name} was left out silently"
        ours = found[report.OURS]
        assert ours["multiplier_error"] < 1e-12
        assert ours["passes"] > 0
    said = capsys.readouterr().out
    assert "Findings" in said
    assert "faster at every size than DAQP" in " ".join(said.split())


@pytest.mark.slow
def test_relaxation_benchmark(tmp_path: Path) -> None:
    content = quick("bench_relaxation", tmp_path)
    values = content.values
    assert values["steps_max"] > 0
    assert len(content.tables["peak memory"].rows) == 2
    assert len(content.findings) == 4


@pytest.mark.slow  # three processes compile the sweep
def test_cluster_benchmark(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    content = quick("bench_cluster", tmp_path)
    rows = content.tables["workers"].rows
    assert [row["workers"] for row in rows] == [1, 2]
    assert content.failures == []
    assert "a short sweep" in content.findings[0]


def test_a_configuration_that_makes_no_sense(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["bench_projection", "--instances", "0", "--results", str(tmp_path)]
    try:
        code = main(command)
    except SystemExit as stop:
        code = stop.code
    assert code == BAD_USE
    assert "must be at least 1" in "".join(capsys.readouterr())
    assert list(tmp_path.iterdir()) == []


def row(solver: str, n: int, **figures: float) -> dict:
    return {"n": n, "d": 64, "instance": 0, "solver": solver, **figures}


def test_findings_say_met_and_missed() -> None:
    rows = [
        row(report.FLOOR, 4096, median_ms=0.1),
        row(report.START, 4096, median_ms=0.2),
        row(report.OURS, 4096, median_ms=1.0, passes=7, point_error=1e-15, multiplier_error=2e-15),
        row("DAQP", 4096, median_ms=3.0, multiplier_error=1e-9),
        row("DAQP separating", 4096, median_ms=1.5, multiplier_error=1e-15),
        row(report.FLOOR, 16384, median_ms=0.4),
        row(report.START, 16384, median_ms=0.2),
        row(report.OURS, 16384, median_ms=4.0, passes=7, multiplier_error=1e-15),
        row("DAQP", 16384, median_ms=12.0, multiplier_error=1e-9),
        row("DAQP separating", 16384, median_ms=10.0, multiplier_error=1e-15),
        row("cvxpy dual", 16384, median_ms=5000.0),
        row("cvxpy primal", 16384, median_ms=9000.0),
    ]
    throughput = {
        "project_many_per_second": 2000.0,
        "project_many_per_second_best": 2500.0,
        "project_many_n": 1024,
        "project_many_d": 64,
        "project_many_batch": 8,
        "project_many_cores": 2,
    }
    said = report.findings(rows, throughput)
    assert "Met at all 2 shapes: its time is 3.00 to 3.00 times ours" in said[1]
    assert "Missed at 1 of 2 shapes" in said[3]
    assert "(4,096, 64): 1.50 times, bound by the passes over the keys (70% in 7 passes" in said[3]
    assert "20% fixed, 10% the rest" in said[3]
    assert "Met: worst 1.0e-15 for p*" in said[4]
    assert "1e-09 of scale in the hull dual form" in said[5]
    assert "Met: 1,250 times its faster (dual) form" in said[6]
    assert "Missed by 1.50 times" in said[7]

"""Exit codes, messages without tracebacks, JSON on standard output alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sweep import small
from tests.sweep.refusals import refused
from vashista_theory.sweep.__main__ import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--families", "gausian"], "did you mean 'gaussian'?"),
        (["--n", "-3"], "n is -3; expected an integer of at least 1"),
        (["--instances", "0"], "instances is 0"),
        (["--epsilon-min", "0"], "epsilon_min is 0.0; a temperature must be positive"),
        (["--epsilon-max", "nan"], "epsilon_max is nan"),
        (["--epsilon-min", "20"], "above epsilon_max"),
        (["--families", "planted", "--d", "4"], "d >= 8"),
        (["--families", "heads", "--heads", "absent.npz"], "absent.npz"),
        (["--heads", "absent.npz", "--families", "gaussian"], "absent.npz"),
        (
            ["--families", "heads", "--head-instances", "505"],
            "but the packaged sample has 504 queries (7 layers × 9 heads × 8 positions). Ask for",
        ),
        (["--no-such-option"], "no-such-option"),
        (["--n", "many"], "many"),
        (["--format", "xml"], "xml"),
        (["--instances", "9" * 21], "instances is an integer of 70 bits; expected at most 2^62"),
        (["--seed", "9" * 21], "seed is an integer of 70 bits"),
        (["--instances", "1000000000"], "1,000,000,000"),
        (["--regime-side", "99999999", "--families", "near_degenerate"], "9,999,999,800,000,001"),
        (["--temperatures-per-decade", "9999999999"], "at 89,999,999,994 temperatures"),
        (["--n", "2000000000000"], "n = 2,000,000,000,000"),
        (["--d", "2000000000000"], "d = 2,000,000,000,000"),
    ],
)
def test_bad_use(
    arguments: list[str],
    expected: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "out"
    assert expected in refused([*arguments, "--output", str(folder)], capsys)
    assert not folder.exists()


def test_unwritable_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("kept")
    said = refused(["--quick", "--output", str(tmp_path / "file" / "out")], capsys)
    assert "is a file" in said
    assert "is a file" in refused(["--quick", "--output", str(tmp_path / "file")], capsys)
    assert (tmp_path / "file").read_text() == "kept"


def test_foreign_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "report.json").write_text("kept")
    assert "nothing was changed" in refused(["--quick", "--output", str(tmp_path)], capsys)
    assert (tmp_path / "report.json").read_text() == "kept"


def test_a_damaged_note_of_where_the_store_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "store.txt").write_bytes(b"\xff\xfe")
    said = refused(["--quick", "--output", str(tmp_path)], capsys)
    assert f"{tmp_path}/store.txt is not UTF-8 text" in said


def test_other_configuration(
    output: Path, heads_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused([*small.arguments(output, heads_file), "--seed", "4"], capsys)
    assert "seed: stored 0, asked for 4" in said


def test_json_alone_on_standard_output(
    output: Path, heads_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*small.arguments(output, heads_file), "--format", "json"]) == 0
    said = capsys.readouterr().out
    assert json.loads(said)["exit_code"] == 0
    assert json.loads((output / "report.json").read_text()) == json.loads(said)


def test_table(output: Path, heads_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(small.arguments(output, heads_file)) == 0
    assert "T1′" in capsys.readouterr().out


def test_a_false_bound_is_found_by_running(
    heads_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """T2 with r left out, ‖δ‖ ≤ ε‖w₀‖, is false: it must end with code 1 and be named."""
    import jax
    import jax.numpy as jnp

    from vashista_theory.hull import bounds, stability

    def without_leakage(geometry: bounds.Geometry, epsilon: jax.Array) -> bounds.DisplacementBounds:
        linear = jnp.log(epsilon) + jnp.log(geometry.tangent_norm)
        true = truth(geometry, epsilon)
        return true._replace(t2=jnp.where(geometry.strict, linear, jnp.inf))

    truth = bounds.displacement_bounds
    monkeypatch.setattr(bounds, "displacement_bounds", without_leakage)
    jax.clear_caches()
    try:
        arguments = small.arguments(tmp_path / "false", heads_file)
        code = main([*arguments, "--families", "gaussian", "far_query", "--instances", "3"])
    finally:
        monkeypatch.undo()
        jax.clear_caches()
    assert stability.bounds.displacement_bounds is truth
    said = capsys.readouterr().out
    assert code == 1
    assert "VIOLATION: T2 violated" in said
    assert "T2 fails" in said


@pytest.mark.slow
def test_as_a_program(output: Path, heads_file: Path) -> None:
    """Finished already, so the program has only to report; and help has examples."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "vashista_theory.sweep"]
    done = subprocess.run(
        [*command, *small.arguments(output, heads_file), "--format", "json"],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["exit_code"] == 0
    shown = subprocess.run(
        [*command, "--help"], capture_output=True, text=True, env=environment, check=True
    )
    assert "Examples:" in shown.stdout

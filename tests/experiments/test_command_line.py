"""The command line finds experiments, reuses unchanged results and explains bad use."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import experiments
from experiments.__main__ import BAD_USE, FAILED, OK, main
from experiments.framework import registry, results

SOURCE = '''"""Counting goes up by {step}."""

from dataclasses import dataclass

import jax.numpy as jnp

from experiments.framework.outcome import Outcome, Table
from experiments import _sample_helper


@dataclass(frozen=True)
class Config:
    """What to count.

    Attributes:
        last: Where to stop.
        quick: Count less.
    """

    last: int = 3
    quick: bool = False


def run(config: Config) -> Outcome:
    {body}
    rows = [{{"n": n, "value": float("inf") if n else -0.5}} for n in range(config.last)]
    table = Table({{"n": "number", "value": "no unit"}}, rows)
    return Outcome({{"counts": table}}, {{"type": str(jnp.ones(1).dtype)}}, ["It counts."])
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one experiment in it, in place of the real ones."""
    place = tmp_path / "experiments"
    place.mkdir()
    monkeypatch.setattr(registry, "FOLDER", place)
    monkeypatch.setattr(results, "FOLDER", place / "results")
    monkeypatch.setattr(experiments, "__path__", [*experiments.__path__, str(place)])
    write(place, "count_up")
    (place / "_sample_helper.py").write_text("")
    yield place
    for name in [n for n in sys.modules if n.startswith("experiments.")]:
        if str(place) in str(sys.modules[name].__file__):
            del sys.modules[name]


def write(place: Path, name: str, *, step: int = 1, body: str = "pass") -> None:
    (place / f"{name}.py").write_text(SOURCE.format(step=step, body=body))


def stored(place: Path, name: str = "count_up") -> dict:
    return json.loads((place / "results" / f"{name}.json").read_text())


@pytest.mark.usefixtures("folder")
def test_list_shows_the_claim(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == OK
    assert capsys.readouterr().out.split() == ["count_up", "Counting", "goes", "up", "by", "1."]


@pytest.mark.usefixtures("folder")
def test_unknown_name_suggests_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cuont_up"]) == BAD_USE
    said = capsys.readouterr().err
    assert "there is no experiment 'cuont_up'. Did you mean 'count_up'?" in said
    assert "Traceback" not in said


@pytest.mark.usefixtures("folder")
def test_a_shared_module_is_no_experiment() -> None:
    assert main(["_sample_helper"]) == BAD_USE


def test_result_is_labelled_and_has_a_manifest(folder: Path) -> None:
    assert main(["count_up", "--last", "2"]) == OK
    content = stored(folder)
    assert content["experiment"] == "count_up"
    assert content["claim"] == "Counting goes up by 1."
    assert content["outcome"]["tables"]["counts"]["columns"] == {"n": "number", "value": "no unit"}
    assert content["outcome"]["tables"]["counts"]["rows"][1] == {"n": 1, "value": "inf"}
    assert content["manifest"]["configuration"] == {"last": 2, "quick": False}
    assert content["manifest"]["precision"] == "float64"
    assert content["outcome"]["values"]["type"] == "float64"


def test_unchanged_input_is_not_computed_again(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["count_up"])
    first = stored(folder)
    capsys.readouterr()
    path = folder / "results" / "count_up.json"
    before = path.stat().st_mtime_ns
    assert main(["count_up"]) == OK
    said = capsys.readouterr().out
    assert "Nothing changed" in said
    assert "It counts." in said
    assert path.stat().st_mtime_ns == before
    assert main(["count_up", "--force"]) == OK
    assert path.stat().st_mtime_ns > before
    assert stored(folder)["outcome"] == first["outcome"]


def test_any_change_is_computed_again(folder: Path) -> None:
    keys = []

    def run(*options: str) -> None:
        main(["count_up", *options])
        keys.append(stored(folder)["fingerprint"])

    run()
    run("--last", "4")
    write(folder, "count_up", step=2)
    run()
    (folder / "_sample_helper.py").write_text("CHANGED = True\n")
    run()
    assert len(set(keys)) == 4


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_a_damaged_result_is_computed_again(folder: Path, content: str) -> None:
    main(["count_up"])
    (folder / "results" / "count_up.json").write_text(content)
    assert main(["count_up"]) == OK
    assert stored(folder)["experiment"] == "count_up"


def test_a_quick_run_leaves_the_full_result_alone(folder: Path) -> None:
    main(["count_up"])
    before = stored(folder)
    assert main(["count_up", "--quick"]) == OK
    assert stored(folder) == before
    assert (folder / "results" / "quick" / "count_up.json").is_file()


@pytest.mark.usefixtures("folder")
def test_results_are_read_back() -> None:
    main(["count_up"])
    assert results.outcome("count_up").findings == ["It counts."]
    with pytest.raises(FileNotFoundError, match="python -m experiments missing"):
        results.outcome("missing")


@pytest.mark.usefixtures("folder")
def test_output_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["count_up", "--results", str(tmp_path / "file" / "deeper")]) == BAD_USE
    assert "is a file, not a folder" in capsys.readouterr().err


@pytest.mark.usefixtures("folder")
def test_bad_options_end_with_code_2() -> None:
    with pytest.raises(SystemExit) as stop:
        main(["count_up", "--last", "many"])
    assert stop.value.code == BAD_USE


@pytest.mark.usefixtures("folder")
def test_help_has_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["count_up", "--help"])
    assert stop.value.code == OK
    said = capsys.readouterr().out
    for text in ("Counting goes up", "--last", "Where to stop", "--force", "--results", "--quick"):
        assert text in said


def test_all_goes_on_after_a_failure(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder, "a_broken_one", body="raise ArithmeticError('on purpose')")
    assert main(["all"]) == FAILED
    captured = capsys.readouterr()
    assert "failed: a_broken_one" in captured.err
    assert "on purpose" in captured.err
    assert stored(folder)["experiment"] == "count_up"


def test_an_error_of_the_experiment_keeps_its_traceback(folder: Path) -> None:
    write(folder, "a_broken_one", body="raise ValueError('inside')")
    with pytest.raises(ValueError, match="inside"):
        main(["a_broken_one"])


def test_as_a_program() -> None:
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "experiments", "--list"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert "bench_projection" in done.stdout
    nothing = subprocess.run(command[:-1], cwd=root, capture_output=True, text=True, check=False)
    assert nothing.returncode == BAD_USE
    assert "python -m experiments --list" in nothing.stdout

"""The command line finds experiments, reuses unchanged results and explains bad use."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import experiments
import figures
from experiments.__main__ import BAD_USE, FAILED, OK, main
from experiments.framework import pages, registry, results, staleness
from figures import _style as style
from figures.__main__ import main as draw
from vashista_theory.runs import manifest

SOURCE = '''"""Counting goes up by {step}."""

from dataclasses import dataclass

import jax.numpy as jnp

from experiments import _sample_helper
from experiments.framework.outcome import Measured, Outcome


@dataclass(frozen=True)
class Config:
    """What to count.

    Attributes:
        last: Where to stop.
        quick: Count less.
    """

    last: int = {last}
    quick: bool = False


def measure(config: Config) -> Measured:
    {body}
    rows = [{{"n": n, "value": float("inf") if n else -0.5}} for n in range(config.last)]
    return Measured({{"counts": rows}}, {{"type": str(jnp.ones(1).dtype), "to": config.last}})


def report(found: Measured) -> Outcome:
    columns = {{"n": "number", "value": "no unit"}}
    return Outcome(found.described({{"counts": columns}}), found.values, ["{said}"])
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one experiment in it, in place of the real ones."""
    place = tmp_path / "experiments"
    place.mkdir()
    monkeypatch.setattr(registry, "FOLDER", place)
    monkeypatch.setattr(manifest, "_is_dirty", lambda _: False)
    monkeypatch.setattr(results, "FOLDER", place / "results")
    monkeypatch.setattr(experiments, "__path__", [*experiments.__path__, str(place)])
    write(place, "count_up")
    (place / "__init__.py").touch()
    (place / "_sample_helper.py").write_text("def ready(): return True\n")
    yield place
    for name in [n for n in sys.modules if n.startswith("experiments.")]:
        if str(place) in str(sys.modules[name].__file__):
            del sys.modules[name]


def write(place: Path, name: str, **changes: object) -> None:
    filled = {"step": 1, "body": "_sample_helper.ready()", "said": "It counts.", "last": 3}
    (place / f"{name}.py").write_text(SOURCE.format(**(filled | changes)))


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
    assert content["measured"]["tables"]["counts"][1] == {"n": 1, "value": "inf"}
    assert results.outcome("count_up").tables["counts"].rows[1] == {"n": 1, "value": float("inf")}
    assert content["manifest"]["configuration"] == {"last": 2, "quick": False}
    assert content["manifest"]["precision"] == "float64"
    assert content["measured"]["values"]["type"] == "float64"


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
    assert stored(folder)["measured"] == first["measured"]


@pytest.mark.parametrize(
    ("change", "computed"),
    [
        ({"step": 2}, False),
        ({"said": "It counts well."}, False),
        ({"body": "# Ready?\n    _sample_helper.ready()"}, False),
        ({"body": "assert _sample_helper.ready()"}, True),
        ({"last": 4}, True),
    ],
)
def test_code_that_measures_is_what_counts(folder: Path, change: dict, computed: bool) -> None:
    main(["count_up"])
    before = stored(folder)
    write(folder, "count_up", **change)
    main(["count_up"])
    assert (
        stored(folder)["fingerprint"]["modules"] != before["fingerprint"]["modules"]
    ) is computed
    if not computed:
        assert stored(folder) == before


def test_a_shared_part_or_an_option_is_computed_again(folder: Path) -> None:
    main(["count_up"])
    (folder / "_sample_helper.py").write_text("def ready(): return not False\n")
    why, *_ = staleness.status("count_up")
    assert why == "experiments/_sample_helper.py changed"
    main(["count_up", "--last", "4"])
    assert stored(folder)["measured"]["values"]["to"] == 4
    why, config, _ = staleness.status("count_up")
    assert (why, config.last) == ("", 4), "what was chosen is kept"


def test_a_new_default_is_a_reason(folder: Path) -> None:
    main(["count_up"])
    content = stored(folder)
    content["fingerprint"]["configuration"]["last"] = 2
    (folder / "results" / "count_up.json").write_text(json.dumps(content))
    why, config, _ = staleness.status("count_up")
    assert why == "configuration last: stored 2, asked for 3"
    assert config.last == 3


def test_a_dirty_tree_gives_no_result(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(manifest, "_is_dirty", lambda _: True)
    with pytest.raises(SystemExit) as stop:
        main(["update"])
    assert stop.value.code == BAD_USE
    assert "Commit them" in capsys.readouterr().err
    assert main(["count_up"]) == OK
    assert "`update` does not accept this one" in capsys.readouterr().out
    monkeypatch.setattr(manifest, "_is_dirty", lambda _: False)
    assert main(["update", "--dry-run"]) == OK
    said = capsys.readouterr().out
    assert said == "count_up: would be computed: computed from a tree with uncommitted changes\n"
    assert main(["update"]) == OK
    assert stored(folder)["manifest"]["dirty"] is False
    capsys.readouterr()
    assert main(["update"]) == OK
    assert capsys.readouterr().out == "Every other result is current: nothing to compute.\n"


RESUMED = """    store: Path = Path()


def measure(config: Config) -> Measured:
    import time
    time.sleep(0.2)
    if not (config.store / "begun").exists():
        (config.store / "begun").write_text("")
        raise KeyboardInterrupt
"""


def test_the_time_of_a_resumed_run_adds_up(folder: Path, tmp_path: Path) -> None:
    write(folder, "count_up", body="pass")
    text = (folder / "count_up.py").read_text()
    text = text.replace("\n\ndef measure(config: Config) -> Measured:\n", RESUMED)
    (folder / "count_up.py").write_text("from pathlib import Path\n" + text)
    options = ["count_up", "--store", str(tmp_path / "store")]
    with pytest.raises(KeyboardInterrupt):
        main(options)
    assert main(options) == OK
    # Two sleeps of a fifth of a second; each part alone is less than the sum.
    assert stored(folder)["manifest"]["duration"] >= 0.4
    (place,) = (tmp_path / "store").iterdir()
    assert (place / "begun").exists(), "a folder for this code and configuration"


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


def test_a_new_experiment_and_a_new_figure_are_one_file_each(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(folder, "count_down", last=2)
    assert main(["all"]) == OK
    assert main(["update", "--dry-run"]) == OK
    assert main(["--list"]) == OK
    said = capsys.readouterr().out
    assert "=== count_down: Counting goes up by 1." in said
    assert "nothing to compute" in said
    assert "| `count_down` | Counting goes up by 1. | 0 s |" in pages.experiment_table()
    drawn = tmp_path / "figures"
    drawn.mkdir()
    (drawn / "counts.py").write_text(
        "from matplotlib.figure import Figure\n"
        'RESULT = "count_down"\n'
        "def draw(outcome):\n"
        "    assert len(outcome.tables['counts'].rows) == 2\n"
        "    return Figure()\n"
    )
    monkeypatch.setattr(style, "FOLDER", drawn)
    monkeypatch.setattr(figures, "__path__", [*figures.__path__, str(drawn)])
    assert style.names() == ["counts"]
    assert draw(["all", "--output", str(tmp_path / "out")]) == OK
    assert (tmp_path / "out" / "counts.png").is_file()
    del sys.modules["figures.counts"]


def test_as_a_program() -> None:
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "experiments", "--list"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert "bench_projection" in done.stdout
    nothing = subprocess.run(command[:-1], cwd=root, capture_output=True, text=True, check=False)
    assert nothing.returncode == BAD_USE
    assert "python -m experiments --list" in nothing.stdout

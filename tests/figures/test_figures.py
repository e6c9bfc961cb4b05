"""Figures read results, draw them, and say "not measured" where there are none."""

import hashlib
import importlib
import json
import shutil
from pathlib import Path

import pytest

from experiments.decode_gpu import measure as decode_gpu
from experiments.decode_gpu import report
from experiments.framework import results as stored
from experiments.head_survey.rows import measured as surveyed
from figures import _style as style
from figures.__main__ import BAD_USE, OK, main
from tests.experiments.survey_case import made_up as made_up_survey
from tests.figures.quality_case import measured as made_up_quality
from vashista_theory import runs


def made_up(*, dense_us: float = 100.0) -> dict[str, dict]:
    """Blocks with round numbers that no device has measured: one microsecond a kilotoken."""
    blocks = {}
    for kv_heads in (8, 32):
        for tokens in (8192, 32768, 131072):
            where = {"batch": 16, "heads": 32, "kv_heads": kv_heads, "tokens": tokens}
            rows = []
            for step, share in (
                ("dense", 1.0),
                ("published algorithm", 0.9),
                ("certified", 0.3),
                ("budget", 0.1),
            ):
                time = dense_us * tokens / 1024 * share * kv_heads / 8
                row = dict.fromkeys(report.COLUMNS["decode"])
                row |= where | {"keys": "real heads", "step": step, "how": "made up"}
                row |= {"counted_us": time, "us": time, "p99_us": time, "floor_us": 0.5 * time}
                row |= {"share_of_copy": 0.5, "gb_per_s": 1.0, "times_dense": 1 / share}
                rows.append(row | {"over_floor": 2.0})
            stages = []
            for stage, share in (("score and select, boxes", 0.6), ("attend", 0.8)):
                row = dict.fromkeys(report.COLUMNS["stages"])
                row |= where | {"stage": stage, "implementation": "made up"}
                stages.append(row | {"share_of_copy": share})
            key = f"{kv_heads} {tokens}"
            blocks[key] = {"decode": rows, "stages": stages, "not measured": []}
    return blocks


@pytest.fixture
def results(tmp_path: Path) -> Path:
    made = {
        "decode_gpu": decode_gpu.measured(
            made_up(), machine={"device": "made up", "copy GB/s": 1.0}, numerics=[], missing=[]
        ),
        "head_survey": surveyed(made_up_survey()),
        "model_quality": made_up_quality(),
    }
    manifest = runs.Manifest.start({"model": "made up", "pages": 16}).finish()
    for name, found in made.items():
        path = stored.path_of(name, folder=tmp_path / "results")
        stored.write(path, name=name, fingerprint={}, manifest=manifest, measured=found)
    for name in style.names():
        source = stored.path_of(importlib.import_module(f"figures.{name}").RESULT)
        if source.is_file() and not (path.parent / source.name).is_file():
            shutil.copy(source, path.parent)
    return path.parent


def test_without_a_result_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["all", "--results", str(tmp_path), "--output", str(tmp_path / "out")]) == OK
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(style.names())
    assert all("not measured" in line for line in lines)
    assert not (tmp_path / "out").exists()


# `.ci/run` draws all of them from the committed results.
@pytest.mark.parametrize(
    "chosen",
    [["decode_scaling", "quality"], pytest.param(["all"], marks=pytest.mark.slow)],
    ids=" ".join,
)
def test_figures_are_drawn_and_tied_to_their_results(
    results: Path, tmp_path: Path, chosen: list[str]
) -> None:
    output = tmp_path / "out"
    for one in chosen:
        assert main([one, "--results", str(results), "--output", str(output)]) == OK
    for name in style.names() if chosen == ["all"] else chosen:
        source = importlib.import_module(f"figures.{name}").RESULT
        digest = hashlib.sha256((results / f"{source}.json").read_bytes()).hexdigest()
        assert (output / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (output / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        note = json.loads((output / f"{name}.json").read_text())
        assert note["result_sha256"] == digest


def test_a_figure_shows_the_numbers_of_its_result(results: Path) -> None:
    from figures import decode_scaling

    figure = decode_scaling.draw(stored.outcome("decode_gpu", folder=results))
    drawn = [list(map(float, line.get_ydata())) for line in figure.axes[0].lines]
    assert [3.2, 12.8, 51.2] in [[round(y, 9) for y in line] for line in drawn]  # 32 kv heads
    assert [1.6, 6.4, 25.6] in [[round(y, 9) for y in line] for line in drawn], "the floor"
    assert [0.8, 3.362, 13.666] in drawn, "published dense"
    others = [list(map(float, line.get_ydata())) for line in figure.axes[1].lines]
    assert [0.8, 3.362, 13.666] not in others, "published for 32 kv heads only"


def test_an_unknown_figure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["no_such"]) == BAD_USE
    assert "decode_scaling" in capsys.readouterr().err


def test_labels_of_near_values_stand_apart_in_the_order_of_the_values() -> None:
    # By hand: 1.5 stays, 1.7 is lifted to 1.5 + 0.5, 2.1 to 2.0 + 0.5, and 8 has room.
    assert style.apart([8.0, 1.7, 1.5, 2.1], by=0.5) == [8.0, 2.0, 1.5, 2.5]

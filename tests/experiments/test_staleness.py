"""`update --dry-run` on a copy of the sources: which results a touched line makes stale."""

import inspect
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import experiments
from experiments.__main__ import OK, main
from experiments.framework import clock, imports, registry, results, staleness, update
from vashista_theory.attention.bounds import page_bounds, rounding

ROOT = Path(experiments.__file__).parents[1]
# Some of those that rest on the bounds of pages, and some that do not.
CERTIFIED = {"certificate_vacuity", "decode_cpu", "model_quality", "sampled_reads", "verdicts"}
APART = {"bench_projection", "degenerate_regime", "gap_taxonomy", "theorem_constants"}
Stale = Callable[[], dict[str, str]]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources and the committed results, whose fingerprints are those of the sources."""
    root = tmp_path_factory.mktemp("checkout")
    for package in ("vashista_theory", "experiments"):
        # The recorded heads are compared by content, as any file is: they may be missing.
        unread = shutil.ignore_patterns("*.npz", "__pycache__", "quick")
        shutil.copytree(ROOT / package, root / package, ignore=unread)
    with pytest.MonkeyPatch.context() as patch:
        look_at(root, patch)
        for path in (root / "experiments" / "results").glob("*.json"):
            content = json.loads(path.read_text(encoding="utf-8"))
            config = registry.load(path.stem).Config()
            content["fingerprint"] = staleness.fingerprint(path.stem, config)
            content["manifest"]["dirty"] = False
            path.write_text(json.dumps(content), encoding="utf-8")
    return root


def look_at(root: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(registry, "FOLDER", root / "experiments")
    patch.setattr(results, "FOLDER", root / "experiments" / "results")


@pytest.fixture
def stale(copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Stale:
    look_at(copy, monkeypatch)

    def reasons() -> dict[str, str]:
        assert main(["update", "--dry-run"]) == OK
        lines = [line for line in capsys.readouterr().out.splitlines() if ": " in line]
        said = {line.partition(": ")[0]: line.rpartition(": ")[2] for line in lines}
        names = registry.names()
        return {name: why for name, why in said.items() if name in names and why != "missing"}

    return reasons


@pytest.fixture
def touch(copy: Path) -> Any:
    """Change a file of the copy, and put it back after the test."""
    kept: dict[Path, str] = {}

    def change(code: Any, before: str, after: str) -> str:
        path = copy / Path(inspect.getfile(code)).relative_to(ROOT)
        kept.setdefault(path, path.read_text(encoding="utf-8"))
        assert before in kept[path]
        text = path.read_text(encoding="utf-8").replace(before, after)
        path.write_text(text, encoding="utf-8")
        return path.relative_to(copy).as_posix()

    yield change
    for path, text in kept.items():
        path.write_text(text, encoding="utf-8")


def test_a_line_of_the_bounds_makes_every_result_on_them_stale(stale: Stale, touch: Any) -> None:
    assert stale() == {}
    bounds = touch(page_bounds, "def page_bounds(", "MORE = 1\n\n\ndef page_bounds(")
    found = stale()
    assert found.keys() >= CERTIFIED
    assert found.keys().isdisjoint(APART)
    assert set(found.values()) == {f"{bounds} changed"}
    outward = touch(rounding, "def round_up(", "MORE = 1\n\n\ndef round_up(")
    assert stale() == dict.fromkeys(found, f"{bounds} changed; {outward} changed")


def test_prose_and_drawing_make_nothing_stale(stale: Stale, touch: Any) -> None:
    touch(page_bounds, ':\n    """', ':\n    """Prose. ')
    touch(rounding, "def round_up(", "# A comment.\ndef round_up(")
    from experiments import degenerate_regime
    from vashista_theory import plots
    from vashista_theory.explore import drawing

    touch(degenerate_regime, "T5 holds on", "T5 is right on")
    touch(degenerate_regime, '"which"', '"what"')
    touch(plots, "COLUMN = ", "MORE = COLUMN = ")
    touch(drawing, "def draw(", "MORE = 1\n\n\ndef draw(")
    assert stale() == {}


def test_a_result_that_is_read_is_a_reason(stale: Stale, copy: Path) -> None:
    path = copy / "experiments" / "results" / "head_survey.json"
    text = path.read_text(encoding="utf-8")
    found = json.loads(text)
    found["measured"]["values"]["queries"] += 1
    path.write_text(json.dumps(found), encoding="utf-8")
    readers = stale()
    path.write_text(text, encoding="utf-8")
    assert readers.keys() == {"regime_map", "verdicts"}
    assert all("head_survey: stored" in f"head_survey: {why}" for why in readers.values())


def test_a_library_that_is_not_installed_is_no_reason() -> None:
    def found(**versions: str | None) -> dict[str, Any]:
        return {"configuration": {}, "modules": {}, "inputs": versions}

    stored = {"fingerprint": found(kvpress="0.5", torch="2"), "manifest": {"dirty": False}}
    assert staleness.reasons(stored, found(kvpress=None, torch="3")) == []
    assert staleness.reasons(stored, found(kvpress="0.5", torch="2")) == []
    (why,) = staleness.reasons(stored, found(kvpress="0.6", torch="2"))
    assert why == 'inputs kvpress: stored "0.5", asked for "0.6"'


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "schematic_geometry",
        *(
            pytest.param(slow, marks=pytest.mark.slow)
            for slow in ("degenerate_regime", "failure_gallery", "latency", "gap_taxonomy")
        ),
    ],
)
def test_every_function_that_runs_is_reached(name: str) -> None:
    """An independent list: what Python really calls while an experiment measures."""
    module = registry.load(name)
    ran: set[str] = set()

    def note(frame: Any, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_name != "<module>":
            ran.add(frame.f_code.co_filename)

    sys.setprofile(note)
    try:
        module.measure(module.Config(quick=True))
    finally:
        sys.setprofile(None)
    ours = {Path(path).relative_to(ROOT).as_posix() for path in ran if path.startswith(f"{ROOT}/")}
    silent = [f"{part.replace('.', '/')}" for part in imports.NO_INFLUENCE]
    ours = {path for path in ours if not path.startswith((*silent, "tests/"))}
    assert len(ours) > 3
    assert ours <= imports.Graph().reached(registry.module_of(name)).keys()


def test_update_computes_what_changed_and_what_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # "c" reads what "a" wrote: it is stale once "a" has been computed.
    keys = {"a": "new", "b": "", "c": "", "slow": "new"}
    computed: list[str] = []
    monkeypatch.setattr(registry, "names", lambda: list(keys))
    monkeypatch.setattr(registry, "left_to_people", {"slow": "takes hours"}.get)
    monkeypatch.setattr(staleness, "status", lambda name: (keys[name], None, keys[name]))

    def compute(name: str, _config: Any) -> int:
        computed.append(name)
        keys[name] = ""
        if name == "a":
            keys["c"] = "new"
        return 0

    assert update.update(compute, dry_run=True) == []
    assert computed == []
    assert update.update(compute, dry_run=False) == []
    assert computed == ["a", "c"]


def test_a_killed_run_has_noted_its_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "_EVERY", 0.01)
    note = tmp_path / "store" / "seconds.json"
    note.parent.mkdir()
    note.write_text("100")
    with clock.counted(note) as seconds:
        while json.loads(note.read_text()) <= 100:  # what a kill would leave behind
            assert seconds() < 110
    assert 100 < json.loads(note.read_text()) <= seconds()


def test_every_experiment_says_what_it_is() -> None:
    for name in registry.names():
        assert registry.claim(name).endswith((".", "?")), name
        module = registry.load(name)
        assert module.Config().quick is False
        assert callable(registry.reporter(name))
        assert set(getattr(module, "READS", ())) <= set(registry.names())


@pytest.mark.parametrize("name", [path.stem for path in sorted(results.FOLDER.glob("*.json"))])
def test_a_committed_result_can_be_read(name: str) -> None:
    found = results.outcome(name)
    assert found.findings
    assert not found.failures
    assert all(table.rows for table in found.tables.values())

"""A run's record holds what is needed to repeat it; configurations compare by content."""

import dataclasses
import enum
import json
import math
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from vashista_theory import runs
from vashista_theory.runs import manifest as module


@dataclasses.dataclass(frozen=True)
class Configuration:
    seed: int = 3
    epsilon: tuple[float, ...] = (1.0, math.inf)
    output: Path = Path("results")


def test_canonical_form() -> None:
    Colour = enum.Enum("Colour", ["red"])
    value = {"a": Configuration(), "b": np.float32(0.5), "c": np.arange(2), "d": Colour.red}
    assert runs.canonical(value) == {
        "a": {"seed": 3, "epsilon": [1.0, "inf"], "output": "results"},
        "b": 0.5,
        "c": [0, 1],
        "d": "red",
    }


def test_fingerprint_ignores_order_and_form_but_no_value() -> None:
    assert runs.fingerprint({"a": 1, "b": (1.5,)}) == runs.fingerprint({"b": [1.5], "a": 1})
    assert runs.fingerprint(Configuration()) != runs.fingerprint(Configuration(seed=4))


def test_what_has_no_json_form_is_named() -> None:
    with pytest.raises(ValueError, match=r"configuration\.deep\[1\] is a complex"):
        runs.canonical({"deep": [1, 2j]})


def test_manifest_survives_json() -> None:
    record = runs.Manifest.start(Configuration(), seed=3).finish()
    assert runs.Manifest.from_json(record.to_json()) == record
    assert json.loads(record.to_json())["configuration"]["epsilon"] == [1.0, "inf"]
    assert record.precision == "float64"  # the tests switch x64 on
    assert record.duration is not None
    assert record.duration >= 0
    assert record.versions["numpy"] == np.__version__
    assert record.cpu


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the manifest is not JSON (it is empty)"),
        ("{", "the manifest is not JSON"),
        ("[" * 10**5, "the manifest is not JSON"),
        ("[]", "the manifest is not a JSON object but list"),
        ("{}", "the manifest lacks ['commit', 'configuration', 'cpu'"),
        ('{"extra": 1}', "has ['extra'], which are not known"),
        ('{"_clock": 1}', "has ['_clock'], which are not known"),
    ],
)
def test_what_is_no_manifest_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        runs.Manifest.from_json(text)


def test_manifest_as_attributes_is_flat() -> None:
    attributes = runs.Manifest.start(Configuration(), seed=3).finish().attributes()
    assert all(type(value) in {str, int, float} for value in attributes.values())
    assert json.loads(str(attributes["configuration"]))["seed"] == 3


def fake_checkout(root: Path, name: str, *, tracked: bool) -> Path:
    """A repository with a package in it; returns where the manifest module would lie."""
    module_file = root / "vashista_theory" / "runs" / "manifest.py"
    module_file.parent.mkdir(parents=True)
    module_file.write_text("")
    (root / "vashista_theory" / "__init__.py").write_text("")
    (root / "pyproject.toml").write_text(f'[project]\nname = "{name}"\n')
    git = ["git", "-C", str(root), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "vashista_theory" if tracked else "pyproject.toml"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "first"], check=True)
    return module_file


@pytest.mark.parametrize(
    ("name", "tracked", "found"),
    [("vashista-theory", True, True), ("other", True, False), ("vashista-theory", False, False)],
)
def test_a_commit_is_reported_from_this_projects_checkout_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, tracked: bool, found: bool
) -> None:
    file = fake_checkout(tmp_path, name, tracked=tracked)
    monkeypatch.setattr(module, "__file__", str(file))
    record = runs.Manifest.start({})
    assert (record.commit is not None) == found
    assert record.dirty == (False if found else None)
    if found:
        (tmp_path / "vashista_theory" / "new.py").write_text("")
        assert runs.Manifest.start({}).dirty is True


def test_no_checkout_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "__file__", str(tmp_path / "a" / "b" / "c.py"))
    record = runs.Manifest.start({})
    assert record.commit is None
    assert record.dirty is None

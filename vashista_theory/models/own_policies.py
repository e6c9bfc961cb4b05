"""Policies in a user's own file, for command lines that compare them with those that are known."""

import hashlib
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from vashista_theory.attention import Policy


@dataclass(frozen=True)
class OwnFile:
    """A Python file of a user's, run once.

    Attributes:
        path: Where it lies.
        sha256: Of its content: results are of this one.
        module: What it defines.
    """

    path: Path
    sha256: str
    module: ModuleType

    def policies(self) -> dict[str, Policy]:
        """The policies it defines, by their names in the file, a hyphen for each underscore."""
        found = vars(self.module).items()
        return {
            name.replace("_", "-"): value
            for name, value in found
            if isinstance(value, Policy) and not name.startswith("_")
        }


_files: dict[Path, OwnFile] = {}


def checksum(path: Path) -> str:
    """Of the content of a file.

    Raises:
        ValueError: if it cannot be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ValueError(f"--import {path} cannot be read: {error.strerror or error}.") from error


def run_file(path: Path) -> OwnFile:
    """Run a user's file, once in this process.

    Raises:
        ValueError: if it cannot be read or run, or has changed since it was.
    """
    place = path.resolve()
    digest = checksum(place)
    known = _files.get(place)
    if known is not None and known.sha256 != digest:
        raise ValueError(f"--import {path} has changed since it was run; start anew.")
    if known is not None:
        return known
    name = f"vashista_import_{digest[:16]}"
    spec = importlib.util.spec_from_file_location(name, place)
    if spec is None or spec.loader is None:
        raise ValueError(f"--import {path} is no Python file: its name has to end in .py.")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ValueError(f"--import {path} failed: {type(error).__name__}: {error}") from error
    _files[place] = OwnFile(place, digest, module)
    return _files[place]

"""Where a store lies: a folder of this machine, or whatever fsspec reaches by a URL."""

# fsspec publishes no types; this module is where that stops.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false

import os
import shutil
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from vashista_theory._files import write_atomically
from vashista_theory.runs.files import check_writable

Location: TypeAlias = Path | str
"""A path, or a URL such as ``s3://bucket/sweep``."""


class Folder:
    """A folder of this machine, or of a file system that it shares with others."""

    def __init__(self, path: Path) -> None:
        self.location = path

    def inside(self, name: str) -> Path:
        """The location of an entry."""
        return self.location / name

    def read_text(self, name: str) -> str:
        """A file's content; an OSError or a ValueError if it cannot be had."""
        return (self.location / name).read_text(encoding="utf-8")

    def write_text(self, name: str, text: str) -> None:
        """Write a file so that a reader sees the old content or the new, never a part."""
        path = self.location / name
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, text)

    def names(self, folder: str = "") -> list[str]:
        """Names of the entries, ascending; none of a folder that is not there."""
        path = self.location / folder
        return sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        (self.location / name).unlink(missing_ok=True)

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        return (self.location / name).is_file()

    def create(self, fill: "Callable[[Place], None]") -> None:
        """Make the place with its content, so that a kill leaves nothing that looks whole."""
        # Built beside its place and moved there whole: a store that exists is complete.
        path = self.location
        building = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
        building.mkdir()
        try:
            fill(Folder(building))
            if path.exists():
                path.rmdir()  # empty: checked by the caller
            building.rename(path)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise

    def check_writable(self, *, new: bool) -> None:
        """Make sure files can be put there (or it can be made), or raise an OSError in words."""
        check_writable(self.location.parent if new else self.location)


class Remote:
    """What lies behind a URL; credentials and endpoint are those that fsspec finds.

    An object is put there whole or not at all; there is no moving of a folder. So what a killed
    creation leaves is told by a file that comes first and goes last.
    """

    _CREATING = "creating.txt"

    def __init__(self, url: str) -> None:
        try:
            from fsspec.core import url_to_fs
        except ImportError:
            raise ImportError(
                f"{url} needs the extra cluster: pip install 'vashista-theory[cluster]'"
            ) from None
        self.location = url.rstrip("/")
        found: tuple[Any, str] = url_to_fs(self.location)
        self._files, self._root = found

    def inside(self, name: str) -> str:
        """The location of an entry."""
        return f"{self.location}/{name}"

    def read_text(self, name: str) -> str:
        """A file's content; an OSError or a ValueError if it cannot be had."""
        return bytes(self._files.cat_file(self._path(name))).decode()

    def write_text(self, name: str, text: str) -> None:
        """Write a file so that a reader sees the old content or the new, never a part."""
        self._files.pipe_file(self._path(name), text.encode())

    def names(self, folder: str = "") -> list[str]:
        """Names of the entries, ascending; none of a folder that is not there."""
        self._files.invalidate_cache()
        try:
            paths: list[str] = self._files.ls(self._path(folder), detail=False)
        except FileNotFoundError:
            return []
        found = {path.rstrip("/").rpartition("/")[2] for path in paths}
        if not folder and self._CREATING in found:
            return []  # a creation that was killed: as if nothing were there
        return sorted(found)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        if self.exists(name):
            self._files.rm_file(self._path(name))

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        self._files.invalidate_cache()
        return bool(self._files.exists(self._path(name)))

    def create(self, fill: "Callable[[Place], None]") -> None:
        """Make the place with its content, so that a kill leaves nothing that looks whole."""
        if self.exists(self._CREATING):
            self._files.rm(self._root, recursive=True)
        self.write_text(self._CREATING, "this store is being created, or its creation was killed\n")
        fill(self)
        self.remove(self._CREATING)

    def check_writable(self, *, new: bool) -> None:
        """Make sure files can be put there (or it can be made), or raise an OSError in words."""
        # Whether new or not, an object can be put there before anything else exists.
        del new
        probe = f".probe-{uuid.uuid4().hex}"
        try:
            self.write_text(probe, "")
            self._files.rm_file(self._path(probe))
        except Exception as error:  # noqa: BLE001 - each protocol has errors of its own
            kind = (
                type(error) if isinstance(error, (PermissionError, FileNotFoundError)) else OSError
            )
            why = str(error).strip() or type(error).__name__
            raise kind(
                f"cannot write results to {self.location} ({why}); "
                "check the address, the credentials and the endpoint, or choose another store"
            ) from None

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}".rstrip("/")


Place: TypeAlias = Folder | Remote
"""A folder that files are read from and put into, each of them whole or not at all."""


def place(location: Location) -> Place:
    """The place of a path or a URL.

    Raises:
        ValueError: The URL's protocol is unknown to fsspec.
        ImportError: fsspec, or its package for that protocol, is not installed.
    """
    text = str(location)
    if text.startswith("file://"):
        return Folder(Path(text.removeprefix("file://")))
    return Remote(text) if "://" in text else Folder(Path(location))

"""Where a store lies: a folder of this machine, or whatever fsspec reaches by a URL."""

# fsspec publishes no types; this module is where that stops.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false

import contextlib
import errno
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from vashista_theory._files import write_atomically
from vashista_theory._reading import read_text
from vashista_theory._version import install
from vashista_theory.runs.files import check_writable

Location: TypeAlias = Path | str
"""A path, or a URL such as ``s3://bucket/sweep``."""

HEADER, DATA, FINISHED = "store.json", "data.zarr", "finished"
"""What a store consists of: a file and two folders."""


class Folder:
    """A folder of this machine, or of a file system that it shares with others."""

    def __init__(self, path: Path) -> None:
        self.location = path

    def inside(self, name: str) -> Path:
        """The location of an entry."""
        return self.location / name

    def read_text(self, name: str) -> str:
        """A file's content; an OSError or a ValueError if it cannot be had."""
        return read_text(self.location / name)

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

    def create(self, fill: "Callable[[Place], None]", finish: "Callable[[Place], None]") -> None:
        """Make the place with its content, so that a kill leaves nothing that looks whole.

        Where another process was faster, its content stays: the caller looks whose it is.

        Args:
            fill: Puts there what takes time.
            finish: Puts there what makes it whole.
        """
        # Built beside its place and moved there whole: a store that exists is complete.
        path = self.location.resolve()
        building = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
        building.mkdir()
        try:
            fill(Folder(building))
            finish(Folder(building))
            with contextlib.suppress(OSError):
                path.rmdir()  # if it is there and empty; only Windows has to be helped so
            building.rename(path)
        except BaseException as error:
            shutil.rmtree(building, ignore_errors=True)
            taken = isinstance(error, OSError) and error.errno in {errno.ENOTEMPTY, errno.EEXIST}
            if not (taken and self.names()):
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
            raise ImportError(f"{url} needs fsspec: {install('cluster')}") from None
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
            with contextlib.suppress(FileNotFoundError):  # another process may do the same
                self._files.rm_file(self._path(name))

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        self._files.invalidate_cache()
        return bool(self._files.exists(self._path(name)))

    def create(self, fill: "Callable[[Place], None]", finish: "Callable[[Place], None]") -> None:
        """Make the place with its content, so that a kill leaves nothing that looks whole.

        Nothing tells a creation that was killed from one under way, so whoever comes later begins
        anew, and the earlier one is told.

        Args:
            fill: Puts there what takes time.
            finish: Puts there what makes it whole.
        """
        mine = uuid.uuid4().hex
        if self.exists(self._CREATING):
            self._files.rm(self._root, recursive=True)
        self.write_text(self._CREATING, f"{mine} is creating this store, or was killed over it\n")
        try:
            fill(self)
        except Exception as error:  # perhaps for want of what another process took away
            self._check_still(mine, error)
            raise
        self._check_still(mine, None)
        finish(self)
        self.remove(self._CREATING)

    def _check_still(self, mine: str, error: Exception | None) -> None:
        try:
            known = self.read_text(self._CREATING)
        except (OSError, ValueError):
            known = ""
        if not known.startswith(mine):
            raise FileExistsError(
                f"another process began to create {self.location} meanwhile, and goes on with it; "
                "run the same command again to help it, or choose another store"
            ) from error

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

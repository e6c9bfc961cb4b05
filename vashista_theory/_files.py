"""Files that are written whole or not at all."""

import contextlib
import errno
import os
import secrets
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def whole_file(path: Path) -> Generator[BinaryIO]:
    """A file to write, in its place when the block has ended without an error.

    A reader, or a kill, sees the old content or the new, never a part. What is written goes to a
    new file beside `path` whose name nobody can guess, reaches the disk, and takes the place of
    whatever file `path` was. No link is followed: a symbolic link is replaced, and what it pointed
    to stays as it was. The permissions are those of any new file (the user's umask), also where an
    older file had others.

    Args:
        path: The file; its folder exists.

    Raises:
        OSError: It cannot be written; the message names it and says why. An older file is as it
            was, and nothing else is left.
    """
    part = path.parent / f".{secrets.token_hex(16)}.partial"
    try:
        if path.exists() and not path.is_file():
            why = "it is a folder" if path.is_dir() else "it is a device, a pipe or a socket"
            raise OSError(errno.EISDIR if path.is_dir() else errno.EINVAL, why, str(part))
        # "x" makes the file or fails: what somebody put there before, a link too, is not opened.
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink()
        # Errors of other files, which the block may have opened, are not about this one.
        if isinstance(error, OSError) and error.filename in (None, str(part), str(path)):
            raise _explained(error, path) from None
        raise


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file as `whole_file` does.

    Args:
        path: The file; its folder exists.
        content: All of it; text is encoded in UTF-8.

    Raises:
        OSError: It cannot be written; the message names it and says why.
    """
    with whole_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def _explained(error: OSError, path: Path) -> OSError:
    folder = path.parent
    why = error.strerror or str(error)
    if not folder.is_dir():
        why = f"{folder} is {'a file' if folder.exists() else 'not there'}"
    return OSError(
        error.errno,
        f"cannot write the file ({why}); choose another file, or choose a path in a folder that "
        "can be written",
        str(path),
    )

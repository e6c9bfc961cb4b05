"""Files that are either whole or absent, and a check of the output before any work."""

import os
import tempfile
import uuid
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader, or a kill, sees the old content or the new, never a part.

    Args:
        path: The file; its folder exists.
        text: The whole content.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def check_writable(folder: Path) -> None:
    """Make sure files can be put in a folder, creating it, before hours of work are spent.

    Args:
        folder: The folder that results will go to; missing parents are created.

    Raises:
        OSError: The folder cannot be created or written; the message says why and what to do.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        blocking = next((p for p in (folder, *folder.parents) if p.is_file()), None)
        why = f"{blocking} is a file, not a folder" if blocking else (error.strerror or str(error))
        raise type(error)(
            error.errno,
            f"cannot write results ({why}); choose an output folder that can be written",
            str(folder),
        ) from None

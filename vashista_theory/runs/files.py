"""A check of the output before any work."""

import tempfile
from pathlib import Path


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

"""Files that anybody may have written: read within bounds, and refused by their name."""

import json
import stat
from pathlib import Path
from typing import Any, cast

LARGEST_TEXT = 16 << 20
"""Bytes. No record of this program comes near; a damaged or hostile one may have no end."""


def read_text(path: Path, *, largest: int = LARGEST_TEXT) -> str:
    """A text file's whole content.

    Args:
        path: A regular file, or a link to one. A pipe or a device would be waited for.
        largest: Bytes that it may have.

    Raises:
        OSError: There is no such file, or it is none that can be read.
        ValueError: It is larger, or not UTF-8.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(f"{path} is not a regular file")
    with path.open("rb") as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise ValueError(f"{path} has more than the {largest:,} bytes that such a file may have")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason} at {error.start})") from None


def json_object(text: str, name: str) -> dict[str, Any]:
    """What a text says that should be a JSON object.

    Args:
        text: The text.
        name: Of the file it came from, for the error message.

    Raises:
        ValueError: It is empty or damaged, nested without end, or another JSON value.
    """
    try:
        value = cast("object", json.loads(text))
    except (ValueError, RecursionError) as error:
        why = "it is empty" if not text.strip() else str(error)
        raise ValueError(f"{name} is not JSON ({why})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{name} is not a JSON object but {type(value).__name__}")
    return cast("dict[str, Any]", value)

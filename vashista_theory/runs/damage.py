"""What a store may consist of, and the error for one that was damaged or tampered with."""

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vashista_theory._reading import LARGEST_TEXT
from vashista_theory.runs.places import DATA, FINISHED, HEADER, Folder, Place

_TEXT_ENTRY = 1 << 16  # bytes that one text is given, so that a vocabulary would still fit


class DamagedStoreError(ValueError):
    """A store that is not what its program wrote; the message names the file and the remedy."""


def damaged(name: str, problem: str) -> DamagedStoreError:
    """The error for a file that nothing else can stand in for."""
    return DamagedStoreError(
        f"{name} {problem}: the store is damaged and was left as it is. Restore it from a copy, or "
        "delete it and compute it again"
    )


def check_entries(where: Place, arrays: Mapping[str, Any]) -> None:
    """Refuse a store with links, pipes or devices in it, or files that no chunk can be as large as.

    A link would let its target be read or overwritten, a pipe would be waited for, and a huge file
    would be read whole before a checksum could tell. Places behind a URL hold objects alone.

    Args:
        where: The store.
        arrays: The metadata of its Zarr arrays by name.

    Raises:
        DamagedStoreError: With the name of the entry.
    """
    if isinstance(where, Folder):
        chunks = {name: _chunk(entry) for name, entry in arrays.items()}
        _check_folder(where.location, (), chunks)


def _check_folder(
    folder: Path, within: tuple[str, ...], chunks: Mapping[str, tuple[int, int]]
) -> None:
    for entry in sorted(folder.iterdir()):
        try:
            found = entry.lstat()
        except FileNotFoundError:
            continue  # another process's, for the time of a write
        parts, is_folder = (*within, entry.name), stat.S_ISDIR(found.st_mode)
        if not is_folder and not stat.S_ISREG(found.st_mode):
            raise damaged(str(entry), "is a link, a pipe or a device")
        if not _is_read(parts, chunks):
            continue  # left by a kill, or put there by somebody
        largest = _largest(parts, chunks)
        if is_folder != (largest is None):
            raise damaged(str(entry), f"is a {'folder' if is_folder else 'file'}")
        if largest is None:
            _check_folder(entry, parts, chunks)
        elif found.st_size > largest:
            raise damaged(str(entry), f"has {found.st_size:,} bytes, more than it can have")


def _is_read(parts: tuple[str, ...], chunks: Mapping[str, tuple[int, int]]) -> bool:
    if len(parts) == 1 or parts[0] == FINISHED:
        return parts[0] in {HEADER, DATA, FINISHED}
    _, name, *inner = parts
    if name not in chunks:
        return parts == (DATA, "zarr.json")
    return not inner or inner[0] == "c" or inner == ["zarr.json"]


def _largest(parts: tuple[str, ...], chunks: Mapping[str, tuple[int, int]]) -> int | None:
    """Bytes that a file may have there; None where a folder belongs."""
    if parts in {(DATA,), (FINISHED,)}:
        return None
    if parts[0] != DATA or parts[-1] == "zarr.json":
        return LARGEST_TEXT
    _, name, *inner = parts
    dimensions, largest = chunks[name]
    return largest if len(inner) == 1 + dimensions else None


def _chunk(entry: Mapping[str, Any]) -> tuple[int, int]:
    """How many dimensions a chunk's name has, and how many bytes the chunk at most."""
    shape: list[int] = entry["chunk_grid"]["configuration"]["chunk_shape"]
    text = entry["data_type"] == "string"
    size = _TEXT_ENTRY if text else np.dtype(entry["data_type"]).itemsize
    # What does not compress grows a little; twice and a page are plenty.
    return len(shape), 2 * size * int(np.prod(shape, dtype=np.float64)) + 4096

"""Arrays from .npy and .npz files that may come from a stranger: nothing they say is believed."""

import math
import zipfile
from collections import Counter
from collections.abc import Sequence
from io import BufferedIOBase
from pathlib import Path
from typing import IO

import numpy as np


def read_npy(path: Path) -> np.ndarray:
    """The one array that a .npy file holds.

    Raises:
        ValueError: It is damaged, or it is not one array of numbers or text; the message says how.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        return _guarded(file, path.stat().st_size)


def read_npz(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Arrays of an .npz archive, by name.

    Raises:
        ValueError: It is damaged or lacks a name, or an array is not of numbers or text; the
            message says how.
        OSError: It cannot be read.
    """
    with _opened(path) as archive:
        held = Counter(archive.namelist())
        if missing := [name for name in names if not held[f"{name}.npy"]]:
            raise ValueError(f"it lacks {', '.join(missing)}")
        if twice := sorted(name for name, count in held.items() if count > 1):
            raise ValueError(f"it holds {', '.join(twice)} more than once")
        return {name: _member(archive, name) for name in names}


def names_in_npz(path: Path) -> list[str]:
    """Names of the arrays of an .npz archive.

    Raises:
        ValueError: It is damaged.
        OSError: It cannot be read.
    """
    with _opened(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except OSError:
        raise
    except Exception as error:  # of a kind that zipfile does not promise
        with path.open("rb") as file:
            alone = file.read(6) == np.lib.format.MAGIC_PREFIX
        what = (
            "holds one array, not an .npz archive"
            if alone
            else (f"is truncated or not an .npz archive ({error})")
        )
        raise ValueError(f"it {what}") from error


def _member(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    try:
        info = archive.getinfo(f"{name}.npy")
        with archive.open(info) as file:
            return _guarded(file, info.file_size)
    except Exception as error:
        raise ValueError(
            f"it is truncated or not an .npz archive of plain arrays ({name}: {error})"
        ) from error


def _guarded(file: BufferedIOBase | IO[bytes], size: int) -> np.ndarray:
    try:
        return _array(file, size)
    except (OSError, ValueError):
        raise
    except Exception as error:  # what a header made to do harm raises is nowhere said
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _array(file: BufferedIOBase | IO[bytes], size: int) -> np.ndarray:
    """What `numpy.load` reads, if the header fits the number of bytes.

    NumPy takes the header's word for the size of the array, and leaves what comes behind.
    """
    version = np.lib.format.read_magic(file)
    # A header of version 3 is one of version 2 in UTF-8, for names of fields, which are refused.
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
        (3, 0): np.lib.format.read_array_header_2_0,
    }[version]
    shape, _, dtype = read_header(file)
    if dtype.kind not in "biufcU":
        raise ValueError(f"it holds {dtype}, not plain numbers or text")
    held, said = size - file.tell(), math.prod(shape) * dtype.itemsize
    if held != said:
        raise ValueError(f"its header speaks of {said} bytes, and {held} follow")
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)

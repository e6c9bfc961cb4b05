"""Keys, queries and values from the files a user names."""

import dataclasses
from pathlib import Path

import numpy as np

from vashista_theory._array_files import names_in_npz, read_npy, read_npz
from vashista_theory.hull.heads import Heads, load_heads

SAMPLE = "sample"
"""Stands for the heads inside the package."""

_HEADS_ALONE = {"layers", "positions", "provenance"}
_KNOWN = ("keys", "queries", "query", "values", "scale")


@dataclasses.dataclass(frozen=True)
class Arrays:
    """Recorded heads, or keys and queries with or without values and scale."""

    heads: Heads | None = None
    keys: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))
    queries: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))
    values: np.ndarray | None = None
    scale: float | None = None


def load(keys: Path, queries: Path | None, values: Path | None) -> Arrays:
    """Read three .npy files, or one .npz that holds everything.

    Raises:
        ValueError: naming the file, what is wrong with it and the remedy.
    """
    if str(keys) == SAMPLE and queries is None and not keys.exists():
        return Arrays(heads=load_heads())
    if _is_archive(keys):
        if queries is not None:
            raise ValueError(
                f"{keys} is an archive, which brings the queries: give it alone, or three .npy "
                "files."
            )
        return _from_archive(keys)
    first = _load(keys)
    if queries is None:
        raise ValueError(
            f"{keys} holds keys alone; the queries are missing. Give KEYS.npy QUERIES.npy "
            "[VALUES.npy], or one .npz with arrays keys and queries."
        )
    return Arrays(
        keys=first, queries=_load(queries), values=None if values is None else _load(values)
    )


def _is_archive(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(2) == b"PK"
    except OSError:
        return False


def _from_archive(path: Path) -> Arrays:
    try:
        names = names_in_npz(path)
        if set(names) >= _HEADS_ALONE:
            return Arrays(heads=load_heads(path))
        _check_names(names)
        held = read_npz(path, names)
    except (OSError, ValueError) as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path}: {error}.") from None
    scale = held.get("scale")
    if scale is not None and (scale.size != 1 or scale.dtype.kind not in "fiu"):
        raise ValueError(f"{path}: scale is {scale.dtype} of shape {scale.shape}, not one number.")
    return Arrays(
        keys=held["keys"],
        queries=held["queries" if "queries" in held else "query"],
        values=held.get("values"),
        scale=None if scale is None else float(scale.reshape(())),
    )


def _check_names(names: list[str]) -> None:
    listed = ", ".join(sorted(names)) or "nothing"
    wrong = [name for name in names if name not in _KNOWN]
    asked = "keys" in names and ("queries" in names) != ("query" in names)
    if wrong or not asked:
        raise ValueError(
            f"it holds {listed}; expected arrays named keys and queries, and if there are any "
            "values and scale: numpy.savez(path, keys=..., queries=..., values=...)"
        )


def _load(path: Path) -> np.ndarray:
    try:
        with path.open("rb") as file:
            start = file.read(6)
        if not start.startswith(b"\x93NUMPY"):
            archive = " but an archive (.npz?)" if start.startswith(b"PK") else ""
            raise ValueError(f"{path}: not a .npy file{archive}. Write one array with numpy.save.")
        return read_npy(path)
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file.") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error}).") from None
    except ValueError as error:
        if str(error).startswith(f"{path}: "):
            raise
        raise ValueError(
            f"{path}: damaged, or not an array of plain numbers ({error}). Write it again with "
            "numpy.save."
        ) from None

"""A configuration as plain JSON: comparable, printable, with a fingerprint."""

import dataclasses
import difflib
import enum
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np

from vashista_theory._checks import is_integer

# Not recursive: runtime checkers cannot resolve an alias that names itself.
Json: TypeAlias = bool | int | float | str | list[Any] | dict[str, Any] | None


def canonical(value: object, *, name: str = "configuration") -> Json:
    """Turn a configuration into JSON values: dataclasses to dicts, tuples to lists.

    Args:
        value: Any nesting of dataclasses, mappings, sequences, paths, enumerations, NumPy
            scalars and arrays, and JSON's own types.
        name: Where the value sits, for the error message.

    Returns:
        The same content in JSON's types only. Infinities and NaN become strings.

    Raises:
        ValueError: The value holds something that has no JSON form.
    """
    if isinstance(value, (np.generic, np.ndarray)):
        value = cast("Any", value).tolist()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else str(value)
    if isinstance(value, (enum.Enum, Path)):
        return value.name if isinstance(value, enum.Enum) else str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        return {str(key): canonical(item, name=f"{name}.{key}") for key, item in items}
    if isinstance(value, (Sequence, set, frozenset)):
        members = cast("Sequence[object]", value)
        ordered = sorted(members, key=repr) if isinstance(value, (set, frozenset)) else members
        return [canonical(item, name=f"{name}[{i}]") for i, item in enumerate(ordered)]
    raise ValueError(
        f"{name} is a {type(value).__name__} ({value!r}), which has no JSON form; a configuration "
        "holds dataclasses, mappings, sequences, paths, strings, numbers and booleans"
    )


LARGEST_INTEGER = 2**62
"""Two of them still add up to a 64-bit number."""


def check_integer(name: str, value: object, least: int) -> None:
    """Refuse what is no integer of at least so much, or too large to be computed with.

    Raises:
        ValueError: With the name, the value and what was expected.
    """
    if not is_integer(value, least=least):
        raise ValueError(f"{name} is {value!r}; expected an integer of at least {least}")
    whole = int(cast("int", value))
    if whole > LARGEST_INTEGER:
        bits = whole.bit_length()  # all its digits may be more than Python writes
        raise ValueError(f"{name} is an integer of {bits} bits; expected at most 2^62")


def check_choice(name: str, value: object, allowed: Sequence[str]) -> None:
    """Refuse what is none of a few words.

    Raises:
        ValueError: With the name, the value, the nearest word and all of them.
    """
    if value not in allowed:
        nearest = difflib.get_close_matches(str(value), allowed, n=1, cutoff=0.4)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(f"{name}: {value!r} is unknown{hint} (known: {', '.join(allowed)})")


def take_as_declared(config: Any, *, paths: Sequence[str], several: Sequence[str]) -> None:
    """Make paths of strings and tuples of lists, in a frozen configuration that is being made.

    Args:
        config: Whose fields are changed.
        paths: Fields that hold a path, or None.
        several: Fields that hold a tuple.

    Raises:
        ValueError: Something else is no path, or a lone value stands where several are expected.
    """
    for name in paths:
        value = getattr(config, name)
        if value is not None and not isinstance(value, str | os.PathLike):
            raise ValueError(f"{name} is {value!r}; expected a path, as a string or a pathlib.Path")
        if value is not None:
            object.__setattr__(config, name, Path(value))
    for name in several:
        value = getattr(config, name)
        if not isinstance(value, tuple | list):
            raise ValueError(f"{name} is {value!r}; expected several, in a tuple: ({value!r},)")
        object.__setattr__(config, name, tuple(cast("Sequence[Any]", value)))


def fingerprint(value: object) -> str:
    """Name a configuration by the SHA-256 of its canonical JSON (64 hexadecimal digits)."""
    text = json.dumps(canonical(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def differences(stored: object, wanted: object) -> list[str]:
    """Say, one line an entry, where two configurations differ."""
    before, now = _flatten(canonical(stored)), _flatten(canonical(wanted))
    absent = "(absent)"
    return [
        f"{name}: stored {before.get(name, absent)}, asked for {now.get(name, absent)}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name, absent) != now.get(name, absent)
    ]


def _flatten(value: Json, prefix: str = "") -> dict[str, str]:
    if isinstance(value, dict) and value:
        flat: dict[str, str] = {}
        for key, item in value.items():
            flat |= _flatten(item, f"{prefix}.{key}" if prefix else key)
        return flat
    return {prefix: json.dumps(value)}

"""Finding what a user named."""

import difflib
from collections.abc import Mapping
from typing import TypeVar

Found = TypeVar("Found")


def find(kind: str, name: str, known: Mapping[str, Found]) -> Found:
    """What has that name.

    Raises:
        ValueError: There is none; the message has the nearest one and all of them.
    """
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{kind} {name!r} is unknown{hint} (known: {', '.join(known)})")
    return known[name]

"""Finding what a user named."""

import difflib
from collections.abc import Mapping
from typing import TypeVar

Found = TypeVar("Found")


def find(kind: str, name: str, known: Mapping[str, Found], remedy: str = "") -> Found:
    """What has that name.

    Args:
        kind: Of thing, for the message.
        name: As given.
        known: All there are, by name.
        remedy: What else may be done about a name that is not known, in a sentence.

    Raises:
        ValueError: There is none; the message has the nearest one and all of them.
    """
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        more = f". {remedy}" if remedy else ""
        raise ValueError(f"{kind} {name!r} is unknown{hint} (known: {', '.join(known)}){more}")
    return known[name]

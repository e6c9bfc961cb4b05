"""A store's header: which configuration made it, and how it is laid out."""

import json
import re
from typing import Any, NamedTuple, cast

from vashista_theory._reading import json_object
from vashista_theory.runs.configuration import Json, fingerprint
from vashista_theory.runs.damage import damaged
from vashista_theory.runs.places import HEADER, Place

_FORMAT = "vashista block store 2"
_SHOWN, _LONGEST = 6, 60
_DIGEST = re.compile(r"\b([0-9a-f]{8})[0-9a-f]{56}\b")


class Header(NamedTuple):
    """What a store's header says.

    Attributes:
        configuration: Everything that the values depend on.
        layout: Names, dimensions, types, the block size, and checksums of what is fixed.
    """

    configuration: Json
    layout: dict[str, Any]

    @property
    def identity(self) -> str:
        """A name for both, by which a block knows its store."""
        return fingerprint(self._asdict())


def write_header(where: Place, header: Header) -> None:
    """Write it, with the name that `Header.identity` gives it."""
    content = {"format": _FORMAT, "identity": header.identity, **header._asdict()}
    where.write_text(HEADER, json.dumps(content, indent=2) + "\n")


def read_header(where: Place) -> Header | None:
    """Read it; None where there is no store and nothing else.

    Raises:
        FileExistsError: There is something that is not a store of this version.
        DamagedStoreError: It cannot be read, or is not what was written.
    """
    path, names = where.location, where.names()
    if not names:
        if not isinstance(path, str) and path.exists() and not path.is_dir():
            raise FileExistsError(f"{path} is a file; choose a new or empty output folder")
        return None
    if HEADER not in names:
        raise FileExistsError(
            f"{path} holds files that are not a store of this program; nothing was changed. "
            "Choose a new or empty output folder"
        )
    name = f"{path}/{HEADER}"
    try:
        content = json_object(where.read_text(HEADER), name)
    except (OSError, ValueError) as error:
        raise damaged(name, f"cannot be read ({error})") from None
    if content.get("format") != _FORMAT:
        raise FileExistsError(
            f"{path} is not a store of this version of the program (format "
            f"{str(content.get('format'))[:40]!r}, expected {_FORMAT!r}); nothing was changed. "
            "Choose a new or empty output folder"
        )
    try:
        header = Header(content["configuration"], content["layout"])
        intact = header.identity == content["identity"] and header.layout["block_size"] > 0
    except (KeyError, TypeError, ValueError, RecursionError):
        header, intact = None, False
    if not intact:
        raise damaged(name, "does not give its own checksum")
    return header


def refuse_other(where: Place, stored: Header, wanted: Header) -> None:
    """Refuse a store of another configuration or layout.

    Raises:
        ValueError: With what differs.
    """
    if stored.identity == wanted.identity:
        return
    found = _differing(stored.configuration, wanted.configuration)
    if not found:  # most of what a layout is follows from the configuration
        found = _differing(stored.layout, wanted.layout, "layout")
    more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    raise ValueError(
        f"{where.location} was made with another configuration and is left as it is "
        f"({'; '.join(found[:_SHOWN])}{more}). Choose another output folder, or ask for the stored "
        "configuration"
    )


def _differing(stored: Any, wanted: Any, name: str = "") -> list[str]:
    """Where two values of JSON differ, in a few words each."""
    if json.dumps(stored, sort_keys=True) == json.dumps(wanted, sort_keys=True):
        return []
    if isinstance(stored, dict) and isinstance(wanted, dict):
        before, now = cast("dict[str, Any]", stored), cast("dict[str, Any]", wanted)
        return [
            line
            for key in sorted(before.keys() | now.keys())
            for line in _differing_entry(before, now, key, f"{name}.{key}" if name else key)
        ]
    if isinstance(stored, list) and isinstance(wanted, list):
        before, now = cast("list[Any]", stored), cast("list[Any]", wanted)
        gone, come = [x for x in before if x not in now], [x for x in now if x not in before]
        parts = [
            f"{what} {_short(entries)}"
            for what, entries in (("stored with", gone), ("asked for with", come))
            if entries
        ]
        return [f"{name}: {', '.join(parts) or 'stored in another order'}"]
    return [f"{name}: stored {_short(stored)}, asked for {_short(wanted)}"]


def _differing_entry(before: dict[str, Any], now: dict[str, Any], key: str, name: str) -> list[str]:
    if key in before and key in now:
        return _differing(before[key], now[key], name)
    if key in before:
        return [f"{name}: stored {_short(before[key])}, not asked for"]
    return [f"{name}: not stored, asked for {_short(now[key])}"]


def _short(value: Any) -> str:
    """Without the length of checksums, lists and texts."""
    if isinstance(value, list):
        said = ", ".join(map(_short, cast("list[Any]", value)))
    else:
        said = _DIGEST.sub(r"\1…", json.dumps(value, ensure_ascii=False))
    return said if len(said) <= _LONGEST else f"{said[: _LONGEST - 1]}…"

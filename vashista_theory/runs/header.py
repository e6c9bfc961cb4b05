"""A store's header: which configuration made it, and how it is laid out."""

import json
from typing import Any, NamedTuple

from vashista_theory._reading import json_object
from vashista_theory.runs.configuration import Json, differences, fingerprint
from vashista_theory.runs.damage import damaged
from vashista_theory.runs.places import HEADER, Place

_FORMAT = "vashista block store 2"
_SHOWN = 6


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
    found = differences(stored._asdict(), wanted._asdict())
    more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    raise ValueError(
        f"{where.location} was made with another configuration and is left as it is "
        f"({'; '.join(found[:_SHOWN])}{more}). Choose another output folder, or ask for the stored "
        "configuration"
    )

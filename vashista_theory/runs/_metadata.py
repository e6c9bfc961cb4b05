"""What the root of a store's Zarr group says: the metadata of every array, and the attributes.

Zarr keeps them in one file of plain JSON. A checksum of both, and of the store they belong to,
stands among the attributes: so a damaged type, shape or entry of a run's record is told from what
was written.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from vashista_theory._reading import json_object
from vashista_theory.runs.damage import damaged
from vashista_theory.runs.places import DATA, Place

SEAL = "vashista_sha256"
"""The attribute that holds the checksum."""

_ROOT = f"{DATA}/zarr.json"


def read(where: Place, identity: str) -> dict[str, Any]:
    """The root's content.

    Args:
        where: The store.
        identity: Of the store, `Header.identity`.

    Raises:
        DamagedStoreError: It cannot be read, or is not what was sealed.
    """
    content = _read(where)
    if content["attributes"].get(SEAL) != _digest(content, identity):
        raise damaged(f"{where.location}/{_ROOT}", "does not give its own checksum")
    return content


def arrays(content: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of the arrays by name."""
    return content["consolidated_metadata"]["metadata"]


def length(content: Mapping[str, Any], dimension: str) -> int:
    """How long a dimension is, of which there is at least one array."""
    named = (
        zip(one["dimension_names"], one["shape"], strict=True) for one in arrays(content).values()
    )
    return next(size for pairs in named for name, size in pairs if name == dimension)


def seal(where: Place, identity: str) -> None:
    """Put the checksum into what Zarr has written."""
    _write(where, _read(where), identity)


def annotate(where: Place, identity: str, attributes: Mapping[str, str | int | float]) -> None:
    """Add attributes, in one write.

    Raises:
        DamagedStoreError: As `read`.
    """
    content = read(where, identity)
    content["attributes"] |= attributes
    _write(where, content, identity)


def restore_arrays(where: Place, content: Mapping[str, Any]) -> None:
    """Undo damage to the arrays' own copies of their metadata, which other programs may read."""
    for name, entry in arrays(content).items():
        file = f"{DATA}/{name}/zarr.json"
        try:
            intact = json_object(where.read_text(file), file) == entry
        except (OSError, ValueError, RecursionError):
            intact = False
        if not intact:
            where.write_text(file, json.dumps(entry, indent=2))


def _read(where: Place) -> dict[str, Any]:
    name = f"{where.location}/{_ROOT}"
    try:
        content = json_object(where.read_text(_ROOT), name)
        _digest(content, "")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise damaged(name, f"cannot be read ({error})") from None
    return content


def _write(where: Place, content: dict[str, Any], identity: str) -> None:
    content["attributes"][SEAL] = _digest(content, identity)
    where.write_text(_ROOT, json.dumps(content, indent=2))


def _digest(content: Mapping[str, Any], identity: str) -> str:
    attributes = {key: value for key, value in content["attributes"].items() if key != SEAL}
    held = {"store": identity, "attributes": attributes, "arrays": arrays(content)}
    return hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()

"""Puts one block after another into a store that exists, from whatever process."""

import json
from collections.abc import Mapping

import xarray as xr

from vashista_theory._reading import json_object
from vashista_theory.runs import _arrays
from vashista_theory.runs.places import DATA, FINISHED, Location, Place, place


class BlockWriter:
    """Writes blocks; pickled, it is what a worker elsewhere needs to know of a store.

    Attributes:
        location: The store's folder or URL.
        identity: Of the store, `Header.identity`; it stands in every block's marker.
        arrays: The arrays that blocks go to.
        dimension: The dimension that is cut into blocks.
        block_size: Entries of a block along it; the last block may be shorter.
        block_count: How many blocks there are.
    """

    def __init__(
        self,
        location: Location,
        identity: str,
        shapes: Mapping[str, _arrays.Shape],
        dimension: str,
        block_size: int,
        length: int,
    ) -> None:
        self.location, self.identity = location, identity
        self.dimension, self.block_size = dimension, block_size
        self._shapes, self._length = shapes, length
        self._place = place(location)
        self.block_count = -(-length // block_size)
        self.arrays = _arrays.BlockArrays(self._place.inside(DATA), shapes, dimension)

    def __reduce__(self) -> tuple[type["BlockWriter"], tuple[object, ...]]:
        # Opened again where it arrives.
        location = self.location if isinstance(self.location, str) else self.location.resolve()
        of = (self.identity, self._shapes, self.dimension, self.block_size, self._length)
        return BlockWriter, (location, *of)

    def block_slice(self, block: int) -> slice:
        """Which entries along the block dimension a block holds.

        Raises:
            ValueError: There is no such block.
        """
        if not 0 <= block < self.block_count:
            raise ValueError(f"block {block} does not exist; expected 0 to {self.block_count - 1}")
        return slice(block * self.block_size, min((block + 1) * self.block_size, self._length))

    def write(self, block: int, dataset: xr.Dataset) -> None:
        """Store a block's values, then its marker.

        Raises:
            ValueError: There is no such block, or the variables do not fit the template.
            OSError: The store cannot be written; the message says why and what to do.
        """
        where = self.block_slice(block)
        values = self.arrays.checked(dataset, where)
        record = {"block": block, "store": self.identity, "sha256": _arrays.checksum(values)}
        try:
            self.arrays.write(values, where)
            self._place.write_text(marker(block), json.dumps(record) + "\n")
        except Exception as error:
            why = (error.strerror if isinstance(error, OSError) else None) or str(error)
            message = (
                f"block {block} could not be written to {self.location} "
                f"({why or type(error).__name__}); finished blocks are kept. Make room, or restore "
                "the permission or the connection, and run the same command again"
            )
            kind = PermissionError if isinstance(error, PermissionError) else OSError
            raise kind(message) from error


def marker(block: int) -> str:
    """The file whose presence says that a block is finished."""
    return f"{FINISHED}/{block:05d}.json"


def fault(where: Place, identity: str, block: int, values: _arrays.Values) -> str | None:
    """What is wrong with a block that has a marker; None if it is as it was written.

    Args:
        where: The store.
        identity: Of the store.
        block: Its number.
        values: As they are read now.
    """
    try:
        record = json_object(where.read_text(marker(block)), marker(block))
    except (OSError, ValueError):
        return "its marker cannot be read"
    if record.get("block") != block or "sha256" not in record:
        return "its marker does not describe it"
    if record.get("store") != identity:
        return "its marker is of another store"
    if record["sha256"] != _arrays.checksum(values):
        return "its data does not give the recorded checksum"
    return None

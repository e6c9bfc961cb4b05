"""Puts one block after another into a store that exists, from whatever process."""

import json
from collections.abc import Mapping

import xarray as xr

from vashista_theory.runs import _arrays
from vashista_theory.runs.places import Location, place

DATA, FINISHED = "data.zarr", "finished"


class BlockWriter:
    """Writes blocks; pickled, it is what a worker elsewhere needs to know of a store.

    Attributes:
        location: The store's folder or URL.
        arrays: The arrays that blocks go to.
        dimension: The dimension that is cut into blocks.
        block_size: Entries of a block along it; the last block may be shorter.
        block_count: How many blocks there are.
    """

    def __init__(
        self,
        location: Location,
        shapes: Mapping[str, _arrays.Shape],
        dimension: str,
        block_size: int,
        length: int,
    ) -> None:
        self.location, self.dimension, self.block_size = location, dimension, block_size
        self._shapes, self._length = shapes, length
        self._place = place(location)
        self.block_count = -(-length // block_size)
        self.arrays = _arrays.BlockArrays(self._place.inside(DATA), shapes, dimension)

    def __reduce__(self) -> tuple[type["BlockWriter"], tuple[object, ...]]:
        # Opened again where it arrives.
        location = self.location if isinstance(self.location, str) else self.location.resolve()
        of = (location, self._shapes, self.dimension, self.block_size, self._length)
        return BlockWriter, of

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
        text = json.dumps({"block": block, "sha256": _arrays.checksum(values)}) + "\n"
        try:
            self.arrays.write(values, where)
            self._place.write_text(marker(block), text)
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

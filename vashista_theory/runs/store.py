"""A labelled dataset that is filled block by block and survives being killed.

A store is a folder, here or behind a URL::

    store.json         what it is and which configuration made it
    data.zarr/         the dataset; one Zarr chunk a block along the block dimension
    finished/00003.json   block 3 is written, with the checksum of its values

A block's marker is written after its data, and atomically. So a block without a marker is
unfinished, and one whose values do not give the marker's checksum was damaged later.
"""

import dataclasses
import json
import re
import threading
from pathlib import Path
from typing import Any, cast

import xarray as xr

from vashista_theory.runs import _arrays
from vashista_theory.runs.configuration import Json, canonical, differences, fingerprint
from vashista_theory.runs.places import Location, Place, Remote, place
from vashista_theory.runs.writer import DATA, FINISHED, BlockWriter, marker

_FORMAT = "vashista block store 1"
_HEADER = "store.json"
_MARKER = re.compile(r"^(\d+)\.json$")


@dataclasses.dataclass(frozen=True)
class Fault:
    """A finished block that had to be given up.

    Attributes:
        block: Its number.
        reason: What is wrong with it.
    """

    block: int
    reason: str

    def __str__(self) -> str:
        return f"block {self.block} is damaged ({self.reason})"


class BlockStore:
    """A dataset in a store, filled by blocks. Made by `open_store`.

    Attributes:
        path: The folder, or its URL.
        writer: What puts blocks there; it can be sent to other processes.
        block_count: How many blocks there are.
        data: The Zarr group inside, which xarray opens by itself.
        faults: Blocks found damaged on opening; they are missing again.
    """

    def __init__(self, where: Place, template: xr.Dataset, dimension: str, block_size: int) -> None:
        self._place = where
        self.path, self.data = where.location, where.inside(DATA)
        self.writer = BlockWriter(
            where.location,
            _arrays.shapes(template, dimension),
            dimension,
            block_size,
            template.sizes[dimension],
        )
        self.block_count = self.writer.block_count
        self._arrays = self.writer.arrays
        self._arrays.repair_fixed(template)
        self._lock = threading.Lock()
        self._finished: set[int] = set()
        self.faults = self._verify()

    @property
    def dimension(self) -> str:
        """The dimension that is cut into blocks."""
        return self.writer.dimension

    @property
    def block_size(self) -> int:
        """Entries of a block along it; the last block may be shorter."""
        return self.writer.block_size

    def missing(self) -> list[int]:
        """Numbers of the blocks that are not finished, ascending."""
        with self._lock:
            return [block for block in range(self.block_count) if block not in self._finished]

    def block_slice(self, block: int) -> slice:
        """Which entries along the block dimension a block holds.

        Raises:
            ValueError: There is no such block.
        """
        return self.writer.block_slice(block)

    def write(self, block: int, dataset: xr.Dataset) -> None:
        """Store a block's values, then mark it finished. Several threads may write at once.

        Args:
            block: Its number.
            dataset: Every variable of the template that has the block dimension, with the
                template's dimensions and types.

        Raises:
            ValueError: There is no such block, or the variables do not fit the template.
            OSError: The store cannot be written: a full disk, a lost permission.
        """
        self.writer.write(block, dataset)
        with self._lock:
            self._finished.add(block)

    def written_elsewhere(self, block: int) -> None:
        """Note that another process has written a block with this store's `writer`.

        Raises:
            OSError: This process does not find it, so the two did not write to one place.
        """
        if not self._place.exists(marker(block)):
            raise OSError(
                f"a worker says that it wrote block {block}, but {self.path} does not have it; "
                "give a store that every worker and this machine share"
            )
        with self._lock:
            self._finished.add(block)

    def load(self, *, allow_missing: bool = False) -> xr.Dataset:
        """Read the whole dataset into memory.

        Args:
            allow_missing: Give the template's values for unfinished blocks instead of raising.

        Raises:
            RuntimeError: Blocks are missing.
        """
        missing = self.missing()
        if missing and not allow_missing:
            raise RuntimeError(
                f"{self.path} is not complete: {len(missing)} of {self.block_count} blocks are "
                "missing; run the same command again to compute them"
            )
        return load_dataset(self.path)

    def annotate(self, attributes: dict[str, str | int | float]) -> None:
        """Add attributes to the dataset, such as those of a manifest."""
        self._arrays.annotate(attributes)

    def _verify(self) -> tuple[Fault, ...]:
        faults: list[Fault] = []
        for name in self._place.names(FINISHED):
            named = _MARKER.match(name)
            if named is None:
                continue
            block = int(named[1])
            reason = self._fault(block, f"{FINISHED}/{name}")
            if reason is None:
                self._finished.add(block)
            else:
                faults.append(Fault(block, reason))
                self._place.remove(f"{FINISHED}/{name}")
        return tuple(faults)

    def _fault(self, block: int, name: str) -> str | None:
        try:
            content = cast("object", json.loads(self._place.read_text(name)))
        except (OSError, ValueError):
            return "its marker cannot be read"
        record = cast("dict[str, object]", content) if isinstance(content, dict) else {}
        if record.get("block") != block or "sha256" not in record or block >= self.block_count:
            return "its marker does not describe it"
        try:
            values = self._arrays.read(self.block_slice(block))
        except Exception as error:  # noqa: BLE001 - codecs fail on damage in ways of their own
            return f"its data cannot be read: {type(error).__name__}"
        if _arrays.checksum(values) != record["sha256"]:
            return "its data does not give the recorded checksum"
        return None


def open_store(
    path: Location,
    template: xr.Dataset,
    configuration: object,
    *,
    block_size: int,
    dimension: str = "instance",
) -> BlockStore:
    """Create a store, or go on with the one that the same configuration made before.

    Args:
        path: The folder, or a URL for fsspec such as ``s3://bucket/sweep``; absent, empty, or a
            store.
        template: Coordinates, and data variables filled with what stands for "not computed".
        configuration: Anything `canonical` takes; everything that the values depend on.
        block_size: Entries of a block along `dimension`.
        dimension: The dimension that is cut into blocks.

    Returns:
        The store, its finished blocks verified against their checksums.

    Raises:
        ValueError: The folder's store was made with another configuration or template; the
            message lists what differs. Or the template or block size cannot be used.
        FileExistsError: The folder holds something that is not a store; nothing is touched.
        OSError: The folder cannot be written.
    """
    where = place(path)
    template = _arrays.normalised(template)
    if dimension not in template.sizes or template.sizes[dimension] == 0:
        raise ValueError(
            f"the template has dimensions {dict(template.sizes)}; expected a non-empty "
            f"dimension {dimension!r} to cut into blocks"
        )
    if block_size < 1:
        raise ValueError(f"block_size is {block_size}; expected at least 1")
    layout = _arrays.layout(template, dimension) | {"block_size": block_size}
    wanted: dict[str, Json] = {"configuration": canonical(configuration), "layout": layout}
    if isinstance(where, Remote):
        where.check_writable(new=False)  # what fails on reading has no words of its own
    if not _is_store(where):
        where.check_writable(new=True)
        where.create(lambda new: _fill(new, template, wanted, dimension, block_size))
    else:
        _refuse_other(where, wanted)
        where.check_writable(new=False)
    return BlockStore(where, template, dimension, block_size)


def load_dataset(path: Location) -> xr.Dataset:
    """Read a store's dataset into memory, whatever configuration made it.

    Raises:
        FileNotFoundError: The folder is not a store.
    """
    where = place(path)
    if not _is_store(where):
        raise FileNotFoundError(f"{path} is not a block store: it has no readable {_HEADER}")
    return _arrays.load(where.inside(DATA))


def _header(where: Place) -> dict[str, Json] | None:
    try:
        content = cast("object", json.loads(where.read_text(_HEADER)))
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict):
        return None
    header = cast("dict[str, Json]", content)
    return header if header.get("format") == _FORMAT else None


def _is_store(where: Place) -> bool:
    path = where.location
    if where.names() and _header(where) is not None:
        return True
    if where.names():
        raise FileExistsError(
            f"{path} holds files that are not a store of this program; nothing was changed. "
            "Choose a new or empty output folder"
        )
    if isinstance(path, Path) and path.exists() and not path.is_dir():
        raise FileExistsError(f"{path} is a file; choose a new or empty output folder")
    return False


def _refuse_other(where: Place, wanted: dict[str, Json]) -> None:
    header = _header(where) or {}
    stored = {key: header.get(key) for key in wanted}
    if fingerprint(stored) == fingerprint(wanted):
        return
    lines = "\n".join(f"  {line}" for line in differences(stored, wanted))
    raise ValueError(
        f"{where.location} was made with another configuration and is left as it is:\n{lines}\n"
        "Choose another output folder, or ask for the stored configuration"
    )


def _fill(
    new: Place, template: xr.Dataset, wanted: dict[str, Json], dimension: str, block_size: int
) -> None:
    _arrays.create(new.inside(DATA), template, dimension, block_size)
    header: dict[str, Any] = {"format": _FORMAT, **wanted}
    new.write_text(_HEADER, json.dumps(header, indent=2) + "\n")

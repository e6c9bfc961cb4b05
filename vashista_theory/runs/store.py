"""A labelled dataset that is filled block by block and survives being killed.

A store is a folder, here or behind a URL::

    store.json         what it is and which configuration made it
    data.zarr/         the dataset; one Zarr chunk a block along the block dimension
    finished/00003.json   block 3 is written, with the checksum of its values

A block's marker is written after its data, and atomically. So a block without a marker is
unfinished, and one whose values do not give the marker's checksum was damaged later: it is computed
again when the store is opened, and refused when it is loaded. Header and metadata have checksums
too. They tell damage and mixed-up files, not a forger, who would renew them.
"""

import dataclasses
import re
import threading

import numpy as np
import xarray as xr

from vashista_theory._words import count
from vashista_theory.runs import _arrays, _metadata, header
from vashista_theory.runs.block_writer import BlockWriter, fault, marker
from vashista_theory.runs.configuration import canonical, differences
from vashista_theory.runs.damage import DamagedStoreError, check_entries
from vashista_theory.runs.header import Header
from vashista_theory.runs.places import DATA, FINISHED, HEADER, Location, Place, Remote, place

_AGAIN = "run the same command again, which computes again what is damaged"
_MARKER = re.compile(r"^(\d{5,18})\.json$")


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

    def __init__(self, where: Place, head: Header, template: xr.Dataset) -> None:
        self._place, self._header, self._template = where, head, template
        self.path, self.data = where.location, where.inside(DATA)
        metadata = _metadata.read(where, head.identity)
        check_entries(where, _metadata.arrays(metadata))
        dimension: str = head.layout["dimension"]
        self.writer = BlockWriter(
            where.location,
            head.identity,
            _arrays.shapes(template, dimension),
            dimension,
            head.layout["block_size"],
            template.sizes[dimension],
        )
        self.block_count = self.writer.block_count
        _metadata.restore_arrays(where, metadata)
        self.writer.arrays.repair_fixed(template)
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
            DamagedStoreError: What is read is not what was written.
        """
        return _loaded(self._place, self._header, self._template if allow_missing else None)

    def annotate(self, attributes: dict[str, str | int | float]) -> None:
        """Add attributes to the dataset, such as those of a manifest."""
        _metadata.annotate(self._place, self.writer.identity, attributes)

    def _verify(self) -> tuple[Fault, ...]:
        faults: list[Fault] = []
        for block in _marked(self._place):
            reason = self._fault(block)
            if reason is None:
                self._finished.add(block)
            else:
                faults.append(Fault(block, reason))
                self._place.remove(marker(block))
                self._reset(block)
        return tuple(faults)

    def _reset(self, block: int) -> None:
        if block < self.block_count:  # so that the rest can be read before it is computed
            within = self.block_slice(block)
            values = _arrays.block_of(self._template, self.dimension, within)
            self.writer.arrays.write(values, within)

    def _fault(self, block: int) -> str | None:
        if block >= self.block_count:
            return "there is no such block"
        try:
            values = self.writer.arrays.read(self.block_slice(block))
        except Exception as error:  # noqa: BLE001 - codecs fail on damage in ways of their own
            return f"its data cannot be read: {type(error).__name__}"
        return fault(self._place, self.writer.identity, block, values)


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
        DamagedStoreError: The folder's store is damaged in what is not computed.
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
    wanted = Header(canonical(configuration), layout)
    if isinstance(where, Remote):
        where.check_writable(new=False)  # what fails on reading has no words of its own
    stored = header.read_header(where)
    if stored is None:
        where.check_writable(new=True)
        where.create(
            lambda new: _arrays.create(new.inside(DATA), template, dimension, block_size),
            lambda new: _finish(new, wanted),
        )
        # Another process may have been faster, and with another configuration.
        stored = header.read_header(where) or wanted
    header.refuse_other(where, stored, wanted)
    where.check_writable(new=False)
    return BlockStore(where, wanted, template)


def is_store(path: Location) -> bool:
    """Whether there is a store, complete or not."""
    where = place(path)
    if isinstance(where, Remote):
        where.check_writable(new=False)  # what fails on reading has no words of its own
    return HEADER in where.names()


def load_dataset(path: Location, *, finished_only: bool = False) -> xr.Dataset:
    """Read a store's dataset into memory, whatever configuration made it.

    Args:
        path: The store, such as ``vashista_sweep/store`` or ``vashista_evaluation/perplexity``.
        finished_only: Of a store that is not complete, take the rows that are computed: those of
            its finished blocks, in their order. The attribute ``finished`` then says how many of
            how many there are, such as "16 of 48 instances".

    Raises:
        FileNotFoundError: The folder is not a store.
        RuntimeError: Blocks are missing.
        DamagedStoreError: What is read is not what was written.
    """
    where = place(path)
    stored = None if HEADER not in where.names() else header.read_header(where)
    if stored is None:
        raise FileNotFoundError(f"{path} is not a block store: it has no readable {HEADER}")
    return _loaded(where, stored, None, finished_only=finished_only)


def _loaded(
    where: Place, head: Header, unfinished: xr.Dataset | None, *, finished_only: bool = False
) -> xr.Dataset:
    """Read everything once, and hold what was read against what was recorded.

    Args:
        where: The store.
        head: Its header.
        unfinished: Where the values of unfinished blocks come from; None if there may be none.
        finished_only: Whether unfinished blocks are left out instead.
    """
    metadata = _metadata.read(where, head.identity)
    check_entries(where, _metadata.arrays(metadata))
    dimension, size = head.layout["dimension"], head.layout["block_size"]
    length = _metadata.length(metadata, dimension)
    blocks = range(-(-length // size))
    missing = set(blocks).difference(_marked(where))
    if missing and unfinished is None and not finished_only:
        raise RuntimeError(
            f"{where.location} is not complete: {len(missing)} of {count(len(blocks), 'block')} "
            "are missing; run the same command again to compute them, or load what is finished by "
            "`vashista_theory.runs.load_dataset(path, finished_only=True)`"
        )
    data = f"{where.location}/{DATA}"
    try:
        dataset = _arrays.read_all(where.inside(DATA))
        found = _arrays.layout(dataset, dimension) | {"block_size": size}
    except Exception as error:  # codecs fail on damage in ways of their own
        why = " ".join(str(error).split())
        raise DamagedStoreError(
            f"{data} cannot be read ({type(error).__name__}: {why}); {_AGAIN}"
        ) from error
    if found != head.layout:
        which = differences(head.layout, found)[0].partition(":")[0]
        raise DamagedStoreError(f"{data} does not hold what its header says ({which}); {_AGAIN}")
    kept: list[int] = []
    for block in blocks:
        within = slice(block * size, min((block + 1) * size, length))
        if block in missing:
            if unfinished is not None:
                _arrays.replace(dataset, unfinished, dimension, within)
            continue
        kept += range(within.start, within.stop)
        values = _arrays.block_of(dataset, dimension, within)
        if (reason := fault(where, head.identity, block, values)) is not None:
            raise DamagedStoreError(f"{Fault(block, reason)} in {where.location}; {_AGAIN}")
    del dataset.attrs[_metadata.SEAL]
    if finished_only:
        dataset = dataset.isel({dimension: np.array(kept, int)})
        dataset.attrs["finished"] = f"{len(kept)} of {count(length, dimension)}"
    return _arrays.with_numpy_text(dataset)


def _marked(where: Place) -> list[int]:
    """Numbers of the blocks that have a marker, ascending."""
    named = (_MARKER.match(name) for name in where.names(FINISHED))
    return sorted(int(one[1]) for one in named if one and marker(int(one[1])).endswith(one[0]))


def _finish(new: Place, head: Header) -> None:
    _metadata.seal(new, head.identity)
    header.write_header(new, head)

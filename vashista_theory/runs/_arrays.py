"""The thin place where xarray and Zarr are spoken to.

Values go straight to the Zarr arrays, so writing a block touches that block's chunks only. The
metadata is consolidated; Zarr calls that experimental in format 3 and warns, which is silenced here
and nowhere else.
"""

# xarray and zarr publish types that are partly unknown; this module is where that stops.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

import hashlib
import warnings
from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np
import xarray as xr
import zarr

from vashista_theory.runs.configuration import Json
from vashista_theory.runs.places import Location

Values: TypeAlias = dict[str, np.ndarray]


class Shape(NamedTuple):
    """A variable without its values."""

    dims: tuple[str, ...]
    sizes: tuple[int, ...]
    dtype: np.dtype[Any]


class BlockArrays:
    """The variables of a dataset in a store that have the block dimension."""

    def __init__(self, location: Location, shapes: Mapping[str, Shape], dimension: str) -> None:
        self._dimension = dimension
        self._shapes = shapes
        # The root's metadata, which is under a checksum; the arrays' own copies are not.
        self._group = zarr.open_group(location, mode="r+", use_consolidated=True)

    def checked(self, dataset: xr.Dataset, where: slice) -> Values:
        """Take a block's values out of a dataset, or say how it differs from the template."""
        given, expected = {str(name) for name in dataset.data_vars}, set(self._shapes)
        if given != expected:
            raise ValueError(
                f"the block has variables {sorted(given)}; expected {sorted(expected)}"
            )
        values: Values = {}
        for name, like in self._shapes.items():
            array = _as_stored(np.asarray(dataset[name].values))
            shape = tuple(
                where.stop - where.start if dim == self._dimension else size
                for dim, size in zip(like.dims, like.sizes, strict=True)
            )
            if dataset[name].dims != like.dims or array.shape != shape or array.dtype != like.dtype:
                raise ValueError(
                    f"the block's {name} has dimensions {dataset[name].dims}, shape {array.shape} "
                    f"and type {array.dtype}; expected {like.dims}, {shape} and {like.dtype}"
                )
            values[name] = array
        return values

    def write(self, values: Values, where: slice) -> None:
        """Put a block's values into its chunks."""
        for name, array in values.items():
            _array(self._group, name)[self._index(name, where)] = array

    def read(self, where: slice) -> Values:
        """A block's values as they are on disk."""
        return {
            name: np.asarray(_array(self._group, name)[self._index(name, where)])
            for name in self._shapes
        }

    def _index(self, name: str, where: slice) -> tuple[slice, ...]:
        dims = self._shapes[name].dims
        return tuple(where if dim == self._dimension else slice(None) for dim in dims)

    def repair_fixed(self, template: xr.Dataset) -> None:
        """Undo damage to coordinates and constants, which are known from the template."""
        for name, variable in template.variables.items():
            if str(name) in self._shapes:
                continue
            wanted = {str(name): np.asarray(variable.values)}
            array = _array(self._group, str(name))
            try:
                intact = checksum({str(name): np.asarray(array[...])}) == checksum(wanted)
            except Exception:  # noqa: BLE001 - codecs fail on damage in ways of their own
                intact = False
            if not intact:
                array[...] = wanted[str(name)]


def shapes(template: xr.Dataset, dimension: str) -> dict[str, Shape]:
    """The data variables that have the block dimension."""
    blocked = {str(n): template[n].variable for n in template.data_vars}
    return {
        name: Shape(tuple(map(str, variable.dims)), variable.shape, variable.dtype)
        for name, variable in sorted(blocked.items())
        if dimension in variable.dims
    }


def normalised(template: xr.Dataset) -> xr.Dataset:
    """The template in memory with types that Zarr's format specifies, and no old encodings."""
    template = template.copy(deep=False).load()
    for name, variable in list(template.variables.items()):
        variable.encoding.clear()
        if _is_text(variable.dtype):
            # An index turns back into fixed-length text unless it holds Python strings.
            text = np.array(variable.values.tolist(), dtype=object)
            stored = text if name in template.indexes else _as_stored(text)
            template[name] = xr.Variable(variable.dims, stored, variable.attrs)
    return template


def layout(template: xr.Dataset, dimension: str) -> dict[str, Json]:
    """What a template is apart from its values: names, dimensions, types; and fixed values."""
    variables: dict[str, Json] = {
        str(name): f"{'text' if _is_text(variable.dtype) else variable.dtype} "
        f"{dict(zip(variable.dims, variable.shape, strict=True))}"
        for name, variable in template.variables.items()
    }
    fixed: dict[str, Json] = {
        str(name): checksum({str(name): np.asarray(variable.values)})
        for name, variable in template.variables.items()
        if name in template.coords or dimension not in variable.dims
    }
    return {"dimension": dimension, "variables": variables, "fixed_values_sha256": fixed}


def create(location: Location, template: xr.Dataset, dimension: str, block_size: int) -> None:
    """Write the template, one chunk a block along the block dimension."""
    encoding: dict[Hashable, dict[str, Any]] = {
        name: {
            "_FillValue": None,
            "chunks": tuple(
                min(block_size, size) if dim == dimension else max(size, 1)
                for dim, size in zip(variable.dims, variable.shape, strict=True)
            ),
        }
        for name, variable in template.variables.items()
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        cast("Any", template).to_zarr(
            location, mode="w-", zarr_format=3, consolidated=True, encoding=encoding
        )


def read_all(location: Location) -> xr.Dataset:
    """Read the dataset into memory.

    Raises:
        ValueError: A variable cannot be read; the message names it.
    """
    dataset = cast(
        "xr.Dataset", cast("Any", xr).open_zarr(location, consolidated=True, chunks=None)
    )
    for name in dataset.variables:
        try:
            dataset[name].load()
        except Exception as error:  # codecs fail on damage in ways of their own
            raise ValueError(f"{name}: {error}") from error
    return dataset


def with_numpy_text(dataset: xr.Dataset) -> xr.Dataset:
    """The same with text as NumPy's fixed-length strings."""
    for name, variable in list(dataset.variables.items()):
        variable.encoding.clear()
        if _is_text(variable.dtype):
            text = np.array(variable.values.tolist(), dtype=np.str_)
            dataset[name] = xr.Variable(variable.dims, text, variable.attrs)
    return dataset


def block_of(dataset: xr.Dataset, dimension: str, where: slice) -> Values:
    """A block's values in a dataset that was read."""
    return {
        name: np.asarray(dataset[name].isel({dimension: where}).values)
        for name in shapes(dataset, dimension)
    }


def replace(dataset: xr.Dataset, by: xr.Dataset, dimension: str, where: slice) -> None:
    """Put a block's values of one dataset in the place of another's."""
    for name, values in block_of(by, dimension, where).items():
        dataset[name][{dimension: where}] = values


def checksum(values: Values) -> str:
    """SHA-256 over names, types, shapes and bytes, so that even −0 and 0 are told apart."""
    digest = hashlib.sha256()
    for name in sorted(values):
        array = _as_stored(values[name])
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        if array.dtype.kind == "T":
            digest.update("\0".join(array.ravel().tolist()).encode())
        else:
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _as_stored(array: np.ndarray) -> np.ndarray:
    # Fixed-length text has no specification in Zarr's format 3; variable-length text has.
    return array.astype(np.dtypes.StringDType()) if _is_text(array.dtype) else array


def _is_text(dtype: np.dtype[Any]) -> bool:
    return np.dtype(dtype).kind in "UOT"


def _array(group: zarr.Group, name: str) -> Any:
    # Written even when they equal the fill value: Zarr takes −0 for 0, the checksum does not.
    return cast("Any", group[name]).with_config({"write_empty_chunks": True})

"""What a GGUF file says it holds, read before anything is built from it.

transformers believes the header: counts without end keep it busy, layers that no tensor backs are
filled with random numbers, and tensors that it has no place for are left out without a word.
"""

import contextlib
import mmap
import re
import struct
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from vashista_theory.models.fetching import ModelFileError

# Of a metadata value by its type; 8 is a string, 9 an array.
_FORMATS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q",
    12: "<d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9
_MOST_DIMENSIONS = 8


class GgufHeader(NamedTuple):
    """The parts of a header that are held against the model built from it.

    Attributes:
        architecture: llama.cpp's name of it.
        layers: How many there are, by the metadata.
        shapes: Of the tensors, by name; dimensions in torch's order.
    """

    architecture: str
    layers: int
    shapes: dict[str, tuple[int, ...]]


def read_header(path: Path) -> GgufHeader:
    """Read a GGUF file's header, and see that the file can hold what it announces.

    Raises:
        ModelFileError: It is no GGUF file, is cut short, or contradicts itself.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        magic = file.read(4)
        if magic != b"GGUF":
            raise ModelFileError(
                f"{path} is not a GGUF file (it begins with {magic!r}). Pass a GGUF file, or the "
                "folder that holds a model's config.json."
            )
        with contextlib.closing(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) as content:
            try:
                header = _Reader(content).header()
            except (struct.error, ValueError, UnicodeDecodeError) as error:
                raise _refusal(path, f"its header cannot be read: {error}") from None
    _check(path, header)
    return header


class _Reader:
    def __init__(self, content: mmap.mmap) -> None:
        self._content, self._place = content, 4

    def header(self) -> GgufHeader:
        version, tensors, entries = self._take("<IQQ")
        if version not in (2, 3):
            raise ValueError(f"version {version}, where 2 or 3 is expected")
        found = dict(self._entry() for _ in range(entries))
        architecture = found.get("general.architecture")
        layers = found.get(f"{architecture}.block_count")
        if not isinstance(architecture, str) or type(layers) is not int:
            raise ValueError("it names no architecture, or no number of layers")
        shapes = list(self._tensors(tensors))
        if len(dict(shapes)) < len(shapes):
            raise ValueError("two tensors have one name")
        return GgufHeader(architecture, layers, dict(shapes))

    def _tensors(self, count: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        for _ in range(count):
            name = self._text()
            (dimensions,) = self._take("<I")
            if dimensions > _MOST_DIMENSIONS:
                raise ValueError(f"tensor {name!r} has {dimensions} dimensions")
            shape = self._take(f"<{dimensions}Q")
            _, offset = self._take("<IQ")
            # At least one bit a number, whatever the quantisation: enough to refuse the absurd.
            if offset + prod(shape) // 8 > len(self._content):
                raise ValueError(f"tensor {name!r} of shape {shape} lies beyond the end")
            yield name, tuple(reversed(shape))

    def _entry(self) -> tuple[str, Any]:
        key = self._text()
        (kind,) = self._take("<I")
        return key, self._value(kind)

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._text()
        if kind != _ARRAY:
            return self._take(_FORMATS[self._known(kind)])[0]
        kind, count = self._take("<IQ")
        if kind == _STRING:  # a vocabulary: only stepped over
            for _ in range(count):
                self._skip(*self._take("<Q"))
        else:
            self._skip(count * struct.calcsize(_FORMATS[self._known(kind)]))
        return None

    def _known(self, kind: int) -> int:
        if kind not in _FORMATS:
            raise ValueError(f"a value is of type {kind}, which is not known")
        return kind

    def _text(self) -> str:
        (length,) = self._take("<Q")
        start = self._place
        self._skip(length)
        return self._content[start : self._place].decode("utf-8")

    def _take(self, layout: str) -> tuple[Any, ...]:
        start = self._place
        self._skip(struct.calcsize(layout))
        return struct.unpack_from(layout, self._content, start)

    def _skip(self, length: int) -> None:
        if length > len(self._content) - self._place:
            raise ValueError("it ends too early")
        self._place += length


def _check(path: Path, header: GgufHeader) -> None:
    numbered = (re.match(r"blk\.(\d{1,9})\.", name) for name in header.shapes)
    held = {int(one[1]) for one in numbered if one is not None}
    if held != set(range(min(header.layers, len(held) + 1))):
        raise _refusal(
            path, f"it announces {header.layers:,} layers and holds tensors of {len(held)}"
        )


def _refusal(path: Path, problem: str) -> ModelFileError:
    return ModelFileError(
        f"{path} cannot be read as a GGUF file ({problem}). Is the file whole? Download it again, "
        "and compare its SHA-256 with the publisher's."
    )

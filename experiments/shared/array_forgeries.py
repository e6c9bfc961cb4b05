"""Files of one array whose header or numbers are forged, some of them still right."""

import io
from typing import Any

import numpy as np

from experiments.shared.statement_forgeries import draw

MAGIC = b"\x93NUMPY"


def header(shape: Any, descr: Any = "<f8", fortran: Any = False, version: int = 1) -> bytes:
    """A header as NumPy writes it, whatever the entries."""
    text = f"{{'descr': {descr!r}, 'fortran_order': {fortran!r}, 'shape': {shape!r}, }}"
    return framed(text.encode("latin-1", "replace"), version=version)


def framed(text: bytes, *, version: int = 1, length: int | None = None) -> bytes:
    """Magic, version and length before a text that is filled up with blanks and a newline."""
    width = 2 if version == 1 else 4
    start = len(MAGIC) + 2 + width
    text = text + b" " * (-(start + len(text) + 1) % 64) + b"\n"
    size = len(text) if length is None else length
    size %= 1 << (8 * width)
    return MAGIC + bytes([version, 0]) + size.to_bytes(width, "little") + text


def _whole(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _dressed(array: np.ndarray, rng: np.random.Generator) -> bytes:
    """The same numbers in another version, order or type, as NumPy itself writes them."""
    file = io.BytesIO()
    other = draw(
        [
            array,
            np.asfortranarray(array),
            array.astype(">f8"),
            array.astype("<f4"),
            array.astype(">f2"),
            array.astype("<i8"),
            array.astype(">i2"),
            array.astype("u1"),
            array.astype(bool),
            array.astype(complex),
            array.astype(np.longdouble),
            array.astype(str),
        ],
        rng,
    )
    np.lib.format.write_array(file, other, version=draw([(1, 0), (2, 0), (3, 0)], rng))
    return file.getvalue()


def _text(array: np.ndarray, rng: np.random.Generator) -> bytes:
    """Headers that a careless reader takes in another way, or that do harm when read."""
    shape = repr(array.shape)
    plain = f"'descr': '<f8', 'fortran_order': False, 'shape': {shape}"
    other = repr(array.shape[::-1] if array.ndim == 2 else (1,))
    deep = int(rng.choice([150, 5_000, 9_000]))
    texts = [
        f"{{{plain}}}",
        f"{{'shape': {shape}, 'descr': '<f8', 'fortran_order': False}}",
        f"{{{plain}}} # 'shape': {other}",
        f"{{{plain}, 'shape': {other}}}",
        f"{{'shape': {other}, {plain}}}",
        f"{{{plain}, 'more': 1}}",
        "{'descr': '<f8', 'fortran_order': False}",
        f"dict({plain.replace(': ', '=')})",
        f"[{plain}]",
        f"{{{plain}}}, {{}}",
        f"{{{plain.replace('False', '0')}}}",
        f"{{{plain.replace('False', 'None')}}}",
        f"{{{plain.replace(shape, shape.replace(',', 'L,'))}}}",
        f"{{{plain.replace(shape, '-' * deep + '1')}}}",
        f"{{{plain.replace(shape, '(' * deep + '1' + ')' * deep)}}}",
        f"{{{plain.replace(shape, '[' * deep)}}}",
        f"{{{plain.replace(shape, '9' * deep)}}}",
        f"{{{plain.replace(shape, '(' + '9' * deep + ',)')}}}",
        f"{{{plain.replace('<f8', chr(92) + 'd')}}}",
        f"{{{plain.replace(shape, '1if 1else 2')}}}",
        f"{{{plain.replace(shape, '__import__')}}}",
        f"{{{plain}}}".replace(" ", "\t"),
        f" {{{plain}}}",
        f"{{{plain}}}\n\n",
        f"{{{plain}}}" + " " * 20_000,
        "",
        "\x00" * 50,
        "é" * 50,
    ]
    version = int(draw([1, 1, 2, 3], rng))
    return framed(draw(texts, rng).encode("latin-1", "replace"), version=version) + array.tobytes()


def _length(array: np.ndarray, rng: np.random.Generator) -> bytes:
    """A length of the header that is not its length, a version that is none, a cut start."""
    text = header(array.shape)[10:-1].rstrip()
    right = len(framed(text)) - 10
    lengths = [0, 1, right - 64, right - 1, right + 1, right + 8, right + 64, 65_535, 2**32 - 1]
    whole = framed(text, length=int(draw(lengths, rng))) + array.tobytes()
    version = bytes([int(rng.integers(256)), int(rng.integers(3))])
    return draw(
        [
            whole,
            whole,
            MAGIC + version + _whole(array)[8:],
            framed(text, version=2)[:6] + b"\x01" + framed(text, version=2)[7:] + array.tobytes(),
            b"\x93NUMPX" + _whole(array)[6:],
            _whole(array)[: int(rng.integers(12))],
        ],
        rng,
    )


def _types(array: np.ndarray, rng: np.random.Generator) -> bytes:
    """Another type for the same bytes."""
    codes = ["<i8", ">f8", ">i8", "=f8", "|f8", "f8", "float64", "d", "<u8", "<c8", "<f16", "<f9"]
    codes += ["|O", "<U2", "|S8", "<m8[ns]", "<M8[s]", "|V8", "|b1", "|u1", "<f4", "<f2", "<i4"]
    odd = [[("x", "<f8")], ("<f8", (1,)), None, 8, b"<f8", "", "<", "<f8 ", "<f8,<f8", "e" * 500]
    return header(array.shape, descr=draw([*codes, *odd], rng)) + array.tobytes()


def _shapes(array: np.ndarray, rng: np.random.Generator) -> bytes:
    """Another shape or order for the same bytes."""
    size = array.size
    shapes = [array.shape[::-1], (size,), (size, 1), (1, size), (*array.shape, 1), (), (0,)]
    shapes += [(0, 5), (-1, -size), (-size,), (2**62, 4), (2**64,), (10**30, 1), (size // 2,)]
    shapes += [tuple(map(float, array.shape)), tuple(map(bool, array.shape)), list(array.shape)]
    shapes += [size, None, "x", (str(size),), (1,) * 40, {"a": 1}, (array.shape,), (True, size)]
    if rng.integers(4) == 0:
        return header(array.shape, fortran=draw([True, 1, "True", None], rng)) + array.tobytes()
    return header(draw(shapes, rng)) + array.tobytes()


def _numbers(array: np.ndarray, rng: np.random.Generator) -> bytes:
    """Other numbers, some of them the same: −0.0."""
    changed = array.copy()
    place = int(rng.integers(array.size))
    changed.flat[place] = draw([np.nan, np.inf, -np.inf, 5e-324, 1.8e308 / 2, -0.0, 0.0], rng)
    flipped = bytearray(_whole(array))
    flipped[int(rng.integers(len(flipped)))] ^= 1 << int(rng.integers(8))
    low = array.copy()
    low.view(np.uint64).flat[place] ^= np.uint64(1)
    nothing = np.where(array == 0, -0.0, array)
    large = np.full(array.shape, 2**53 + 1, np.int64)
    return draw([*map(_whole, (changed, low, nothing, large)), bytes(flipped)], rng)


def _tails(array: np.ndarray, rng: np.random.Generator) -> bytes:
    """More or less behind the header than it says, or another file altogether."""
    whole = _whole(array)
    pickled = io.BytesIO()
    np.save(pickled, np.array([{"a": 1}, None], object), allow_pickle=True)
    archive = io.BytesIO()
    np.savez(archive, keys=array)
    return draw(
        [
            whole + b"\x00",
            whole + array.tobytes(),
            whole + whole,
            whole[: -int(rng.integers(1, 9))],
            whole[: int(rng.integers(len(whole)))],
            header(array.shape),
            b"",
            pickled.getvalue(),
            archive.getvalue(),
            b"1 2 3\n4 5 6\n",
        ],
        rng,
    )


def _hidden(array: np.ndarray, rng: np.random.Generator) -> bytes:
    """Two arrays in one file: which is read depends on where the header is taken to end."""
    text = header(array.shape)[10:-1].rstrip()
    text += b" " * (-(10 + len(text)) % 64)
    other = bytearray((array + 1).tobytes().replace(b"\n", b"\x0b"))
    other[0] = ord("#")
    length = draw([len(text), len(text) + len(other) + 1, len(text) - 8], rng)
    start = MAGIC + b"\x01\x00" + int(length).to_bytes(2, "little")
    return start + text + bytes(other) + b"\n" + array.tobytes()


WAYS = {
    "another version, order or type": _dressed,
    "text of the header": _text,
    "length or version of the header": _length,
    "another type": _types,
    "another shape": _shapes,
    "other numbers": _numbers,
    "another end": _tails,
    "two arrays": _hidden,
}
"""Each makes a file from an array; some of these say what the array says."""

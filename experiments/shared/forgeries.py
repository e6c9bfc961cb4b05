"""Certificates and their arrays, forged or damaged in every way thought of.

Many forgeries stay true: an interval widened, weights and denominator doubled, −0.0 for 0.0.
`forgery_judge` knows which.
"""

import copy
import hashlib
import io
import itertools
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import vashista_theory as vt
from experiments.shared import array_forgeries, statement_forgeries, tampering
from experiments.shared.statement_forgeries import Content, Rng, an_interval, draw


class Sparse(NamedTuple):
    """A file that begins with some bytes and is zero to its end."""

    start: bytes
    size: int


class Genuine(NamedTuple):
    """A certificate with the arrays it is about."""

    content: Content
    keys: np.ndarray
    query: np.ndarray


File = bytes | Sparse


class Forgery(NamedTuple):
    """What is handed to the checker, in the order of its arguments."""

    kind: str
    files: tuple[File, File, File]


def genuine(folder: Path) -> list[Genuine]:
    """Small certificates of every outcome, made in an empty folder."""
    rng = np.random.default_rng(0)
    # Few shapes, since each is compiled for: (7, 3), (4, 2), (3, 1) and (1, 2).
    below = [[0.5, 0.2, -0.4], [0.2, 0.5, -0.7], [-1, 0, -1], [0, -1, -2]]
    edge = [[0, 0, 0], [1, 0, 0], [0.3, 1, -0.9], *below]
    copies = [[0, 0, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0], [1, 0, 0], *below[:2]]
    flat = [[0, 0, 0], [1, 0, 0], [0.3, 1, 0], *below]
    square = [[0, 0, 0], [2, 0, 0], [2, 2, 0], [0, 2, 0], [1, 1, -2], *below[2:]]
    corners = list(itertools.product((-1.0, 1.0), repeat=2))
    problems = [
        (rng.normal(size=(7, 3)), 2 * rng.normal(size=3)),
        (rng.normal(size=(7, 3)) * 1e-3 + 100, rng.normal(size=3) + 100),
        (rng.integers(-3, 4, size=(7, 3)), [5, 4, 1]),
        (edge, [0.4, 0, 1]),
        (copies, [0.4, 0, 1]),
        (flat, [0.4, 0, 1]),  # without strict complementarity
        (square, [0.5, 1, 1]),  # a face of dependent keys
        (square, [0, 1, 1]),
        (square, [1, 1, -1]),  # inside
        (corners, [0.25, 0.5]),  # inside
        (corners, [1.0, 0.5]),  # on the boundary
        (corners, [3.0, 2.5]),  # a vertex
        ([[1.0, 2.0]], [0.0, 0.0]),  # every key on the face
        ([[1.0], [2.0], [2.0]], [0.5]),
    ]
    found = []
    for keys, query in ((np.array(k, float), np.array(q, float)) for k, q in problems):
        path = folder / "certificate.json"
        certificate = vt.certify(keys, query)
        certificate.save(path)
        found.append(Genuine(json.loads(path.read_text(encoding="utf-8")), keys, query))
    return found


def forgeries(bases: list[Genuine], count: int, seed: int) -> Iterator[Forgery]:
    """Forgeries of every kind in turn, each of a genuine certificate drawn at random."""
    rng = np.random.default_rng(seed)
    kinds = list(KINDS)
    for number in range(count):
        kind = kinds[number % len(kinds)]
        base = bases[int(rng.integers(len(bases)))]
        yield Forgery(kind, tuple(KINDS[kind](base, rng)))


class _Made(NamedTuple):
    certificate: File
    keys: File
    query: File


def _saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _made(base: Genuine, **parts: Any) -> _Made:
    plain = _Made(json.dumps(base.content).encode(), _saved(base.keys), _saved(base.query))
    return plain._replace(**parts)


def digest(keys: np.ndarray, query: np.ndarray) -> str:
    """The hash of the inputs as the format has it, computed here anew."""
    numbers = [*(keys.astype(float) + 0.0).ravel().tolist(), *(query.astype(float) + 0.0).tolist()]
    packed = struct.pack(f"<QQ{len(numbers)}d", *keys.shape, *numbers)
    return hashlib.sha256(packed).hexdigest()


def _in_content(change: Callable[[Content, Rng], None]) -> Callable[[Genuine, Rng], _Made]:
    def make(base: Genuine, rng: Rng) -> _Made:
        content = copy.deepcopy(base.content)
        change(content, rng)
        return _made(base, certificate=json.dumps(content).encode())

    return make


# ------------------------------------------------------------------- other arrays, with their hash


def _other_arrays(base: Genuine, rng: Rng) -> _Made:
    """Arrays changed and the hash made right: only the proof can tell."""
    keys, query = base.keys.copy(), base.query.copy()
    which = int(rng.integers(6))
    if which == 0:
        keys = tampering.nudged(keys, rng)
    elif which == 1:
        query = tampering.nudged(query, rng)
    elif which == 2:
        keys = keys[rng.permutation(len(keys))]
    elif which == 3:
        keys.flat[int(rng.integers(keys.size))] = float(rng.integers(-3, 4))
    elif which == 4:
        keys, query = 2 * keys, 2 * query
    else:
        query = query + rng.normal(size=len(query))
    content = {**base.content, "sha256": digest(keys, query)}
    return _made(
        base, certificate=json.dumps(content).encode(), keys=_saved(keys), query=_saved(query)
    )


# ------------------------------------------------------------------------------ damage to the text


def _name_twice(base: Genuine, rng: Rng) -> _Made:
    """A second value, true or not, before or after the first."""
    content = base.content
    name = draw(sorted(content), rng)
    changed = copy.deepcopy(content)
    an_interval(changed, rng)
    value = json.dumps(draw([content[name], changed[name], None, 0], rng))
    text = json.dumps(content)
    entry = f'"{name}": {value}'
    text = f"{{{entry}, {text[1:]}" if rng.integers(2) else f"{text[:-1]}, {entry}}}"
    return _made(base, certificate=text.encode())


def _text(base: Genuine, rng: Rng) -> _Made:
    whole = json.dumps(base.content)
    place = int(rng.integers(len(whole)))
    many = int(rng.choice([1_000, 100_000]))
    choices = [
        *(b"", b" ", b"null", b"{}", b"[]", b'"certificate"', b"\xff\xfe", b"\x00" * 100),
        whole[:place].encode(),
        (whole[:place] + whole[place + 1 :]).encode(),
        (whole[:place] + chr(int(rng.integers(32, 127))) + whole[place + 1 :]).encode(),
        (whole + whole).encode(),
        (whole + "]").encode(),
        (whole[:-1] + ",}").encode(),
        f"[{whole}]".encode(),
        whole.replace('"', "'").encode(),
        whole.encode("utf-16"),
        b"\xef\xbb\xbf" + whole.encode(),
        whole.encode() + b"\x00",
        f"// a comment\n{whole}".encode(),
        b"[" * many,
        b'{"format":' * many,
        whole.replace('"keys": ', '"keys": ' + "9" * many).encode(),
        whole.replace('"keys": ', '"keys": -').encode(),
        whole.replace('"keys": ', '"keys": 1e').encode(),
        whole.replace('"margin": null', '"margin": NaN').encode(),
        whole.replace('"margin": null', '"margin": Infinity').encode(),
        whole.replace('"margin": null', '"margin": ' + "[" * many + "]" * many).encode(),
        whole.replace('"0x', '"0x' + "f" * many, 1).encode(),
        whole.replace('"tilt"', '"tilt\\u0000"').encode(),
    ]
    return _made(base, certificate=draw(choices, rng))


def _large(base: Genuine, rng: Rng) -> _Made:
    """Files that would take long to read, or more memory than there is."""
    keys = _saved(base.keys)
    whole = json.dumps(base.content).encode()
    terabyte = 1 << 40
    return draw(
        [
            _made(base, certificate=Sparse(whole, terabyte)),
            _made(base, certificate=Sparse(b"", terabyte)),
            _made(base, certificate=whole + b" " * (1 << 24)),
            _made(base, certificate=whole[:-1] + b', "x": [' + b"1," * (1 << 22) + b"1]}"),
            _made(base, certificate=whole.replace(b'"0x', b'"0x' + b"f" * (1 << 23), 1)),
            _made(base, keys=Sparse(keys, terabyte)),
            _made(base, query=Sparse(keys, terabyte)),
            _made(base, keys=Sparse(array_forgeries.header((1 << 20, 1 << 17)), terabyte + 128)),
        ],
        rng,
    )


def _in_array(way: Callable[[np.ndarray, Rng], bytes]) -> Callable[[Genuine, Rng], _Made]:
    def make(base: Genuine, rng: Rng) -> _Made:
        name = draw(("keys", "query"), rng)
        return _made(base, **{name: way(getattr(base, name), rng)})

    return make


def _swapped(base: Genuine, rng: Rng) -> _Made:
    files = list(_made(base))
    order = draw([o for o in itertools.permutations(range(3)) if o != (0, 1, 2)], rng)
    if rng.integers(3) == 0:
        order = draw([(0, 1, 1), (0, 2, 2), (0, 0, 0), (1, 1, 1), (0, 0, 2), (0, 1, 0)], rng)
    return _Made(*(files[i] for i in order))


KINDS: dict[str, Callable[[Genuine, Rng], _Made]] = {
    **{name: _in_content(change) for name, change in statement_forgeries.CHANGES.items()},
    "a name twice": _name_twice,
    "other arrays, hash made right": _other_arrays,
    "damaged text": _text,
    "too large": _large,
    **{f"array: {name}": _in_array(way) for name, way in array_forgeries.WAYS.items()},
    "files swapped": _swapped,
}

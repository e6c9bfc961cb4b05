"""Small projection problems of the kinds that break solvers, each a seeded generator.

A family is drawn in the type it will be solved in: what comes out is what the exact answer is for.
Families at the ends of the floats and families of a few roundings follow the type.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Drawn = tuple[np.ndarray, np.ndarray]
Draw = Callable[[np.random.Generator, int, int, np.dtype], Drawn]


@dataclass(frozen=True)
class Family:
    """One kind of trouble.

    Attributes:
        name: For tables.
        draw: From a random stream, n, d and the type, to keys and query of that type.
        shapes: The few (n, d) it is drawn at, since each is compiled once.
        undecidable: Multipliers or distances within rounding of zero are the point of the family,
            so that a refusal is a right answer.
    """

    name: str
    draw: Draw
    shapes: tuple[tuple[int, int], ...]
    undecidable: bool

    def make(self, seed: int, number: int, dtype: type | np.dtype) -> Drawn:
        """Instance `number`: shapes take turns, and each instance has a stream of its own."""
        n, d = self.shapes[number % len(self.shapes)]
        kind = np.dtype(dtype)
        # By name: a family added beside it changes none of its instances.
        rng = np.random.default_rng([seed, zlib.crc32(self.name.encode()), number, kind.itemsize])
        keys, query = self.draw(rng, n, d, kind)
        keys, query = np.asarray(keys, kind), np.asarray(query, kind)
        assert np.isfinite(keys).all()
        assert np.isfinite(query).all()
        return keys, query


FAMILIES: dict[str, Family] = {}
_USUAL = ((4, 2), (8, 3), (10, 4))


def _family(
    *, shapes: tuple[tuple[int, int], ...] = _USUAL, undecidable: bool = False
) -> Callable[[Draw], Draw]:
    def register(draw: Draw) -> Draw:
        name = draw.__name__
        FAMILIES[name] = Family(name, draw, shapes, undecidable)
        return draw

    return register


def _cloud(rng: np.random.Generator, n: int, d: int, dtype: np.dtype) -> Drawn:
    return rng.normal(size=(n, d)).astype(dtype), (1.5 * rng.normal(size=d)).astype(dtype)


def _integers(rng: np.random.Generator, n: int, d: int, reach: int = 4) -> np.ndarray:
    return rng.integers(-reach, reach + 1, size=(n, d)).astype(float)


def _dyadic_shares(rng: np.random.Generator, count: int) -> np.ndarray:
    """Positive multiples of 1/16 that sum to 1, so that sums of small integers are exact."""
    cuts = np.sort(rng.choice(np.arange(1, 16), size=count - 1, replace=False))
    return np.diff(np.concatenate([[0], cuts, [16]])) / 16


def _facet(rng: np.random.Generator, n: int, d: int) -> tuple[np.ndarray, int]:
    """Integer keys, some in the plane of last coordinate 0 and the rest below it; how many."""
    keys = _integers(rng, n, d)
    on = int(rng.integers(1, max(2, n - 1)))
    keys[:on, -1] = 0
    keys[on:, -1] = -rng.integers(1, 5, size=n - on)
    return keys, on


@_family(shapes=(*_USUAL, (12, 6)))
def gaussian(rng: np.random.Generator, n: int, d: int, dtype: np.dtype) -> Drawn:
    """Nothing nasty: what the others are compared with."""
    return _cloud(rng, n, d, dtype)


@_family()
def lattice(rng: np.random.Generator, n: int, d: int, dtype: np.dtype) -> Drawn:  # noqa: ARG001
    """Small integers: ties and dependent keys, all of them exact."""
    return _integers(rng, n, d, 2), _integers(rng, 1, d, 3)[0]


@_family()
def duplicates(rng: np.random.Generator, n: int, d: int, dtype: np.dtype) -> Drawn:
    """Each key two or three times."""
    keys, query = _cloud(rng, n, d, dtype)
    return keys[rng.integers(0, max(1, n // 2), size=n)], query


@_family(undecidable=True)
def near_duplicates(rng: np.random.Generator, n: int, d: int, dtype: np.dtype) -> Drawn:
    """Keys that differ from another one by 1 to 4 spacings of each coordinate."""
    keys, query = _cloud(rng, n, d, dtype)
    copies = keys[rng.integers(0, max(1, n // 2), size=n)]
    spacings = rng.integers(-4, 5, size=copies.shape).astype(copies.dtype)
    return copies + spacings * np.spacing(copies), query


def _flat(rng: np.random.Generator, n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates and directions of keys in a subspace."""
    inner = int(rng.integers(1, d)) if d > 1 else 1
    return _integers(rng, n, inner), _integers(rng, inner, d)


@_family()
def flat(rng: np.random.Generator, n: int, d: int, dtype: np.dtype) -> Drawn:  # noqa: ARG001
    """Keys exactly on a line, in a plane or in a space of 3 dimensions."""
    coordinates, directions = _flat(rng, n, d)
    return coordinates @ directions + _integers(rng, 1, d), 4 * _integers(rng, 1, d)[0] + 0.5


@_family(undecidable=True)
def flat_rounded(rng: np.random.Generator, n: int, d: int, dtype: np.dtype) -> Drawn:
    """The same, turned and moved, so that rounding lifts keys off the plane."""
    coordinates, directions = _flat(rng, n, d)
    keys = coordinates @ (directions + rng.normal(size=directions.shape)) + rng.normal(size=d)
    return keys.astype(dtype), rng.normal(size=d) * 4


@_family()
def one_far_key(rng: np.random.Generator, n: int, d: int, dtype: np.dtype) -> Drawn:
    """One key at 1e3 to 1e9 (30 to 1e5 in single precision) times the size of the others."""
    keys, query = _cloud(rng, n, d, dtype)
    low, high = (3, 9) if dtype.itemsize == 8 else (1.5, 5)
    direction = rng.normal(size=d)
    keys[rng.integers(n)] = 10 ** rng.uniform(low, high) * direction / np.linalg.norm(direction)
    return keys, query


@_family()
def several_far_keys(rng: np.random.Generator, n: int, d: int, dtype: np.dtype) -> Drawn:
    """Up to half the keys far away, each at a distance of its own."""
    keys, query = _cloud(rng, n, d, dtype)
    low, high = (3, 9) if dtype.itemsize == 8 else (1.5, 5)
    some = rng.choice(n, size=int(rng.integers(2, max(3, n // 2 + 1))), replace=False)
    keys[some] *= 10 ** rng.uniform(low, high, size=(len(some), 1)).astype(dtype)
    return keys, query


@_family()
def far_query(rng: np.random.Generator, n: int, d: int, dtype: np.dtype) -> Drawn:
    """A query 2^27 to 2^56 (2^7 to 2^27) diameters away."""
    keys, query = _cloud(rng, n, d, dtype)
    low, high = (27, 56) if dtype.itemsize == 8 else (7, 27)
    return keys, query * dtype.type(2 ** rng.uniform(low, high))


@_family(undecidable=True)
def far_query_of_a_lattice(rng: np.random.Generator, n: int, d: int, dtype: np.dtype) -> Drawn:
    """The same with integer keys and direction: exact ties at a distance."""
    low, high = (27, 56) if dtype.itemsize == 8 else (7, 27)
    exponent = int(rng.integers(low, high + 1))
    return _integers(rng, n, d, 2), _integers(rng, 1, d, 3)[0] * 2.0**exponent


@_family()
def tiny(rng: np.random.Generator, n: int, d: int, dtype: np.dtype) -> Drawn:
    """A cloud times 2^−400 to 2^−490 (2^−40 to 2^−52): squares near the least normal number."""
    keys, query = _cloud(rng, n, d, dtype)
    low, high = (400, 491) if dtype.itemsize == 8 else (40, 53)
    unit = dtype.type(2.0 ** -int(rng.integers(low, high)))
    return keys * unit, query * unit


@_family()
def huge(rng: np.random.Generator, n: int, d: int, dtype: np.dtype) -> Drawn:
    """A cloud times 2^400 to 2^500 (2^40 to 2^58): squares near the largest number."""
    keys, query = _cloud(rng, n, d, dtype)
    low, high = (400, 501) if dtype.itemsize == 8 else (40, 59)
    unit = dtype.type(2.0 ** int(rng.integers(low, high)))
    return keys * unit, query * unit


@_family(undecidable=True)
def beyond_the_range(rng: np.random.Generator, n: int, d: int, dtype: np.dtype) -> Drawn:
    """A cloud times 2^±500 to 2^±1000 (2^±55 to 2^±120): squares leave the range of the type."""
    keys, query = _cloud(rng, n, d, dtype)
    low, high = (500, 1001) if dtype.itemsize == 8 else (55, 121)
    sign = int(rng.choice([-1, 1]))
    unit = dtype.type(2.0 ** (sign * int(rng.integers(low, high))))
    return keys * unit, query * unit


@_family()
def unlike_columns(rng: np.random.Generator, n: int, d: int, dtype: np.dtype) -> Drawn:
    """Coordinates of sizes from 1e-8 (1e-4) to 1."""
    keys, query = _cloud(rng, n, d, dtype)
    decades = 8 if dtype.itemsize == 8 else 4
    sizes = (10 ** -rng.uniform(0, decades, size=d)).astype(dtype)
    return keys * sizes, query * sizes


@_family(undecidable=True)
def thin(rng: np.random.Generator, n: int, d: int, dtype: np.dtype) -> Drawn:
    """A hull of thickness 1e-6 to 1e-13 (1e-2 to 1e-6) along one axis, the query anywhere."""
    keys, query = _cloud(rng, n, d, dtype)
    low, high = (6, 13) if dtype.itemsize == 8 else (2, 6)
    keys[:, rng.integers(d)] *= dtype.type(10 ** -rng.uniform(low, high))
    return keys, query


@_family(undecidable=True)
def nearly_flat(rng: np.random.Generator, n: int, d: int, dtype: np.dtype) -> Drawn:
    """The same, turned: the thin direction is no axis."""
    keys, query = thin(rng, n, d, dtype)
    turn, _ = np.linalg.qr(rng.normal(size=(d, d)))
    return (keys.astype(float) @ turn).astype(dtype), query


@_family(undecidable=True)
def query_on_the_hull(rng: np.random.Generator, n: int, d: int, dtype: np.dtype) -> Drawn:  # noqa: ARG001
    """A query that is exactly a vertex, or a point of an edge or a face of the hull."""
    keys, on = _facet(rng, n, d)
    count = int(rng.integers(1, on + 1))
    return keys, _dyadic_shares(rng, count) @ keys[:count]


@_family()
def inside(rng: np.random.Generator, n: int, d: int, dtype: np.dtype) -> Drawn:
    """A query that is a combination of all keys, to rounding."""
    keys, _ = _cloud(rng, n, d, dtype)
    return keys, rng.dirichlet(np.ones(n)) @ keys


@_family(undecidable=True)
def inside_a_flat_hull(rng: np.random.Generator, n: int, d: int, dtype: np.dtype) -> Drawn:  # noqa: ARG001
    """Keys exactly in a subspace, and the query exactly in it too, often in the hull."""
    coordinates, directions = _flat(rng, n, d)
    at = _dyadic_shares(rng, min(n, 4)) @ coordinates[: min(n, 4)]
    at = at + (rng.random() < 0.3) * _integers(rng, 1, len(at), 3)[0]
    return coordinates @ directions, at @ directions


@_family(undecidable=True)
def just_outside(rng: np.random.Generator, n: int, d: int, dtype: np.dtype) -> Drawn:
    """A query from one spacing to 1e-8 (1e-3) above a facet."""
    keys, on = _facet(rng, n, d)
    query = _dyadic_shares(rng, min(on, 8)) @ keys[: min(on, 8)]
    u = float(np.finfo(dtype).eps)
    query[-1] = u * 2.0 ** rng.uniform(0, -np.log2(u) / 2)
    return keys, query


@_family()
def far_origin(rng: np.random.Generator, n: int, d: int, dtype: np.dtype) -> Drawn:
    """Keys and query moved 1e6 to 1e9 (30 to 3e3) diameters away."""
    keys, query = _cloud(rng, n, d, dtype)
    low, high = (6, 9) if dtype.itemsize == 8 else (1.5, 3.5)
    shift = 10 ** rng.uniform(low, high) * rng.normal(size=d)
    return keys + shift, query + shift


@_family(shapes=((1, 1), (1, 3), (2, 3), (3, 6), (4, 4)))
def few_keys(rng: np.random.Generator, n: int, d: int, dtype: np.dtype) -> Drawn:
    """One key, or fewer keys than dimensions."""
    return _cloud(rng, n, d, dtype)


@_family()
def not_strict(rng: np.random.Generator, n: int, d: int, dtype: np.dtype) -> Drawn:  # noqa: ARG001
    """p* on the relative boundary of its face: strict complementarity fails exactly."""
    keys, on = _facet(rng, n, d)
    if d > 1:
        keys[1:on, 0] = np.abs(keys[1:on, 0])
        keys[0, 0] = 0
    query = keys[0].copy()
    query[-1] = rng.integers(1, 5)
    return keys, query


@_family()
def mixed_radii(rng: np.random.Generator, n: int, d: int, dtype: np.dtype) -> Drawn:
    """Lengths in a geometric progression over 12 (5) decades."""
    keys, query = _cloud(rng, n, d, dtype)
    decades = 12 if dtype.itemsize == 8 else 5
    radii = 10 ** np.linspace(-decades / 2, decades / 2, n)
    keys *= rng.permutation(radii)[:, None].astype(dtype)
    return keys, query * dtype.type(10 ** rng.uniform(-decades / 2, decades / 2))


@_family()
def subnormal(rng: np.random.Generator, n: int, d: int, dtype: np.dtype) -> Drawn:
    """Ordinary keys with some coordinates below the smallest normal number."""
    keys, query = _cloud(rng, n, d, dtype)
    least = np.finfo(dtype).smallest_subnormal
    keys[rng.random((n, d)) < 0.4] = 0
    dust = rng.integers(-1000, 1000, size=(n, d)).astype(dtype) * least
    query[rng.random(d) < 0.3] = least
    return np.where(keys == 0, dust, keys), query


@_family()
def signed_zeros(rng: np.random.Generator, n: int, d: int, dtype: np.dtype) -> Drawn:  # noqa: ARG001
    """Small integers, their zeros of either sign, the query often the origin."""
    keys = _integers(rng, n, d, 1)
    keys = np.where((keys == 0) & (rng.random((n, d)) < 0.5), -0.0, keys)
    query = _integers(rng, 1, d, 2)[0] * (rng.random() < 0.7)
    return keys + 2.0 * np.eye(1, d)[0] * (rng.random() < 0.5), -query

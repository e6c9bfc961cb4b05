"""The registry of instance families: what an instance is, and how one is made."""

import difflib
import inspect
import operator
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64

from vashista_theory._checks import is_integer


@dataclass(frozen=True)
class Known:
    """Answers known from the construction alone; ``None`` where the construction does not say.

    They are exact for the real numbers the construction starts from. Keys and query are those
    numbers rounded to float64, so a solver may differ from them by a few units of rounding of
    ``max_i ‖k_i − q‖²`` (of its square root for lengths). `tangent` also suffers a relative error
    of rounding over `min_weight`.

    Attributes:
        point: p*, the projection of the query on the hull.
        multipliers: μ_i = ⟨q − p*, p* − k_i⟩.
        face: The exposed face, μ_i = 0.
        gap: Δ; NaN with the query inside or on the hull, +inf if the face is everything.
        weights: The maximum-entropy optimal weights α*.
        min_weight: The smallest of those on the face (on the minimal face if degenerate).
        entropy: Their entropy h, in nats.
        tangent: w₀, in the span of the face around p*; ``None`` without strict complementarity.
        strict_complementarity: Whether p* is in the relative interior of the exposed face.
        margin: ρ of T5, without strict complementarity: ‖δ‖/(ε log(1/ε)) → 1/ρ.
        exponents: ⟨y, v_i⟩ of T5: α_i e^{μ_i/ε} is ε to this power, up to smaller factors.
    """

    point: Float64[np.ndarray, " d"] | None = None
    multipliers: Float64[np.ndarray, " n"] | None = None
    face: Bool[np.ndarray, " n"] | None = None
    gap: float | None = None
    weights: Float64[np.ndarray, " n"] | None = None
    min_weight: float | None = None
    entropy: float | None = None
    tangent: Float64[np.ndarray, " d"] | None = None
    strict_complementarity: bool | None = None
    margin: float | None = None
    exponents: Float64[np.ndarray, " n"] | None = None


@dataclass(frozen=True)
class Instance:
    """One projection problem, with where it came from and what is known about it.

    Attributes:
        keys: The points whose hull is meant.
        query: The point to project.
        family: The family's registered name.
        seed: The seed within the family.
        parameters: Every parameter of the family, defaults included.
        known: Answers known from the construction.
    """

    keys: Float64[np.ndarray, "n d"]
    query: Float64[np.ndarray, " d"]
    family: str
    seed: int
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    known: Known = field(default_factory=Known)


class Draw(NamedTuple):
    """What a family is given: the request and its own stream of random numbers.

    A family whose data fix the shape finds its default shape in `n` and `d`, and ignores it.
    """

    seed: int
    rng: np.random.Generator
    n: int
    d: int


class Drawn(NamedTuple):
    """What a family gives back; `parameters` adds to, or resolves, the ones it was called with."""

    keys: np.ndarray
    query: np.ndarray
    known: Known = Known()
    parameters: Mapping[str, Any] = MappingProxyType({})


Build = Callable[..., Drawn]
ShapeRule = Callable[[int, int], tuple[int, int]]


class _Family(NamedTuple):
    build: Build
    default_shape: tuple[int, int]
    nearest_shape: ShapeRule
    generator: Callable[[int], np.random.Generator]
    fixed_by_data: bool


_FAMILIES: dict[str, _Family] = {}


def family(
    name: str,
    *,
    default_shape: tuple[int, int] = (256, 16),
    nearest_shape: ShapeRule = lambda n, d: (n, d),
    generator: Callable[[int], np.random.Generator] | None = None,
    fixed_by_data: bool = False,
) -> Callable[[Build], Build]:
    """Register a family: ``build(draw, *, parameters…) -> Drawn``.

    Its docstring says what is known of its instances. Parameters are keyword-only with defaults.

    Args:
        name: The public name; `make` finds it by this.
        default_shape: (n, d) where the caller asks for none.
        nearest_shape: Maps a requested (n, d) to the nearest one the family can have.
        generator: Makes the random numbers of a seed. By default a stream of the family's own,
            so that two families with the same seed share nothing.
        fixed_by_data: Whether recorded data, not the caller, decide the shape.

    Raises:
        ValueError: If the name is taken.
    """

    def own_stream(seed: int) -> np.random.Generator:
        # crc32 and not hash(): the same on every machine and in every process.
        entropy = (seed, zlib.crc32(name.encode()))
        return np.random.default_rng(np.random.SeedSequence(entropy))

    def register(build: Build) -> Build:
        if name in _FAMILIES:
            raise ValueError(f"the family {name!r} is registered already; choose another name")
        _FAMILIES[name] = _Family(
            build, default_shape, nearest_shape, generator or own_stream, fixed_by_data
        )
        return build

    return register


def families() -> tuple[str, ...]:
    """Names of all registered families, in the order of their registration."""
    return tuple(_FAMILIES)


def nearest_shape(name: str, *, n: int, d: int) -> tuple[int | None, int | None]:
    """The shape nearest to (n, d) that a family can have; ``(None, None)`` if its data fix it.

    `make` refuses an impossible shape; a sweep over many families asks here first.
    """
    entry = _lookup(name)
    return (None, None) if entry.fixed_by_data else entry.nearest_shape(n, d)


def describe(name: str) -> str:
    """A family's docstring: its construction and what is known of its instances."""
    return inspect.getdoc(_lookup(name).build) or ""


def make(
    name: str, /, *, seed: int = 0, n: int | None = None, d: int | None = None, **parameters: Any
) -> Instance:
    """Make one instance; the same arguments give the same instance, bit for bit.

    Args:
        name: A registered family.
        seed: A non-negative integer.
        n: How many keys; the family's own default if left out.
        d: The dimension of keys and query; the family's own default if left out.
        **parameters: The family's parameters, see `describe`.

    Raises:
        ValueError: If the family or a parameter is unknown, or the family has no instance of this
            shape with these parameters.
    """
    entry = _lookup(name)
    seed = _count("seed", seed, least=0)
    given = {"n": n, "d": d}
    shape = {
        key: default if value is None else _count(key, value, least=1)
        for (key, value), default in zip(given.items(), entry.default_shape, strict=True)
    }
    settings = _settings(name, entry.build, parameters)
    drawn = entry.build(Draw(seed, entry.generator(seed), **shape), **settings)
    keys = np.ascontiguousarray(drawn.keys, np.float64)
    query = np.ascontiguousarray(drawn.query, np.float64)
    for key, actual in zip(given, keys.shape, strict=True):
        if given[key] not in {None, actual}:
            raise ValueError(
                f"family {name!r} has {key} = {actual} at seed {seed}, not {key} = {given[key]}; "
                f"leave {key} out, or ask `nearest_shape` for a possible one"
            )
    return Instance(keys, query, name, seed, {**settings, **drawn.parameters}, drawn.known)


def _settings(name: str, build: Build, parameters: dict[str, Any]) -> dict[str, Any]:
    signature = inspect.signature(build).parameters.values()
    defaults = {p.name: p.default for p in signature if p.kind is p.KEYWORD_ONLY}
    unknown = sorted(parameters.keys() - defaults.keys())
    if unknown:
        raise ValueError(
            f"family {name!r} has no parameter {unknown[0]!r}"
            f"{_suggestion(unknown[0], defaults)}; it has: {', '.join(defaults) or 'none'}"
        )
    return {**defaults, **parameters}


def _lookup(name: str) -> _Family:
    if name not in _FAMILIES:
        raise ValueError(
            f"unknown family {name!r}{_suggestion(str(name), _FAMILIES)}; "
            f"the families are: {', '.join(_FAMILIES)}"
        )
    return _FAMILIES[name]


def _suggestion(name: str, among: Mapping[str, Any]) -> str:
    nearest = difflib.get_close_matches(name, list(among), n=1, cutoff=0.4)
    return f" (did you mean {nearest[0]!r}?)" if nearest else ""


def _count(name: str, value: Any, *, least: int) -> int:
    if not is_integer(value, least=least):
        raise ValueError(f"{name} must be an integer of at least {least}, not {value!r}")
    return operator.index(value)


def require(condition: bool, family_name: str, problem: str, remedy: str) -> None:
    """Refuse impossible parameters of a family in one form of words."""
    if not condition:
        raise ValueError(f"family {family_name!r}: {problem}; {remedy}")

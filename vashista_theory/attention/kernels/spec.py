"""What the three stages take and return, and the checks that hold for every back end.

Two words for two failures: `ValueError` means that nobody can do it, `NotImplementedError` that
this back end cannot and the next one may.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, Shaped, UInt8

from vashista_theory.attention import sketch
from vashista_theory.attention.summaries import Summaries

Kind = Literal["box", "ball", "sketch"]
Stage = Literal["attend", "score", "select"]
STAGES: tuple[Stage, ...] = get_args(Stage)
KINDS: tuple[Kind, ...] = get_args(Kind)
DTYPES = ("bfloat16", "float16", "float32")


class Attended(NamedTuple):
    """What reading some pages gave.

    Attributes:
        output: Softmax average of the values, zero if no token was read.
        log_mass: Log of the sum of exponentials of the logits, −inf if no token was read.
    """

    output: Float[Array, "B H D"]
    log_mass: Float[Array, "B H"]


class PageScores(NamedTuple):
    """Log-mass of each page by its summary; −inf for a page that is not full.

    Attributes:
        upper: From above, the rounding of its own evaluation included.
        estimate: As good as the summary can tell.
    """

    upper: Float[Array, "B H P"]
    estimate: Float[Array, "B H P"]


class Selected(NamedTuple):
    """The best entries of each row.

    Attributes:
        pages: Their indices, ascending; 0 in the places behind them.
        number: How many there are.
    """

    pages: Int[Array, "B Hkv K"]
    number: Int[Array, "B Hkv"]


@dataclass(frozen=True)
class AttendShape:
    """Everything static about a call of `attend_pages`.

    Attributes:
        listed: Pages that each row's list has room for.
        pool_pages: Pages of the pool.
    """

    batch: int
    heads: int
    kv_heads: int
    head_size: int
    page_size: int
    pool_pages: int
    listed: int
    query_dtype: str
    pool_dtype: str

    @property
    def group(self) -> int:
        """Query heads that share a kv head."""
        return self.heads // self.kv_heads


class AttendCall(NamedTuple):
    """A checked call of `attend_pages`."""

    shape: AttendShape
    query: Float[Array, "B H D"]
    keys: Float[Array, "Hkv N S D"]
    values: Float[Array, "Hkv N S D"]
    pages: Int[Array, "B Hkv K"]
    tokens: Int[Array, "B Hkv"]
    scale: Float[Array, ""]


@dataclass(frozen=True)
class ScoreShape:
    """Everything static about a call of `score_pages`.

    Attributes:
        bits: Bits a dimension of the sketch, None for the other kinds.
        packed: Whether codes below 8 bits share bytes.
        stored: Type the numbers beside the codes are stored in.
    """

    kind: Kind
    bits: int | None
    packed: bool
    batch: int
    heads: int
    kv_heads: int
    head_size: int
    page_size: int
    pool_pages: int
    pages: int
    query_dtype: str
    stored: str

    @property
    def group(self) -> int:
        """Query heads that share a kv head."""
        return self.heads // self.kv_heads


class Held(NamedTuple):
    """Of the summaries the parts that a kind reads, held as bits (`_bits.py`); None for the others.

    Attributes:
        box: Corners: (Hkv, N, D) for pairs of bfloat16, else (Hkv, N, 2, D).
    """

    box: Shaped[Array, "Hkv N ..."] | None = None
    mean: Shaped[Array, "Hkv N D"] | None = None
    radius: Shaped[Array, "Hkv N"] | None = None
    codes: UInt8[Array, "Hkv N c S"] | None = None
    residual: Shaped[Array, "Hkv N S"] | None = None

    def part(self, name: str) -> Shaped[Array, "Hkv N ..."]:
        """A part that the kind reads."""
        part = getattr(self, name)
        assert part is not None, name
        return part


class ScoreCall(NamedTuple):
    """A checked call of `score_pages`."""

    shape: ScoreShape
    query: Float[Array, "B H D"]
    held: Held
    page_table: Int[Array, "B P"]
    lengths: Int[Array, " B"]
    scale: Float[Array, ""]


@dataclass(frozen=True)
class SelectShape:
    """Everything static about a call of `select_pages`."""

    batch: int
    kv_heads: int
    pages: int
    count: int


class SelectCall(NamedTuple):
    """A checked call of `select_pages`."""

    shape: SelectShape
    priority: Float[Array, "B Hkv P"]


Shape = AttendShape | ScoreShape | SelectShape


@dataclass(frozen=True)
class StageOfBackend:
    """One stage as one back end does it.

    Attributes:
        run: Takes the checked call and a config of `config_type` (or None: choose one).
        why_not: Why it cannot do such a call, in words that end a sentence, or None if it can.
        config_type: Class of its tile configuration; None if it has none.
    """

    run: Callable[[Any, Any], Any]
    why_not: Callable[[Any], str | None]
    config_type: type | None = None


@dataclass(frozen=True)
class Backend:
    """One way to compute the stages.

    Attributes:
        platforms: Where it runs, by XLA's names ("cpu", "cuda", "tpu").
        stages: The stages it has at all.
    """

    name: str
    platforms: tuple[str, ...]
    stages: Mapping[Stage, StageOfBackend]


def attend_call(
    query: Any, keys: Any, values: Any, pages: Any, tokens: Any, scale: Any
) -> AttendCall:
    """Check the arguments of `attend_pages`.

    Raises:
        ValueError: naming the argument, what it was, what is expected and what to do.
    """
    sizes: dict[str, tuple[int, str]] = {}
    query = _fit(sizes, "query", query, ("B", "H", "D"), DTYPES)
    keys = _fit(sizes, "keys", keys, ("Hkv", "N", "S", "D"), DTYPES)
    values = _fit(sizes, "values", values, ("Hkv", "N", "S", "D"), (str(keys.dtype),))
    pages = _fit(sizes, "pages", pages, ("B", "Hkv", "K"), ("int32",))
    tokens = _fit(sizes, "tokens", tokens, ("B", "Hkv"), ("int32",))
    _check_groups(sizes)
    shape = AttendShape(
        batch=sizes["B"][0],
        heads=sizes["H"][0],
        kv_heads=sizes["Hkv"][0],
        head_size=sizes["D"][0],
        page_size=sizes["S"][0],
        pool_pages=sizes["N"][0],
        listed=sizes["K"][0],
        query_dtype=str(query.dtype),
        pool_dtype=str(keys.dtype),
    )
    return AttendCall(shape, query, keys, values, pages, tokens, _scale(scale, shape.head_size))


def score_call(
    query: Any,
    summaries: Summaries,
    page_table: Any,
    lengths: Any,
    *,
    kind: str,
    page_size: int,
    bits: int | None,
    packed: bool,
    scale: Any,
) -> ScoreCall:
    """Check the arguments of `score_pages` and keep the parts of the summaries that are read.

    Raises:
        ValueError: naming the argument, what it was, what is expected and what to do.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; expected one of {KINDS}.")
    _check_whole("page_size", page_size, least=1)
    sizes: dict[str, tuple[int, str]] = {"S": (int(page_size), "page_size")}
    query = _fit(sizes, "query", query, ("B", "H", "D"), DTYPES)
    page_table = _fit(sizes, "page_table", page_table, ("B", "P"), ("int32",))
    lengths = _fit(sizes, "lengths", lengths, ("B",), ("int32",))
    if kind == "sketch":
        if bits not in sketch.BITS:
            raise ValueError(f"bits is {bits!r}; a sketch has one of {sketch.BITS}. Pass bits=...")
        if packed:
            sketch.check_packable(bits, sizes["D"][0])
    elif bits is not None or not packed:
        raise ValueError(
            f"bits={bits!r}, packed={packed!r} say how a sketch is held, but kind is {kind!r}. "
            "Leave them out, or use kind='sketch'."
        )
    held = _held_of(sizes, summaries, kind, bits, packed)
    _check_groups(sizes)
    numbers = held.mean if kind == "ball" else held.box
    half = numbers is not None and numbers.dtype in (jnp.uint16, jnp.uint32)
    shape = ScoreShape(
        kind=kind,
        bits=bits,
        packed=packed,
        batch=sizes["B"][0],
        heads=sizes["H"][0],
        kv_heads=sizes["Hkv"][0],
        head_size=sizes["D"][0],
        page_size=sizes["S"][0],
        pool_pages=sizes["N"][0],
        pages=sizes["P"][0],
        query_dtype=str(query.dtype),
        stored="bfloat16" if half else "float32",
    )
    return ScoreCall(shape, query, held, page_table, lengths, _scale(scale, shape.head_size))


def select_call(priority: Any, count: int) -> SelectCall:
    """Check the arguments of `select_pages`.

    Raises:
        ValueError: naming the argument, what it was, what is expected and what to do.
    """
    sizes: dict[str, tuple[int, str]] = {}
    priority = _fit(sizes, "priority", priority, ("B", "Hkv", "P"), ("float32",))
    _check_whole("count", count, least=1)
    batch, heads, pages = priority.shape
    if count > pages:
        raise ValueError(
            f"count is {count}, but a row of priority has {pages} entries. Use count="
            f"min(count, {pages})."
        )
    return SelectCall(SelectShape(batch, heads, pages, int(count)), priority)


def _held_of(
    sizes: dict[str, tuple[int, str]],
    summaries: Summaries,
    kind: Kind,
    bits: int | None,
    packed: bool,
) -> Held:
    def part(name: str, axes: tuple[str, ...], dtypes: tuple[str, ...]) -> Shaped[Array, "..."]:
        held = getattr(summaries, name, None)
        if held is None:
            raise ValueError(
                f"kind={kind!r} reads summaries.{name}, which these summaries do not keep. Keep it "
                "(SummarySpec), or judge by another kind."
            )
        return _fit(sizes, f"summaries.{name}", held, axes, dtypes)

    if kind == "ball":
        mean = part("mean", ("Hkv", "N", "D"), ("uint16", "float32"))
        return Held(mean=mean, radius=part("radius", ("Hkv", "N"), (str(mean.dtype),)))
    pair = getattr(getattr(summaries, "box", None), "ndim", 3) == 3
    sizes["2"] = (2, "the two corners")
    axes = ("Hkv", "N", "D") if pair else ("Hkv", "N", "2", "D")
    box = part("box", axes, ("uint32",) if pair else ("float32",))
    if kind == "box":
        return Held(box=box)
    code_bytes = sketch.row_bytes(bits or 8, sizes["D"][0], packed=packed)
    sizes["c"] = (code_bytes, f"bits={bits}, packed={packed}")
    codes = part("codes", ("Hkv", "N", "c", "S"), ("uint8",))
    residual = part("residual", ("Hkv", "N", "S"), ("uint16" if pair else "float32",))
    return Held(box=box, codes=codes, residual=residual)


def _fit(
    sizes: dict[str, tuple[int, str]],
    name: str,
    value: Any,
    axes: tuple[str, ...],
    dtypes: tuple[str, ...],
) -> Array:
    """The array, if its type and every axis fit what came before; new axes are noted in `sizes`."""
    if not isinstance(value, jax.Array | np.ndarray):
        raise ValueError(
            f"{name} is {type(value).__name__}; an array is expected. Use jnp.asarray."
        )
    if str(value.dtype) not in dtypes:
        raise ValueError(
            f"{name} has type {value.dtype}; expected {' or '.join(dtypes)}. Convert it: "
            f"{name}.astype({dtypes[-1]!r})."
        )
    expected = f"({', '.join(axes)})"
    if value.ndim != len(axes):
        raise ValueError(f"{name} has shape {value.shape}; expected {expected}.")
    for axis, size in zip(axes, value.shape, strict=True):
        known, source = sizes.setdefault(axis, (size, name))
        if size != known:
            raise ValueError(
                f"{name} has shape {value.shape}, where {expected} is expected: {axis} is {size} "
                f"here and {known} in {source}."
            )
        if size == 0:
            raise ValueError(f"{name} has shape {value.shape}: {axis} must be at least 1.")
    return jnp.asarray(value)


def _check_groups(sizes: dict[str, tuple[int, str]]) -> None:
    heads, kv_heads = sizes["H"][0], sizes["Hkv"][0]
    if heads % kv_heads:
        raise ValueError(
            f"query has {heads} heads, which cannot share {kv_heads} kv heads equally. H must be a "
            "multiple of Hkv."
        )


def _check_whole(name: str, value: object, *, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or int(value) < least:
        raise ValueError(f"{name} is {value!r}; a whole number of at least {least} is expected.")


def _scale(scale: Any, d: int) -> Float[Array, ""]:
    if scale is None:
        return jnp.asarray(d**-0.5, jnp.float32)
    if isinstance(scale, Tracer):
        if scale.shape != () or not jnp.issubdtype(scale.dtype, jnp.floating):
            raise ValueError(f"scale is {scale!r}; one floating-point number is expected.")
        # A negative one would turn every bound around; NaN shows.
        return jnp.where((scale > 0) & jnp.isfinite(scale), scale, jnp.nan).astype(jnp.float32)
    try:
        number = float(np.asarray(scale))
    except (TypeError, ValueError):
        number = math.nan
    if not 0.0 < number < math.inf:
        raise ValueError(
            f"scale is {scale!r}; one positive, finite number is expected, or None for D^(-1/2)."
        )
    return jnp.asarray(number, jnp.float32)

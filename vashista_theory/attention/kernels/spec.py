"""What the stages of a read of pages take and return, and the checks that hold for every back end.

Two words for two failures: `ValueError` means that nobody can do it, `NotImplementedError` that
this back end cannot and the next one may.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped, UInt8

from vashista_theory._checks import as_scale
from vashista_theory.attention.bounds import sketch
from vashista_theory.attention.bounds.summaries import Summaries
from vashista_theory.attention.kernels.arguments import Sizes, check_groups, check_whole, fit

Kind = Literal["box", "ball", "sketch"]
Stage = Literal["attend", "score", "select", "attend_tokens", "score_tokens", "draw_tokens"]
STAGES: tuple[Stage, ...] = get_args(Stage)
KINDS: tuple[Kind, ...] = get_args(Kind)
DTYPES = ("bfloat16", "float16", "float32")


class Attended(NamedTuple):
    """What reading some pages gave.

    Attributes:
        output: Softmax average of the values, zero if no token was read.
        log_mass: Log of the sum of exponentials of the logits, −inf if no token was read.
        top: Greatest logit, −inf if no token was read.
    """

    output: Float[Array, "B H D"]
    log_mass: Float[Array, "B H"]
    top: Float[Array, "B H"]


class PageScores(NamedTuple):
    """Log-mass of each page by its summary; −inf for a page that is not full.

    Attributes:
        upper: From above, the rounding of its own evaluation included.
        estimate: As good as the summary can tell. What was added to it to get `upper` may as well
            be taken away: twice the estimate less `upper` bounds the log-mass from below.
        best: Of a sketch the greatest logit of any key of the page, from above; None where a back
            end does not tell, and for the other kinds, whose `upper` is that of all keys alike.
    """

    upper: Float[Array, "B H P"]
    estimate: Float[Array, "B H P"]
    best: Float[Array, "B H P"] | None = None


class Selected(NamedTuple):
    """The best entries of each row.

    Attributes:
        pages: Their indices, ascending; 0 in the places behind them.
        number: How many there are.
    """

    pages: Int[Array, "B Hkv K"]
    number: Int[Array, "B Hkv"]


@dataclass(frozen=True)
class Shape:
    """What is static about a call of a stage."""


@dataclass(frozen=True)
class QueryShape(Shape):
    """What is static about any call with queries, for pages of a pool.

    Attributes:
        pool_pages: Pages of the pool.
    """

    batch: int
    heads: int
    kv_heads: int
    head_size: int
    page_size: int
    pool_pages: int
    query_dtype: str

    @property
    def group(self) -> int:
        """Query heads that share a kv head."""
        return self.heads // self.kv_heads


@dataclass(frozen=True)
class AttendShape(QueryShape):
    """Everything static about a call of `attend_pages`.

    Attributes:
        listed: Pages that each row's list has room for.
    """

    listed: int
    pool_dtype: str


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
class ScoreShape(QueryShape):
    """Everything static about a call of `score_pages`.

    Attributes:
        bits: Bits a dimension of the sketch, None for the other kinds.
        packed: Whether codes below 8 bits share bytes.
        stored: Type the numbers beside the codes are stored in.
        by_token: Whether each token's score is asked for, not those of its page.
    """

    kind: Kind
    bits: int | None
    packed: bool
    pages: int
    stored: str
    by_token: bool = False


class SummaryParts(NamedTuple):
    """The parts of summaries that a kind reads, as bits (`bounds/bits.py`); None for the others.

    Attributes:
        box: Corners: (Hkv, N, D) for pairs of bfloat16, (Hkv, N, 2, D) for float32.
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
    parts: SummaryParts
    page_table: Int[Array, "B P"]
    lengths: Int[Array, " B"]
    scale: Float[Array, ""]


@dataclass(frozen=True)
class SelectShape(Shape):
    """Everything static about a call of `select_pages`."""

    batch: int
    kv_heads: int
    pages: int
    count: int


class SelectCall(NamedTuple):
    """A checked call of `select_pages`."""

    shape: SelectShape
    priority: Float[Array, "B Hkv P"]


@dataclass(frozen=True)
class StageKernel:
    """One stage as one implementation does it.

    Attributes:
        run: Takes the checked call and a config of `config_type` (or None: choose one).
        why_not: Why it cannot do such a call, in words that end a sentence, or None if it can.
        config_type: Class of its tile configuration; None if it has none.
        scans_pool: Whether it goes over the whole pool, however few pages of it are asked for.
    """

    run: Callable[[Any, Any], Any]
    why_not: Callable[[Any], str | None]
    config_type: type | None = None
    scans_pool: bool = False


@dataclass(frozen=True)
class Implementation:
    """One way to compute the stages: kernels for one kind of device, or portable JAX.

    Attributes:
        platforms: Where it runs, by XLA's names ("cpu", "cuda", "tpu").
        stages: The stages it has at all.
    """

    name: str
    platforms: tuple[str, ...]
    stages: Mapping[Stage, StageKernel]


def attend_call(
    query: Any, keys: Any, values: Any, pages: Any, tokens: Any, scale: Any
) -> AttendCall:
    """Check the arguments of `attend_pages`.

    Raises:
        ValueError: naming the argument, what it was, what is expected and what to do.
    """
    sizes: Sizes = {}
    query = fit(sizes, "query", query, ("B", "H", "D"), DTYPES)
    keys = fit(sizes, "keys", keys, ("Hkv", "N", "S", "D"), DTYPES)
    values = fit(sizes, "values", values, ("Hkv", "N", "S", "D"), (str(keys.dtype),))
    pages = fit(sizes, "pages", pages, ("B", "Hkv", "K"), ("int32",))
    tokens = fit(sizes, "tokens", tokens, ("B", "Hkv"), ("int32",))
    check_groups(sizes)
    listed, pool_dtype = sizes["K"][0], str(keys.dtype)
    shape = AttendShape(**query_shape(sizes, query), listed=listed, pool_dtype=pool_dtype)
    factor = as_scale(scale, shape.head_size, jnp.dtype("float32"))
    return AttendCall(shape, query, keys, values, pages, tokens, factor)


def query_shape(sizes: Sizes, query: Array) -> dict[str, Any]:
    """What `QueryShape` says, from the arguments checked so far."""
    axes = {"batch": "B", "heads": "H", "kv_heads": "Hkv", "head_size": "D", "page_size": "S"}
    axes["pool_pages"] = "N"
    return {name: sizes[axis][0] for name, axis in axes.items()} | {"query_dtype": str(query.dtype)}


def score_call(
    query: Any,
    summaries: Summaries | SummaryParts,
    page_table: Any,
    lengths: Any,
    *,
    kind: str,
    page_size: int,
    bits: int | None,
    packed: bool,
    scale: Any,
    by_token: bool = False,
) -> ScoreCall:
    """Check the arguments of `score_pages` and keep the parts of the summaries that are read.

    By token, those of `score_tokens`, which reads all but the residuals of a sketch.

    Raises:
        ValueError: naming the argument, what it was, what is expected and what to do.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; expected one of {KINDS}.")
    check_whole("page_size", page_size, least=1)
    sizes: Sizes = {"S": (int(page_size), "page_size")}
    query = fit(sizes, "query", query, ("B", "H", "D"), DTYPES)
    page_table = fit(sizes, "page_table", page_table, ("B", "P"), ("int32",))
    lengths = fit(sizes, "lengths", lengths, ("B",), ("int32",))
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
    parts = _parts_of(sizes, summaries, kind, bits, packed, by_token=by_token)
    check_groups(sizes)
    numbers = parts.mean if kind == "ball" else parts.box
    half = numbers is not None and numbers.dtype in (jnp.uint16, jnp.uint32)
    shape = ScoreShape(
        **query_shape(sizes, query),
        kind=kind,
        bits=bits,
        packed=packed,
        pages=sizes["P"][0],
        stored="bfloat16" if half else "float32",
        by_token=by_token,
    )
    factor = as_scale(scale, shape.head_size, jnp.dtype("float32"))
    return ScoreCall(shape, query, parts, page_table, lengths, factor)


def select_call(priority: Any, count: int) -> SelectCall:
    """Check the arguments of `select_pages`.

    Raises:
        ValueError: naming the argument, what it was, what is expected and what to do.
    """
    sizes: Sizes = {}
    priority = fit(sizes, "priority", priority, ("B", "Hkv", "P"), ("float32",))
    check_whole("count", count, least=1)
    batch, heads, pages = priority.shape
    if count > pages:
        raise ValueError(
            f"count is {count}, but a row of priority has {pages} entries. Use count="
            f"min(count, {pages})."
        )
    return SelectCall(SelectShape(batch, heads, pages, int(count)), priority)


def _parts_of(
    sizes: Sizes,
    summaries: Summaries | SummaryParts,
    kind: Kind,
    bits: int | None,
    packed: bool,
    *,
    by_token: bool,
) -> SummaryParts:
    def part(name: str, axes: tuple[str, ...], dtypes: tuple[str, ...]) -> Shaped[Array, "..."]:
        held = getattr(summaries, name, None)
        if held is None:
            raise ValueError(
                f"kind={kind!r} reads summaries.{name}, which these summaries do not keep. Keep it "
                "(SummarySpec), or judge by another kind."
            )
        return fit(sizes, f"summaries.{name}", held, axes, dtypes)

    if kind == "ball":
        mean = part("mean", ("Hkv", "N", "D"), ("uint16", "float32"))
        return SummaryParts(mean=mean, radius=part("radius", ("Hkv", "N"), (str(mean.dtype),)))
    given = getattr(summaries, "box", None)
    pair = getattr(given, "ndim", 3) == 3
    sizes["2"] = (2, "the two corners")
    axes = ("Hkv", "N", "D") if pair else ("Hkv", "N", "2", "D")
    box = part("box", axes, ("uint32",) if pair else ("float32",))
    if kind == "box":
        return SummaryParts(box=box)
    code_bytes = sketch.row_bytes(bits or 8, sizes["D"][0], packed=packed)
    sizes["c"] = (code_bytes, f"bits={bits}, packed={packed}")
    codes = part("codes", ("Hkv", "N", "c", "S"), ("uint8",))
    if by_token:
        return SummaryParts(box=box, codes=codes)
    residual = part("residual", ("Hkv", "N", "S"), ("uint16" if pair else "float32",))
    return SummaryParts(box=box, codes=codes, residual=residual)

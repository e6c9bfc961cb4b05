"""The stages on a CPU, in functions that Numba compiles."""

import functools
import threading
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vashista_theory.attention.bounds import rounding, sketch
from vashista_theory.attention.bounds.page_bounds import keys_in_range, of_sketched_sums
from vashista_theory.attention.bounds.sampling import Spread
from vashista_theory.attention.kernels.cpu import (
    attend_kernel,
    draw_kernel,
    foreign,
    score_kernel,
)
from vashista_theory.attention.kernels.cpu.attend_kernel import attend_pages
from vashista_theory.attention.kernels.cpu.draw_stage import draw_tokens
from vashista_theory.attention.kernels.cpu.select_kernel import select_pages
from vashista_theory.attention.kernels.cpu.sketch_sums import LANES
from vashista_theory.attention.kernels.cpu.tokens_kernel import attend_tokens
from vashista_theory.attention.kernels.spec import (
    AttendCall,
    Attended,
    AttendShape,
    Implementation,
    PageScores,
    ScoreCall,
    ScoreShape,
    SelectCall,
    Selected,
    StageKernel,
)
from vashista_theory.attention.kernels.token_spec import (
    AttendedTokens,
    AttendTokensCall,
    AttendTokensShape,
    DrawCall,
    DrawnTokens,
    DrawShape,
)

_STORED = {"float32": "float32", "bfloat16": "uint16"}
_LITTLE = 2048  # tokens of all rows that are not worth another thread
_COMPILERS: dict[str, Callable[..., None]] = {
    "attend": attend_pages,
    "attend_tokens": attend_tokens,
    "draw_tokens": draw_tokens,
    "score_box": score_kernel.score_boxes,
    "score_ball": score_kernel.score_balls,
    "score_sketch": score_kernel.score_sketches,
    "score_tokens": score_kernel.score_all_tokens,
    "select": select_pages,
}
_PARTS = {
    "box": ("box",),
    "ball": ("mean", "radius"),
    "sketch": ("box", "codes", "residual"),
    "tokens": ("box", "codes"),
}
_LOCK = threading.Lock()


def _target(stage: str, *stored: str) -> str:
    """The name by which XLA knows a kernel for numbers so stored; compiled if it is new."""
    with _LOCK:
        return _compiled(stage, *stored)


@functools.cache
def _compiled(stage: str, *stored: str) -> str:
    name = "_".join(["vashista", stage, *stored])
    _COMPILERS[stage](name, *stored)
    return name


def attend(call: AttendCall, config: None = None) -> Attended:
    """Read the listed pages piece by piece."""
    del config
    shape = call.shape
    by_head = (shape.batch, shape.heads)
    single = jnp.float32
    pieces = -(-shape.listed // attend_kernel.PIECE)
    scratch = (shape.batch * shape.kv_heads, pieces, shape.group, shape.head_size + 2)
    rows = shape.batch * shape.kv_heads
    little = rows * pieces * min(shape.listed, attend_kernel.PIECE) * shape.page_size < _LITTLE
    output, log_mass, top, _ = foreign.call(
        _target("attend", _STORED[shape.pool_dtype]),
        (
            ((*by_head, shape.head_size), single),
            (by_head, single),
            (by_head, single),
            (scratch, single),
        ),
        (-rows * pieces if little else rows * pieces, -rows),
        call.query.astype(single), call.keys, call.values, call.pages, call.tokens,
        call.scale.reshape(1),
    )  # fmt: skip
    return Attended(output, log_mass, top)


def attend_to_tokens(call: AttendTokensCall, config: None = None) -> AttendedTokens:
    """Read the listed tokens."""
    del config
    shape = call.shape
    by_head, single = (shape.batch, shape.heads), jnp.float32
    vectors = ((*by_head, shape.head_size), single)
    numbers = (by_head, single)
    output, log_mass, top, mass, mean, scatter = foreign.call(
        _target("attend_tokens", _STORED[shape.pool_dtype]),
        (vectors, numbers, numbers, numbers, vectors, numbers),
        (shape.batch * shape.kv_heads,),
        call.query.astype(single), call.keys, call.values, call.places, call.tokens,
        call.log_weights, call.scale.reshape(1),
    )  # fmt: skip
    return AttendedTokens(output, log_mass, top, Spread(mass, mean, scatter))


def draw(call: DrawCall, config: None = None) -> DrawnTokens:
    """Draw by the sketches where they lie."""
    del config
    shape = call.shape
    single, whole = jnp.float32, jnp.int32
    rows = (shape.batch, shape.kv_heads)
    tokens = shape.pages * shape.page_size
    pieces = -(-shape.pages // draw_kernel.PIECE)
    together = shape.batch * shape.kv_heads
    places, log_weights, counts, thresholds, *_ = foreign.call(
        _target("draw_tokens"),
        (
            ((*rows, shape.listed), whole),
            ((*rows, shape.listed), single),
            ((*rows, 4), whole),
            ((*rows, 2), single),
            ((*rows, shape.group, tokens), single),
            ((*rows, pieces * shape.group, 2), single),
        ),
        (together * pieces, together, shape.batch, together),
        call.query.astype(single), call.box, call.codes, call.value_bound, call.value_codes,
        call.page_table, call.ends, call.sure, call.expected, call.keys,
        jnp.stack([call.scale.astype(single), jnp.asarray(shape.levels, single)]),
    )  # fmt: skip
    number, pages, everything, undrawable = jnp.moveaxis(counts, -1, 0)
    return DrawnTokens(
        places, log_weights, number, thresholds[..., 0], pages, everything > 0, undrawable > 0
    )


def score(call: ScoreCall, config: None = None) -> PageScores:
    """Judge pages by their summaries where they lie."""
    del config
    shape = call.shape
    results = (shape.batch, shape.heads, shape.pages)
    found = _score(call, shape.kind, (results,) * (3 if shape.kind == "sketch" else 2))
    if shape.kind == "sketch":
        sketched, raised, best = found
        bounds = of_sketched_sums(sketched, raised, best, shape.page_size)
        scores = PageScores(bounds.upper, bounds.estimate, bounds.best)
    else:
        least, greatest = found
        _, middle, upper = keys_in_range(least, greatest, shape.page_size)
        scores = PageScores(upper, middle)
    place = jnp.arange(shape.pages, dtype=jnp.int32)
    full = (place[None, :] < call.lengths[:, None] // shape.page_size)[:, None, :]
    return jax.tree.map(lambda one: jnp.where(full, one, -jnp.inf), scores)


def score_tokens(call: ScoreCall, config: None = None) -> Float[Array, "B H P S"]:
    """Score every token by its sketch where that lies."""
    del config
    shape = call.shape
    results = (shape.batch, shape.heads, shape.pages, shape.page_size)
    return _score(call, "tokens", (results,))[0]


def _score(call: ScoreCall, what: str, shapes: Sequence[tuple[int, ...]]) -> Sequence[Array]:
    """Results of these shapes for all pages, −inf for those that are not full."""
    shape = call.shape
    pieces = shape.batch * shape.kv_heads * -(-shape.pages // score_kernel.PIECE)
    little = shape.batch * shape.kv_heads * shape.pages * shape.page_size < _LITTLE
    query = call.query.astype(jnp.float32)
    return foreign.call(
        _target(f"score_{what}"),
        [(one, jnp.float32) for one in shapes],
        (-pieces if little else pieces,),
        query, rounding.norm_from_above(query), _numbers(call), call.page_table,
        call.lengths // shape.page_size, *(call.parts.part(name) for name in _PARTS[what]),
    )  # fmt: skip


def _numbers(call: ScoreCall) -> Float[Array, "8"]:
    """What `score_kernel` asks for."""
    bits, d, single = call.shape.bits or 8, call.shape.head_size, jnp.float32
    least, slack = rounding.product_slack(jnp.array([0, 1], single), d)
    numbers = [
        *(call.scale, sketch.levels(bits), not sketch.aimed(bits)),
        *(
            rounding.raising(0, single),
            rounding.raising(d, single),
            rounding.lost_length(d, single),
        ),
        *(slack, least),
    ]
    return jnp.stack([jnp.asarray(number, single) for number in numbers])


def select(call: SelectCall, config: None = None) -> Selected:
    """The best pages by a threshold."""
    del config
    shape, whole = call.shape, jnp.int32
    rows = (shape.batch, shape.kv_heads)
    together = shape.batch * shape.kv_heads
    pages, number = foreign.call(
        _target("select"),
        (((*rows, shape.count), whole), (rows, whole)),
        (-together if together * shape.pages < _LITTLE else together,),
        call.priority,
    )
    return Selected(pages, number)


def _why_not_draw(shape: DrawShape) -> str | None:
    return _why_not_sketch(shape, shape.code_bytes)


def _why_not_score(shape: ScoreShape) -> str | None:
    if shape.stored != "bfloat16":
        return f"summaries are {shape.stored}, and it reads bfloat16"
    if shape.kind != "sketch":
        return None
    code_bytes = sketch.row_bytes(shape.bits or 8, shape.head_size, packed=shape.packed)
    return _why_not_sketch(shape, code_bytes)


def _why_not_sketch(shape: DrawShape | ScoreShape, code_bytes: int) -> str | None:
    if shape.page_size % LANES:
        return f"pages have {shape.page_size} tokens, and it scores {LANES} at once"
    if shape.stored != "bfloat16":
        return f"summaries are {shape.stored}, and it reads bfloat16"
    if shape.head_size % code_bytes or 8 % (shape.head_size // code_bytes):
        return f"{code_bytes} bytes hold {shape.head_size} codes that cross their ends"
    return None


def _why_not(shape: AttendShape | AttendTokensShape) -> str | None:
    if shape.pool_dtype not in _STORED:
        return f"pools are {shape.pool_dtype}, and it reads {' or '.join(_STORED)}"
    return None


def _nothing_in_the_way(shape: object) -> None:
    del shape


if not foreign.layout_is_known():
    raise ImportError("jaxlib's foreign functions have another layout than the one known here")

IMPLEMENTATION = Implementation(
    name="numba",
    platforms=("cpu",),
    stages={
        "attend": StageKernel(attend, _why_not),
        "attend_tokens": StageKernel(attend_to_tokens, _why_not),
        "draw_tokens": StageKernel(draw, _why_not_draw),
        "score": StageKernel(score, _why_not_score),
        "score_tokens": StageKernel(score_tokens, _why_not_score),
        "select": StageKernel(select, _nothing_in_the_way),
    },
)

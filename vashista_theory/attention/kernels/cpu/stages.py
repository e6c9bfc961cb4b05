"""The stages on a CPU, in functions that Numba compiles."""

import functools
import threading
from collections.abc import Callable

import jax.numpy as jnp

from vashista_theory.attention.bounds.sampling import Spread
from vashista_theory.attention.kernels.cpu import attend_kernel, draw_kernel, foreign
from vashista_theory.attention.kernels.cpu.attend_kernel import attend_pages
from vashista_theory.attention.kernels.cpu.draw_stage import draw_tokens
from vashista_theory.attention.kernels.cpu.sketch_sums import LANES
from vashista_theory.attention.kernels.cpu.tokens_kernel import attend_tokens
from vashista_theory.attention.kernels.spec import (
    AttendCall,
    Attended,
    AttendShape,
    Implementation,
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
    places, log_weights, counts, *_ = foreign.call(
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
    return DrawnTokens(places, log_weights, number, pages, everything > 0, undrawable > 0)


def _why_not_draw(shape: DrawShape) -> str | None:
    if shape.page_size % LANES:
        return f"pages have {shape.page_size} tokens, and it draws {LANES} at once"
    if shape.stored != "bfloat16":
        return f"boxes are {shape.stored}, and it reads pairs of bfloat16"
    if shape.head_size % shape.code_bytes or 8 % (shape.head_size // shape.code_bytes):
        return f"{shape.code_bytes} bytes hold {shape.head_size} codes that cross their ends"
    return None


def _why_not(shape: AttendShape | AttendTokensShape) -> str | None:
    if shape.pool_dtype not in _STORED:
        return f"pools are {shape.pool_dtype}, and it reads {' or '.join(_STORED)}"
    return None


if not foreign.layout_is_known():
    raise ImportError("jaxlib's foreign functions have another layout than the one known here")

IMPLEMENTATION = Implementation(
    name="numba",
    platforms=("cpu",),
    stages={
        "attend": StageKernel(attend, _why_not),
        "attend_tokens": StageKernel(attend_to_tokens, _why_not),
        "draw_tokens": StageKernel(draw, _why_not_draw),
    },
)

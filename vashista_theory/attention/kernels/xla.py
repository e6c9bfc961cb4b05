"""The three stages in plain JAX: on every platform, in every shape.

What device kernels fall back to, so it refuses nothing.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from vashista_theory._numerics import unit_roundoff
from vashista_theory.attention import sketch
from vashista_theory.attention._bits import from_bits
from vashista_theory.attention.kernels.spec import (
    AttendCall,
    Attended,
    AttendShape,
    Backend,
    Held,
    PageScores,
    ScoreCall,
    ScoreShape,
    SelectCall,
    Selected,
    SelectShape,
    StageOfBackend,
)
from vashista_theory.attention.rounding import counted_logits, norm_from_above, score_slack
from vashista_theory.attention.summaries import corners

_CHUNK = 512  # pages judged at once: their codes, one float each, stay in the cache
_EXACT = jax.lax.Precision.HIGHEST


def attend(call: AttendCall, config: None = None) -> Attended:
    """Gather the listed pages and attend to them in float32."""
    del config
    return _attend(call.shape, *call[1:])


@functools.partial(jax.jit, static_argnums=0)
def _attend(
    shape: AttendShape,
    query: Float[Array, "B H D"],
    keys: Float[Array, "Hkv N S D"],
    values: Float[Array, "Hkv N S D"],
    pages: Int[Array, "B Hkv K"],
    tokens: Int[Array, "B Hkv"],
    scale: Float[Array, ""],
) -> Attended:
    size, d = shape.page_size, shape.head_size
    place = jnp.arange(shape.listed * size, dtype=jnp.int32)
    counted = place[None, None, :] < tokens[..., None]
    heads = jnp.arange(shape.kv_heads, dtype=jnp.int32)[None, :, None]
    used = jnp.where(counted[..., ::size], pages, 0)

    def fetch(pool: Array) -> Float[Array, "B Hkv T D"]:
        # As one flat run a page: XLA then copies pages, not vectors.
        flat = pool.reshape(*pool.shape[:2], -1)[heads, used]
        return flat.reshape(*used.shape[:2], -1, d).astype(jnp.float32)

    rows = query.astype(jnp.float32).reshape(shape.batch, shape.kv_heads, shape.group, d)
    logits = scale * jnp.einsum("bhgd,bhtd->bhgt", rows, fetch(keys), precision=_EXACT)
    logits = counted_logits(logits, counted[:, :, None, :])
    top = jnp.max(logits, axis=-1, keepdims=True)
    anchor = jnp.where(top == -jnp.inf, 0.0, top)
    weights = jnp.exp(logits - anchor)
    mass = jnp.sum(weights, axis=-1, keepdims=True)
    # What lies behind the last token may be anything, and 0 times infinity is not 0.
    seen = jnp.where(counted[..., None], fetch(values), 0.0)
    sums = jnp.einsum("bhgt,bhtd->bhgd", weights, seen, precision=_EXACT)
    output = sums / jnp.where(mass > 0, mass, 1.0)
    shown = (shape.batch, shape.heads)
    log_mass = anchor + jnp.log(mass)
    return Attended(output.reshape(*shown, d), log_mass.reshape(shown), top.reshape(shown))


def score(call: ScoreCall, config: None = None) -> PageScores:
    """Fetch the summaries of each sequence's pages and judge them."""
    del config
    return _score(call.shape, *call[1:])


@functools.partial(jax.jit, static_argnums=0)
def _score(
    shape: ScoreShape,
    query: Float[Array, "B H D"],
    held: Held,
    page_table: Int[Array, "B P"],
    lengths: Int[Array, " B"],
    scale: Float[Array, ""],
) -> PageScores:
    rows = query.astype(jnp.float32)
    rows = rows.reshape(shape.batch, shape.kv_heads, shape.group, shape.head_size)
    judge = _JUDGES[shape.kind]
    full = jnp.arange(shape.pages, dtype=jnp.int32)[None, :] < lengths[:, None] // shape.page_size
    physical = jnp.where(full, page_table, 0)
    chunk = min(_CHUNK, shape.pages)
    padding = -shape.pages % chunk
    chunks = jnp.pad(physical, ((0, 0), (0, padding))).reshape(shape.batch, -1, chunk)

    def fetch(
        part: Shaped[Array, "Hkv N ..."], pages: Int[Array, "B C"]
    ) -> Shaped[Array, "B Hkv C ..."]:
        return jnp.swapaxes(part[:, pages], 0, 1)

    def of_chunk(pages: Int[Array, "B C"]) -> PageScores:
        found = judge(rows, jax.tree.map(lambda a: fetch(a, pages), held), shape, scale)
        return jax.tree.map(lambda a: a.reshape(*query.shape[:2], -1), found)

    def joined(found: Float[Array, "n B H C"]) -> Float[Array, "B H P"]:
        whole = jnp.moveaxis(found, 0, 2).reshape(*query.shape[:2], -1)[..., : shape.pages]
        return jnp.where(full[:, None, :], whole, -jnp.inf)

    return jax.tree.map(joined, jax.lax.map(of_chunk, jnp.swapaxes(chunks, 0, 1)))


def _dot(
    rows: Float[Array, "B Hkv G D"], pages: Float[Array, "B Hkv P D"]
) -> Float[Array, "B Hkv G P"]:
    return jnp.einsum("bhgd,bhpd->bhgp", rows, pages, precision=_EXACT)


def _raised(log_mass: Float[Array, "*n"], terms: int) -> Float[Array, "*n"]:
    """From above also after the rounding of a log-mass of so many terms."""
    u = unit_roundoff(log_mass.dtype)
    return log_mass + 4 * (terms + 16) * u + 8 * u * jnp.abs(log_mass)


def _of_box(
    rows: Float[Array, "B Hkv G D"], held: Held, shape: ScoreShape, scale: Float[Array, ""]
) -> PageScores:
    """S keys with the greatest logit in the box; half way between it and the least."""
    lower, upper = corners(held.part("box"), jnp.float32)
    positive, negative = jnp.maximum(rows, 0.0), jnp.minimum(rows, 0.0)
    greatest = _dot(positive, upper) + _dot(negative, lower)
    least = _dot(positive, lower) + _dot(negative, upper)
    slack = _score_slack(rows, lower, upper)
    count = math.log(shape.page_size)
    above = _raised(count + scale * (greatest + slack), 1)
    return PageScores(above, count + 0.5 * scale * (greatest + least))


def _of_ball(
    rows: Float[Array, "B Hkv G D"], held: Held, shape: ScoreShape, scale: Float[Array, ""]
) -> PageScores:
    """S keys with the greatest logit in the ball, ⟨q, c⟩ + ‖q‖ρ; the logit of the centre."""
    mean, radius = (from_bits(held.part(name), jnp.float32) for name in ("mean", "radius"))
    centre = _dot(rows, mean)
    norms, radius = norm_from_above(rows)[..., None], radius[:, :, None, :]
    reach = norm_from_above(mean)[:, :, None, :] + radius
    slack = score_slack(reach, norms, shape.head_size)
    count = math.log(shape.page_size)
    above = _raised(count + scale * (centre + norms * radius + slack), 1)
    return PageScores(above, count + scale * centre)


def _of_sketch(
    rows: Float[Array, "B Hkv G D"], held: Held, shape: ScoreShape, scale: Float[Array, ""]
) -> PageScores:
    """Every sketched key, plus what its rounding can have taken away; without it."""
    lower, upper = corners(held.part("box"), jnp.float32)
    bits, d = shape.bits or 8, shape.head_size
    step = sketch.grid_step(lower, upper, bits)
    codes = sketch.unpack(held.part("codes"), bits) if shape.packed else held.part("codes")
    # ⟨q, lower + code × step⟩, the query folded with the step so that codes enter as they are.
    folded = rows[..., None, :] * step[:, :, None]
    inner = jnp.einsum("bhgpd,bhpds->bhgps", folded, codes.astype(jnp.float32), precision=_EXACT)
    scores = _dot(rows, lower)[..., None] + inner
    u = unit_roundoff(jnp.float32)
    norms = norm_from_above(rows)[..., None]
    by_dimension = 0.5 * _dot(jnp.abs(rows), step) * (1.0 + (d + 8) * u)
    residual = from_bits(held.part("residual"), jnp.float32)[:, :, None]
    by_length = norms[..., None] * residual * (1.0 + 8 * u)
    errors = jnp.minimum(by_dimension[..., None], by_length)
    errors = errors + _score_slack(rows, lower, upper)[..., None]
    above = scale * (scores + errors)
    return PageScores(
        _raised(jax.nn.logsumexp(above, axis=-1), shape.page_size),
        jax.nn.logsumexp(scale * scores, axis=-1),
        _raised(jnp.max(above, axis=-1), 1),
    )


_JUDGES = {"box": _of_box, "ball": _of_ball, "sketch": _of_sketch}


def _score_slack(
    rows: Float[Array, "B Hkv G D"],
    lower: Float[Array, "B Hkv P D"],
    upper: Float[Array, "B Hkv P D"],
) -> Float[Array, "B Hkv G P"]:
    """How far a computed score of a key in the box may be from the exact one."""
    reach = norm_from_above(jnp.maximum(jnp.abs(lower), jnp.abs(upper)))[:, :, None, :]
    return score_slack(reach, norm_from_above(rows)[..., None], rows.shape[-1])


def select(call: SelectCall, config: None = None) -> Selected:
    """The best entries by threshold search: no sort, which would cost more than all the rest."""
    del config
    return _select(call.shape, call.priority)


@functools.partial(jax.jit, static_argnums=0)
def _select(shape: SelectShape, priority: Float[Array, "B Hkv P"]) -> Selected:
    order = as_ordered(priority)
    threshold = greatest_threshold(order, shape.count)[..., None]
    above, equal = order > threshold, order == threshold
    room = shape.count - jnp.sum(above, axis=-1, keepdims=True, dtype=jnp.int32)
    early = jnp.cumsum(equal, axis=-1, dtype=jnp.int32) <= room
    chosen = (above | (equal & early)) & (order > NOTHING)
    # The j-th chosen entry is the first at which j were chosen up to there.
    up_to = jnp.cumsum(chosen, axis=-1, dtype=jnp.int32)
    places = jnp.arange(1, shape.count + 1, dtype=jnp.int32)
    find = jax.vmap(lambda row: jnp.searchsorted(row, places))
    pages = find(up_to.reshape(-1, shape.pages)).reshape(*priority.shape[:2], shape.count)
    number = up_to[..., -1]
    exists = places[None, None, :] <= number[..., None]
    return Selected(jnp.where(exists, pages, 0).astype(jnp.int32), number)


NOTHING = -(2**31)


def as_ordered(numbers: Float[Array, "*n"]) -> Int[Array, "*n"]:
    """Integers in the order of the numbers; −inf and NaN are the least of all, −0 equals 0.

    By their bits alone: devices that flush the smallest numbers to zero would find them equal.
    """
    bits = jax.lax.bitcast_convert_type(numbers, jnp.int32)
    size = bits & jnp.int32(0x7FFFFFFF)
    order = jnp.where(bits < 0, -size, size)
    infinity = jnp.int32(0x7F800000)
    return jnp.where((size > infinity) | (order == -infinity), jnp.int32(NOTHING), order)


def greatest_threshold(order: Int[Array, "*n P"], count: int) -> Int[Array, "*n"]:
    """The greatest integer that at least `count` entries of a row reach, a bit at a time."""

    def reach(threshold: Int[Array, "*n"]) -> Bool[Array, "*n"]:
        reached = order >= threshold[..., None]
        return jnp.sum(reached, axis=-1, dtype=jnp.int32) >= count

    def refine(i: Int[Array, ""], least: Int[Array, "*n"]) -> Int[Array, "*n"]:
        higher = least + jnp.left_shift(jnp.int32(1), jnp.int32(30) - i)
        return jnp.where(reach(higher), higher, least)

    zero = jnp.zeros(order.shape[:-1], jnp.int32)
    least = jnp.where(reach(zero), zero, jnp.int32(NOTHING))
    return jax.lax.fori_loop(jnp.int32(0), jnp.int32(31), refine, least)


def _nothing_in_the_way(shape: object) -> None:
    del shape


BACKEND = Backend(
    name="xla",
    platforms=("cpu", "cuda", "rocm", "tpu"),
    stages={
        "attend": StageOfBackend(attend, _nothing_in_the_way),
        "score": StageOfBackend(score, _nothing_in_the_way),
        "select": StageOfBackend(select, _nothing_in_the_way),
    },
)

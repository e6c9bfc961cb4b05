"""The stages in plain JAX: on every platform, in every shape.

What device kernels fall back to, so it refuses nothing.
"""

import functools
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from vashista_theory._numerics import finite_or_zero, softmax_shares
from vashista_theory.attention.bounds import sketch
from vashista_theory.attention.bounds.page_bounds import (
    Query,
    as_query,
    ball_range,
    box_range,
    dot,
    keys_in_range,
    sketch_errors,
    sketched_keys,
)
from vashista_theory.attention.bounds.rounding import counted_logits
from vashista_theory.attention.bounds.sampling import Spread
from vashista_theory.attention.bounds.summaries import corners
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
    SelectShape,
    StageKernel,
    SummaryParts,
)
from vashista_theory.attention.kernels.token_spec import (
    AttendedTokens,
    AttendTokensCall,
    AttendTokensShape,
    doubt,
)

_CHUNK = 512  # pages judged at once: their codes, one float each, stay in the cache
_EXACT = jax.lax.Precision.HIGHEST
_Scores = TypeVar("_Scores")


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

    logits = _logits(query, fetch(keys), counted, scale)
    attended, _, _ = _softmax_of(logits, fetch(values), counted)
    return Attended(*(a.reshape(shape.batch, shape.heads, *a.shape[3:]) for a in attended))


def _logits(
    query: Float[Array, "B H D"],
    keys: Float[Array, "B Hkv T D"],
    counted: Bool[Array, "B Hkv T"],
    scale: Float[Array, ""],
) -> Float[Array, "B Hkv G T"]:
    """Logits of keys at hand, −inf for one that does not count."""
    batch, heads, _, d = keys.shape
    rows = query.astype(jnp.float32).reshape(batch, heads, -1, d)
    logits = scale * jnp.einsum("bhgd,bhtd->bhgt", rows, keys, precision=_EXACT)
    return counted_logits(logits, counted[:, :, None, :])


def _softmax_of(
    logits: Float[Array, "B Hkv G T"],
    values: Float[Array, "B Hkv T D"],
    counted: Bool[Array, "B Hkv T"],
) -> tuple[Attended, Float[Array, "B Hkv G T"], Float[Array, "B Hkv T D"]]:
    """Output, log-mass and top by head; the weights relative to the top; the values that count."""
    top = jnp.max(logits, axis=-1, keepdims=True)
    weights = softmax_shares(logits, top)
    mass = jnp.sum(weights, axis=-1, keepdims=True)
    # What lies behind the last token may be anything, and 0 times infinity is not 0.
    seen = jnp.where(counted[..., None], values, 0.0)
    sums = jnp.einsum("bhgt,bhtd->bhgd", weights, seen, precision=_EXACT)
    output = sums / jnp.where(mass > 0, mass, 1.0)
    log_mass = finite_or_zero(top) + jnp.log(mass)
    return Attended(output, log_mass[..., 0], top[..., 0]), weights, seen


def attend_tokens(call: AttendTokensCall, config: None = None) -> AttendedTokens:
    """Gather the listed tokens and attend to them in float32, each by its weight."""
    del config
    return _attend_tokens(call.shape, *call[1:])


@functools.partial(jax.jit, static_argnums=0)
def _attend_tokens(
    shape: AttendTokensShape,
    query: Float[Array, "B H D"],
    keys: Float[Array, "Hkv N S D"],
    values: Float[Array, "Hkv N S D"],
    places: Int[Array, "B Hkv C"],
    tokens: Int[Array, "B Hkv"],
    log_weights: Float[Array, "B Hkv C"],
    scale: Float[Array, ""],
) -> AttendedTokens:
    counted = jnp.arange(shape.listed, dtype=jnp.int32)[None, None, :] < tokens[..., None]
    gathered = [gather_tokens(pool, places, counted).astype(jnp.float32) for pool in (keys, values)]
    weigh = jnp.where(counted, log_weights, 0.0)
    logits = _logits(query, gathered[0], counted, scale) + weigh[:, :, None, :]
    attended, weights, seen = _softmax_of(logits, gathered[1], counted)
    spread = _spread_of(weights**2 * doubt(weigh)[:, :, None, :], seen)

    def by_head(numbers: Float[Array, "B Hkv G *D"]) -> Float[Array, "B H *D"]:
        return numbers.reshape(shape.batch, shape.heads, *numbers.shape[3:])

    output, log_mass, top = (by_head(a) for a in attended)
    return AttendedTokens(output, log_mass, top, Spread(*(by_head(a) for a in spread)))


def gather_tokens(
    pool: Float[Array, "Hkv N S D"], places: Int[Array, "B Hkv C"], counted: Bool[Array, "B Hkv C"]
) -> Float[Array, "B Hkv C D"]:
    """Keys or values of single tokens; of the first token of the pool where none counts."""
    heads = jnp.arange(pool.shape[0], dtype=jnp.int32)[None, :, None]
    flat = pool.reshape(pool.shape[0], -1, pool.shape[3])
    return flat[heads, jnp.where(counted, places, 0)]


def _spread_of(masses: Float[Array, "B Hkv G T"], values: Float[Array, "B Hkv T D"]) -> Spread:
    """Of values with these masses; head by head, as the distances have an axis for each value."""
    mass = jnp.sum(masses, axis=-1)
    sums = jnp.einsum("bhgt,bhtd->bhgd", masses, values, precision=_EXACT)
    mean = sums / jnp.where(mass > 0, mass, 1.0)[..., None]
    scatter = [
        jnp.sum(masses[:, :, g] * jnp.sum((values - mean[:, :, g, None]) ** 2, axis=-1), axis=-1)
        for g in range(mass.shape[2])
    ]
    return Spread(mass, mean, jnp.stack(scatter, axis=-1))


def score(call: ScoreCall, config: None = None) -> PageScores:
    """Fetch the summaries of each sequence's pages and judge them."""
    del config
    return _score(call.shape, *call[1:])


@functools.partial(jax.jit, static_argnums=0)
def _score(
    shape: ScoreShape,
    query: Float[Array, "B H D"],
    parts: SummaryParts,
    page_table: Int[Array, "B P"],
    lengths: Int[Array, " B"],
    scale: Float[Array, ""],
) -> PageScores:
    def judge(asked: Query, parts: SummaryParts) -> PageScores:
        return _JUDGES[shape.kind](asked, parts, shape)

    return _over_pages(judge, shape, query, parts, page_table, lengths, scale)


def score_tokens(call: ScoreCall, config: None = None) -> Float[Array, "B H P S"]:
    """Fetch the sketches of each sequence's pages and score every token of them."""
    del config
    return _score_tokens(call.shape, *call[1:])


@functools.partial(jax.jit, static_argnums=0)
def _score_tokens(
    shape: ScoreShape,
    query: Float[Array, "B H D"],
    parts: SummaryParts,
    page_table: Int[Array, "B P"],
    lengths: Int[Array, " B"],
    scale: Float[Array, ""],
) -> Float[Array, "B H P S"]:
    def judge(asked: Query, parts: SummaryParts) -> Float[Array, "R G P S"]:
        return _sketched(asked, parts, shape)

    return _over_pages(judge, shape, query, parts, page_table, lengths, scale)


def _over_pages(
    judge: Callable[[Query, SummaryParts], _Scores],
    shape: ScoreShape,
    query: Float[Array, "B H D"],
    parts: SummaryParts,
    page_table: Int[Array, "B P"],
    lengths: Int[Array, " B"],
    scale: Float[Array, ""],
) -> _Scores:
    """What a judge says of the pages of each sequence, (R, G, C, ...) of so many at once.

    −inf for a page that is not full.
    """
    rows = query.astype(jnp.float32).reshape(-1, shape.group, shape.head_size)
    asked = as_query(rows, scale)
    full = jnp.arange(shape.pages, dtype=jnp.int32)[None, :] < lengths[:, None] // shape.page_size
    physical = jnp.where(full, page_table, 0)
    chunk = min(_CHUNK, shape.pages)
    padding = -shape.pages % chunk
    chunks = jnp.pad(physical, ((0, 0), (0, padding))).reshape(shape.batch, -1, chunk)

    def fetch(
        part: Shaped[Array, "Hkv N ..."], pages: Int[Array, "B C"]
    ) -> Shaped[Array, "R C ..."]:
        return jnp.swapaxes(part[:, pages], 0, 1).reshape(-1, *pages.shape[1:], *part.shape[2:])

    def of_chunk(pages: Int[Array, "B C"]) -> _Scores:
        scores = judge(asked, jax.tree.map(lambda a: fetch(a, pages), parts))
        return jax.tree.map(lambda a: a.reshape(*query.shape[:2], *a.shape[2:]), scores)

    def joined(scores: Float[Array, "n B H C *S"]) -> Float[Array, "B H P *S"]:
        each = scores.shape[4:]
        whole = jnp.moveaxis(scores, 0, 2).reshape(*query.shape[:2], -1, *each)
        known = full.reshape(shape.batch, 1, shape.pages, *(1 for _ in each))
        return jnp.where(known, whole[:, :, : shape.pages], -jnp.inf)

    return jax.tree.map(joined, jax.lax.map(of_chunk, jnp.swapaxes(chunks, 0, 1)))


def _of_box(query: Query, parts: SummaryParts, shape: ScoreShape) -> PageScores:
    """S keys with the greatest logit in the box; half way between it and the least."""
    _, middle, upper = keys_in_range(*box_range(query, parts.part("box")), shape.page_size)
    return PageScores(upper, middle)


def _of_ball(query: Query, parts: SummaryParts, shape: ScoreShape) -> PageScores:
    """S keys with the greatest logit in the ball; the logit of the centre."""
    ends = ball_range(query, parts.part("mean"), parts.part("radius"))
    _, middle, upper = keys_in_range(*ends, shape.page_size)
    return PageScores(upper, middle)


def _of_sketch(query: Query, parts: SummaryParts, shape: ScoreShape) -> PageScores:
    """Every sketched key, plus what its rounding can have taken away; without it."""
    lower, upper = corners(parts.part("box"), jnp.float32)
    errors = sketch_errors(query, lower, upper, shape.bits or 8, parts.part("residual"))
    scores = sketched_keys(_sketched(query, parts, shape), errors)
    return PageScores(scores.upper, scores.estimate, scores.best)


def _sketched(query: Query, parts: SummaryParts, shape: ScoreShape) -> Float[Array, "R G P S"]:
    """Logits of every sketched key."""
    lower, upper = corners(parts.part("box"), jnp.float32)
    bits, step = shape.bits or 8, sketch.grid_step(lower, upper, shape.bits or 8)
    codes = sketch.unpack(parts.part("codes"), bits) if shape.packed else parts.part("codes")
    # ⟨q, lower + code × step⟩, the query folded with the step so that codes enter as they are.
    folded = query.vectors[:, :, None] * step[:, None]
    inner = jnp.einsum("rgpd,rpds->rgps", folded, codes.astype(jnp.float32), precision=_EXACT)
    return query.scale * (dot((query.vectors, lower))[..., None] + inner)


_JUDGES = {"box": _of_box, "ball": _of_ball, "sketch": _of_sketch}


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


IMPLEMENTATION = Implementation(
    name="xla",
    platforms=("cpu", "cuda", "rocm", "tpu"),
    stages={
        "attend": StageKernel(attend, _nothing_in_the_way),
        "score": StageKernel(score, _nothing_in_the_way),
        "select": StageKernel(select, _nothing_in_the_way),
        "attend_tokens": StageKernel(attend_tokens, _nothing_in_the_way),
        "score_tokens": StageKernel(score_tokens, _nothing_in_the_way),
    },
)

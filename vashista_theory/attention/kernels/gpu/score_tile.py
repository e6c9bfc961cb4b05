r"""Judging a tile of pages by their summaries, in registers.

A page's dimensions are shared by `lanes` neighbouring threads, which add up their parts at the end:
then neighbours read neighbouring words of shared memory, and each sum is short. A sum of d products
over L lanes has d/L + log2 L terms in a row, so its rounding is below that many units of roundoff
(u/2) times the sum of sizes of its terms.

With corners l and h the sketch of a key is l + s · code, s = (h − l)/(2^b − 1). Codes enter as the
float32 2^b + code, which takes a mask and no conversion: the sum is ⟨q, l − 2^b s⟩ +
⟨q ∘ s, 2^b + code⟩. No term of it exceeds 13 \|q_i\| max(\|l_i\|, \|h_i\|), so with four lanes its
rounding, 13 (d/4 + 8) u/2, stays within the 3 (d + 16) u of `score_slack`.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from vashista_theory.attention.bounds.bits import from_bits, pair_from_bits
from vashista_theory.attention.bounds.rounding import lost_length, raised, raising, score_slack
from vashista_theory.attention.bounds.sketch import aimed
from vashista_theory.attention.kernels.gpu.attend_kernel import load
from vashista_theory.attention.kernels.spec import Kind

MOST_HEADS = 4
"""Query heads judged at once: more sums of 16 tokens than those of four would spill."""

_WARPS = 4
_TOKENS_OF_WORD = 4
_LOG2_E = math.log2(math.e)
_LN_2 = math.log(2.0)

Sums = tuple[jax.Array, ...]


@dataclass(frozen=True)
class ScoreGeometry:
    """Sizes that the kernel is compiled for.

    Attributes:
        bits: Bits of a code; 0 without a sketch.
        planes: Codes that share a byte.
        batch: Sequences.
        kv_heads: Key heads.
        group: Query heads of a kv head.
        d: Head size.
        page_size: Tokens of a page.
        pages: Places in each row of the page table.
        tile: Pages judged at once.
        lanes: Threads that share a page's dimensions.
        stages: Slots of the ring.
        splits: Shares that the pages of a row are cut into.
        by_token: Whether each token's score is wanted, and nothing else.
        interpreted: Whether Mosaic GPU's interpreter runs it, which knows no reshaped references.
    """

    kind: Kind
    bits: int
    planes: int
    batch: int
    kv_heads: int
    group: int
    d: int
    page_size: int
    pages: int
    tile: int
    lanes: int
    stages: int
    splits: int
    by_token: bool = False
    interpreted: bool = False

    @property
    def tiles(self) -> int:
        """Tiles of a row of the page table; the last one may be partial."""
        return -(-self.pages // self.tile)

    @property
    def outputs(self) -> int:
        """Upper bounds, estimates, and of a sketch the greatest bounds of a key; or by token."""
        if self.by_token:
            return 1
        return 3 if self.kind == "sketch" else 2

    @property
    def words(self) -> int:
        """Words of 32 bits that the codes of a page take."""
        return self.d // self.planes * self.page_size // 4


def heads_at_once(group: int) -> int:
    """The group in equal parts of at most `MOST_HEADS`."""
    return -(-group // -(-group // MOST_HEADS))


def scratch(g: ScoreGeometry) -> tuple[Any, ...]:
    """Shared memory in which sums over dimensions change hands."""
    if g.kind != "sketch":
        return ()
    heads, words = heads_at_once(g.group), g.page_size // _TOKENS_OF_WORD
    return (
        plgpu.SMEM((heads, _TOKENS_OF_WORD, g.tile, words), jnp.float32),
        plgpu.SMEM((1 + 2 * heads, g.tile), jnp.float32),
    )


def nothing(g: ScoreGeometry, scores_sm: tuple[Any, ...]) -> None:
    """Write −inf for every page of a tile."""
    if g.by_token:
        words = (g.tile, g.page_size // _TOKENS_OF_WORD)
        none = plgpu.layout_cast(jnp.full(words, -jnp.inf, jnp.float32), _by_word(g))
        for row in range(g.group):
            for token in range(_TOKENS_OF_WORD):
                scores_sm[0][row, token] = none
        return
    least = jnp.full((g.tile,), -jnp.inf, jnp.float32)
    for row in range(g.group):
        for score_sm in scores_sm:
            score_sm[row] = plgpu.layout_cast(least, _by_page(g))


def judge_tile(
    g: ScoreGeometry,
    query_sm: Any,  # [rows, D]
    norm_of: Callable[[jax.Array], jax.Array],
    slot_sm: tuple[Any, ...],  # [tile, ...] for each part
    scratch_sm: tuple[Any, ...],
    scores_sm: tuple[Any, ...],  # upper, estimate, and best of a sketch: [rows, tile]; or by token
    scale: jax.Array,
    counted: jax.Array,  # pages of the tile that are full
) -> None:
    """Judge a tile by all query heads, a few of them at a time."""
    heads = heads_at_once(g.group)
    page = plgpu.broadcasted_iota(jnp.int32, (g.tile,), 0, layout=_by_page(g))
    count = jnp.float32(math.log(g.page_size))

    def write(row: jax.Array, *scores: jax.Array) -> None:
        for score_sm, score in zip(scores_sm, scores, strict=True):
            score_sm[row] = jnp.where(page < counted, score, -jnp.inf)

    def some(part: jax.Array, none: jax.Array) -> jax.Array:
        rows = [part * jnp.int32(heads) + jnp.int32(i) for i in range(heads)]
        norms = [norm_of(row) for row in rows]
        if g.kind == "box":
            found = _of_boxes(g, query_sm, rows, norms, slot_sm[0])
            for row, (greatest, middle) in zip(rows, found, strict=True):
                write(row, raised(count + scale * greatest), count + scale * middle)
        elif g.kind == "ball":
            found = _of_balls(g, query_sm, rows, norms, slot_sm)
            for row, (greatest, middle) in zip(rows, found, strict=True):
                write(row, raised(count + scale * greatest), count + scale * middle)
        elif g.by_token:
            _of_tokens(g, query_sm, rows, slot_sm, scratch_sm, scores_sm[0], scale, counted)
        else:
            found = _of_sketches(g, query_sm, rows, norms, slot_sm, scratch_sm, scale)
            for row, (upper, estimate, best) in zip(rows, found, strict=True):
                write(row, raised(upper, g.page_size), estimate, raised(best))
        return none

    lax.fori_loop(jnp.int32(0), jnp.int32(-(-g.group // heads)), some, jnp.int32(0))


def _of_boxes(
    g: ScoreGeometry, query_sm: Any, rows: list[jax.Array], norms: list[jax.Array], box_sm: Any
) -> list[tuple[jax.Array, jax.Array]]:
    """Greatest score in each box, from above, and the score of its centre, by head.

    With centre c = lower + upper and width w = upper − lower, twice the greatest score is ⟨q, c⟩ +
    ⟨|q|, w⟩, and (|c_i| + w_i)/2 = max(|lower_i|, |upper_i|): `score_slack` has room for both sums.
    """
    layout = by_dimension(g.tile, g.lanes)
    shape = (g.tile, 4 * g.lanes)

    def add(i: jax.Array, sums: Sums) -> Sums:
        columns = pl.ds(i * jnp.int32(shape[1]), shape[1])
        lower, upper = pair_from_bits(load(box_sm.at[:, columns], layout), jnp.float32)
        centre, width = lower + upper, upper - lower
        reach = jnp.maximum(jnp.abs(lower), jnp.abs(upper))
        new = [sums[0] + reach * reach]
        for k, row in enumerate(rows):
            query = load(query_sm.at[row, columns], layout.reduce((0,)))
            query = spread(query, shape, 1, layout)
            new += [sums[1 + 2 * k] + query * centre, sums[2 + 2 * k] + jnp.abs(query) * width]
        return tuple(new)

    zero = plgpu.layout_cast(jnp.zeros(shape, jnp.float32), layout)
    steps = jnp.int32(g.d // shape[1])
    sums = lax.fori_loop(jnp.int32(0), steps, add, (zero,) * (1 + 2 * len(rows)))
    reach, *of_heads = (jnp.sum(part, axis=1) for part in sums)
    reach = _norm(reach, g.d)
    return [
        (
            0.5 * (of_heads[2 * k] + of_heads[2 * k + 1]) + score_slack(reach, norm, g.d),
            0.5 * of_heads[2 * k],
        )
        for k, norm in enumerate(norms)
    ]


def _of_balls(
    g: ScoreGeometry,
    query_sm: Any,
    rows: list[jax.Array],
    norms: list[jax.Array],
    slot_sm: tuple[Any, ...],
) -> list[tuple[jax.Array, jax.Array]]:
    """Greatest score in each ball, ⟨q, c⟩ + ‖q‖ρ, from above, and that of its centre, by head."""
    mean_sm, radius_sm = slot_sm
    layout = by_dimension(g.tile, g.lanes)
    shape = (g.tile, 4 * g.lanes)

    def add(i: jax.Array, sums: Sums) -> Sums:
        columns = pl.ds(i * jnp.int32(shape[1]), shape[1])
        mean = from_bits(load(mean_sm.at[:, columns], layout), jnp.float32)
        new = [sums[0] + mean * mean]
        for k, row in enumerate(rows):
            query = load(query_sm.at[row, columns], layout.reduce((0,)))
            new.append(sums[1 + k] + spread(query, shape, 1, layout) * mean)
        return tuple(new)

    zero = plgpu.layout_cast(jnp.zeros(shape, jnp.float32), layout)
    steps = jnp.int32(g.d // shape[1])
    sums = lax.fori_loop(jnp.int32(0), steps, add, (zero,) * (1 + len(rows)))
    reach, *centres = (jnp.sum(part, axis=1) for part in sums)
    radius = load(radius_sm, _by_page(g))
    reach = _norm(reach, g.d) + radius
    return [
        (centre + norm * radius + score_slack(reach, norm, g.d), centre)
        for centre, norm in zip(centres, norms, strict=True)
    ]


def _of_sketches(
    g: ScoreGeometry,
    query_sm: Any,
    rows: list[jax.Array],
    norms: list[jax.Array],
    slot_sm: tuple[Any, ...],
    scratch_sm: tuple[Any, ...],
    scale: jax.Array,
) -> list[tuple[jax.Array, jax.Array, jax.Array]]:
    """Log-mass of the sketched keys from above, as sketched, and the greatest logit from above.

    A thread sums four words of tokens over its dimensions. Then the sums go through shared memory
    to threads that have a word each, as exponentials want to be computed once.
    """
    box_sm, codes_sm, residual_sm = slot_sm
    tokens_sm, pages_sm = scratch_sm
    _exchange_sums(g, query_sm, rows, box_sm, codes_sm, scratch_sm)
    shape = (g.tile, g.page_size // _TOKENS_OF_WORD)
    layout = _by_word(g)

    def of_page(numbers: jax.Array) -> jax.Array:
        return spread(numbers, shape, 0, layout)

    def page_sum(i: int) -> jax.Array:
        return load(pages_sm.at[i], _by_page(g))

    reach = _norm(page_sum(0), g.d)
    to_log2 = scale * jnp.float32(_LOG2_E)
    found: list[tuple[jax.Array, jax.Array, jax.Array]] = []
    for k, norm in enumerate(norms):
        base = of_page(page_sum(1 + 2 * k))
        by_dimension = of_page(page_sum(2 + 2 * k) * (0.5 * raising(g.d, jnp.float32)))
        slack = of_page(score_slack(reach, norm, g.d))
        upper: list[jax.Array] = []
        estimate: list[jax.Array] = []
        for token in range(_TOKENS_OF_WORD):
            score = load(tokens_sm.at[k, token], layout) + base
            residual = load(residual_sm.at[token], layout)
            error = (norm * raising(0, jnp.float32)) * residual
            if not aimed(g.bits):
                error = jnp.minimum(by_dimension, error)
            error = error + slack
            upper.append(to_log2 * (score + error))
            estimate.append(to_log2 * score)
        (above, best), (sketched, _) = (_log_mass(terms, of_page) for terms in (upper, estimate))
        found.append((above, sketched, best))
    return found


def _exchange_sums(
    g: ScoreGeometry,
    query_sm: Any,
    rows: list[jax.Array],
    box_sm: Any,
    codes_sm: Any,
    scratch_sm: tuple[Any, ...],
) -> None:
    """The sums over dimensions of a page and of a token, through shared memory."""
    tokens_sm, pages_sm = scratch_sm
    sums = _sketch_sums(g, query_sm, rows, box_sm, codes_sm)
    by_page = 1 + 2 * len(rows)
    for i in range(by_page):
        pages_sm[i] = jnp.sum(sums[i], axis=1)
    for k in range(len(rows)):
        for token in range(_TOKENS_OF_WORD):
            of_token = sums[by_page + _TOKENS_OF_WORD * k + token]
            tokens_sm[k, token] = jnp.sum(of_token, axis=1)
    plgpu.commit_smem()


def _of_tokens(
    g: ScoreGeometry,
    query_sm: Any,
    rows: list[jax.Array],
    slot_sm: tuple[Any, ...],
    scratch_sm: tuple[Any, ...],
    scores_sm: Any,  # [rows, 4, tile, words]
    scale: jax.Array,
    counted: jax.Array,
) -> None:
    """Logits of the sketched keys, of every token of a word apart; −inf in pages not full."""
    box_sm, codes_sm = slot_sm
    tokens_sm, pages_sm = scratch_sm
    _exchange_sums(g, query_sm, rows, box_sm, codes_sm, scratch_sm)
    layout, shape = _by_word(g), (g.tile, g.page_size // _TOKENS_OF_WORD)
    full = plgpu.broadcasted_iota(jnp.int32, shape, 0, layout=layout) < counted
    for k, row in enumerate(rows):
        base = spread(load(pages_sm.at[1 + 2 * k], _by_page(g)), shape, 0, layout)
        for token in range(_TOKENS_OF_WORD):
            logits = scale * (load(tokens_sm.at[k, token], layout) + base)
            scores_sm[row, token] = jnp.where(full, logits, -jnp.inf)


def _sketch_sums(
    g: ScoreGeometry, query_sm: Any, rows: list[jax.Array], box_sm: Any, codes_sm: Any
) -> Sums:
    """The sums over dimensions, each still apart by lane.

    Reach², then of every head ⟨q, l − 2^b s⟩ and ⟨|q|, s⟩, then of every head and token of a word
    ⟨q ∘ s, 2^b + code⟩.
    """
    layout, words = _by_code(g), g.page_size // _TOKENS_OF_WORD
    by_lane = layout.reduce((2,))
    shape, flat = (g.tile, g.lanes, words), (g.tile, g.lanes)
    width = 8 // g.planes
    step_of_width, offset = 1.0 / (2.0**g.bits - 1.0), 2.0**width
    by_page = 1 + 2 * len(rows)

    def add(i: jax.Array, sums: Sums) -> Sums:
        new = list(sums)
        held = _code_rows(g, codes_sm, i, layout)
        for plane in range(g.planes):
            start = i * jnp.int32(g.lanes) + jnp.int32(plane * (g.d // g.planes))
            columns = pl.ds(start, g.lanes)
            lower, upper = pair_from_bits(load(box_sm.at[:, columns], by_lane), jnp.float32)
            reach = jnp.maximum(jnp.abs(lower), jnp.abs(upper))
            new[0] = new[0] + reach * reach
            step = (upper - lower) * jnp.float32(step_of_width)
            lower = lower - step * jnp.float32(offset)
            codes = [
                _as_float(held, 8 * token + width * plane, width)
                for token in range(_TOKENS_OF_WORD)
            ]
            for k, row in enumerate(rows):
                query = load(query_sm.at[row, columns], by_lane.reduce((0,)))
                query = spread(query, flat, 1, by_lane)
                new[1 + 2 * k] = new[1 + 2 * k] + query * lower
                new[2 + 2 * k] = new[2 + 2 * k] + jnp.abs(query) * step
                folded = plgpu.layout_cast(
                    lax.broadcast_in_dim(query * step, shape, (0, 1)), layout
                )
                for token, code in enumerate(codes):
                    j = by_page + _TOKENS_OF_WORD * k + token
                    new[j] = new[j] + folded * code
        return tuple(new)

    zero = plgpu.layout_cast(jnp.zeros(flat, jnp.float32), by_lane)
    of_token = plgpu.layout_cast(jnp.zeros(shape, jnp.float32), layout)
    start = (zero,) * by_page + (of_token,) * (_TOKENS_OF_WORD * len(rows))
    steps = jnp.int32(g.d // g.planes // g.lanes)
    return lax.fori_loop(jnp.int32(0), steps, add, start)


def _code_rows(g: ScoreGeometry, codes_sm: Any, i: jax.Array, layout: Any) -> jax.Array:
    """The i-th rows of bytes, one for each lane: words of four tokens [tile, lanes, words]."""
    words = g.page_size // _TOKENS_OF_WORD
    whole = (g.tile, g.d // g.planes, words)
    rows = pl.ds(i * jnp.int32(g.lanes), g.lanes)
    if g.interpreted:
        return lax.dynamic_slice_in_dim(codes_sm[...].reshape(whole), rows.start, g.lanes, 1)
    return load(codes_sm.reshape(*whole).at[:, rows, :], layout)


def _as_float(held: jax.Array, position: int, width: int) -> jax.Array:
    """2^width + the code at that bit: the code becomes the upper bits of a float32's fraction."""
    shift = 23 - width - position
    moved = held << jnp.uint32(shift) if shift >= 0 else held >> jnp.uint32(-shift)
    fraction = moved & jnp.uint32((2**width - 1) << (23 - width))
    return lax.bitcast_convert_type(fraction | jnp.uint32((127 + width) << 23), jnp.float32)


def _log_mass(
    log2_terms: list[jax.Array], of_page: Callable[[jax.Array], jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Log of the sum over all tokens of a page, and the greatest term, in nats."""
    top = jnp.max(functools.reduce(jnp.maximum, log2_terms), axis=1)
    spread = of_page(top)
    terms = [jnp.exp2(term - spread) for term in log2_terms]
    total = top + jnp.log2(jnp.sum(functools.reduce(jnp.add, terms), axis=1))
    return total * _LN_2, top * _LN_2


def _norm(squares: jax.Array, d: int) -> jax.Array:
    """As `norm_from_above`, of a sum of squares. By rsqrt, which every version of Mosaic has."""
    safe = jnp.maximum(squares, jnp.float32(jnp.finfo(jnp.float32).tiny))
    return safe * lax.rsqrt(safe) * raising(d, jnp.float32) + lost_length(d, jnp.float32)


def spread(numbers: jax.Array, shape: tuple[int, int], axis: int, layout: Any) -> jax.Array:
    """Numbers along one axis, the same along the other."""
    return plgpu.layout_cast(lax.broadcast_in_dim(numbers, shape, (axis,)), layout)


# ---------------------------------------------------------------- who holds what


def by_dimension(tile: int, lanes: int) -> Any:
    """[tile, 4 lanes]: rows by warp and lane; a thread has four dimensions side by side."""
    shape = (tile, 4 * lanes)
    return plgpu.Layout.TILED(
        plgpu.Tiling((shape, (tile // _WARPS, shape[1]), (4,))),
        warp_dims=(-5,),
        lane_dims=(-3, -2),
        vector_dim=-1,
    )


def _by_code(g: ScoreGeometry) -> Any:
    """[tile, lanes, words]: a thread has four words of a row of codes."""
    words = g.page_size // _TOKENS_OF_WORD
    of_warp = g.tile // _WARPS
    shape = (g.tile, g.lanes, words)
    if words == 4:
        tiles, warps, lanes = (shape, (of_warp, g.lanes, words)), -6, (-3, -2)
    elif of_warp == 1:
        tiles, warps, lanes = (shape, (4,)), -4, (-3, -2)
    else:
        tiles, warps, lanes = (shape, (of_warp, g.lanes, words), (4,)), -7, (-4, -3, -2)
    return plgpu.Layout.TILED(
        plgpu.Tiling(tiles), warp_dims=(warps,), lane_dims=lanes, vector_dim=-1
    )


def _by_word(g: ScoreGeometry) -> Any:
    """[tile, words]: a thread has one word; with eight lanes two threads have the same."""
    words = g.page_size // _TOKENS_OF_WORD
    of_warp = g.tile // _WARPS
    again = (plgpu.Replicated(g.lanes // 4),) if g.lanes > 4 else ()
    if of_warp == 1:
        tiles, warps, lanes = ((g.tile, words), (1,)), -3, (-2,)
    else:
        tiles, warps, lanes = ((g.tile, words), (of_warp, words), (1,)), -5, (-3, -2)
    return plgpu.Layout.TILED(
        plgpu.Tiling(tiles), warp_dims=(warps,), lane_dims=(*lanes, *again), vector_dim=-1
    )


def _by_page(g: ScoreGeometry) -> Any:
    """[tile]: what is left of a tile when its dimensions or tokens are summed."""
    return (_by_word(g) if g.kind == "sketch" else by_dimension(g.tile, g.lanes)).reduce((1,))

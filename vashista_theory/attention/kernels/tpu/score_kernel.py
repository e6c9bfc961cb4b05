r"""Device bodies for TPU that score pages. The wrapper that calls them is `score.py`.

Letters in shapes: C pages of a block, S tokens of a page, R rows of queries, padded to whole
registers, c bytes of a token's codes. What is held of pages stands with the dimensions in rows,
(D, C), where `by_page` is False, else with the pages in rows, (C, D).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int

from vashista_theory._numerics import unit_roundoff
from vashista_theory.attention.bounds.bits import pair_from_bits
from vashista_theory.attention.bounds.rounding import product_slack, raised, raising
from vashista_theory.attention.bounds.sketch import aimed

TOKENS_AT_ONCE = 8  # of every page of a block: the rows of a register of 32-bit numbers
_AT_ONCE = 8
# Relative error of exp and log that a bound has room for. No document says what a TPU's have.
_TRANSCENDENTAL = 256 * unit_roundoff(jnp.float32)
# Added to coordinates, their products make up for what counts as 0, below the least normal number.
_LOST = float(np.finfo(np.float32).tiny) ** 0.5


def score_boxes_kernel(
    first_ref: Any,  # (1,) int32, in scalar memory; for the blocks alone
    scale_ref: Any,  # (1,) float32, in scalar memory
    query_ref: Any,  # (1, R, D) float32
    box_ref: Any,  # (1, ...) as `_corners` takes it
    upper_ref: Any,  # (1, R, C) float32
    estimate_ref: Any,  # (1, R, C) float32
    *,
    log_tokens: float,
    by_page: bool,
) -> None:
    r"""Boxes of a block of the pool by all queries of a kv head.

    With centre c = lower + upper and width w = upper − lower, twice the greatest score in the box
    is ⟨q, c⟩ + ⟨\|q\|, w⟩. No key of the box has \|k_i\| above (\|c_i\| + w_i)/2.
    """
    del first_ref
    lower, upper = _corners(box_ref, by_page=by_page)
    centre, width = lower + upper, upper - lower
    query, scale = query_ref[0], scale_ref[0]
    size = jnp.abs(query) + _LOST
    middle, spread = _dot(query, centre, by_page), _dot(size, width, by_page)
    slack = product_slack(
        0.5 * (_dot(size, jnp.abs(centre) + 2 * _LOST, by_page) + spread), query.shape[1]
    )
    upper_ref[0] = raised(log_tokens + scale * (0.5 * (middle + spread) + slack))
    estimate_ref[0] = log_tokens + scale * 0.5 * middle


def score_balls_kernel(
    first_ref: Any,  # (1,) int32, in scalar memory; for the blocks alone
    scale_ref: Any,  # (1,) float32, in scalar memory
    query_ref: Any,  # (1, R, D) float32
    length_ref: Any,  # (1, R, 1) float32: lengths of the queries, from above
    mean_ref: Any,  # (1, C, D) or (1, D, C), bfloat16 or float32
    radius_ref: Any,  # (1, 1, C) float32
    upper_ref: Any,  # (1, R, C) float32
    estimate_ref: Any,  # (1, R, C) float32
    *,
    log_tokens: float,
    by_page: bool,
) -> None:
    r"""Balls of a block of the pool: no key scores above ⟨q, mean⟩ + ‖q‖ radius."""
    del first_ref
    mean = _float32(mean_ref[0])
    query, scale = query_ref[0], scale_ref[0]
    middle = _dot(query, mean, by_page)
    reach = length_ref[0] * radius_ref[0]
    size = jnp.abs(query) + _LOST
    slack = product_slack(_dot(size, jnp.abs(mean) + _LOST, by_page) + reach, query.shape[1])
    upper_ref[0] = raised(log_tokens + scale * (middle + reach + slack))
    estimate_ref[0] = log_tokens + scale * middle


def score_sketches_kernel(
    first_ref: Any,  # (1,) int32, in scalar memory; for the blocks alone
    scale_ref: Any,  # (1,) float32, in scalar memory
    query_ref: Any,  # (1, R, D) float32
    length_ref: Any,  # (1, R, 1) float32: lengths of the queries, from above
    box_ref: Any,  # (1, ...) as `_corners` takes it
    codes_ref: Any,  # (1, c, S, C) or (1, C, S, c), uint8
    residual_ref: Any,  # (1, S, C), bits of bfloat16 or float32
    upper_ref: Any,  # (1, R, C) float32
    estimate_ref: Any,  # (1, R, C) float32
    best_ref: Any,  # (1, R, C) float32
    lower_ref: Any,  # (D, C) or (C, D), float32, as the codes
    step_ref: Any,  # likewise
    keys_ref: Any,  # (TOKENS_AT_ONCE, D, C) or (TOKENS_AT_ONCE, C, D), float32, as the codes
    *,
    held_bits: int,
    bits: int,
    by_page: bool,
    codes_by_page: bool,
) -> None:
    """Sketches of a block of the pool: every token's rebuilt key by all queries of a kv head.

    Each register holds codes of 128 pages, or of 128 dimensions. Keys are rebuilt on their way to
    the matrix unit, a few tokens of every page at a time, and their logits enter two running
    log-sum-exps.
    """
    del first_ref
    lower, upper = _grid(box_ref, lower_ref, step_ref, bits, by_page, codes_by_page)
    width = upper - lower
    query, length, scale = query_ref[0], length_ref[0], scale_ref[0]
    size, d = jnp.abs(query) + _LOST, query.shape[1]
    spread = _dot(size, width, by_page=codes_by_page)
    reach = _dot(size, jnp.abs(lower + upper) + 2 * _LOST, by_page=codes_by_page) + spread
    slack = product_slack(0.5 * reach, query.shape[1])
    # Half a step is the most that rounding to the nearest code moved a coordinate.
    by_dimension = spread * np.float32(0.5 / (2**bits - 1)) * raising(d, query.dtype)
    residual = _float32(residual_ref[0])

    sums = [_nothing(spread), _nothing(spread)]
    rebuild = _rebuild_pages if codes_by_page else _rebuild_dimensions
    for group in range(residual.shape[0] // TOKENS_AT_ONCE):
        tokens = slice(group * TOKENS_AT_ONCE, (group + 1) * TOKENS_AT_ONCE)
        rebuild(codes_ref, tokens, lower_ref, step_ref, keys_ref, held_bits)
        scores = [_dot(query, keys_ref[t], by_page=codes_by_page) for t in range(TOKENS_AT_ONCE)]
        by_length = [
            length * residual[t : t + 1] * raising(0, query.dtype)
            for t in range(tokens.start, tokens.stop)
        ]
        most = [
            scale * (score + (error if aimed(bits) else jnp.minimum(by_dimension, error)) + slack)
            for score, error in zip(scores, by_length, strict=True)
        ]
        sums = [_added(sums[0], most), _added(sums[1], [scale * score for score in scores])]
    found = [top + jnp.log(mass) for top, mass in sums]
    upper_ref[0] = raised(found[0], residual.shape[0]) + _TRANSCENDENTAL
    estimate_ref[0] = found[1]
    best_ref[0] = raised(sums[0][0])


def score_tokens_kernel(
    first_ref: Any,  # (1,) int32, in scalar memory; for the blocks alone
    scale_ref: Any,  # (1,) float32, in scalar memory
    query_ref: Any,  # (1, R, D) float32
    box_ref: Any,  # (1, ...) as `_corners` takes it
    codes_ref: Any,  # (1, c, S, C) or (1, C, S, c), uint8
    scores_ref: Any,  # (1, S, R, C) float32
    lower_ref: Any,  # (D, C) or (C, D), float32, as the codes
    step_ref: Any,  # likewise
    keys_ref: Any,  # (TOKENS_AT_ONCE, D, C) or (TOKENS_AT_ONCE, C, D), float32, as the codes
    *,
    held_bits: int,
    bits: int,
    by_page: bool,
    codes_by_page: bool,
) -> None:
    """Logits of every token's rebuilt key of a block of pages, by all queries of a kv head."""
    del first_ref
    _grid(box_ref, lower_ref, step_ref, bits, by_page, codes_by_page)
    query, scale = query_ref[0], scale_ref[0]
    rebuild = _rebuild_pages if codes_by_page else _rebuild_dimensions
    for start in range(0, scores_ref.shape[1], TOKENS_AT_ONCE):
        tokens = slice(start, start + TOKENS_AT_ONCE)
        rebuild(codes_ref, tokens, lower_ref, step_ref, keys_ref, held_bits)
        for t in range(TOKENS_AT_ONCE):
            scores_ref[0, start + t] = scale * _dot(query, keys_ref[t], by_page=codes_by_page)


def _grid(
    box_ref: Any, lower_ref: Any, step_ref: Any, bits: int, by_page: bool, codes_by_page: bool
) -> tuple[Array, Array]:
    """Write the grid that codes stand on, as they stand; both corners."""
    lower, upper = _corners(box_ref, by_page=by_page)
    if by_page != codes_by_page:
        lower, upper = jnp.swapaxes(lower, 0, 1), jnp.swapaxes(upper, 0, 1)
    lower_ref[...] = lower
    step_ref[...] = (upper - lower) * np.float32(1.0 / (2**bits - 1))
    return lower, upper


def _corners(box_ref: Any, *, by_page: bool) -> tuple[Array, Array]:
    """The two corners of a block's boxes, (C, D) or (D, C).

    Bits of two bfloat16, the lower corner in the lower half, or float32 with an axis for the two,
    before D or before both.
    """
    held = box_ref[0]
    if held.dtype != jnp.uint32:
        return (held[:, 0], held[:, 1]) if by_page else (held[0], held[1])
    return pair_from_bits(held, jnp.float32)


def _float32(held: Array) -> Float[Array, "*n"]:
    if held.dtype == jnp.uint16:
        # A bfloat16 is the upper half of the float32 of the same value.
        bits = held.astype(jnp.uint32) << jnp.uint32(16)
        return jax.lax.bitcast_convert_type(bits, jnp.float32)
    return held


def _dot(
    rows: Float[Array, "R D"], pages: Float[Array, "..."], by_page: bool
) -> Float[Array, "R C"]:
    return jax.lax.dot_general(
        rows,
        pages,
        (((1,), (1 if by_page else 0,)), ((), ())),
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )


def _rebuild_dimensions(
    codes_ref: Any, tokens: slice, lower_ref: Any, step_ref: Any, keys_ref: Any, held_bits: int
) -> None:
    """Write the keys that the codes (c, S, C) of some tokens name, a few dimensions at a time."""
    held = codes_ref.shape[1]

    def read(start: Any) -> Int[Array, "r t C"]:
        return codes_ref[0, pl.ds(start, _AT_ONCE), tokens].astype(jnp.int32)

    def write(start: Any, codes: Int[Array, "r t C"]) -> None:
        rows = pl.ds(pl.multiple_of(start, _AT_ONCE), _AT_ONCE)
        of_token = jnp.swapaxes(codes.astype(jnp.float32), 0, 1)
        keys_ref[:, rows] = lower_ref[rows][None] + of_token * step_ref[rows][None]

    def of_six_bits(i: Any, carried: Any) -> Any:
        # Three bytes hold a code each in their lower bits, and two bits each of a fourth.
        start = i * jnp.int32(_AT_ONCE)
        fourth = jnp.int32(0)
        for third in range(3):
            place = start + np.int32(third * held // 3)
            part = read(place)
            write(place, part & np.int32(63))
            fourth = fourth | ((part >> np.int32(6)) << np.int32(2 * third))
        write(start + np.int32(held), fourth)
        return carried

    def of_bytes(i: Any, carried: Any) -> Any:
        start = i * jnp.int32(_AT_ONCE)
        part = read(start)
        for plane in range(8 // held_bits):
            code = (part >> np.int32(held_bits * plane)) & np.int32(2**held_bits - 1)
            write(start + np.int32(plane * held), code)
        return carried

    rows, of_rows = (held // 3, of_six_bits) if held_bits == 6 else (held, of_bytes)
    jax.lax.fori_loop(jnp.int32(0), jnp.int32(rows // _AT_ONCE), of_rows, jnp.int32(0))


def _rebuild_pages(
    codes_ref: Any, tokens: slice, lower_ref: Any, step_ref: Any, keys_ref: Any, held_bits: int
) -> None:
    """Write the keys that the codes (C, S, c) of some tokens name, a few pages at a time.

    Codes of six bits come here unpacked: packed they fill no whole registers.
    """
    _, pages, _, held = codes_ref.shape

    def of_pages(i: Any, carried: Any) -> Any:
        rows = pl.ds(pl.multiple_of(i * jnp.int32(_AT_ONCE), _AT_ONCE), _AT_ONCE)
        part = codes_ref[0, rows, tokens].astype(jnp.int32)
        for plane in range(8 // held_bits):
            code = (part >> np.int32(held_bits * plane)) & np.int32(2**held_bits - 1)
            of_token = jnp.swapaxes(code.astype(jnp.float32), 0, 1)
            at = (rows, slice(plane * held, (plane + 1) * held))
            keys_ref[:, *at] = lower_ref[at][None] + of_token * step_ref[at][None]
        return carried

    jax.lax.fori_loop(jnp.int32(0), jnp.int32(pages // _AT_ONCE), of_pages, jnp.int32(0))


# Below every logit and finite: −inf − (−inf) would be NaN.
_LEAST = float(np.finfo(np.float32).min)


def _nothing(like: Float[Array, "R C"]) -> tuple[Array, Array]:
    return jnp.full_like(like, _LEAST), jnp.zeros_like(like)


def _added(so_far: tuple[Array, Array], logits: list[Array]) -> tuple[Array, Array]:
    """A running maximum, and the sum of exponentials relative to it, with more logits."""
    top, mass = so_far
    new_top = top
    for logit in logits:
        new_top = jnp.maximum(new_top, logit)
    mass = mass * jnp.exp(top - new_top)
    for logit in logits:
        mass = mass + jnp.exp(logit - new_top)
    return new_top, mass

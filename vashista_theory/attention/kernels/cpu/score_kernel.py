# pyright: basic
"""Judging pages by their summaries: `bounds.page_bounds` on arrays, piece by piece."""

import numpy as np

from vashista_theory.attention.kernels.cpu.arithmetic import exponential, widened
from vashista_theory.attention.kernels.cpu.foreign import (
    argument,
    array_of,
    as_part,
    foreign_function,
    result,
)
from vashista_theory.attention.kernels.cpu.native import SOURCES, compiled, run
from vashista_theory.attention.kernels.cpu.sketch_sums import score_keys

PIECE = 32
"""Pages that are judged at once, by whichever thread is free."""
_QUERY, _NORMS, _NUMBERS, _TABLE, _FULL, _FIRST, _SECOND, _THIRD = range(8)
_query, _norms, _flat = array_of("float32", 3), array_of("float32", 2), array_of("float32", 1)
_table, _full, _masses = array_of("int32", 2), array_of("int32", 1), array_of("float32", 3)
_box, _codes, _residual = array_of("uint32", 3), array_of("uint8", 4), array_of("uint16", 3)
_logits = array_of("float32", 4)
_mean, _radius = array_of("uint16", 3), array_of("uint16", 2)
_ZERO, _HALF, _NOTHING = np.float32(0), np.float32(0.5), np.float32(-np.inf)
_HIGH = np.uint32(16)
_SCALE, _LEVELS, _NEAREST, _RAISING, _RAISING_D, _LOST, _SLACK, _LEAST = range(8)
"""Of the numbers that a call hands over: the scale of the logits, the steps of the grid of the
codes, whether these are the nearest; and of `bounds.rounding` what raises one number and a sum of
D, the length lost of D coordinates, and how far a score is off: by a factor, and at least."""


@compiled()
def _length(squares, numbers):
    """`rounding.norm_from_above` from the sum of the squares."""
    return np.sqrt(squares) * numbers[_RAISING_D] + numbers[_LOST]


@compiled()
def _off(norm, reach, numbers):
    """`rounding.score_slack`."""
    return numbers[_SLACK] * (norm * reach) + numbers[_LEAST]


@compiled()
def _reach(box, numbers):
    """How long a vector in a box can be."""
    squares = _ZERO
    for i in range(box.size):
        far = max(abs(widened(box[i])), abs(widened(box[i] >> _HIGH)))
        squares += far * far
    return _length(squares, numbers)


@compiled()
def judge_boxes(query, norms, numbers, boxes, physical, least, greatest):
    """Least and greatest logit in some boxes.

    Args:
        query: (G, D).
        norms: (G,) their lengths, from above.
        numbers: As above.
        boxes: (N, D) pairs of bfloat16.
        physical: (n,) pages.
        least: (G, n) result.
        greatest: (G, n) result.
    """
    group, d = query.shape
    for page in range(physical.size):
        box = boxes[physical[page]]
        reach = _reach(box, numbers)
        for g in range(group):
            vector, low, high = run(query[g]), _ZERO, _ZERO
            for i in range(d):
                one, other = vector[i] * widened(box[i]), vector[i] * widened(box[i] >> _HIGH)
                low += min(one, other)
                high += max(one, other)
            off = _off(norms[g], reach, numbers)
            least[g, page] = numbers[_SCALE] * (low - off)
            greatest[g, page] = numbers[_SCALE] * (high + off)


@compiled()
def judge_balls(query, norms, numbers, means, radii, physical, least, greatest):
    """Least and greatest logit in some balls: as `judge_boxes`, means (N, D) and radii (N,)."""
    group, d = query.shape
    for page in range(physical.size):
        mean, radius = means[physical[page]], widened(radii[physical[page]])
        squares = _ZERO
        for i in range(d):
            squares += widened(mean[i]) * widened(mean[i])
        reach = _length(squares, numbers) + radius
        for g in range(group):
            vector, centre = run(query[g]), _ZERO
            for i in range(d):
                centre += vector[i] * widened(mean[i])
            half = norms[g] * radius * numbers[_RAISING] + _off(norms[g], reach, numbers)
            least[g, page] = numbers[_SCALE] * (centre - half)
            greatest[g, page] = numbers[_SCALE] * (centre + half)


@compiled()
def judge_sketches(
    query, norms, numbers, boxes, codes, residuals, physical, sketched, raised, best
):
    """Log-masses of some pages, as sketched and with errors, and their greatest logits.

    Args:
        query: (G, D).
        norms: (G,) their lengths, from above.
        numbers: As above.
        boxes: (N, D) pairs of bfloat16.
        codes: (N, c, S).
        residuals: (N, S) bfloat16.
        physical: (n,) pages.
        sketched: (G, n) result, log-mass of the keys as sketched.
        raised: (G, n) result, log-mass of these raised by their errors.
        best: (G, n) result, greatest of the logits so raised.
    """
    group, d = query.shape
    size = codes.shape[2]
    coefficients, sums = np.empty((group, d), np.float32), np.empty((group, size), np.float32)
    scale = numbers[_SCALE]
    for page in range(physical.size):
        box, residual = boxes[physical[page]], residuals[physical[page]]
        score_keys(query, box, numbers[_LEVELS], codes[physical[page]], coefficients, sums)
        reach = _reach(box, numbers)
        for g in range(group):
            by_dimension, folded, own = _ZERO, run(coefficients[g]), run(sums[g])
            for i in range(d):
                by_dimension += abs(folded[i])
            by_dimension *= _HALF * numbers[_RAISING_D]
            most = by_dimension if numbers[_NEAREST] > 0 else np.float32(np.inf)
            length, off = norms[g] * numbers[_RAISING], _off(norms[g], reach, numbers)
            for s in range(size):
                own[s] *= scale
            sketched[g, page], _ = _log_sum(own)
            for s in range(size):
                own[s] += scale * (min(most, length * widened(residual[s])) + off)
            raised[g, page], best[g, page] = _log_sum(own)


@compiled()
def score_tokens(query, numbers, boxes, codes, physical, logits):
    """Logits of the keys of some pages as sketched: as `judge_sketches`, and a result (G, n, S)."""
    group, d = query.shape
    size = codes.shape[2]
    coefficients, sums = np.empty((group, d), np.float32), np.empty((group, size), np.float32)
    for page in range(physical.size):
        box = boxes[physical[page]]
        score_keys(query, box, numbers[_LEVELS], codes[physical[page]], coefficients, sums)
        for g in range(group):
            own, found = run(sums[g]), run(logits[g, page])
            for s in range(size):
                found[s] = numbers[_SCALE] * own[s]


@compiled()
def _log_sum(logits):
    """Log of the sum of the exponentials, and the greatest logit."""
    top, mass = _NOTHING, _ZERO
    for s in range(logits.size):
        top = max(top, logits[s])
    for s in range(logits.size):
        mass += exponential(logits[s] - top)
    return top + np.log(mass), top


@compiled()
def _piece(frame, number, kv_heads):
    """A piece of the pages of a sequence, for one kv head: where it is, and what is asked of it.

    Returns:
        Sequence, kv head, its heads, physical pages (n,) and their place, and the place behind the
        last of the piece, of which only the first n are full.
    """
    table = _table(argument(frame, _TABLE))
    pieces = -(-table.shape[1] // PIECE)
    row, piece = number // pieces, number % pieces
    batch, head = row // kv_heads, row % kv_heads
    group = _query(argument(frame, _QUERY)).shape[1] // kv_heads
    begin, end = piece * PIECE, min((piece + 1) * PIECE, table.shape[1])
    full = min(max(begin, _full(argument(frame, _FULL))[batch]), end)
    heads = slice(head * group, (head + 1) * group)
    return batch, head, heads, table[batch, begin:full], slice(begin, full), slice(full, end)


@compiled()
def _of_result(frame, which, batch, heads, pages, behind):
    """A result for some heads and pages; −inf for those that are not full."""
    masses = _masses(result(frame, which))[batch, heads]
    masses[:, behind] = _NOTHING
    return masses[:, pages]


@compiled()
def _boxes(frame, number):
    boxes = _box(argument(frame, _FIRST))
    batch, head, heads, physical, pages, behind = _piece(frame, number, boxes.shape[0])
    judge_boxes(
        _query(argument(frame, _QUERY))[batch, heads],
        _norms(argument(frame, _NORMS))[batch, heads],
        _flat(argument(frame, _NUMBERS)),
        boxes[head],
        physical,
        _of_result(frame, 0, batch, heads, pages, behind),
        _of_result(frame, 1, batch, heads, pages, behind),
    )


@compiled()
def _balls(frame, number):
    means = _mean(argument(frame, _FIRST))
    batch, head, heads, physical, pages, behind = _piece(frame, number, means.shape[0])
    judge_balls(
        _query(argument(frame, _QUERY))[batch, heads],
        _norms(argument(frame, _NORMS))[batch, heads],
        _flat(argument(frame, _NUMBERS)),
        means[head],
        _radius(argument(frame, _SECOND))[head],
        physical,
        _of_result(frame, 0, batch, heads, pages, behind),
        _of_result(frame, 1, batch, heads, pages, behind),
    )


@compiled()
def _sketches(frame, number):
    boxes = _box(argument(frame, _FIRST))
    batch, head, heads, physical, pages, behind = _piece(frame, number, boxes.shape[0])
    judge_sketches(
        _query(argument(frame, _QUERY))[batch, heads],
        _norms(argument(frame, _NORMS))[batch, heads],
        _flat(argument(frame, _NUMBERS)),
        boxes[head],
        _codes(argument(frame, _SECOND))[head],
        _residual(argument(frame, _THIRD))[head],
        physical,
        _of_result(frame, 0, batch, heads, pages, behind),
        _of_result(frame, 1, batch, heads, pages, behind),
        _of_result(frame, 2, batch, heads, pages, behind),
    )


@compiled()
def _tokens(frame, number):
    boxes = _box(argument(frame, _FIRST))
    batch, head, heads, physical, pages, behind = _piece(frame, number, boxes.shape[0])
    logits = _logits(result(frame, 0))[batch, heads]
    logits[:, behind] = _NOTHING
    score_tokens(
        _query(argument(frame, _QUERY))[batch, heads],
        _flat(argument(frame, _NUMBERS)),
        boxes[head],
        _codes(argument(frame, _SECOND))[head],
        physical,
        logits[:, pages],
    )


def score_boxes(name: str) -> None:
    """Compile the judging of pages by boxes: pieces of rows."""
    sources = SOURCES

    @as_part()
    def boxes(frame, number):
        _ = sources
        _boxes(frame, number)

    foreign_function(name, boxes)


def score_balls(name: str) -> None:
    """Compile the judging of pages by balls: pieces of rows."""
    sources = SOURCES

    @as_part()
    def balls(frame, number):
        _ = sources
        _balls(frame, number)

    foreign_function(name, balls)


def score_sketches(name: str) -> None:
    """Compile the judging of pages by sketches: pieces of rows."""
    sources = SOURCES

    @as_part()
    def sketches(frame, number):
        _ = sources
        _sketches(frame, number)

    foreign_function(name, sketches)


def score_all_tokens(name: str) -> None:
    """Compile the scoring of tokens by sketches: pieces of rows."""
    sources = SOURCES

    @as_part()
    def tokens(frame, number):
        _ = sources
        _tokens(frame, number)

    foreign_function(name, tokens)

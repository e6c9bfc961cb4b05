# pyright: basic
"""The draw as an operation of XLA: which part of which array each step of it works on."""

from vashista_theory.attention.kernels.cpu import draw_kernel as kernel
from vashista_theory.attention.kernels.cpu.foreign import (
    argument,
    array_of,
    as_part,
    foreign_function,
    result,
)
from vashista_theory.attention.kernels.cpu.native import SOURCES, compiled

_QUERY, _BOX, _CODES, _BOUNDS, _LENGTHS, _TABLE, _RANGES, _SURE, _BASE, _KEYS, _SCALE = range(11)
_PLACES, _WEIGHTS, _COUNTS, _NUMBERS, _MASSES, _TOPS = range(6)
_query, _flat = array_of("float32", 3), array_of("float32", 1)
_box, _codes = array_of("uint32", 3), array_of("uint8", 4)
_bounds, _lengths = array_of("uint16", 2), array_of("uint8", 3)
_table, _keys = array_of("int32", 2), array_of("uint32", 3)
_rows, _counts, _weights = array_of("int32", 3), array_of("int32", 3), array_of("float32", 3)
_masses, _tops = array_of("float32", 4), array_of("float32", 4)


@compiled()
def _sizes(frame):
    """Sequences, kv heads, heads of a group, tokens of a page."""
    masses, codes = _masses(result(frame, _MASSES)), _codes(argument(frame, _CODES))
    return masses.shape[0], masses.shape[1], masses.shape[2], codes.shape[3]


@compiled()
def _tail(frame, batch):
    """The first page of the tail, and where its pages lie."""
    first, last = _table(argument(frame, _RANGES))[batch]
    return first, _table(argument(frame, _TABLE))[batch, first : max(first, last)]


@compiled()
def _score(frame, number):
    _, kv_heads, group, size = _sizes(frame)
    tops = _tops(result(frame, _TOPS))
    pieces = tops.shape[2] // group
    row, piece = number // pieces, number % pieces
    batch, head = row // kv_heads, row % kv_heads
    _, physical = _tail(frame, batch)
    begin = min(piece * kernel.PIECE, physical.size)
    end = min(begin + kernel.PIECE, physical.size)
    scale = _flat(argument(frame, _SCALE))
    kernel.score_piece(
        _query(argument(frame, _QUERY))[batch, head * group : (head + 1) * group],
        scale[0],
        scale[1],
        _box(argument(frame, _BOX))[head],
        _codes(argument(frame, _CODES))[head],
        physical[begin:end],
        _masses(result(frame, _MASSES))[batch, head, :, begin * size : end * size],
        tops[batch, head, piece * group : (piece + 1) * group],
    )


@compiled()
def _weigh(frame, row):
    _, kv_heads, group, size = _sizes(frame)
    batch, head = row // kv_heads, row % kv_heads
    _, physical = _tail(frame, batch)
    tops = _tops(result(frame, _TOPS))[batch]
    by_piece = tops.reshape((kv_heads, tops.shape[1] // group, group, 2))
    sure = _query(argument(frame, _SURE))[batch]
    masses = _masses(result(frame, _MASSES))[batch, head]
    share, greatest = kernel.group_shares(by_piece, sure, head)
    kernel.weigh_row(
        masses,
        by_piece[head],
        share,
        greatest,
        _bounds(argument(frame, _BOUNDS))[head],
        _lengths(argument(frame, _LENGTHS))[head],
        physical,
        masses[0, : physical.size * size],
    )


@compiled()
def _share_out(frame, batch):
    _, _, _, size = _sizes(frame)
    _, physical = _tail(frame, batch)
    proxies = _masses(result(frame, _MASSES))[batch, :, 0, : physical.size * size]
    numbers = _weights(result(frame, _NUMBERS))[batch]
    kernel.thresholds(proxies, _flat(argument(frame, _BASE))[batch], numbers[:, 0], numbers[:, 1])


@compiled()
def _draw(frame, row):
    _, kv_heads, _, size = _sizes(frame)
    batch, head = row // kv_heads, row % kv_heads
    first, physical = _tail(frame, batch)
    counts = _counts(result(frame, _COUNTS))[batch, head]
    number, inverse = _weights(result(frame, _NUMBERS))[batch, head]
    proxies = _masses(result(frame, _MASSES))[batch, head, 0, : physical.size * size]
    whole = proxies.size <= number
    counts[0], counts[1], counts[2], counts[3] = 0, 0, whole, 1
    if kernel.is_drawable(proxies, inverse):
        counts[3] = 0
        counts[0], counts[1] = kernel.list_drawn(
            proxies,
            inverse,
            whole,
            _keys(argument(frame, _KEYS))[batch, head],
            first,
            size,
            _rows(result(frame, _PLACES))[batch, head],
            _weights(result(frame, _WEIGHTS))[batch, head],
        )


def draw_tokens(name: str) -> None:
    """Compile the draw: pieces of rows, rows, sequences, rows."""
    sources = SOURCES

    @as_part()
    def score(frame, number):
        _ = sources
        _score(frame, number)

    @as_part()
    def weigh(frame, row):
        _ = sources
        _weigh(frame, row)

    @as_part()
    def share_out(frame, batch):
        _ = sources
        _share_out(frame, batch)

    @as_part()
    def draw(frame, row):
        _ = sources
        _draw(frame, row)

    foreign_function(name, score, weigh, share_out, draw)

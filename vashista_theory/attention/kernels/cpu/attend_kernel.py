# pyright: basic
"""Attention of the heads of a group over listed pages: pieces of each list, then their sums."""

from typing import Any

import numpy as np

from vashista_theory.attention.kernels.cpu.arithmetic import (
    as_number,
    exponential,
    finite_or_nan,
    weigh,
)
from vashista_theory.attention.kernels.cpu.foreign import (
    argument,
    array_of,
    as_part,
    foreign_function,
    result,
)
from vashista_theory.attention.kernels.cpu.native import SOURCES, compiled

PIECE = 64
"""Pages that are read at once: of a row's list, in turn, by whichever thread is free."""
_QUERY, _KEYS, _VALUES, _PAGES, _TOKENS, _SCALE = range(6)
_OUTPUT, _LOG_MASS, _TOP, _PIECES = range(4)
_pages, _scale, _vectors = array_of("int32", 3), array_of("float32", 1), array_of("float32", 3)
_numbers, _pieces, _tokens = array_of("float32", 2), array_of("float32", 4), array_of("int32", 2)
_single, _half = array_of("float32", 4), array_of("uint16", 4)


@compiled()
def attend_piece(query, scale, keys, values, pages, tokens, sums):
    """Softmax sums over the first tokens of some pages.

    Args:
        query: (G, D).
        scale: Of the logits.
        keys: (N, S, D), float32, or bfloat16 as uint16.
        values: The same.
        pages: (n,) pages.
        tokens: How many of their tokens count.
        sums: (G, D + 2) result: the greatest logit, the mass relative to it, and the sum of values.
    """
    group, d = query.shape
    size = keys.shape[1]
    logits, output = np.empty((group, tokens), np.float32), np.zeros((group, d), np.float32)
    for t in range(tokens):
        key = keys[pages[t // size], t % size]
        for g in range(group):
            vector, score = query[g], np.float32(0)
            for i in range(d):
                score += vector[i] * as_number(key[i])
            logits[g, t] = finite_or_nan(scale * score)
    for g in range(group):
        sums[g, 0], sums[g, 1] = weigh(logits[g])
    for t in range(tokens):
        value = values[pages[t // size], t % size]
        for g in range(group):
            weight, total = logits[g, t], output[g]
            for i in range(d):
                total[i] += weight * as_number(value[i])
    for g in range(group):
        for i in range(d):
            sums[g, 2 + i] = output[g, i]


@compiled()
def _read(frame, keys, values, number):
    query, listed = _vectors(argument(frame, _QUERY)), _pages(argument(frame, _PAGES))
    pieces = _pieces(result(frame, _PIECES))
    row, piece = number // pieces.shape[1], number % pieces.shape[1]
    kv_heads, size = keys.shape[0], keys.shape[2]
    batch, head = row // kv_heads, row % kv_heads
    group = query.shape[1] // kv_heads
    begin = piece * PIECE
    pages = listed[batch, head, begin : min(begin + PIECE, listed.shape[2])]
    tokens = _tokens(argument(frame, _TOKENS))[batch, head] - begin * size
    attend_piece(
        query[batch, head * group : (head + 1) * group],
        _scale(argument(frame, _SCALE))[0],
        keys[head],
        values[head],
        pages,
        max(0, min(tokens, pages.size * size)),
        pieces[row, piece],
    )


@compiled()
def join_pieces(pieces, output):
    """Output (D,), log-mass and greatest logit of a head from sums (pieces, D + 2)."""
    top, mass = np.float32(-np.inf), np.float32(0)
    for piece in range(pieces.shape[0]):
        top = max(top, pieces[piece, 0])
    for i in range(output.size):
        output[i] = 0
    for piece in range(pieces.shape[0]):
        if pieces[piece, 1] != 0:
            share = exponential(pieces[piece, 0] - top)
            mass += share * pieces[piece, 1]
            for i in range(output.size):
                output[i] += share * pieces[piece, 2 + i]
    if mass != 0:
        for i in range(output.size):
            output[i] /= mass
    return (top + np.log(mass) if mass != 0 else np.float32(-np.inf)), top


def attend_pages(name: str, stored: str) -> None:
    """Compile attention over pages of float32, or of bfloat16 as uint16."""
    sources = SOURCES

    def read() -> Any:
        if stored == "float32":

            @as_part()
            def read_piece(frame, number):
                _ = sources
                keys, values = argument(frame, _KEYS), argument(frame, _VALUES)
                _read(frame, _single(keys), _single(values), number)

        else:

            @as_part()
            def read_piece(frame, number):
                _ = sources
                keys, values = argument(frame, _KEYS), argument(frame, _VALUES)
                _read(frame, _half(keys), _half(values), number)

        return read_piece

    @as_part()
    def join_row(frame, row):
        _ = sources
        pieces, output = _pieces(result(frame, _PIECES)), _vectors(result(frame, _OUTPUT))
        log_mass, top = _numbers(result(frame, _LOG_MASS)), _numbers(result(frame, _TOP))
        group = pieces.shape[2]
        kv_heads = output.shape[1] // group
        for g in range(group):
            b, h = row // kv_heads, row % kv_heads * group + g
            log_mass[b, h], top[b, h] = join_pieces(pieces[row, :, g], output[b, h])

    foreign_function(name, read(), join_row)

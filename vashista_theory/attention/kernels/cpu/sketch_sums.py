# pyright: basic
"""Scores of the sketched keys of a page: sums of the codes of 16 tokens by coefficients.

Vector by vector, in instructions written out: left to itself LLVM takes four times as long.
"""

import functools
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from vashista_theory.attention.kernels.cpu.arithmetic import widened
from vashista_theory.attention.kernels.cpu.native import address_of, compiled, intrinsic, run

LANES = 16
"""Tokens that are added up at once; a page has a multiple of them."""
_HEADS = 4  # whose sums stay in registers
_HIGH = np.uint32(16)

_BYTE, _WORD, _LONG, _FLOAT = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()
_BYTES, _WORDS, _FLOATS = (ir.VectorType(kind, LANES) for kind in (_BYTE, _WORD, _FLOAT))


def _splat(builder: Any, number: Any, kind: Any) -> Any:
    nothing = ir.Constant(kind, ir.Undefined)
    one = builder.insert_element(nothing, number, ir.Constant(_WORD, 0))
    return builder.shuffle_vector(one, nothing, ir.Constant(_WORDS, [0] * LANES))


@functools.cache
def _for_heads(heads: int) -> Any:
    """Add, for so many heads, Σ_i coefficient[i] · ((code[i] >> shift) & mask) to 16 sums each."""

    @intrinsic
    def add(typing_context, codes, coefficients, sums, count, size, d, shift, mask):
        signature = types.void(*[types.int64] * 8)

        def generate(context, builder, signature, arguments):
            codes, coefficients, sums, count, size, d, shift, mask = arguments

            def place(begin: Any, entries: Any, width: int, kind: Any) -> Any:
                offset = builder.mul(entries, ir.Constant(_LONG, width))
                return builder.inttoptr(builder.add(begin, offset), kind.as_pointer())

            shift, mask = (_splat(builder, builder.trunc(x, _WORD), _WORDS) for x in (shift, mask))
            totals = []
            for head in range(heads):
                own = place(sums, builder.mul(ir.Constant(_LONG, head), size), 4, _FLOATS)
                total = cgutils.alloca_once(builder, _FLOATS)
                builder.store(builder.load(own, align=4), total)
                totals.append((own, total))
            with cgutils.for_range(builder, count) as loop:
                entries = builder.mul(loop.index, size)
                row = builder.zext(builder.load(place(codes, entries, 1, _BYTES), align=1), _WORDS)
                number = builder.sitofp(builder.and_(builder.lshr(row, shift), mask), _FLOATS)
                for head, (_, total) in enumerate(totals):
                    entry = builder.add(builder.mul(ir.Constant(_LONG, head), d), loop.index)
                    one = builder.load(place(coefficients, entry, 4, _FLOAT))
                    term = builder.fmul(_splat(builder, one, _FLOATS), number, flags=("contract",))
                    added = builder.fadd(builder.load(total), term, flags=("contract",))
                    builder.store(added, total)
            for own, total in totals:
                builder.store(builder.load(total), own, align=4)
            return context.get_dummy_value()

        return signature, generate

    return add


_one, _two, _three, _four = (_for_heads(heads) for heads in range(1, _HEADS + 1))


@compiled()
def add_codes(codes, coefficients, sums):
    """Add Σ_d coefficient[g, d] · code[d, s] to sums[g, s].

    Args:
        codes: (c, S) bytes of d codes each token, packed as `bounds.sketch.pack` does.
        coefficients: (G, d) float32, contiguous.
        sums: (G, S) float32, contiguous.
    """
    stored, size = codes.shape
    group, d = coefficients.shape
    planes = d // stored
    width = 8 // planes
    mask = 255 >> (8 - width)
    for begin in range(0, size, LANES):
        for plane in range(planes):
            shift = width * plane
            for g in range(0, group, _HEADS):
                at = address_of(codes) + begin
                by = address_of(coefficients) + 4 * (g * d + plane * stored)
                to = address_of(sums) + 4 * (g * size + begin)
                left = group - g
                if left == 1:
                    _one(at, by, to, stored, size, d, shift, mask)
                elif left == 2:
                    _two(at, by, to, stored, size, d, shift, mask)
                elif left == 3:
                    _three(at, by, to, stored, size, d, shift, mask)
                else:
                    _four(at, by, to, stored, size, d, shift, mask)


@compiled()
def score_keys(query, box, levels, codes, coefficients, sums):
    """Scores of all keys of a page, and on the way what their codes are multiplied by.

    Args:
        query: (G, D).
        box: (D,) pairs of bfloat16.
        levels: Steps of the grid of the codes between the corners of a box.
        codes: (c, S).
        coefficients: (G, D) result, the query times the step of the grid.
        sums: (G, S) result.
    """
    group, d = query.shape
    for g in range(group):
        vector, folded, own = run(query[g]), run(coefficients[g]), run(sums[g])
        base = np.float32(0)
        for i in range(d):
            low, high = widened(box[i]), widened(box[i] >> _HIGH)
            base += vector[i] * low
            folded[i] = vector[i] * ((high - low) / levels)
        for s in range(own.size):
            own[s] = base
    add_codes(codes, coefficients, sums)

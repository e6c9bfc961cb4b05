# pyright: basic
"""Arithmetic that LLVM turns into vectors: exponentials, narrow numbers, random bits."""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import overload

from vashista_theory.attention.kernels.cpu.native import compiled, intrinsic

_LOG2_E = np.float32(1.4426950408889634)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_LEAST = np.float32(-87.33654)  # below, e^x is no normal number
# Cephes' expf: (e^r − 1 − r)/r² for |r| ≤ ln(2)/2.
_P0, _P1 = np.float32(1.9875691500e-4), np.float32(1.3981999507e-3)
_P2, _P3 = np.float32(8.3334519073e-3), np.float32(4.1665795894e-2)
_P4, _P5 = np.float32(1.6666665459e-1), np.float32(5.0000001201e-1)
_MOST, _NAN = np.finfo(np.float32).max, np.float32(np.nan)
_ONE, _HALF, _ZERO = np.float32(1.0), np.float32(0.5), np.float32(0.0)


def _same_bits(source, target):
    @intrinsic
    def cast(typing_context, number):
        signature = target(source)

        def generate(context, builder, signature, arguments):
            return builder.bitcast(arguments[0], context.get_value_type(signature.return_type))

        return signature, generate

    return cast


as_float = _same_bits(types.uint32, types.float32)
as_word = _same_bits(types.float32, types.uint32)


@intrinsic
def _floor(typing_context, number):
    signature = types.float32(types.float32)

    def generate(context, builder, signature, arguments):
        kind = ir.FloatType()
        function = builder.module.declare_intrinsic("llvm.floor", [kind])
        return builder.call(function, arguments)

    return signature, generate


@compiled()
def exponential(x):
    """e^x of no positive number, to 2 ulps; 0 below the normal numbers; NaN stays NaN."""
    inside = max(x, _LEAST)
    n = _floor(inside * _LOG2_E + _HALF)
    r = (inside - n * _LN2_HIGH) - n * _LN2_LOW
    p = ((((_P0 * r + _P1) * r + _P2) * r + _P3) * r + _P4) * r + _P5
    p = (p * r) * r + r + _ONE
    power = as_float(np.uint32((np.int32(n) + np.int32(127)) << np.int32(23)))
    y = p * power
    y = _ZERO if x < _LEAST else y
    return x if x != x else y  # noqa: PLR0124


@compiled()
def widened(bits):
    """bfloat16 by its bits."""
    return as_float(np.uint32(bits) << np.uint32(16))


@compiled()
def _sum(first, second):
    return np.uint32(first + second)  # Numba adds words of 32 bits as words of 64


@compiled()
def _four_rounds(first, second, one, two, three, four):
    first = _sum(first, second)
    second = first ^ np.uint32((second << one) | (second >> (32 - one)))
    first = _sum(first, second)
    second = first ^ np.uint32((second << two) | (second >> (32 - two)))
    first = _sum(first, second)
    second = first ^ np.uint32((second << three) | (second >> (32 - three)))
    first = _sum(first, second)
    second = first ^ np.uint32((second << four) | (second >> (32 - four)))
    return first, second


@compiled()
def threefry(key, other, first, second):
    """`bounds.random_bits.threefry` of single words."""
    third = np.uint32(key ^ other ^ np.uint32(0x1BD11BDA))
    first, second = _sum(first, key), _sum(second, other)
    first, second = _four_rounds(first, second, 13, 15, 26, 6)
    first, second = _sum(first, other), _sum(second, _sum(third, np.uint32(1)))
    first, second = _four_rounds(first, second, 17, 29, 16, 24)
    first, second = _sum(first, third), _sum(second, _sum(key, np.uint32(2)))
    first, second = _four_rounds(first, second, 13, 15, 26, 6)
    first, second = _sum(first, key), _sum(second, _sum(other, np.uint32(3)))
    first, second = _four_rounds(first, second, 17, 29, 16, 24)
    first, second = _sum(first, other), _sum(second, _sum(third, np.uint32(4)))
    first, second = _four_rounds(first, second, 13, 15, 26, 6)
    return _sum(first, third), _sum(second, _sum(key, np.uint32(5)))


@compiled()
def finite_or_nan(x):
    """A score that overflowed, to −∞ even, must not pass for one that counts nothing."""
    return x if abs(x) <= _MOST else _NAN


def as_number(x):
    """A number of a pool: float32 itself, or what 16 bits stand for in bfloat16."""
    raise NotImplementedError("for compiled functions")


@overload(as_number, inline="always")
def _as_number(x):
    if isinstance(x, types.Float):
        return lambda x: x
    return lambda x: widened(x)  # noqa: PLW0108, by the name that Numba looks for


@compiled()
def weigh(logits):
    """Turn logits into exponentials below the greatest; it and their sum are returned."""
    top, mass = np.float32(-np.inf), np.float32(0)
    for t in range(logits.size):
        top = max(top, logits[t])
    for t in range(logits.size):
        logits[t] = exponential(logits[t] - top)
        mass += logits[t]
    return top, mass

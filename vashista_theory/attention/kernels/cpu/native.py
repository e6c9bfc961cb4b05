# pyright: basic
"""What Numba compiles, and the few instructions that it has no words for."""

import ctypes
import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from llvmlite import ir
from numba import extending, types

FRAME = types.CPointer(types.int64)
"""The record of a call, in words of 8 bytes."""
options: dict[str, Any] = {
    "error_model": "numpy",
    "fastmath": {"contract", "reassoc", "nsz", "arcp"},
}
"""How kernels are compiled: sums in any order, and fused; infinities and NaN stay what they are."""
# Numba's decorators, of which type checkers know little.
compiled: Any = functools.partial(numba.njit, **options)
inline: Any = functools.partial(numba.njit, inline="always", **options)
carray: Any = numba.carray  # pyright: ignore[reportPrivateImportUsage]
intrinsic: Any = extending.intrinsic
_LINE = 64  # bytes that memory sends at once


def pointer_to(kind: Any) -> Any:
    """A function from an address to numbers of a kind that lie there."""

    @intrinsic
    def pointer(typing_context, address):
        signature = types.CPointer(kind)(address)

        def generate(context, builder, signature, arguments):
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return signature, generate

    return pointer


words_at = pointer_to(types.int64)
_floats_at = pointer_to(types.float32)


@intrinsic
def address_of(typing_context, array):
    """Where the numbers of an array lie."""
    signature = types.int64(array)

    def generate(context, builder, signature, arguments):
        made = context.make_array(signature.args[0])(context, builder, arguments[0])
        return builder.ptrtoint(made.data, ir.IntType(64))

    return signature, generate


@compiled()
def run(row):
    """The same float32 numbers (n,), which do lie side by side, where Numba could not know."""
    return carray(_floats_at(address_of(row)), (row.size,))


def _atomic(change: str, meaning: str) -> Any:
    @intrinsic
    def at_once(typing_context, address, number):
        signature = types.int64(types.int64, types.int64)

        def generate(context, builder, signature, arguments):
            place = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
            return builder.atomic_rmw(change, place, arguments[1], "seq_cst")

        return signature, generate

    at_once.__doc__ = meaning
    return at_once


add_atomically = _atomic("add", "What stood there before a number was added, for all threads.")
swap_atomically = _atomic("xchg", "What stood there before a number was put there.")


@intrinsic
def put_if_empty(typing_context, address, number):
    """Whether there stood 0, and a number was put there, in one step for all threads."""
    signature = types.boolean(types.int64, types.int64)

    def generate(context, builder, signature, arguments):
        word = ir.IntType(64)
        place = builder.inttoptr(arguments[0], word.as_pointer())
        found = builder.cmpxchg(place, ir.Constant(word, 0), arguments[1], "seq_cst", "seq_cst")
        return builder.extract_value(found, 1)

    return signature, generate


@intrinsic
def _fetch(typing_context, address):
    signature = types.void(types.int64)

    def generate(context, builder, signature, arguments):
        number, place = ir.IntType(32), ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [place, number, number, number])
        function = builder.module.declare_intrinsic("llvm.prefetch.p0", fnty=kind)
        # To be read, and kept near; data.
        how = [ir.Constant(number, choice) for choice in (0, 3, 1)]
        builder.call(function, [builder.inttoptr(arguments[0], place), *how])
        return context.get_dummy_value()

    return signature, generate


@compiled()
def fetch_soon(row):
    """Have memory send the numbers of a row, which is read a little later."""
    begin = address_of(row)
    for offset in range(0, row.size * row.itemsize, _LINE):
        _fetch(begin + offset)


@intrinsic
def call_c(typing_context, function, argument):
    """Call the C function at an address with the address of its record."""
    signature = types.int64(types.int64, types.int64)

    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.IntType(64), [ir.IntType(64)]).as_pointer()
        return builder.call(builder.inttoptr(arguments[0], kind), [arguments[1]])

    return signature, generate


def with_frame(*further: Any) -> Any:
    """Call the C function at an address with a frame and further words."""
    signature = types.void(types.int64, FRAME, *further)

    def generate(context, builder, signature, arguments):
        word = ir.IntType(64)
        taken = [word.as_pointer(), *(word for _ in further)]
        kind = ir.FunctionType(ir.VoidType(), taken).as_pointer()
        builder.call(builder.inttoptr(arguments[0], kind), arguments[1:])
        return context.get_dummy_value()

    return signature, generate


allocate = types.ExternalFunction("malloc", types.int64(types.int64))
release = types.ExternalFunction("free", types.void(types.int64))


def keep_forever(*things: Any) -> None:
    """Never free them: threads may be at work with them when Python has ended."""
    for thing in things:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def as_c(signature: Any) -> Callable[[Any], Any]:
    """Compile a C function, and keep what was compiled where that can be written."""

    def decorate(function: Any) -> Any:
        try:
            made = numba.cfunc(signature, cache=True, **options)(function)
        except RuntimeError:  # neither beside the source nor in the user's cache folder
            made = numba.cfunc(signature, **options)(function)
        keep_forever(made)
        return made

    return decorate


def _digest_of_sources() -> str:
    """Of all that is compiled, and of `bounds`, whose constants become part of it."""
    here = Path(__file__).parent
    files = sorted(here.glob("*.py")) + sorted((here.parents[1] / "bounds").glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


SOURCES = _digest_of_sources()

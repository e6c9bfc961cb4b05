# pyright: basic
"""Functions compiled by Numba as operations of XLA on a CPU, in parts that its threads share.

XLA calls a foreign function with one argument, a record of pointers, whose layout its header
``xla/ffi/api/c_api.h`` fixes and which jaxlib ships. What is read of it stands here, nowhere else.
"""

import ctypes
import functools
import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numba
import numpy as np
from jaxtyping import Array
from llvmlite import ir
from numba import extending, types

KNOWN_MAJOR = 0
"""Of XLA's foreign functions: the version whose records are read here."""
_METADATA = 1
_EXECUTE = 3
# Places in XLA_FFI_CallFrame, in XLA_FFI_Buffer and in XLA_FFI_Api, in words of 8 bytes.
_EXTENSION, _API, _CONTEXT, _STAGE, _ARGUMENTS, _RESULTS, _ATTRIBUTES = 1, 2, 3, 4, 9, 14, 20
_DATA, _DIMENSIONS = 3, 5
# Functions of XLA_FFI_Api, behind six words of versions.
_DESTROY, _SCHEDULE, _THREADS = 8, 17, 18
_FUNCTIONS = {
    "XLA_FFI_Error_Destroy": _DESTROY,
    "XLA_FFI_ThreadPool_Schedule": _SCHEDULE,
    "XLA_FFI_ThreadPool_NumThreads": _THREADS,
}
# What the threads that share a step know of it.
_FRAME, _PART, _PARTS, _NEXT, _DONE, _HOLDERS, _WORDS = range(7)

_FRAME_TYPE = types.CPointer(types.int64)
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


def layout_is_known() -> bool:
    """Whether jaxlib's header says that records lie as they are read here."""
    header = Path(jax.ffi.include_dir()) / "xla/ffi/api/c_api.h"
    if not header.is_file():
        return False
    text = header.read_text("utf-8")
    major = re.search(r"#define XLA_FFI_API_MAJOR (\d+)", text)
    functions = re.findall(r"^ +_XLA_FFI_API_STRUCT_FIELD\((\w+)\);", text, re.MULTILINE)
    places = {name: 6 + place for place, name in enumerate(functions)}
    same = all(places.get(name) == place for name, place in _FUNCTIONS.items())
    return major is not None and int(major[1]) == KNOWN_MAJOR and same


def _pointer_to(kind: Any) -> Any:
    @intrinsic
    def pointer(typing_context, address):
        signature = types.CPointer(kind)(address)

        def generate(context, builder, signature, arguments):
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return signature, generate

    return pointer


words_at = _pointer_to(types.int64)
_NUMBERS = ("float32", "int32", "uint32", "uint16", "uint8", "int64")
_floats_at = _pointer_to(types.float32)
_POINTERS = {name: _pointer_to(getattr(types, name)) for name in _NUMBERS}


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


@intrinsic
def _add_atomically(typing_context, address, amount):
    """What stood there before a number was added, in one step for all threads."""
    signature = types.int64(types.int64, types.int64)

    def generate(context, builder, signature, arguments):
        place = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", place, arguments[1], "seq_cst")

    return signature, generate


@intrinsic
def _call(typing_context, function, argument):
    """Call the C function at an address with the address of its record."""
    signature = types.int64(types.int64, types.int64)

    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.IntType(64), [ir.IntType(64)]).as_pointer()
        return builder.call(builder.inttoptr(arguments[0], kind), [arguments[1]])

    return signature, generate


def _caller(*further: Any) -> Any:
    """Call the C function at an address with a frame and further words."""
    signature = types.void(types.int64, _FRAME_TYPE, *further)

    def generate(context, builder, signature, arguments):
        word = ir.IntType(64)
        taken = [word.as_pointer(), *(word for _ in further)]
        kind = ir.FunctionType(ir.VoidType(), taken).as_pointer()
        builder.call(builder.inttoptr(arguments[0], kind), arguments[1:])
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def _call_part(typing_context, function, frame, number):
    return _caller(types.int64)


@intrinsic
def _call_with(typing_context, function, frame, steps, helper):
    return _caller(types.int64, types.int64)


_allocate = types.ExternalFunction("malloc", types.int64(types.int64))
_release = types.ExternalFunction("free", types.void(types.int64))


@inline()
def argument(frame, number):
    """The record of an argument."""
    return words_at(words_at(frame[_ARGUMENTS])[number])


@inline()
def result(frame, number):
    """The record of a result."""
    return words_at(words_at(frame[_RESULTS])[number])


@functools.cache
def array_of(kind: str, ndim: int) -> Any:
    """A function from a record to the array of such numbers that it stands for."""
    pointer = _POINTERS[kind]

    @inline()
    def one(record):
        sizes = words_at(record[_DIMENSIONS])
        return carray(pointer(record[_DATA]), (sizes[0],))

    @inline()
    def two(record):
        sizes = words_at(record[_DIMENSIONS])
        return carray(pointer(record[_DATA]), (sizes[0], sizes[1]))

    @inline()
    def three(record):
        sizes = words_at(record[_DIMENSIONS])
        return carray(pointer(record[_DATA]), (sizes[0], sizes[1], sizes[2]))

    @inline()
    def four(record):
        sizes = words_at(record[_DIMENSIONS])
        return carray(pointer(record[_DATA]), (sizes[0], sizes[1], sizes[2], sizes[3]))

    return (one, two, three, four)[ndim - 1]


@compiled()
def _is_to_compute(frame):
    """Whether a call asks for results; another asks for the version, or is a preparation."""
    if frame[_EXTENSION] != 0:
        extension = words_at(frame[_EXTENSION])
        if extension[1] & 0xFFFFFFFF == _METADATA:
            metadata = words_at(extension[3])
            metadata[3] = np.int64(1) << 32  # version 0.1
            return False
    return frame[_STAGE] & 0xFFFFFFFF == _EXECUTE


def _as_c(signature: Any) -> Callable[[Any], Any]:
    """Compile a C function, and keep what was compiled where that can be written."""

    def decorate(function: Any) -> Any:
        try:
            return numba.cfunc(signature, cache=True, **options)(function)
        except RuntimeError:  # neither beside the source nor in the user's cache folder
            return numba.cfunc(signature, **options)(function)

    return decorate


def as_part() -> Callable[[Any], Any]:
    """Compile one part of a step: a function of the record of the call and the part's number.

    What was compiled is kept beside the source. The function has to use `SOURCES`, as a variable of
    the function around it, so that it is compiled anew when any file here, or in `bounds`, changes.
    """
    return _as_c(types.void(_FRAME_TYPE, types.int64))


def _digest_of_sources() -> str:
    """Of all that is compiled, and of `bounds`, whose constants become part of it."""
    here = Path(__file__).parent
    files = sorted(here.glob("*.py")) + sorted((here.parents[1] / "bounds").glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


SOURCES = _digest_of_sources()
_KEPT: list[Any] = []


def foreign_function(name: str, *parts: Any) -> None:
    """Make a function of several steps known to XLA by a name.

    A call says by its attribute ``parts`` how many independent parts each step has; −n for n that
    are not worth another thread. A step begins when all parts of the one before are done.

    Args:
        name: To call it by.
        parts: For each step what does one part, of `as_part`.
    """
    addresses = np.array([part.address for part in parts], np.int64)
    steps, helper, taker = addresses.ctypes.data, _helper().address, _taker().address

    @numba.cfunc(types.int64(_FRAME_TYPE), **options)
    def handle(frame):
        _call_with(taker, frame, steps, helper)
        return 0

    capsule = ctypes.pythonapi.PyCapsule_New
    capsule.restype = ctypes.py_object
    capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    _KEPT.append((parts, addresses, handle))
    jax.ffi.register_ffi_target(name, capsule(handle.address, None, None), platform="cpu")


def call(
    target: str,
    results: Sequence[tuple[tuple[int, ...], Any]],
    parts: Sequence[int],
    *arrays: Array,
) -> Sequence[Array]:
    """Call a foreign function: shapes and types of its results, parts of its steps, arguments."""
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in results]
    compute = jax.ffi.ffi_call(target, shapes, vmap_method="sequential")
    return compute(*arrays, parts=np.array(parts, np.int64))


@compiled()
def _ask(frame, function, asked):
    """Whether a function of XLA did what it was asked for by a record."""
    api = words_at(frame[_API])
    asked[0], asked[1], asked[2] = 8 * asked.size, 0, frame[_CONTEXT]
    error = _call(api[function], address_of(asked))
    if error != 0:
        asked[2] = error
        asked[0] = 24
        _call(api[_DESTROY], address_of(asked))
    return error == 0


@compiled()
def _threads(frame):
    """How many threads XLA has for what it computes."""
    number = np.ones(1, np.int64)
    asked = np.empty(4, np.int64)
    asked[3] = address_of(number)
    return number[0] if _ask(frame, _THREADS, asked) else 1


@compiled()
def _do_parts(frame, part, begin, parts):
    """Do parts until none is left."""
    while True:
        number = _add_atomically(begin + 8 * _NEXT, 1)
        if number >= parts:
            break
        _call_part(part, frame, number)
        _add_atomically(begin + 8 * _DONE, 1)


@compiled()
def _leave(begin):
    """Whoever leaves last clears up: a helper may come late, when all is done."""
    if _add_atomically(begin + 8 * _HOLDERS, -1) == 1:
        _release(begin)


@functools.cache
def _helper() -> Any:
    sources = SOURCES

    @_as_c(types.void(_FRAME_TYPE))
    def help_out(shared):
        _ = sources
        begin = address_of(carray(shared, (_WORDS,)))
        _do_parts(words_at(shared[_FRAME]), shared[_PART], begin, shared[_PARTS])
        _leave(begin)

    return help_out


@compiled()
def _take_steps(frame, steps, helper):
    """All steps, each by as many threads as there are and are worth it."""
    attribute = words_at(words_at(frame[_ATTRIBUTES])[0])
    counts = words_at(attribute[2])
    for step in range(attribute[1]):
        part, parts = words_at(steps)[step], counts[step]
        helpers = min(parts, _threads(frame)) - 1 if parts > 1 else 0
        if helpers < 1:
            for number in range(abs(parts)):
                _call_part(part, frame, number)
            continue
        begin = _allocate(8 * _WORDS)
        shared = words_at(begin)
        shared[_FRAME], shared[_PART] = address_of(carray(frame, (1,))), part
        shared[_PARTS], shared[_NEXT], shared[_DONE] = parts, 0, 0
        shared[_HOLDERS] = helpers + 1
        asked = np.empty(5, np.int64)
        for _ in range(helpers):
            asked[3], asked[4] = helper, begin
            if not _ask(frame, _SCHEDULE, asked):
                _leave(begin)
        _do_parts(frame, part, begin, parts)
        while _add_atomically(begin + 8 * _DONE, 0) < parts:
            pass
        _leave(begin)


@functools.cache
def _taker() -> Any:
    sources = SOURCES

    @_as_c(types.void(_FRAME_TYPE, types.int64, types.int64))
    def take(frame, steps, helper):
        _ = sources
        if _is_to_compute(frame):
            _take_steps(frame, steps, helper)

    return take

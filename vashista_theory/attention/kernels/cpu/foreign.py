# pyright: basic
"""Functions compiled by Numba as operations of XLA on a CPU, in parts that threads share.

XLA calls a foreign function with one argument, a record of pointers, whose layout its header
``xla/ffi/api/c_api.h`` fixes and which jaxlib ships. What is read of it stands here, nowhere else.
"""

import ctypes
import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numba
import numpy as np
from jaxtyping import Array
from numba import types

from vashista_theory.attention.kernels.cpu import sharing
from vashista_theory.attention.kernels.cpu.native import (
    FRAME,
    SOURCES,
    address_of,
    as_c,
    call_c,
    carray,
    compiled,
    inline,
    intrinsic,
    keep_forever,
    options,
    pointer_to,
    with_frame,
    words_at,
)

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


_NUMBERS = ("float32", "int32", "uint32", "uint16", "uint8", "int64")
_POINTERS = {name: pointer_to(getattr(types, name)) for name in _NUMBERS}


@intrinsic
def _call_with(typing_context, function, frame, steps, helpers):
    return with_frame(types.int64, types.int64)


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


def as_part() -> Callable[[Any], Any]:
    """Compile one part of a step: a function of the record of the call and the part's number.

    What was compiled is kept beside the source. The function has to use `SOURCES`, as a variable of
    the function around it, so that it is compiled anew when any file here, or in `bounds`, changes.
    """
    return as_c(types.void(FRAME, types.int64))


def foreign_function(name: str, *parts: Any) -> None:
    """Make a function of several steps known to XLA by a name.

    A call says by its attribute ``parts`` how many independent parts each step has; −n for n that
    are not worth another thread. A step begins when all parts of the one before are done.

    Args:
        name: To call it by.
        parts: For each step what does one part, of `as_part`.
    """
    addresses = np.array([part.address for part in parts], np.int64)
    steps, taker = addresses.ctypes.data, _taker().address
    helping = sharing.own_threads() if sharing.OWN_THREADS else sharing.lent_helper().address

    @numba.cfunc(types.int64(FRAME), **options)
    def handle(frame):
        _call_with(taker, frame, steps, helping)
        return 0

    capsule = ctypes.pythonapi.PyCapsule_New
    capsule.restype = ctypes.py_object
    capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    keep_forever(addresses, handle)
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
    error = call_c(api[function], address_of(asked))
    if error != 0:
        asked[2] = error
        asked[0] = 24
        call_c(api[_DESTROY], address_of(asked))
    return error == 0


@compiled()
def _threads(frame):
    """How many threads XLA has for what it computes."""
    number = np.ones(1, np.int64)
    asked = np.empty(4, np.int64)
    asked[3] = address_of(number)
    return number[0] if _ask(frame, _THREADS, asked) else 1


@compiled()
def _lend(frame, helper, step, helpers):
    """Ask XLA for threads that help."""
    asked = np.empty(5, np.int64)
    for _ in range(helpers):
        asked[3], asked[4] = helper, step
        if not _ask(frame, _SCHEDULE, asked):
            sharing.leave(step)


_ask_for_help = sharing.ask_own_threads if sharing.OWN_THREADS else _lend


@compiled()
def _take_steps(frame, steps, helping):
    """All steps, each by as many threads as there are and are worth it."""
    attribute = words_at(words_at(frame[_ATTRIBUTES])[0])
    counts = words_at(attribute[2])
    for number in range(attribute[1]):
        part, parts = words_at(steps)[number], counts[number]
        helpers = min(parts, _threads(frame)) - 1 if parts > 1 else 0
        if helpers < 1:
            sharing.do_alone(frame, part, abs(parts))
            continue
        step = sharing.begin_step(frame, part, parts, helpers)
        if step == 0:
            sharing.do_alone(frame, part, parts)
            continue
        _ask_for_help(frame, helping, step, helpers)
        sharing.finish_step(step)


@functools.cache
def _taker() -> Any:
    sources = f"{SOURCES} {sharing.OWN_THREADS}"

    @as_c(types.void(FRAME, types.int64, types.int64))
    def take(frame, steps, helping):
        _ = sources
        if _is_to_compute(frame):
            _take_steps(frame, steps, helping)

    return take

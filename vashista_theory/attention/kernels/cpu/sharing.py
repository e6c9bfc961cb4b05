# pyright: basic
"""How threads share the parts of a step.

XLA lends its own threads. But on a machine of two processors Linux (6.18) was seen to wake one, in
half of the steps, on the processor of the thread that asks for it, where it waited until the step
was over. So on Linux there are threads that may run on one processor each, and are asked where the
step is not.
"""

import contextlib
import ctypes
import functools
import os
import sys
import threading
from typing import Any

import numpy as np
from numba import types

from vashista_theory.attention.kernels.cpu.native import (
    FRAME,
    SOURCES,
    add_atomically,
    address_of,
    allocate,
    as_c,
    carray,
    compiled,
    intrinsic,
    keep_forever,
    put_if_empty,
    release,
    swap_atomically,
    with_frame,
    words_at,
)

_NEEDED = ("sched_getcpu", "sched_yield", "sem_post", "sem_wait", "fegetenv", "fesetenv")
OWN_THREADS = sys.platform == "linux" and all(hasattr(ctypes.CDLL(None), n) for n in _NEEDED)
"""Whether there are such threads. What needs them must not be compiled elsewhere: a function that
the C library lacks ends the process."""
# A step: its frame, what does a part, parts in all, the next, those done, who holds the record, and
# how its thread rounds and treats subnormal numbers (XLA's flush them), 32 bytes.
_FRAME, _PART, _PARTS, _NEXT, _DONE, _HOLDERS, _ARITHMETIC = range(7)
_STEP_WORDS = _ARITHMETIC + 4
# A thread: its processor, the step it is asked to help with, and a semaphore of 32 bytes.
_PROCESSOR, _ASKED, _SEMAPHORE = 0, 1, 2
_THREAD_WORDS = 8
_TRIES = 2000  # some ten microseconds: the next step often follows at once
_current_processor = types.ExternalFunction("sched_getcpu", types.int32())
_post = types.ExternalFunction("sem_post", types.int32(types.int64))
_get_arithmetic = types.ExternalFunction("fegetenv", types.int32(types.int64))
_set_arithmetic = types.ExternalFunction("fesetenv", types.int32(types.int64))
_wait = types.ExternalFunction("sem_wait", types.int32(types.int64))
_yield = types.ExternalFunction("sched_yield", types.int32())


@intrinsic
def _call_part(typing_context, function, frame, number):
    return with_frame(types.int64)


@compiled()
def do_alone(frame, part, parts):
    """Do all parts one after the other."""
    for number in range(parts):
        _call_part(part, frame, number)


@compiled()
def begin_step(frame, part, parts, helpers):
    """The record of a step that so many helpers are going to be asked for; 0 without memory."""
    step = allocate(8 * _STEP_WORDS)
    if step == 0:
        return step
    shared = words_at(step)
    shared[_FRAME], shared[_PART] = address_of(carray(frame, (1,))), part
    shared[_PARTS], shared[_NEXT], shared[_DONE] = parts, 0, 0
    shared[_HOLDERS] = helpers + 1
    return step


@compiled()
def do_parts(step):
    """Do parts until none is left."""
    shared = words_at(step)
    frame, part, parts = words_at(shared[_FRAME]), shared[_PART], shared[_PARTS]
    while True:
        number = add_atomically(step + 8 * _NEXT, 1)
        if number >= parts:
            break
        _call_part(part, frame, number)
        add_atomically(step + 8 * _DONE, 1)


@compiled()
def leave(step):
    """Whoever leaves last clears up: a helper may come late, when all is done."""
    if add_atomically(step + 8 * _HOLDERS, -1) == 1:
        release(step)


@compiled()
def _do_nothing():
    return 0


# A helper may have lost its processor to this very thread, while it did a part.
_let_others = _yield if OWN_THREADS else _do_nothing


@compiled()
def finish_step(step):
    """Do what is left, and wait for what others do."""
    parts, tries = words_at(step)[_PARTS], 0
    do_parts(step)
    while add_atomically(step + 8 * _DONE, 0) < parts:
        tries += 1
        if tries > _TRIES:
            _let_others()
    leave(step)


@functools.cache
def lent_helper() -> Any:
    """What a thread that XLA lends does with the record of a step."""
    sources = SOURCES

    @as_c(types.void(FRAME))
    def help_out(shared):
        _ = sources
        step = address_of(carray(shared, (1,)))
        do_parts(step)
        leave(step)

    return help_out


@compiled()
def ask_own_threads(_, threads, step, helpers):
    """Ask so many threads of `own_threads` that do nothing, and are not where this one runs."""
    _get_arithmetic(step + 8 * _ARITHMETIC)
    here, asked, number = _current_processor(), 0, words_at(threads)[0]
    for after in range(number):
        if asked == helpers:
            break
        own = threads + 8 * (1 + (here + 1 + after) % number * _THREAD_WORDS)
        if words_at(own)[_PROCESSOR] != here and put_if_empty(own + 8 * _ASKED, step):
            _post(own + 8 * _SEMAPHORE)
            asked += 1
    for _ in range(helpers - asked):
        leave(step)


@functools.cache
def _serving() -> Any:
    sources = SOURCES

    @as_c(types.void(types.int64))
    def serve(own):
        _ = sources
        tries = 0
        while True:
            step = add_atomically(own + 8 * _ASKED, 0)
            if step != 0:
                _set_arithmetic(step + 8 * _ARITHMETIC)
                do_parts(step)
                # Now it may be asked again, and finds what it is asked before it waits.
                swap_atomically(own + 8 * _ASKED, 0)
                leave(step)
                tries = 0
            elif tries < _TRIES:
                tries += 1
            else:
                _wait(own + 8 * _SEMAPHORE)

    return serve


@functools.cache
def own_threads() -> int:
    """The address of a record of threads, their number first.

    One for each processor that this process may use, as far as they can be started.
    """
    processors: list[int] = []
    with contextlib.suppress(OSError):
        processors = sorted(os.sched_getaffinity(os.getpid()))
    record = np.zeros(1 + _THREAD_WORDS * len(processors), np.int64)  # semaphores that stand at 0
    record[1 + _PROCESSOR :: _THREAD_WORDS] = processors
    keep_forever(record)
    serve = ctypes.CFUNCTYPE(None, ctypes.c_int64)(_serving().address)

    def run(processor: int, own: int) -> None:
        with contextlib.suppress(OSError):  # not allowed: Linux chooses, then
            os.sched_setaffinity(0, {processor})
        serve(own)

    with contextlib.suppress(RuntimeError):  # no more threads can be started
        for number, processor in enumerate(processors):
            own = record.ctypes.data + 8 * (1 + number * _THREAD_WORDS)
            named = {"name": f"vashista-{processor}", "daemon": True}
            threading.Thread(target=run, args=(processor, own), **named).start()
            record[0] = number + 1
    return record.ctypes.data

# pyright: basic
"""The best pages of each row by a threshold, in the order in which they lie."""

import numpy as np

from vashista_theory.attention.kernels.cpu.arithmetic import as_word
from vashista_theory.attention.kernels.cpu.foreign import (
    argument,
    array_of,
    as_part,
    foreign_function,
    result,
)
from vashista_theory.attention.kernels.cpu.native import SOURCES, compiled

_PRIORITY, _PAGES, _NUMBER = 0, 0, 1
_priority, _pages, _number = array_of("float32", 3), array_of("int32", 3), array_of("int32", 2)
_NONE, _INFINITY = np.int32(-(2**31)), np.int32(0x7F800000)


@compiled()
def ordered(number):
    """`portable.as_ordered`: integers in the order of the numbers; −inf and NaN are the least."""
    bits = np.int32(as_word(number))
    size = np.int32(bits & np.int32(0x7FFFFFFF))
    order = np.int32(-size) if bits < 0 else size
    return _NONE if size > _INFINITY or order == -_INFINITY else order


@compiled()
def _reaching(order, threshold):
    number = np.int32(0)
    for page in range(order.size):
        number += np.int32(order[page] >= threshold)
    return number


@compiled()
def select_row(priority, pages):
    """The best entries (K,) of (P,), ascending, 0 behind them; returns how many there are."""
    order = np.empty(priority.size, np.int32)
    for page in range(priority.size):
        order[page] = ordered(priority[page])
    count = pages.size
    threshold = _NONE
    if _reaching(order, np.int32(0)) >= count:
        threshold = np.int32(0)
    for bit in range(30, -1, -1):
        higher = np.int32(threshold + np.int32(1 << bit))
        if _reaching(order, higher) >= count:
            threshold = higher
    above = np.int32(0)
    for page in range(order.size):
        above += np.int32(order[page] > threshold)
    room, found = count - above, 0
    for page in range(order.size):
        equal = order[page] == threshold and order[page] > _NONE and room > 0
        if equal:
            room -= 1
        if order[page] > threshold or equal:
            pages[found] = page
            found += 1
    for place in range(found, count):
        pages[place] = 0
    return found


@compiled()
def _select(frame, row):
    pages = _pages(result(frame, _PAGES))
    batch, head = row // pages.shape[1], row % pages.shape[1]
    priority = _priority(argument(frame, _PRIORITY))[batch, head]
    _number(result(frame, _NUMBER))[batch, head] = select_row(priority, pages[batch, head])


def select_pages(name: str) -> None:
    """Compile the selection: rows."""
    sources = SOURCES

    @as_part()
    def select(frame, row):
        _ = sources
        _select(frame, row)

    foreign_function(name, select)

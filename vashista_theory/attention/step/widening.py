"""Reading until the certificate holds: a loop over pages, so that cost follows difficulty."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vashista_theory._numerics import finite_or_zero, unit_roundoff
from vashista_theory.attention.bounds.certificate import dropped_mass_bound
from vashista_theory.attention.bounds.page_bounds import PageBounds, Query
from vashista_theory.attention.step.backend import Backend
from vashista_theory.attention.step.routing import Layout, group_priority
from vashista_theory.attention.step.softmax_sums import Partial, Pools, beside_sinks

_RANGE = 64.0  # nats below the best page within which the order tells pages apart


class Order(NamedTuple):
    """Pages in the order in which they are read, best first.

    Attributes:
        pages: Logical pages; the first `available` are meant.
        available: Full pages that are not read anyway.
        log_tail: Log of the summed upper bounds of all pages from a place on; −inf at the end.
    """

    pages: Int[Array, "R P"]
    available: Int[Array, " R"]
    log_tail: Float[Array, "R G P1"]


class Reading(NamedTuple):
    """What a loop has read: sums, pages of the order, whether it read everything in the end.

    `bound` is the bound on the dropped mass by which the loop was ended.
    """

    partial: Partial
    pages: Int[Array, " R"]
    fell_back: Bool[Array, " R"]
    bound: Float[Array, "R G"]


def order_by_bound(bounds: PageBounds, places: Layout) -> Order:
    """Order by what could be lost: each head's share of the upper bounds, added over the group."""
    unread = places.full & ~places.forced
    # What nothing bounds is read first: until then nothing can be proved.
    most = float(jnp.finfo(bounds.upper.dtype).max)
    priority = group_priority(jnp.clip(bounds.upper, -most, most), unread)
    pages = _descending(priority, unread)
    count = jnp.sum(unread, axis=1, dtype=jnp.int32)
    upper = jnp.take_along_axis(bounds.upper, pages[:, None, :], axis=2)
    places_ = jnp.arange(pages.shape[1] + 1, dtype=jnp.int32)[None, :]
    meant = places_ < count[:, None]
    bounded = meant[:, None, :-1] & (upper < jnp.inf)
    top = jnp.max(jnp.where(bounded, upper, -jnp.inf), axis=2, initial=-jnp.inf)
    anchor = finite_or_zero(top)[..., None]
    mass = jnp.where(meant[:, None, :-1], jnp.exp(upper - anchor), 0.0)
    tail = jax.lax.cumsum(mass, axis=2, reverse=True)
    # The sum rounds, and terms far below the greatest underflow.
    info = jnp.finfo(tail.dtype)
    rounding = 1.0 + 4 * (pages.shape[1] + 8) * unit_roundoff(tail.dtype)
    tail = tail * rounding + pages.shape[1] * float(info.tiny)
    log_tail = jnp.pad(jnp.log(tail) + anchor, ((0, 0), (0, 0), (0, 1)))
    return Order(pages, count, jnp.where(meant[:, None, :], log_tail, -jnp.inf))


def _descending(priority: Float[Array, "R P"], meant: Bool[Array, "R P"]) -> Int[Array, "R P"]:
    """Pages by falling priority, those that are not meant last.

    Priority and page share one integer: XLA's CPU back end sorts those six times as fast as pairs.
    Pages whose priorities agree to a few thousandths of a nat may change places, which costs
    nothing: every order is sound.
    """
    width = max(1, (priority.shape[1] - 1).bit_length())
    levels = 2 ** (32 - width) - 2
    best = jnp.max(priority, axis=1, keepdims=True, initial=-jnp.inf)
    below = jnp.where(priority > -jnp.inf, best - priority, _RANGE)
    level = jnp.clip(below * (levels / _RANGE), 0, levels).astype(jnp.uint32)
    level = jnp.where(meant, jnp.minimum(level, levels), levels + 1)
    numbers = jnp.arange(priority.shape[1], dtype=jnp.uint32)[None, :]
    ordered = jnp.sort((level << width) | numbers, axis=1)
    return (ordered & jnp.uint32(2**width - 1)).astype(jnp.int32)


def first_promising(
    order: Order, log_read: Float[Array, "R G"], tolerance: float, after: Int[Array, " R"]
) -> Int[Array, " R"]:
    """How many pages cannot be spared: with fewer, the proof fails even if bounds were masses.

    Args:
        order: The order of reading.
        log_read: Log-mass of what has been read: pages read anyway, and the first `after`.
        tolerance: Dropped mass allowed.
        after: Pages of the order already read, by row.
    """
    now = jnp.take_along_axis(order.log_tail, after[:, None, None], axis=2)
    total = jnp.logaddexp(now, log_read[..., None])
    log_tolerance = jnp.log(jnp.asarray(tolerance, total.dtype))
    # +inf: a page that nothing bounds is among the rest.
    enough = (order.log_tail <= log_tolerance + total) & (order.log_tail < jnp.inf)
    enough = jnp.all(enough, axis=1)
    return jnp.argmax(enough, axis=1).astype(jnp.int32)


def read_until_certified(
    query: Query,
    pools: Pools,
    order: Order,
    first: Partial,
    start: Int[Array, " R"],
    *,
    backend: Backend,
    tolerance: float,
    widen: bool,
) -> Reading:
    """Read `start` pages of each row, then more until its dropped mass is proven small enough.

    Each row is read as far as it needs: a diffuse head makes no other read more.

    Args:
        query: The queries.
        pools: The pools.
        order: The order of reading.
        first: What has been read already (sink and recent pages).
        start: Pages to read before the first test.
        backend: How pages are read.
        tolerance: Dropped mass allowed.
        widen: Add pages, never one more than if they came one at a time; otherwise read the whole
            row if the first test fails.
    """

    def bound_after(count: Array, sums: Partial) -> Array:
        tail = jnp.take_along_axis(order.log_tail, count[:, None, None], axis=2)[..., 0]
        known = beside_sinks(query, sums)
        return dropped_mass_bound(tail, known.log_mass(), known.log_mass_slack(query))

    def failing(bound: Array, count: Array) -> Array:
        return ~jnp.all(bound <= tolerance, axis=1) & (count < order.available)

    def widen_further(state: _Progress) -> _Progress:
        count, sums, bound = state
        # What is read next holds no more than its bounds say: fewer pages cannot suffice.
        needed = first_promising(order, beside_sinks(query, sums).log_mass(), tolerance, count)
        end = jnp.minimum(jnp.maximum(needed, count + 1), order.available)
        end = jnp.where(failing(bound, count), end, count)
        sums = backend.read_range(query, pools, order.pages, count, end, sums)
        return _Progress(end, sums, bound_after(end, sums))

    begin = jnp.minimum(start, order.available)
    sums = backend.read_range(query, pools, order.pages, jnp.zeros_like(begin), begin, first)
    tested = _Progress(begin, sums, bound_after(begin, sums))
    if widen:
        last = jax.lax.while_loop(
            lambda s: jnp.any(failing(s.bound, s.done)), widen_further, tested
        )
        return Reading(last.sums, last.done, jnp.zeros(begin.shape, bool), last.bound)
    failed = failing(tested.bound, begin)
    end = jnp.where(failed, order.available, begin)
    sums = backend.read_range(query, pools, order.pages, begin, end, sums)
    return Reading(sums, end, failed, bound_after(end, sums))


class _Progress(NamedTuple):
    """Pages of the order read, their sums, and the bound on what is not in them."""

    done: Int[Array, " R"]
    sums: Partial
    bound: Float[Array, "R G"]

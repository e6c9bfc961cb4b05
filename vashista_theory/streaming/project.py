r"""Projection by passes over blocks of keys, with columns generated as the blocks go by.

.. math:: p^* = \arg\min_{p \in \mathrm{conv}\{k_i\}} \tfrac12 \|p - q\|^2
"""

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import jax
import numpy as np

from vashista_theory._checks import is_integer, is_positive
from vashista_theory._numerics import default_tolerance
from vashista_theory._results import Result
from vashista_theory._types import ArrayLike
from vashista_theory.hull import kkt
from vashista_theory.hull.problem import settle
from vashista_theory.hull.projection import FAILURES
from vashista_theory.streaming import working_set
from vashista_theory.streaming.answer import BlockProjection
from vashista_theory.streaming.pass_progress import Watch
from vashista_theory.streaming.pricing import Optimum, Seen, merge, price
from vashista_theory.streaming.rows import Rows, RowSource, as_rows
from vashista_theory.streaming.working_set import WorkingSet

FACE_ROWS = 2**22
"""Rows of an exposed face that are listed (32 MiB); a larger face is counted."""

_STALLS = 8
"""Solves that bring the point no nearer, as far as rounding can tell, before it is left alone."""


def project_blocks(
    keys: RowSource | ArrayLike,
    query: ArrayLike,
    *,
    block_rows: int | None = None,
    tolerance: float | None = None,
    max_passes: int = 100,
    workers: int | None = None,
    initial_rows: ArrayLike | None = None,
    multipliers: Any = None,
    progress: str = "none",
    throw: bool = True,
) -> BlockProjection:
    r"""Project a query on the convex hull of keys that may be larger than memory.

    The meaning is that of `project`; the keys are read block by block and never held. Blocks are
    priced in float64 whatever they are stored in, and the 64-bit mode of JAX need not be on.

    Method. A working set :math:`W` of about a thousand keys is in memory, with the projection
    :math:`p` on its hull. Blocks are visited in turn. A block whose keys all satisfy
    :math:`\langle q - p, k - p\rangle \le 0` is *clean*. Otherwise its most violating keys enter
    :math:`W`, the problem on :math:`W` is solved to the end, and the next block meets the new
    point. When every block has been clean for one and the same point, the optimality conditions
    hold for all keys: :math:`p = p^*`. Most of the way is made within the first pass; two to four
    passes are usual.

    Termination. :math:`p` is a point of the hull of its support :math:`S \subset W`, and a key
    with :math:`\langle q - p, k - p\rangle > 0` makes
    :math:`\mathrm{dist}(q, \mathrm{conv}(S \cup \{k\}))` strictly smaller than
    :math:`\|q - p\|`. :math:`S` stays in :math:`W` when other keys have to leave, so the distance
    falls with every solve and no support comes twice; there are finitely many, and between two
    solves at most all blocks are visited once. The number of supports is no useful bound of the
    number of passes, hence `max_passes`. In floating point, violations below the rounding of the
    solver do not count, and when eight solves have not lowered the distance the next is undone and
    its block counts as clean; the residuals say what that left.

    Memory. Beside the interpreter: the working set, some MiB for each worker, a block per worker
    where the store decompresses, and the exposed face. A memory-mapped file is page cache, which
    the system takes back when it needs it.

    Args:
        keys: (n, d), read by slices of rows: `numpy.load(path, mmap_mode="r")`, `zarr.open_array`,
            or in memory. Fastest where rows are contiguous.
        query: (d,).
        block_rows: rows of a block; default 32 MiB in float64, in whole chunks of a Zarr array.
        tolerance: duality gap, relative to scale, at which the answer counts as solved; default
            9e-13. A greater value also stops the search early.
        max_passes: passes after which no key enters any more; one more measures the answer.
        workers: threads that read and price, a block each; default the cores, at most 4. The
            answer is the same to rounding, bit for bit only for the same number.
        initial_rows: rows to start from, for instance `support` of a nearby query.
        multipliers: a writable array (n,) that receives every multiplier, for instance
            `numpy.lib.format.open_memmap(path, "w+", float, (n,))`.
        progress: "bar" or "log" shows passes, rates and what remains; "none" is silent.
        throw: raise on failure; otherwise return what was found, with `result`.

    Returns:
        A `BlockProjection`.

    Raises:
        ValueError: shapes, types, options; NaN or infinity, with its row.
        OSError: rows that cannot be read.
        RuntimeError: a failure named by `Result`, when `throw` is true.
    """
    rows, query_ = as_rows(keys, query, block_rows)
    _check_options(rows, tolerance, max_passes, multipliers)
    workers = _workers(workers, rows)
    current = _start(rows, query_, initial_rows)
    search = _Search(rows, current, tolerance, max_passes, workers, multipliers)
    with Watch(search.steps, mode=progress) as watch:
        search.run(watch)
    answer = search.answer(watch)
    detail = f"(duality gap {answer.duality_gap:.3g}, scale {answer.scale:.3g})."
    if not throw:
        return answer
    failures = (*FAILURES, Result.max_passes_reached)
    return settle(answer, answer.result, failures=failures, doing="project_blocks", detail=detail)


class _Search:
    """The passes: one *step* prices as many blocks as there are workers, all for one point."""

    def __init__(
        self,
        rows: Rows,
        current: WorkingSet,
        tolerance: float | None,
        max_passes: int,
        workers: int,
        sink: Any,
    ) -> None:
        self._rows, self._current, self._sink = rows, current, sink
        self._workers, self._max_passes = workers, max_passes
        default = default_tolerance(np.float64)
        self._tolerance = tolerance or default
        self._early = self._tolerance if self._tolerance > default else 0.0
        self._clean: dict[int, Seen] = {}
        self._listed = 0
        self._scale = 0.0
        self._solves = self._stalls = 0
        self._exhausted = False
        self.steps = -(-rows.blocks // workers)

    def run(self, watch: Watch) -> None:
        """Visit blocks in turn until all are clean for one point."""
        with ExitStack() as stack:
            pool = None
            if self._workers > 1:
                pool = stack.enter_context(ThreadPoolExecutor(self._workers))
            position = 0
            while len(self._clean) < self.steps:
                step = position % self.steps
                frozen = position >= self._max_passes * self.steps
                start, seen = self._price(step, pool)
                self._scale = max(self._scale, seen.scale)
                clock = time.perf_counter()
                improved = not frozen and self._enter(seen)
                solving = time.perf_counter() - clock
                self._exhausted |= frozen and len(seen.violators) > 0
                if improved:
                    self._clean.clear()
                    self._listed = 0
                else:
                    self._keep(step, seen)
                count = len(seen.multipliers)
                if self._sink is not None:
                    self._sink[start : start + count] = seen.multipliers
                position += 1
                watch.step(
                    rows=count,
                    nbytes=count * self._rows.nbytes // self._rows.n,
                    solving=solving,
                    improved=improved,
                    remaining=self.steps - len(self._clean),
                )

    def _price(self, step: int, pool: ThreadPoolExecutor | None) -> tuple[int, Seen]:
        first = step * self._workers
        numbers = range(first, min(first + self._workers, self._rows.blocks))
        optimum = self._current.optimum
        allowance = self._early * self._scale
        most = working_set.capacity(self._rows.d) // (2 * self._workers)

        def one(number: int) -> Seen:
            start, block = self._rows.block(number)
            return price(block, start, optimum, allowance=allowance, most=most)

        parts = list(pool.map(one, numbers) if pool else map(one, numbers))
        return first * self._rows.block_rows, merge(parts)

    def _enter(self, seen: Seen) -> bool:
        if not len(seen.violators) or self._current.optimum.inside:
            return False
        self._solves += 1
        grown = self._current.enter(seen)
        if grown is None:
            return False
        self._stalls += not grown.is_nearer_than(self._current)
        if self._stalls > _STALLS:
            return False
        self._current = grown
        return True

    def _keep(self, step: int, seen: Seen) -> None:
        self._listed += seen.face_size
        listed = self._listed <= FACE_ROWS and not self._current.optimum.inside
        self._clean[step] = seen.summary(keep_face=listed)

    def answer(self, watch: Watch) -> BlockProjection:
        """Judge the point by what all blocks said about it."""
        optimum = self._current.optimum
        told = [self._clean[step] for step in sorted(self._clean)]
        inside = optimum.inside
        if inside and self._sink is not None:
            for number in range(self._rows.blocks):
                start = number * self._rows.block_rows
                stop = min(start + self._rows.block_rows, self._rows.n)
                self._sink[start:stop] = np.zeros(stop - start)
        seen = merge(told)
        residuals = _residuals(optimum, seen.least)
        squared_unit = optimum.unit * optimum.unit
        gap = kkt.duality_gap(np.float64(seen.excess), optimum.place, len(optimum.weights))
        duality_gap = max(float(gap) * squared_unit, float(np.finfo(np.float64).tiny))
        unsolved = not seen.violation <= 1.0 and not inside
        unclear = np.isposinf(seen.gap) and not kkt.is_clear(seen.tolerance, optimum.place)
        result = Result.successful
        for happened, outcome in (
            (seen.ambiguous or unclear, Result.ambiguous_face),
            (inside, Result.inside_hull),
            (unsolved, Result.stagnated),
            (unsolved and self._exhausted, Result.max_passes_reached),
            (seen.gap < np.finfo(np.float64).tiny, Result.nonfinite_input),
        ):
            result = outcome if happened else result
        order = np.argsort(optimum.index)
        history = watch.history
        n = self._rows.n
        return BlockProjection(
            shape=(n, self._rows.d),
            query=optimum.query,
            point=optimum.point,
            support=optimum.index[order],
            weights=optimum.weights[order],
            face=None if inside or seen.face_size > FACE_ROWS else seen.face,
            face_size=n if inside else seen.face_size,
            gap=float("nan") if inside else seen.gap,
            residuals=residuals,
            duality_gap=duality_gap,
            scale=self._scale,
            passes=sum(one.rows for one in history) / n,
            solves=self._solves,
            history=history,
            result=result,
        )


def _residuals(optimum: Optimum, least: float) -> kkt.Residuals:
    """The four residuals; `least` is the least multiplier of all keys."""
    own = optimum.multipliers(optimum.rows) * optimum.unit**2
    # Keys without weight up to one fixed shape: nothing is compiled anew for each support.
    free = max(0, len(optimum.point) + 1 - len(own))
    rows = np.concatenate(
        [optimum.rows, np.broadcast_to(optimum.point, (free, len(optimum.point)))]
    )
    weights, own = np.pad(optimum.weights, (0, free)), np.pad(own, (0, free))
    with jax.enable_x64(True):
        arrays = (rows, optimum.point, weights, np.array([least]), own)
        return kkt.residuals(*(jax.numpy.asarray(array) for array in arrays))


def _start(rows: Rows, query: np.ndarray, initial_rows: ArrayLike | None) -> WorkingSet:
    """The first key, or those asked for."""
    index = np.zeros(1, np.int64)
    if initial_rows is not None:
        given = np.asarray(initial_rows)
        most = working_set.capacity(rows.d)
        whole = given.ndim == 1 and given.dtype.kind in "iu" and 1 <= given.size <= most
        if not whole or given.min() < 0 or given.max() >= rows.n:
            raise ValueError(
                f"`initial_rows` must be 1 to {most} integers from 0 to {rows.n - 1}, got "
                f"{given.dtype} of shape {given.shape}. Pass `.support` of another projection."
            )
        index = np.unique(given).astype(np.int64)
    held = rows.take(index)
    with np.errstate(over="ignore"):
        usable = np.isfinite(np.sum(held**2))
    if not usable:
        # The first pass names the row; it needs some point to start from.
        held = np.broadcast_to(query, (1, rows.d))
        index = index[:1]
    return working_set.solve(index, held, query, index)


def _workers(given: int | None, rows: Rows) -> int:
    workers = min(4, os.cpu_count() or 1) if given is None else given
    if not is_integer(workers, least=1):
        raise ValueError(f"`workers` must be an integer of at least 1, got {given!r}.")
    return min(workers, rows.blocks)


def _check_options(rows: Rows, tolerance: float | None, max_passes: int, multipliers: Any) -> None:
    if tolerance is not None and not is_positive(tolerance):
        raise ValueError(
            f"`tolerance` must be a positive number (relative to scale), got {tolerance!r}."
        )
    if not is_integer(max_passes, least=1):
        raise ValueError(f"`max_passes` must be an integer of at least 1, got {max_passes!r}.")
    if multipliers is None:
        return
    shape: Sequence[int] | None = getattr(multipliers, "shape", None)
    kind = np.dtype(getattr(multipliers, "dtype", object)).kind
    if shape is None or tuple(shape) != (rows.n,) or kind != "f":
        raise ValueError(
            f"`multipliers` must be a writable float array of shape ({rows.n},), got "
            f"{type(multipliers).__name__} of shape {shape}. "
            "`numpy.lib.format.open_memmap(path, 'w+', float, shape)` makes one on disk."
        )

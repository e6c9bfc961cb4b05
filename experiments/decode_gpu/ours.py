"""Our decode steps: by policy through the public front, and through the three kernel stages.

The stages are called as a serving loop would call them, all in one jit. Where each kv head has a
list of its own, sequences and kv heads are folded into one axis: a row is then a sequence with one
kv head, which is a view of the same pools.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.decode_gpu.data import PAGE, SPEC, Geometry
from experiments.decode_gpu.dense import head_major
from experiments.decode_gpu.timing import Step
from vashista_theory.attention import PagedKV, Policy, vashista_attention
from vashista_theory.attention.bounds.summaries import (
    PAGES_PER_SUPERPAGE,
    Summaries,
    without_sketch,
)
from vashista_theory.attention.kernels import api
from vashista_theory.attention.kernels.spec import AttendShape, Kind, ScoreShape, SelectShape

SPAN = PAGES_PER_SUPERPAGE
_BISECTIONS = 14  # of a range of some tens of nats: to a few thousandths of one
# Of the tolerance, when pages are chosen by the sketch's estimate of the mass that is read, before
# that mass is known.
_MARGIN = 0.9


class Folded(NamedTuple):
    """Summaries with one row for each sequence and kv head; R rows, N pages.

    Attributes:
        pages: Of all pages, (1, Hkv·N, ...), a view.
        superpages: Of superpages, (1, R·C, ...), a view.
        whole: Pages' summaries by kv head, (Hkv, N, ...), the same arrays.
    """

    keys: jax.Array
    values: jax.Array
    pages: Summaries
    superpages: Summaries
    whole: Summaries
    table: jax.Array


def fold(cache: PagedKV) -> Folded:
    """Views of a cache for the stages."""

    def flat(a: jax.Array, axes: int) -> jax.Array:
        return a.reshape(1, -1, *a.shape[axes:])

    light = without_sketch(cache.summaries)
    return Folded(
        cache.keys,
        cache.values,
        jax.tree.map(lambda a: flat(a, 2), light),
        jax.tree.map(lambda a: flat(a, 3), cache.superpages),
        cache.summaries,
        cache.page_table,
    )


def front(cache: PagedKV, policy: Policy) -> Step:
    """`vashista_attention` with its report."""

    def call(query: jax.Array, held: PagedKV) -> tuple[jax.Array, dict[str, jax.Array]]:
        output, info = vashista_attention(query, held, policy)
        read = info.pages_read.astype(jnp.float32) / held.pages_per_sequence
        extras = {
            "bytes": jnp.sum(info.bytes_read),
            "share_read": jnp.mean(read),
            "certified": jnp.mean(info.certified.astype(jnp.float32)),
        }
        return output, extras

    return Step(call, cache)


def budget(
    shape: Geometry, held: Folded, *, pages: int, superpages: int, implementation: str | None
) -> Step:
    """Boxes on two levels, then the best pages: the `budget` policy in three stages."""

    def call(query: jax.Array, held: Folded) -> tuple[jax.Array, dict[str, jax.Array]]:
        chosen = choose(shape, query, held, pages, superpages, implementation)
        found = api.attend_pages(
            query, held.keys, held.values, *chosen, implementation=implementation
        )
        return found.output, {}

    return Step(call, held)


def choose(
    shape: Geometry,
    query: jax.Array,
    held: Folded,
    pages: int,
    superpages: int,
    implementation: str | None,
) -> tuple[jax.Array, jax.Array]:
    """Physical pages (B, Hkv, K), ascending, and tokens (B, Hkv): score and select, twice."""
    score = functools.partial(api.score_pages, kind="box", implementation=implementation)
    select = functools.partial(api.select_pages, implementation=implementation)
    rows = query.reshape(-1, shape.group, shape.head_size)
    count, tops = rows.shape[0], shape.pages // SPAN
    lengths = jnp.full(count, shape.tokens, jnp.int32)
    table = jnp.arange(count * tops, dtype=jnp.int32).reshape(count, tops)
    upper = score(rows, held.superpages, table, lengths, page_size=SPAN * PAGE).estimate
    opened = min(superpages, tops)
    first = select(_with_ends(_shared(upper)), opened).pages[:, 0]
    children = first[..., None] * SPAN + jnp.arange(SPAN, dtype=jnp.int32)[None, None, :]
    children = children.reshape(count, opened * SPAN)
    start = _row_start(shape)
    lengths = jnp.full(count, opened * SPAN * PAGE, jnp.int32)
    lower = score(rows, held.pages, start + children, lengths, page_size=PAGE).estimate
    # The first and the last superpage were opened, so the ends are the first and the last page.
    wanted = min(pages, opened * SPAN)
    best = select(_with_ends(_shared(lower)), wanted)
    listed = jnp.take_along_axis(children, best.pages[:, 0], axis=1)
    sequence = jnp.repeat(jnp.arange(shape.batch, dtype=jnp.int32), shape.kv_heads) * shape.pages
    listed = (listed + sequence[:, None]).reshape(shape.batch, shape.kv_heads, wanted)
    return listed, (best.number[:, 0] * PAGE).reshape(shape.batch, shape.kv_heads)


def certified(
    shape: Geometry, held: Folded, *, listed: int, tolerance: float, implementation: str | None
) -> Step:
    """Every sketched key judged, as few pages as the proof needs, and dense where it fails.

    How many pages a row needs is found by bisecting on the bound, before any page is read; the
    proof is made again with the mass that was read.

    Args:
        shape: The geometry.
        held: Folded cache.
        listed: Room in each row's list; a row that needs more is read densely, like one that is
            not proved.
        tolerance: Dropped mass.
        implementation: Of the stages.
    """

    def call(query: jax.Array, held: Folded) -> tuple[jax.Array, dict[str, jax.Array]]:
        priority, upper = wanted_pages(shape, query, held, tolerance, implementation)
        room = min(listed, shape.pages)
        best = api.select_pages(priority, room, implementation=implementation)
        start = jnp.arange(shape.batch, dtype=jnp.int32)[:, None, None] * shape.pages
        tokens = best.number * PAGE
        found = api.attend_pages(
            query,
            *(held.keys, held.values, best.pages + start, tokens),
            implementation=implementation,
        )
        fits = jnp.sum(priority > -jnp.inf, axis=-1, dtype=jnp.int32) <= room
        unread = jnp.where((priority == -jnp.inf)[:, :, None], upper, -jnp.inf)
        left = jax.nn.logsumexp(unread, axis=-1).reshape(query.shape[:2])
        share = jax.nn.sigmoid(left - found.log_mass)
        proved = (share <= tolerance) & jnp.repeat(fits, shape.group, axis=1)
        output = jax.lax.cond(
            jnp.all(proved),
            lambda: found.output,
            # Not the attend stage: its portable form would gather the whole cache.
            lambda: (
                head_major(shape, held.keys, held.values)
                .call(query, (held.keys, held.values))[0]
                .astype(found.output.dtype)
            ),
        )
        read = jnp.where(jnp.all(proved), tokens / PAGE, float(shape.pages))
        kept = 2.0 * PAGE * shape.head_size * held.keys.dtype.itemsize
        extras = {
            "bytes": jnp.sum(read) * kept + score_bytes(shape, "sketch"),
            "share_read": jnp.mean(read) / shape.pages,
            "certified": jnp.mean(proved.astype(jnp.float32)),
        }
        return output.astype(query.dtype), extras

    return Step(call, held)


def wanted_pages(
    shape: Geometry, query: jax.Array, held: Folded, tolerance: float, implementation: str | None
) -> tuple[jax.Array, jax.Array]:
    """Priority of the pages a proof needs, −inf for the others, and every page's upper bound."""
    scores = sketch_scores(shape, query, held, implementation)
    by_row = (shape.batch, shape.kv_heads, shape.group, shape.pages)
    upper, estimate = (a.reshape(by_row) for a in (scores.upper, scores.estimate))
    return _threshold(_with_ends(_shared(upper)), upper, estimate, tolerance), upper


def sketch_scores(
    shape: Geometry, query: jax.Array, held: Folded, implementation: str | None
) -> tuple[jax.Array, jax.Array]:
    """Upper bound and estimate of every page, (B, H, P) each."""
    return api.score_pages(
        query,
        held.whole,
        held.table,
        jnp.full(shape.batch, shape.tokens, jnp.int32),
        kind="sketch",
        page_size=PAGE,
        bits=SPEC.sketch_bits,
        packed=SPEC.packed,
        implementation=implementation,
    )


def _threshold(
    priority: jax.Array, upper: jax.Array, estimate: jax.Array, tolerance: float
) -> jax.Array:
    """The priority, −inf where a page need not be read for any head of the group."""
    wanted = jnp.log(_MARGIN * tolerance / (1.0 - _MARGIN * tolerance))
    finite = jnp.where(jnp.isinf(priority), jnp.nan, priority)
    low, high = jnp.nanmin(finite, axis=-1), jnp.nanmax(finite, axis=-1)

    def enough(least: jax.Array) -> jax.Array:
        read = (priority >= least[..., None])[:, :, None]
        left = jax.nn.logsumexp(jnp.where(read, -jnp.inf, upper), axis=-1)
        held = jax.nn.logsumexp(jnp.where(read, estimate, -jnp.inf), axis=-1)
        return jnp.all(left - held <= wanted, axis=-1)

    def halve(_: Any, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = 0.5 * (low + high)
        good = enough(middle)
        return jnp.where(good, middle, low), jnp.where(good, high, middle)

    low, _ = jax.lax.fori_loop(0, _BISECTIONS, halve, (low, high))
    return jnp.where(priority >= low[..., None], priority, -jnp.inf)


def _shared(scores: jax.Array) -> jax.Array:
    """(B, [Hkv,] G, P) to (B, Hkv, P): each head's share of the mass, summed over the group."""
    share = scores - jax.nn.logsumexp(scores, axis=-1, keepdims=True)
    total = jax.nn.logsumexp(share, axis=-2)
    return total if scores.ndim == 4 else total[:, None]


def _with_ends(priority: jax.Array) -> jax.Array:
    """The first and the last entry are always chosen: the sink, and recent tokens."""
    last = priority.shape[-1] - 1
    place = jnp.arange(priority.shape[-1], dtype=jnp.int32)[None, None, :]
    return jnp.where((place == 0) | (place == last), jnp.inf, priority)


def _row_start(shape: Geometry) -> jax.Array:
    """Where a row's pages begin in the folded pool, (R, 1)."""
    batch = jnp.arange(shape.batch, dtype=jnp.int32)[:, None]
    head = jnp.arange(shape.kv_heads, dtype=jnp.int32)[None, :]
    return ((head * shape.batch + batch) * shape.pages).reshape(-1, 1)


def score_bytes(shape: Geometry, kind: Kind, pages: int | None = None) -> float:
    """What judging so many pages of every row has to read."""
    parts = SPEC.bytes_by_part(PAGE, shape.head_size)
    each = parts["box"] + (parts["sketch"] if kind == "sketch" else 0)
    return float(shape.batch * shape.kv_heads * (pages or shape.pages) * each)


def attend_bytes(shape: Geometry, pages: int) -> float:
    """What reading so many pages of every row has to read."""
    share = min(1.0, pages / shape.pages)
    return shape.dense_bytes * share


def budget_bytes(shape: Geometry, pages: int, superpages: int) -> float:
    """Superpages, the pages of those opened, and the pages read."""
    tops = shape.pages // SPAN
    opened = min(superpages, tops) * SPAN
    return score_bytes(shape, "box", tops + opened) + attend_bytes(shape, min(pages, opened))


def who_runs(shape: Geometry, *, listed: int, platform: str) -> dict[str, str]:
    """The implementation that `implementation=None` takes for each stage, by its name here."""
    rows = shape.batch * shape.kv_heads
    common = {"head_size": shape.head_size, "page_size": PAGE, "query_dtype": shape.dtype}
    whole = {"batch": shape.batch, "heads": shape.heads, "kv_heads": shape.kv_heads}
    folded = {"batch": rows, "heads": shape.group, "kv_heads": 1}
    pool = shape.batch * shape.pages
    score = functools.partial(ScoreShape, **common, stored="bfloat16", packed=True)
    calls: dict[str, tuple[Any, Any]] = {
        "score box": (
            "score",
            score(**folded, kind="box", bits=None, pool_pages=rows * shape.pages, pages=512),
        ),
        "score sketch": (
            "score",
            score(
                **whole, kind="sketch", bits=SPEC.sketch_bits, pool_pages=pool, pages=shape.pages
            ),
        ),
        "select": ("select", SelectShape(shape.batch, shape.kv_heads, shape.pages, listed)),
        "attend": (
            "attend",
            AttendShape(**whole, **common, pool_pages=pool, listed=listed, pool_dtype=shape.dtype),
        ),
    }
    return {name: _taken(stage, call, platform) for name, (stage, call) in calls.items()}


def _taken(stage: Any, call: Any, platform: str) -> str:
    for name in api.IMPLEMENTATIONS:
        try:
            found = api.load(name)
        except NotImplementedError:
            continue
        able = platform in found.platforms and stage in found.stages
        if able and found.stages[stage].why_not(call) is None:
            return name
    return "xla"

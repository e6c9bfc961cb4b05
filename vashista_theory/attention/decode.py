"""Sparse attention of one query a head over a paged cache, with a report on itself."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vashista_theory._checks import as_scale
from vashista_theory._numerics import masked_logsumexp
from vashista_theory._results import Result
from vashista_theory._types import ArrayLike
from vashista_theory.attention import _decode_checks as checks
from vashista_theory.attention._bits import widened
from vashista_theory.attention.access import Access
from vashista_theory.attention.cache import PagedKV
from vashista_theory.attention.certificate import (
    PageBounds,
    Query,
    as_query,
    dropped_mass,
    dropped_mass_bound,
    dropped_mass_lower,
    output_error_bound,
    score_gap,
    unread_log_mass,
)
from vashista_theory.attention.coupled import attend_coupled
from vashista_theory.attention.info import DecodeInfo
from vashista_theory.attention.judge import (
    Judged,
    can_choose,
    judge_two_levels,
    reads_two_levels,
)
from vashista_theory.attention.kernel_access import kernel_access
from vashista_theory.attention.kernel_choice import PLAIN, Kernels, kernels_for
from vashista_theory.attention.policy import Policy
from vashista_theory.attention.read import Partial, Pools, as_rows
from vashista_theory.attention.rounding import norm_from_above, work_dtype
from vashista_theory.attention.routing import Layout, forced_pages, group_priority
from vashista_theory.attention.sharded import ShardedKV
from vashista_theory.attention.sharded_access import access_from, whole_context
from vashista_theory.attention.widen import (
    first_promising,
    order_by_bound,
    read_until_certified,
)

_NOTHING = 2.0**-10
"""Nats: what logits in half precision are rounded by."""


class _Outcome(NamedTuple):
    """What was read of each row, and what was not."""

    output: Float[Array, "R G D"]
    partial: Partial | None
    pages_read: Int[Array, " R"]
    fell_back: Bool[Array, " R"]
    judged: Judged | None
    unread: Bool[Array, "R U"] | None
    bound: Float[Array, "R G"] | None = None
    solved: Bool[Array, "R G"] | None = None


def vashista_attention(
    query: ArrayLike,
    cache: PagedKV | ShardedKV,
    policy: Policy,
    *,
    scale: ArrayLike | None = None,
    coupling: float = 0.0,
    implementation: str | None = None,
) -> tuple[Float[Array, "B H D"], DecodeInfo]:
    """Attend to the pages that the policy asks for, and say what that left out.

    A `ShardedKV` gives the numbers of a `PagedKV` of the same tokens, to rounding. Each device
    judges and reads its own pages; everything else is done by all. For R = B Hkv rows, G query
    heads a row, P pages a sequence, n devices and scores of b bytes, each device receives

    - b R (5G + 1) P bytes of bounds of all pages; on two levels, b R (5G + 1) P/16 of all
      superpages and b R (5G + 1) 32 for each one opened;
    - b n R G (D + 4) bytes of softmax sums for each read. A fixed number of pages is one read;
      where a proof decides it is two, and one more for each step of widening;
    - with coupling, 4 b R D bytes for each token of the pages read.

    Args:
        query: (B, H, D); query heads share kv heads in equal consecutive groups.
        cache: Keys and values, on one device or on several.
        policy: What to read, what to prove, what to do otherwise.
        scale: Positive factor on the scores, D^(−1/2) by default; the temperature is 1/scale.
        coupling: γ ≥ 0 of T6: 0 is softmax attention, γ > 0 the entropic projection on the keys
            read. Bounds are then NaN and nothing is certified.
        implementation: None for the best there is on this device: on a GPU or TPU the kernels
            (`attention.kernels`) that can do this shape, else plain JAX. "jax" is plain JAX
            anywhere; "mosaic_gpu", "mosaic_tpu" or "xla" the kernels of that back end. What is
            read and proved is the same, to rounding. Kernels compute in float32; with float64
            anywhere None is plain JAX.

    Returns:
        Output (B, H, D) in the query's type, zero for an empty sequence, and a `DecodeInfo`.

    Raises:
        ValueError: for shapes that do not fit the cache, a summary that the cache does not keep,
            a concrete NaN in the query, or arguments that exclude each other.
        NotImplementedError: if `implementation` cannot do this, None never raises it; and for
            coupling > 0 with a policy that reads everything from a `ShardedKV`: it would bring all
            keys to every device.
    """
    query_ = checks.check_call(query, cache, policy, coupling, implementation)
    if isinstance(cache, ShardedKV):
        if coupling > 0 and reads_everything(cache, policy):
            raise NotImplementedError(
                f"coupling {coupling} > 0 needs the keys that are read on every device, and this "
                f"policy reads all {cache.pages_per_sequence} pages. Read fewer pages, use "
                "coupling=0, or keep the cache on one device (PagedKV)."
            )
        query_ = cache.on_devices(query_)
    work = work_dtype(query_.dtype, cache.work_dtype)
    factor = as_scale(scale, cache.head_size, work)
    keys = cache.keys if isinstance(cache, PagedKV) else cache.parts.keys
    kernels = kernels_for(implementation, work, query_, keys)
    return _decode(query_, cache, factor, policy, float(coupling), kernels)


@functools.partial(jax.jit, static_argnames=("policy", "coupling", "kernels"))
def _decode(
    query: Float[Array, "B H D"],
    cache: PagedKV | ShardedKV,
    scale: Float[Array, ""],
    policy: Policy,
    coupling: float,
    kernels: Kernels,
) -> tuple[Float[Array, "B H D"], DecodeInfo]:
    def by(kernels: Kernels) -> Callable[..., tuple[Array, DecodeInfo]]:
        options = {"policy": policy, "coupling": coupling, "kernels": kernels}
        return functools.partial(_decode_by, **options)

    if kernels.platform is None:
        return by(kernels)(query, cache, scale)
    # The cache may lie on another platform than the default one (a TPU machine has a CPU too).
    ways = {kernels.platform: by(kernels), "default": by(PLAIN)}
    return jax.lax.platform_dependent(query, cache, scale, **ways)


def _decode_by(
    query: Float[Array, "B H D"],
    cache: PagedKV | ShardedKV,
    scale: Float[Array, ""],
    *,
    policy: Policy,
    coupling: float,
    kernels: Kernels,
) -> tuple[Float[Array, "B H D"], DecodeInfo]:
    if isinstance(cache, PagedKV):
        access = kernel_access(cache, query.dtype, policy, kernels)
        return _attend(query, cache, scale, policy, coupling, access)
    pages, dealing = cache.pages_per_sequence, cache.dealing

    def attend(part: PagedKV, lengths: Array, query: Array, scale: Array) -> Any:
        whole = whole_context(part, lengths, pages, dealing)
        inner = kernel_access(part, query.dtype, policy, kernels)
        access = access_from(part, dealing, inner)
        return (), _attend(query, whole, scale, policy, coupling, access)

    return dealing.on_each(attend, cache.parts, cache.lengths, query, scale)[1]


def _attend(
    query: Float[Array, "B H D"],
    cache: PagedKV,
    scale: Float[Array, ""],
    policy: Policy,
    coupling: float,
    access: Access,
) -> tuple[Float[Array, "B H D"], DecodeInfo]:
    batch, heads, d = query.shape
    rows = widened(query, scale.dtype).reshape(batch * cache.kv_heads, -1, d)
    query_ = as_query(rows, scale)
    pools = as_rows(cache)
    if reads_everything(cache, policy):
        outcome = _everything(query_, pools, coupling, access)
    elif policy.otherwise == "keep" or coupling > 0:
        outcome = _fixed_number(query_, cache, pools, policy, coupling, access)
    else:
        outcome = _until_certified(query_, cache, pools, policy, access)
    info = _report(query_, cache, policy, outcome, (batch, heads))
    output = outcome.output.reshape(batch, heads, d).astype(query.dtype)
    bad = ~jnp.all(jnp.isfinite(output)) | ~jnp.all(jnp.isfinite(rows))
    # Coordinates of keys that processors take for 0 have to be nothing in the logits too.
    lost = jnp.max(jnp.abs(rows)) * (d * float(jnp.finfo(rows.dtype).tiny)) * scale
    bad |= ~(lost <= _NOTHING)
    unsolved = jnp.asarray(False) if outcome.solved is None else ~jnp.all(outcome.solved)
    result = Result.where(unsolved, Result.stagnated, Result.successful)
    valid = access.all_agree(_table_is_valid(cache))
    result = Result.where(valid, result, Result.invalid_page)
    result = Result.where(bad, Result.nonfinite_input, result)
    info |= _proves_nothing(info, result == Result.successful)
    return output, DecodeInfo(**info, result=result)


def _proves_nothing(info: dict[str, Array], successful: Bool[Array, ""]) -> dict[str, Array]:
    """The proofs in a report, given up for what is always true unless the answer is one."""
    trivial = {
        "dropped_mass_bound": 1.0,
        "dropped_mass_lower": 0.0,
        "error_bound": jnp.inf,
        "gap": -jnp.inf,
        "certified": False,
    }
    proved = ~jnp.isnan(info["dropped_mass_bound"])
    return {
        name: jnp.where(successful | ~proved, info[name], least) for name, least in trivial.items()
    }


def reads_everything(cache: PagedKV | ShardedKV, policy: Policy) -> bool:
    """Whether a sparse read cannot win: everything was asked for, or there is little."""
    width = cache.pages_per_sequence
    covered = policy.otherwise != "widen" and policy.pages is not None and policy.pages >= width
    return policy.summary is None or covered or width * cache.page_size <= policy.dense_below


def _everything(query: Query, pools: Pools, coupling: float, access: Access) -> _Outcome:
    count = -(-pools.lengths // pools.keys.shape[2])
    never = jnp.zeros(count.shape, bool)
    if coupling > 0:
        places = jnp.arange(pools.table.shape[1], dtype=jnp.int32)
        pages = jnp.broadcast_to(places[None, :], pools.table.shape)
        everything = jnp.ones(pages.shape, bool)
        gathered = access.gather_pages(pools, pages, everything, query.vectors.dtype)
        output, solved = attend_coupled(query, gathered, coupling)
        return _Outcome(output, None, count, never, None, None, solved=solved)
    partial = access.read_everything(query, pools)
    return _Outcome(partial.normalised(), partial, count, never, None, None)


def _fixed_number(
    query: Query, cache: PagedKV, pools: Pools, policy: Policy, coupling: float, access: Access
) -> _Outcome:
    if reads_two_levels(cache, policy):
        judged = judge_two_levels(
            query,
            cache,
            pools,
            policy,
            superpages=access.judge_superpages,
            pages_of_best=access.judge_pages,
            select=access.select_pages,
        )
    else:
        judged = access.judge_all(query, cache, pools, policy)
    places = Layout(judged.places.full & can_choose(judged), judged.places.forced)
    priority = group_priority(judged.bounds.priority, places.full & ~places.forced)
    index, chosen = access.select_pages(priority, places, policy.pages or 0)
    pages = jnp.take_along_axis(judged.pages, index, axis=1)
    never = jnp.zeros(pools.lengths.shape, bool)
    count = jnp.sum(chosen, axis=1, dtype=jnp.int32)
    if coupling > 0:
        gathered = access.gather_pages(pools, pages, chosen, query.vectors.dtype)
        output, solved = attend_coupled(query, gathered, coupling)
        return _Outcome(output, None, count, never, judged, None, solved=solved)
    partial = access.read_pages(query, pools, pages, chosen)
    rows = jnp.arange(pages.shape[0], dtype=jnp.int32)[:, None]
    outside = jnp.where(chosen, index, places.full.shape[1])
    read = jnp.zeros(places.full.shape, bool).at[rows, outside].set(True, mode="drop")
    unread = judged.places.full & ~read
    return _Outcome(partial.normalised(), partial, count, never, judged, unread)


def _until_certified(
    query: Query, cache: PagedKV, pools: Pools, policy: Policy, access: Access
) -> _Outcome:
    tolerance = policy.tolerance or 0.0
    judged = access.judge_all(query, cache, pools, policy)
    always = forced_pages(pools.lengths, cache.page_size, policy)
    first = access.read_pages(query, pools, *always)
    order = order_by_bound(judged.bounds, judged.places)
    budget = jnp.asarray(max(0, (policy.pages or 0) - policy.always), jnp.int32)
    widen = policy.otherwise == "widen"
    start = jnp.broadcast_to(budget, order.available.shape)
    if widen:
        nothing = jnp.zeros_like(start)
        start = jnp.maximum(start, first_promising(order, first.log_mass(), tolerance, nothing))
    reading = read_until_certified(
        query, pools, order, first, start, access=access, tolerance=tolerance, widen=widen
    )
    rows = jnp.arange(order.pages.shape[0], dtype=jnp.int32)[:, None]
    places = jnp.broadcast_to(
        jnp.arange(order.pages.shape[1], dtype=jnp.int32)[None, :], order.pages.shape
    )
    rank = jnp.zeros_like(order.pages).at[rows, order.pages].set(places)
    free = judged.places.full & ~judged.places.forced
    forced_count = jnp.sum(judged.places.forced, axis=1, dtype=jnp.int32)
    return _Outcome(
        reading.partial.normalised(),
        reading.partial,
        forced_count + reading.pages,
        reading.fell_back,
        judged,
        free & (rank >= reading.pages[:, None]),
        reading.bound,
    )


def _report(
    query: Query,
    cache: PagedKV,
    policy: Policy,
    outcome: _Outcome,
    shape: tuple[int, int],
) -> dict[str, Array]:
    """Every field of `DecodeInfo` but the result."""
    flat = query.vectors[..., 0]
    unknown = jnp.full_like(flat, jnp.nan)
    group = flat.shape[1]
    bound = lower = estimate = error = gap = unknown
    certified = jnp.zeros(flat.shape, bool)
    judged, unread, partial = outcome.judged, outcome.unread, outcome.partial
    if partial is not None and judged is None:
        nothing = jnp.zeros_like(flat)
        bound = lower = estimate = error = nothing
        gap, certified = jnp.full_like(flat, jnp.inf), jnp.ones(flat.shape, bool)
    elif partial is not None and judged is not None and unread is not None:
        seen = unread[:, None, :]
        bounds: PageBounds = judged.bounds
        read = partial.log_mass()
        estimate = dropped_mass(masked_logsumexp(bounds.estimate, seen), read)
        if policy.tolerance is not None:
            slack = partial.log_mass_slack(query)
            bound = dropped_mass_bound(unread_log_mass(bounds.upper, seen), read, slack)
            if outcome.bound is not None:
                # The same sum in another order: what ended the reading must stand in the report.
                bound = jnp.minimum(bound, outcome.bound)
            lower = dropped_mass_lower(bounds.lower, seen, read, slack)
            length = norm_from_above(outcome.output)
            possible = jnp.where(seen, bounds.upper, -jnp.inf)
            error = output_error_bound(
                possible, read - slack, judged.value_bounds[:, None, :], length
            )
            best = jnp.max(jnp.where(seen, bounds.best, -jnp.inf), axis=-1, initial=-jnp.inf)
            gap = score_gap(partial.top - slack, best, query.scale)
            gap = jnp.where(jnp.any(seen, axis=-1), gap, jnp.inf)
            certified = bound <= policy.tolerance
    judged_bytes = 0.0 if judged is None else judged.bytes_read
    size = cache.page_size * cache.head_size * cache.keys.dtype.itemsize
    page_bytes = 2.0 * size * outcome.pages_read.astype(flat.dtype)
    by_head = {
        "pages_read": _per_head(outcome.pages_read, group),
        "log_mass": unknown if partial is None else partial.log_mass(),
        "dropped_mass_bound": bound,
        "dropped_mass_lower": lower,
        "dropped_mass_estimate": estimate,
        "error_bound": error,
        "gap": gap,
        "certified": certified,
        "fell_back": _per_head(outcome.fell_back, group),
    }
    info = {name: value.reshape(shape) for name, value in by_head.items()}
    info["bytes_read"] = (page_bytes + judged_bytes).reshape(shape[0], cache.kv_heads)
    return info


def _per_head(rows: Array, group: int) -> Array:
    return jnp.repeat(rows[:, None], group, axis=1)


def _table_is_valid(cache: PagedKV) -> Bool[Array, ""]:
    """Whether every page in use lies in the pool and every length in the table."""
    starts = jnp.arange(cache.pages_per_sequence, dtype=jnp.int32) * cache.page_size
    used = starts[None, :] < cache.lengths[:, None]
    inside = (cache.page_table >= 0) & (cache.page_table < cache.keys.shape[1])
    room = cache.pages_per_sequence * cache.page_size
    return jnp.all(inside | ~used) & jnp.all((cache.lengths >= 0) & (cache.lengths <= room))

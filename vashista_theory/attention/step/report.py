"""What a step reports of itself: how much was read, and what that proves about the rest."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vashista_theory._numerics import masked_logsumexp
from vashista_theory._results import Result
from vashista_theory.attention.bounds.certificate import (
    dropped_mass,
    dropped_mass_bound,
    dropped_mass_lower,
    output_error_bound,
    score_gap,
    unread_log_mass,
)
from vashista_theory.attention.bounds.page_bounds import Query
from vashista_theory.attention.bounds.rounding import norm_from_above
from vashista_theory.attention.cache.paged import PagedKV
from vashista_theory.attention.info import DecodeInfo
from vashista_theory.attention.policy import Policy
from vashista_theory.attention.step.backend import Backend
from vashista_theory.attention.step.candidates import Candidates
from vashista_theory.attention.step.softmax_sums import Partial, beside_sinks
from vashista_theory.attention.step.strategies import Outcome, Sampled

_NOTHING = 2.0**-10
"""Nats: what logits in half precision are rounded by."""


class _Dropped(NamedTuple):
    """What is known of the softmax mass that was left out, by row and query head."""

    bound: Float[Array, "R G"]
    lower: Float[Array, "R G"]
    estimate: Float[Array, "R G"]
    error: Float[Array, "R G"]
    gap: Float[Array, "R G"]
    certified: Bool[Array, "R G"]


def report_of(
    query: Query,
    cache: PagedKV,
    policy: Policy,
    outcome: Outcome,
    output: Float[Array, "B H D"],
    result: Result,
) -> DecodeInfo:
    """The `DecodeInfo` of a step that answered with `output`, and whose outcome is `result`."""
    flat = query.vectors[..., 0]
    partial, candidates, group = outcome.partial, outcome.candidates, flat.shape[1]
    batch = output.shape[0]
    dropped = _dropped(query, policy, outcome)
    dropped = _proved_by_answers(dropped, result == Result.successful)
    judged_bytes = 0.0 if candidates is None else candidates.bytes_read
    page_bytes = 2 * cache.page_size * cache.head_size * cache.keys.dtype.itemsize
    read_bytes = float(page_bytes) * outcome.pages_read.astype(flat.dtype)
    tokens = _tokens_of(outcome.pages_read, cache, flat.shape[0])
    estimate = jnp.where(jnp.isinf(dropped.gap) & dropped.certified, 0.0, jnp.nan).astype(
        flat.dtype
    )
    if outcome.sampled is not None:
        tokens = outcome.sampled.tokens
        estimate = jnp.where(result == Result.successful, outcome.sampled.estimate, jnp.nan)
        judged_bytes = outcome.sampled.judged_bytes
        read_bytes = float(page_bytes / cache.page_size) * outcome.sampled.fetched.astype(
            flat.dtype
        )

    def by_head(values: Array) -> Array:
        """(R, G), or (R,) for what the heads of a group share, as (B, H)."""
        if values.ndim == 1:
            values = jnp.repeat(values[:, None], group, axis=1)
        return values.reshape(batch, -1)

    return DecodeInfo(
        pages_read=by_head(outcome.pages_read),
        tokens_read=by_head(tokens),
        log_mass=by_head(jnp.full_like(flat, jnp.nan) if partial is None else partial.log_mass()),
        dropped_mass_bound=by_head(dropped.bound),
        dropped_mass_lower=by_head(dropped.lower),
        dropped_mass_estimate=by_head(dropped.estimate),
        error_bound=by_head(dropped.error),
        error_estimate=by_head(estimate),
        gap=by_head(dropped.gap),
        certified=by_head(dropped.certified),
        fell_back=by_head(outcome.fell_back),
        bytes_read=(read_bytes + judged_bytes).reshape(batch, cache.kv_heads),
        result=result,
    )


def _dropped(query: Query, policy: Policy, outcome: Outcome) -> _Dropped:
    flat = query.vectors[..., 0]
    unknown = jnp.full_like(flat, jnp.nan)
    nothing_proved = _Dropped(*[unknown] * 5, certified=jnp.zeros(flat.shape, bool))
    if outcome.partial is None:  # coupled: no mass is defined
        return nothing_proved
    if outcome.sampled is not None:
        return _of_sample(outcome.sampled, unknown)
    if outcome.candidates is None or outcome.unread is None:  # everything was read
        nothing = jnp.zeros_like(flat)
        everywhere = jnp.full_like(flat, jnp.inf), jnp.ones(flat.shape, bool)
        return _Dropped(nothing, nothing, nothing, nothing, *everywhere)
    unread = outcome.unread[:, None, :]
    read = beside_sinks(query, outcome.partial).log_mass()
    estimate = dropped_mass(masked_logsumexp(outcome.candidates.bounds.estimate, unread), read)
    if policy.tolerance is None:
        return nothing_proved._replace(estimate=estimate)
    return _proved(query, policy.tolerance, outcome, outcome.partial, outcome.candidates, estimate)


def _of_sample(sampled: Sampled, unknown: Float[Array, "R G"]) -> _Dropped:
    """No mass is dropped where every token may be drawn: unknown, and 0 where all were read."""
    nothing = jnp.where(sampled.whole[:, None], 0.0, unknown)
    gap = jnp.where(sampled.whole[:, None], jnp.inf, unknown)
    error = jnp.where(sampled.whole[:, None], 0.0, sampled.bound)
    return _Dropped(nothing, nothing, nothing, error, gap, sampled.certified)


def _tokens_of(pages: Int[Array, " R"], cache: PagedKV, rows: int) -> Int[Array, " R"]:
    """Tokens of so many pages, the last of which is read wherever it is not full."""
    size = cache.page_size
    lengths = jnp.repeat(cache.lengths, rows // cache.batch)
    return jnp.where(pages > 0, pages * size - -lengths % size, 0)


def _proved(
    query: Query,
    tolerance: float,
    outcome: Outcome,
    partial: Partial,
    candidates: Candidates,
    estimate: Float[Array, "R G"],
) -> _Dropped:
    """The bracket of the dropped mass, the error bound and the gap."""
    assert outcome.unread is not None
    unread, bounds = outcome.unread[:, None, :], candidates.bounds
    slack = partial.log_mass_slack(query)
    read = beside_sinks(query, partial).log_mass()
    bound = dropped_mass_bound(unread_log_mass(bounds.upper, unread), read, slack)
    if outcome.bound is not None:
        # The same sum in another order: what ended the reading must stand in the report.
        bound = jnp.minimum(bound, outcome.bound)
    lower = dropped_mass_lower(bounds.lower, unread, read, slack)
    length = norm_from_above(outcome.output)
    possible = jnp.where(unread, bounds.upper, -jnp.inf)
    values = candidates.value_bounds[:, None, :]
    error = output_error_bound(possible, read - slack, values, length)
    best = jnp.max(jnp.where(unread, bounds.best, -jnp.inf), axis=-1, initial=-jnp.inf)
    gap = score_gap(partial.top - slack, best, query.scale)
    gap = jnp.where(jnp.any(unread, axis=-1), gap, jnp.inf)
    return _Dropped(bound, lower, estimate, error, gap, bound <= tolerance)


def _proved_by_answers(dropped: _Dropped, successful: Bool[Array, ""]) -> _Dropped:
    """What was proved, given up for what is always true unless the answer is one."""

    def unless_asked(proved: Array, always: float) -> Array:
        return jnp.where(successful | jnp.isnan(proved), proved, always)

    return dropped._replace(
        bound=unless_asked(dropped.bound, 1.0),
        lower=unless_asked(dropped.lower, 0.0),
        error=unless_asked(dropped.error, jnp.inf),
        gap=unless_asked(dropped.gap, -jnp.inf),
        certified=successful & dropped.certified,
    )


def result_of(
    query: Query, cache: PagedKV, outcome: Outcome, output: Float[Array, "B H D"], backend: Backend
) -> Result:
    """What is wrong with the step, the gravest of it."""
    rows = query.vectors
    bad = ~jnp.all(jnp.isfinite(output)) | ~jnp.all(jnp.isfinite(rows))
    # Coordinates of keys that processors take for 0 have to be nothing in the logits too.
    tiny = rows.shape[-1] * float(jnp.finfo(rows.dtype).tiny)
    lost = jnp.max(jnp.abs(rows)) * tiny * query.scale
    bad |= ~(lost <= _NOTHING)
    unsolved = jnp.asarray(False) if outcome.solved is None else ~jnp.all(outcome.solved)
    result = Result.where(unsolved, Result.stagnated, Result.successful)
    valid = backend.all_agree(_table_is_valid(cache))
    result = Result.where(valid, result, Result.invalid_page)
    return Result.where(bad, Result.nonfinite_input, result)


def _table_is_valid(cache: PagedKV) -> Bool[Array, ""]:
    """Whether every page in use lies in the pool and every length in the table."""
    starts = jnp.arange(cache.pages_per_sequence, dtype=jnp.int32) * cache.page_size
    used = starts[None, :] < cache.lengths[:, None]
    inside = (cache.page_table >= 0) & (cache.page_table < cache.keys.shape[1])
    room = cache.pages_per_sequence * cache.page_size
    return jnp.all(inside | ~used) & jnp.all((cache.lengths >= 0) & (cache.lengths <= room))

"""Reading the sure tokens and a sample of the others (T8), with an error that the sample tells."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from vashista_theory._numerics import unit_roundoff
from vashista_theory.attention.bounds import sampling as bounds
from vashista_theory.attention.bounds.page_bounds import Query
from vashista_theory.attention.bounds.random_bits import row_keys
from vashista_theory.attention.bounds.rounding import norm_from_above
from vashista_theory.attention.cache.paged import PagedKV
from vashista_theory.attention.policy import Policy
from vashista_theory.attention.step import two_stages
from vashista_theory.attention.step.backend import Backend, TokenScores
from vashista_theory.attention.step.candidates import summary_bytes
from vashista_theory.attention.step.drawing import (
    Drawn,
    Tail,
    draw,
    group_proxies,
    inclusion,
    is_undrawable,
    list_drawn,
    tells_of_the_rest,
    thresholds,
    weighted_by_values,
)
from vashista_theory.attention.step.routing import forced_pages
from vashista_theory.attention.step.softmax_sums import (
    Partial,
    Pools,
    beside_sinks,
    merge,
    nothing_read,
)
from vashista_theory.attention.step.strategies import Outcome, Sampled

_ATTEMPTS = 4  # 1, 2, 4 and 8 times the tokens, then everything


class _Read(NamedTuple):
    """One attempt at every row.

    Attributes:
        sums: Over what was read, drawn tokens by their weights; sinks are not in them.
        tokens: Tokens behind the sums.
        fetched: Tokens read until now, those of dropped attempts included.
        judged_bytes: Bytes of summaries read until now.
        pages: Pages with a token that was read.
        estimate: Standard deviation of the output, as the sample tells.
        bound: On the error of the output, at the confidence asked for; NaN if none was.
        whole: Whether everything was read.
        overflown: Whether more tokens were drawn than there was room for.
    """

    sums: Partial
    tokens: Int[Array, " R"]
    fetched: Int[Array, " R"]
    judged_bytes: Float[Array, " R"]
    pages: Int[Array, " R"]
    estimate: Float[Array, "R G"]
    bound: Float[Array, "R G"]
    whole: Bool[Array, " R"]
    overflown: Bool[Array, " R"]


class _Scored(NamedTuple):
    """Tokens that may be drawn.

    Attributes:
        scores: Of the tokens, or of those of superpages that were opened.
        tail: The same.
        judged_bytes: Bytes of summaries that the scores took.
        opened: The superpages; None where every token was scored.
    """

    scores: TokenScores
    tail: Tail
    judged_bytes: Float[Array, " R"]
    opened: two_stages.Opened | None


class _Split(NamedTuple):
    """A context as sure pages, read already, and the pages [first, last) of the tail."""

    kept: Partial
    first: Int[Array, " R"]
    last: Int[Array, " R"]
    sure_tokens: Int[Array, " R"]
    sure_pages: Int[Array, " R"]


def capacity_for(tokens: int, kv_heads: int = 1) -> int:
    """Room for the tokens that a kv head draws when `tokens` are expected of each.

    Their number has a variance of no more than what is expected. Beyond 8 standard deviations it is
    once in 10^11 rows, and such a row is read densely. Rounded up to a multiple of 32: a CPU adds
    up the halves of a list, and one that cannot be halved takes three times as long.
    """
    most = tokens if kv_heads == 1 else math.ceil(bounds.MOST * tokens)
    return -(-(most + math.ceil(8 * math.sqrt(most))) // 32) * 32


def attempts(policy: Policy, room: int) -> list[int]:
    """Tokens asked for one attempt after the other, in a context with room for `room`."""
    tokens = policy.tokens or 0
    if policy.tolerance is None:
        return [tokens]
    numbers = [tokens * 2**k for k in range(_ATTEMPTS)]
    return [number for number in numbers if number == tokens or 2 * number <= room]


def read_sampled(
    query: Query,
    cache: PagedKV,
    pools: Pools,
    policy: Policy,
    keys: UInt32[Array, "B 2"],
    backend: Backend,
) -> Outcome:
    """Read `policy.tokens` of each row, and more of those whose error looks too large."""
    size = cache.page_size
    split = _split(query, pools, size, policy, backend)
    asked = query, cache, pools, policy, split
    numbers = attempts(policy, cache.pages_per_sequence * size)
    superpages = [(policy.superpages or 0) * 2**k for k in range(len(numbers))]
    in_two = [two_stages.draws_superpages(cache, policy, number) for number in superpages]
    drawn = None
    if len(numbers) == 1 and not in_two[0] and not policy.proves:
        words, sure = row_keys(keys, cache.kv_heads, 0), beside_sinks(query, split.kept).log_mass()
        room = min(capacity_for(numbers[0], cache.kv_heads), pools.table.shape[1] * size)
        told = (split.first, split.last), sure, words, numbers[0] - split.sure_tokens
        drawn = backend.draw(query, cache, pools, *told, room)
    every_token = None if in_two[0] or drawn is not None else _every_token(*asked, backend)

    def attempt(number: int) -> _Read:
        if drawn is not None:
            judged = _judged(cache, policy, split)
            return _read_drawn(query, pools, split, drawn, judged, backend)
        words = row_keys(keys, cache.kv_heads, number)
        failure = None if policy.confidence is None else (1 - policy.confidence) / len(numbers)
        # A row that reads again reads as many tokens as it is said to, whatever the others need.
        together = cache.kv_heads if number == 0 else 1
        if in_two[number]:
            scored = _some_tokens(*asked, superpages[number], keys, number, together, backend)
        elif every_token is None:
            scored = _every_token(*asked, backend)
        else:
            free = jnp.zeros_like(every_token.judged_bytes)
            scored = every_token._replace(judged_bytes=free) if number else every_token
        once = functools.partial(_attempt, query, split, scored, backend=backend)
        return once(words, numbers[number], failure, kv_heads=together)

    read = attempt(0)
    read = read._replace(fetched=split.sure_tokens + read.fetched)
    for number in range(1, len(numbers)):
        failing = _failing(query, read, policy) & ~read.overflown
        read = _where_needed(failing, functools.partial(attempt, number), read)
    failing = read.overflown | (_failing(query, read, policy) if policy.tolerance else False)
    read = _where_needed(
        failing, functools.partial(_densely, query, pools, split, failing, backend), read
    )
    output = beside_sinks(query, read.sums).normalised()
    sampled = Sampled(
        read.tokens, read.fetched, read.judged_bytes, read.estimate, read.bound, read.whole,
        _certified(read, output, policy),
    )  # fmt: skip
    return Outcome(output, read.sums, read.pages, failing, None, None, sampled=sampled)


def _every_token(
    query: Query, cache: PagedKV, pools: Pools, policy: Policy, split: _Split, backend: Backend
) -> _Scored:
    """Every token of the tail, by its sketch."""
    scores = backend.token_scores(query, cache, pools, policy)
    inside = (scores.pages[None] >= split.first[:, None]) & (
        scores.pages[None] < split.last[:, None]
    )
    sure = beside_sinks(query, split.kept).log_mass()
    every = backend.every_device
    proxy = group_proxies(scores.logits, inside, sure, every, cache.kv_heads)
    proxy = weighted_by_values(proxy, scores.value_bounds, inside, every)
    tokens = (split.last - split.first) * cache.page_size
    return _Scored(scores, Tail(inside, proxy, tokens), _judged(cache, policy, split), None)


def _judged(cache: PagedKV, policy: Policy, split: _Split) -> Float[Array, " R"]:
    """Bytes of summaries that scoring every token of the tail reads."""
    pages = (split.last - split.first).astype(split.kept.mass.dtype)
    return pages * summary_bytes(cache, policy)


def _some_tokens(
    query: Query,
    cache: PagedKV,
    pools: Pools,
    policy: Policy,
    split: _Split,
    superpages: int,
    keys: UInt32[Array, "B 2"],
    attempt: int,
    kv_heads: int,
    backend: Backend,
) -> _Scored:
    """Tokens of the superpages that are drawn, by their sketch over the probability of that."""
    sure = beside_sinks(query, split.kept).log_mass()
    words = row_keys(keys, cache.kv_heads, attempt + two_stages.FIRST_STAGE)
    opened = two_stages.open_superpages(
        query, cache, pools, policy, (split.first, split.last), sure, words,
        superpages=superpages, kv_heads=kv_heads, backend=backend,
    )  # fmt: skip
    pages = opened.pages.reshape(opened.pages.shape[0], -1)
    scores = backend.some_token_scores(query, cache, pools, policy, pages)
    inside = scores.pages >= 0
    log_unit = jnp.repeat(opened.log_pi, opened.pages.shape[2], axis=1)
    weighted = scores.logits - log_unit[:, None, :, None]
    every = backend.every_device
    proxy = group_proxies(weighted, inside, sure, every, cache.kv_heads)
    proxy = weighted_by_values(proxy, scores.value_bounds, inside, every)
    tokens = jnp.sum(pages >= 0, axis=1, dtype=jnp.int32) * cache.page_size
    judged = two_stages.judged_bytes(opened, cache, policy)
    return _Scored(scores, Tail(inside, proxy, tokens), judged, opened)


def _split(query: Query, pools: Pools, size: int, policy: Policy, backend: Backend) -> _Split:
    """Read the sink, the recent pages and one that is not full; the rest lies between them."""
    lengths = pools.lengths
    full, count = lengths // size, -(-lengths // size)
    first = jnp.minimum(policy.sink, count)
    last = jnp.maximum(first, jnp.minimum(full, count - policy.recent))
    pages, exist = forced_pages(lengths, size, policy)
    kept = backend.read_pages(query, pools, pages, exist)
    tail = last - first
    return _Split(kept, first, last, lengths - tail * size, count - tail)


def _attempt(
    query: Query,
    split: _Split,
    scored: _Scored,
    keys: UInt32[Array, "R 2"],
    tokens: int,
    failure: float | None,
    *,
    backend: Backend,
    kv_heads: int,
) -> _Read:
    """Draw so that `tokens` are read on average, sure ones included, and read them.

    So many consecutive kv heads share what they may read.
    """
    every, (scores, tail) = backend.every_device, scored[:2]
    numbers, inverse = thresholds(tail, tokens - split.sure_tokens, every, kv_heads)
    probability = inclusion(tail, numbers, inverse)
    chosen = draw(tail, probability, keys, scores.pages)
    room = min(capacity_for(tokens, kv_heads), probability.shape[1] * probability.shape[2])
    places, by_page = list_drawn(chosen, room)
    own = jnp.stack([jnp.sum(by_page, axis=1), jnp.sum(by_page > 0, axis=1)])
    number, pages = jnp.sum(every(own.astype(jnp.int32)), axis=0, dtype=jnp.int32)
    rows = jnp.arange(places.pages.shape[0], dtype=jnp.int32)[:, None]
    drawn = Drawn(
        places,
        jnp.log(probability[rows, places.pages, places.slots]),
        number,
        numbers,
        pages,
        tail.tokens.astype(numbers.dtype) <= numbers,
        (number > capacity_for(tokens, kv_heads)) | is_undrawable(tail, inverse, every),
    )
    of = functools.partial(_bound, query, split, scores, tail, probability, backend=backend)
    bound_of = None if failure is None else functools.partial(of, failure=failure)
    judged = scored.judged_bytes
    return _read_drawn(query, scores.pools, split, drawn, judged, backend, scored, bound_of)


def _read_drawn(
    query: Query,
    pools: Pools,
    split: _Split,
    drawn: Drawn,
    judged_bytes: Float[Array, " R"],
    backend: Backend,
    scored: _Scored | None = None,
    bound_of: Callable[[Partial], Float[Array, "R G"]] | None = None,
) -> _Read:
    """Read what was drawn, of opened superpages if there are any."""
    places, log_pi, number, _, pages, whole, overflown = drawn
    if scored is None or scored.opened is None:
        read = backend.read_tokens(query, pools, places, log_pi)
        variance_by = read.variance
    else:
        scores, opened = scored.scores, scored.opened
        whole, overflown = whole & opened.complete, overflown | opened.overflown
        slot = places.pages // opened.pages.shape[2]
        listed = places._replace(pages=jnp.take_along_axis(scores.pages, places.pages, axis=1))
        variance_by = functools.partial(
            two_stages.variance, query, pools, listed, log_pi, slot, opened.log_pi
        )
        log_pi = log_pi + jnp.take_along_axis(opened.log_pi, slot, axis=1)
        read = backend.read_tokens(query, pools, listed, log_pi)
    sums = merge(split.kept, backend.merge_devices(read.sums))
    output = beside_sinks(query, sums)
    variance = variance_by(output.normalised(), output.log_mass())
    bound = jnp.full_like(variance, jnp.nan) if bound_of is None else bound_of(output)
    estimate = jnp.sqrt(jnp.sum(backend.every_device(variance), axis=0))
    known = whole | tells_of_the_rest(drawn, log_pi, backend.every_device)
    estimate = jnp.where(known[:, None], estimate, jnp.inf)
    return _Read(
        sums=sums,
        tokens=split.sure_tokens + number,
        fetched=number,
        judged_bytes=judged_bytes,
        pages=split.sure_pages + pages,
        estimate=estimate,
        bound=jnp.where(whole[:, None], 0.0, bound),
        whole=whole,
        overflown=overflown,
    )


def _bound(
    query: Query,
    split: _Split,
    scores: TokenScores,
    tail: Tail,
    probability: Float[Array, "R P S"],
    sums: Partial,
    *,
    failure: float,
    backend: Backend,
) -> Float[Array, "R G"]:
    """Bound on the error of the output, in units of the values."""
    assert scores.errors is not None
    every, u = backend.every_device, unit_roundoff(query.vectors.dtype)
    seen = (sums.log_mass() - sums.log_mass_slack(query))[..., None, None]
    above = scores.logits + scores.errors - seen
    above = above + 8 * u * (jnp.abs(scores.logits) + scores.errors + jnp.abs(seen))
    above = jnp.where(tail.meant[:, None, :, None], above, -jnp.inf)
    values = jnp.where(tail.meant[..., None], scores.value_bounds, 0.0)
    own = bounds.tail_moments(above, jnp.log(probability)[:, None], values[:, None])
    moments = bounds.TailMoments(
        jnp.sum(every(own.sums), axis=0) * (1.0 + 64 * u), jnp.max(every(own.greatest), axis=0)
    )
    longest = jnp.max(every(jnp.max(values, axis=(1, 2), initial=0.0)), axis=0)[:, None]
    kept = beside_sinks(query, split.kept)
    longest = jnp.maximum(longest, norm_from_above(kept.normalised())) * (1.0 + 64 * u)
    length = norm_from_above(sums.normalised())
    return bounds.confident_error(moments, failure, length, longest)


def _failing(query: Query, read: _Read, policy: Policy) -> Bool[Array, " R"]:
    """Rows with a head whose error, by the estimate, is too large a part of its output."""
    size = jnp.linalg.norm(beside_sinks(query, read.sums).normalised(), axis=-1)
    return jnp.any(read.estimate > (policy.tolerance or 0.0) * size, axis=1)


def _where_needed(needed: Bool[Array, " R"], again: Callable[[], _Read], read: _Read) -> _Read:
    """Read some rows again; nothing is read if there are none."""

    def replaced() -> _Read:
        new = again()
        chosen = jax.tree.map(
            lambda a, b: jnp.where(needed.reshape(-1, *(1,) * (a.ndim - 1)), a, b), new, read
        )
        fetched = read.fetched + jnp.where(needed, new.fetched, 0)
        judged = read.judged_bytes + jnp.where(needed, new.judged_bytes, 0.0)
        return chosen._replace(fetched=fetched, judged_bytes=judged)

    return jax.lax.cond(jnp.any(needed), replaced, lambda: read)


def _densely(
    query: Query, pools: Pools, split: _Split, needed: Bool[Array, " R"], backend: Backend
) -> _Read:
    """Everything of some rows."""
    ends = split.first, jnp.where(needed, split.last, split.first)
    rest = backend.read_range(query, pools, pools.every_page(), *ends, nothing_read(query))
    sums = merge(split.kept, rest)
    exact = jnp.zeros_like(sums.mass)
    every = jnp.ones(needed.shape, bool)
    pages = split.sure_pages + split.last - split.first
    fetched = pools.lengths - split.sure_tokens
    free = jnp.zeros(needed.shape, exact.dtype)
    return _Read(sums, pools.lengths, fetched, free, pages, exact, exact, every, ~every)


def _certified(read: _Read, output: Float[Array, "R G D"], policy: Policy) -> Bool[Array, "R G"]:
    """Whether the relative error is within the tolerance at the confidence asked for."""
    everything = jnp.broadcast_to(read.whole[:, None], read.bound.shape)
    if policy.confidence is None or policy.tolerance is None:
        return everything
    rounding = (output.shape[-1] + 8) * unit_roundoff(output.dtype)
    least = jnp.linalg.norm(output, axis=-1) * (1.0 - rounding) - read.bound
    return everything | (read.bound <= policy.tolerance * least)

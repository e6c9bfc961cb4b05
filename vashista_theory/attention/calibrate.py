"""Choosing a policy from data: the fewest bytes whose dropped mass is small enough on a sample."""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vashista_theory._checks import as_floats, as_scale, check_finite, is_traced
from vashista_theory._results import Result
from vashista_theory._types import ArrayLike
from vashista_theory.attention import decode_checks as checks
from vashista_theory.attention.bounds.rounding import work_dtype
from vashista_theory.attention.bounds.summaries import Summary
from vashista_theory.attention.cache.paged import PagedKV
from vashista_theory.attention.decode import vashista_attention
from vashista_theory.attention.policy import Policy
from vashista_theory.attention.step.two_levels import reads_two_levels


class _Read(NamedTuple):
    """What one policy did on the sample: log-mass read by query head, mean bytes by kv head."""

    log_mass: Float[np.ndarray, "Q B H"]
    bytes: float


@jax.ensure_compile_time_eval()  # of the constants of a jitted function it is a constant too
def calibrate(
    cache: PagedKV,
    queries: ArrayLike,
    tolerance: float,
    *,
    share: float = 0.95,
    scale: ArrayLike | None = None,
) -> Policy:
    """Find the policy that reads the fewest bytes among those that drop little on a sample.

    A policy qualifies if at most `tolerance` of the softmax mass is dropped, truly and not by
    estimate, for at least `share` of the sample's query heads. Candidates are budgets of 2, 4, 8,
    … pages by each summary that the cache keeps, on one level and on two; `Policy.certified`; and
    `Policy.dense`, which is the answer unless something reads less. Cost is the mean of
    `DecodeInfo.bytes_read`, summaries included.

    Only a certified policy is a guarantee: it proves the tolerance for every query and reads as
    much as that takes. A budget chosen here held on the sample, for `share` of it; on other queries
    and on longer contexts it may drop any amount. Calibrate on queries like those to come, hold
    some back, and read `dropped_mass_estimate` or `dropped_mass_bound` when serving.

    Each candidate is compiled and runs over the sample, so this takes seconds to minutes. In
    float32, masses are known to about 1e-7 times the largest logit: ask for no smaller tolerance.

    Args:
        cache: The contexts, on which all candidates are tried.
        queries: (Q, B, H, D), Q queries for each sequence and query head of the cache. More of
            them make the share more certain; 1/(1 − share) are needed for it to mean anything.
        tolerance: Dropped softmax mass allowed, in (0, 1).
        share: Share of query heads (over queries and sequences that are not empty) that must stay
            within the tolerance, in (0, 1].
        scale: Positive factor on the scores, D^(−1/2) by default, as it will be used.

    Raises:
        ValueError: for traced input (the choice is made in Python), shapes that do not fit, numbers
            out of range, a cache without tokens, or one that decoding finds fault with.
    """
    queries_ = _checked(cache, queries, tolerance, share)
    work = work_dtype(queries_.dtype, cache.work_dtype)
    measured = functools.partial(_measured, queries_, cache, as_scale(scale, cache.head_size, work))
    filled = np.asarray(cache.lengths) > 0
    dense = measured(Policy.dense())
    best, least = Policy.dense(), dense.bytes
    for ladder in _ladders(cache, tolerance):
        for policy in ladder:
            found = measured(policy)
            if found.bytes >= least:
                break
            dropped = -np.expm1(found.log_mass[:, filled] - dense.log_mass[:, filled])
            # A proof needs no sample; where it is tight, rounding could make it seem to fail.
            if policy.tolerance is not None or np.mean(dropped <= tolerance) >= share:
                best, least = policy, found.bytes
                break
    return best


def _ladders(cache: PagedKV, tolerance: float) -> Iterator[list[Policy]]:
    """Policies in groups of growing cost: within one, what qualifies first is the cheapest."""
    spec = cache.spec
    summaries: list[Summary] = []
    if spec.ball:
        summaries.extend(("mean", "ball"))
    if spec.box:
        summaries.append("box")
    if spec.sketch_bits is not None:
        summaries.append("sketch")
    if summaries:  # the last one proves the most
        yield [Policy.certified(tolerance, summary=summaries[-1], dense_below=0)]
    budgets = [2**i for i in range(1, 31) if 2**i < cache.pages_per_sequence]
    for summary in summaries:
        two_levels = (
            Policy(pages=pages, summary=summary, superpages=max(4, pages // 2)) for pages in budgets
        )
        yield [policy for policy in two_levels if reads_two_levels(cache, policy)]
        yield [Policy(pages=pages, summary=summary) for pages in budgets]


def _measured(
    queries: Float[Array, "Q B H D"], cache: PagedKV, scale: Float[Array, ""], policy: Policy
) -> _Read:
    log_mass, bytes_read, results = _read_all(queries, cache, scale, policy)
    for failure in (Result.nonfinite_input, Result.invalid_page):
        if bool(jnp.any(results == failure)):
            raise ValueError(f"decoding with this cache failed: {Result[failure]}")
    return _Read(np.asarray(log_mass, np.float64), float(jnp.mean(bytes_read)))


@functools.partial(jax.jit, static_argnames="policy")
def _read_all(
    queries: Float[Array, "Q B H D"], cache: PagedKV, scale: Float[Array, ""], policy: Policy
) -> tuple[Float[Array, "Q B H"], Float[Array, "Q B Hkv"], Result]:
    def one(query: Float[Array, "B H D"]) -> tuple[Array, Array, Result]:
        _, info = vashista_attention(query, cache, policy, scale=scale)
        return info.log_mass, info.bytes_read, info.result

    return jax.lax.map(one, queries)


def _checked(
    cache: PagedKV, queries: ArrayLike, tolerance: float, share: float
) -> Float[Array, "Q B H D"]:
    if is_traced(cache, queries):
        raise ValueError(
            "`calibrate` chooses in Python and cannot be traced; call it outside jit, and pass the "
            "policy to what is compiled."
        )
    for name, value, highest, example in (
        ("tolerance", tolerance, "1 excluded", 0.05),
        ("share", share, "1 included", 0.95),
    ):
        number = isinstance(value, int | float) and not isinstance(value, bool)  # pyright: ignore[reportUnnecessaryIsInstance]
        if not number or not (0 < value < 1 or (value == 1 and name == "share")):
            raise ValueError(
                f"{name} is {value!r}; a number between 0 and 1 (0 excluded, {highest}) is "
                f"expected, for example {example}."
            )
    array = as_floats(queries, "queries")
    if array.ndim != 4 or array.shape[0] == 0:
        raise ValueError(
            f"`queries` has shape {array.shape}; (Q, B, H, D) is expected: Q ≥ 1 sample queries "
            "for each sequence and query head."
        )
    check_finite(array, "queries")
    checks.check_call(array[0], cache, Policy.dense(), 0.0, None)
    if not bool(jnp.any(cache.lengths > 0)):
        raise ValueError(
            "every sequence of this cache is empty, so there is no mass to drop. Append the "
            "contexts first."
        )
    return array

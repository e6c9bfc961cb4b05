"""No bound is below the truth where scores, lengths or squares overflow or underflow.

The truth is dense softmax of the numbers as they are stored: logits in exact fractions, weights in
`numpy.longdouble`. Which pages were read is seen by poison, not told by the code: with NaN among
the values of a page, the output is NaN if and only if that page was read.
"""

import functools
from fractions import Fraction
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import ml_dtypes
import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vashista_theory import Result
from vashista_theory.attention import PagedKV, Policy, SummarySpec, vashista_attention

S, D, PAGES = 4, 8, 8
T = S * PAGES - 2  # the last page is partial
GROUP = 2
TINY, EPS, MOST = (float(getattr(np.finfo(np.float32), n)) for n in ("tiny", "eps", "max"))
TYPES = {
    "float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16,
    "float64": np.float64,
}  # fmt: skip
POLICIES = {
    "sketch, widened": Policy.certified(0.05, dense_below=0),
    "box": Policy(pages=3, tolerance=0.1, summary="box"),
    "ball": Policy(pages=3, tolerance=0.1, summary="ball", sink=0),
    "box, else dense": Policy(pages=3, tolerance=0.1, summary="box", otherwise="dense"),
    "sketch, nothing proved": Policy(pages=3, summary="sketch"),
    "dense": Policy.dense(),
}
SAMPLED = {
    "sampled": Policy.sampled(16, confidence=1 - 1e-9, dense_below=0),
    "sampled again": Policy.sampled(12, tolerance=0.5, confidence=1 - 1e-9, dense_below=0),
}
SPECS = {
    "plain": SummarySpec(),
    "box alone": SummarySpec(ball=False, dtype="float32"),
}


class Truth(NamedTuple):
    """Of one query head: logits less the greatest, weights, output; and how large its parts are."""

    scores: list[Fraction]
    weights: np.ndarray
    output: np.ndarray
    parts: float


def truth(query: np.ndarray, keys: np.ndarray, values: np.ndarray, scale: float) -> Truth:
    rows = [[Fraction(float(x)) for x in row] for row in keys]
    q = [Fraction(float(x)) for x in query]
    scores = [sum((a * b for a, b in zip(q, row, strict=True)), Fraction()) for row in rows]
    top = max(scores)
    below = [Fraction(scale) * (s - top) for s in scores]
    logits = np.array([np.longdouble(float(max(b, Fraction(-20000)))) for b in below])
    weights = np.exp(logits)
    weights = weights / weights.sum()
    parts = max(float(sum(abs(a * b) for a, b in zip(q, row, strict=True))) for row in rows)
    return Truth(scores, weights, weights @ values.astype(np.longdouble), parts)


@functools.cache
def compiled(policy: str, implementation: str | None) -> Any:
    def run(query: Any, cache: PagedKV, scale: Any) -> Any:
        return vashista_attention(
            query, cache, (POLICIES | SAMPLED)[policy], scale=scale, implementation=implementation
        )

    return jax.jit(run, compiler_options={"xla_backend_optimization_level": 0})


@functools.partial(jax.jit, static_argnums=2)
def fill(keys: Any, values: Any, spec: SummarySpec) -> PagedKV:
    return PagedKV.from_tokens(keys, values, page_size=S, spec=spec)


class Problem(NamedTuple):
    query: np.ndarray
    keys: np.ndarray
    values: np.ndarray
    scale: float


def draw(rng: np.random.Generator, shape: tuple[int, ...], kind: str, size: float, dtype: str):
    numbers = rng.normal(size=shape)
    if kind == "one sign":
        numbers = np.abs(numbers)
    elif kind == "mixed":  # coordinates of every size up to this one
        numbers *= 10.0 ** -rng.uniform(0, 40, size=shape)
    elif kind == "one large":
        numbers[..., 0] *= 1e6
    elif kind == "negative":
        numbers = -np.abs(numbers)
    elif kind == "same":
        numbers[...] = numbers[..., :1]
    limit = float(ml_dtypes.finfo(TYPES[dtype]).max)
    numbers = np.clip(numbers * size, -limit, limit)
    return numbers.astype(TYPES[dtype])


def check(problem: Problem, policy: str, spec: str, implementation: str | None = None) -> None:
    query, keys, values, scale = problem
    asked = jnp.asarray(query)[None]
    cache = fill(jnp.asarray(keys)[None, None], jnp.asarray(values)[None, None], SPECS[spec])
    run = compiled(policy, implementation)
    output, info = run(asked, cache, scale)
    was_read: list[bool] = []
    for page in np.asarray(cache.page_table)[0]:
        poisoned = eqx.tree_at(lambda c: c.values, cache, cache.values.at[:, page].set(jnp.nan))
        was_read.append(bool(np.isnan(np.asarray(run(asked, poisoned, scale)[0], float)).any()))
    read = np.repeat(was_read, S)[:T]
    output = np.asarray(output)[0].astype(np.longdouble)
    report = {
        name: np.asarray(getattr(info, name))[0].astype(np.longdouble)
        for name in ("dropped_mass_bound", "dropped_mass_lower", "error_bound", "gap", "certified")
    }
    successful = bool(info.result == Result.successful)
    tolerance = POLICIES[policy].tolerance
    longest = float(np.max(np.linalg.norm(values.astype(np.longdouble), axis=-1)))
    exact = [truth(q, keys, values, float(np.float32(scale))) for q in query]
    if not successful:
        assert bool(info.result == Result.nonfinite_input)
        assert not np.any(report["certified"])
        if tolerance is not None or policy == "dense":
            assert np.all(report["error_bound"] == np.inf)
            assert np.all(report["dropped_mass_bound"] == 1)
            assert np.all(report["dropped_mass_lower"] == 0)
            assert np.all(report["gap"] == -np.inf)
        # It gives up only where something comes near the end of the range.
        parts = max(one.parts for one in exact)
        lost = float(np.max(np.abs(query.astype(np.float64)))) * D * TINY * scale
        narrow = float(ml_dtypes.finfo(query.dtype).max)
        limit = MOST / 4
        near = max(parts, scale * parts) > limit or longest * T > limit
        assert near or longest > narrow / 4 or lost > 2.0**-11, (parts, longest, lost)
        return
    assert np.all(np.isfinite(output))
    assert read.any()
    for h, one in enumerate(exact):
        dropped = one.weights[~read].sum()
        error = np.linalg.norm(output[h] - one.output)
        # What rounding of the read itself may do, of float32 and of the type of the answer. What
        # counts as 0 is below TINY, and in half precision below its own.
        of_score = scale * ((D + 2) * EPS * one.parts + small_parts(query[h], keys))
        cast = ml_dtypes.finfo(query.dtype)
        rounding = longest * (2 * min(1.0, 2 * of_score) + (T + 32) * EPS + float(cast.eps))
        rounding += D * (TINY + float(cast.tiny))
        if policy == "dense":
            assert error <= rounding
        if tolerance is None:
            continue
        assert error <= report["error_bound"][h] + rounding
        # The reference has 64 bits and a few dozen roundings.
        assert dropped <= report["dropped_mass_bound"][h] * (1 + np.longdouble(1e-16))
        assert dropped >= report["dropped_mass_lower"][h] * (1 - np.longdouble(1e-16))
        assert bool(report["certified"][h]) == bool(
            report["dropped_mass_bound"][h] <= np.float32(tolerance)
        )
        if read.all():
            assert report["gap"][h] == np.inf
            continue
        best, rest = (
            max(s for s, r in zip(one.scores, read, strict=True) if bool(r) == wanted)
            for wanted in (True, False)
        )
        gap = report["gap"][h]
        assert gap == -np.inf or Fraction(float(gap)) <= best - rest


def small_parts(query: np.ndarray, keys: np.ndarray) -> float:
    """How much of a score can vanish because numbers below TINY count as 0."""
    widest = float(np.max(np.sum(np.abs(keys.astype(np.longdouble)), axis=-1)))
    return 2 * TINY * (widest + float(np.sum(np.abs(query.astype(np.longdouble)))) + D)


KINDS = st.sampled_from(["plain", "one sign", "negative", "mixed", "one large", "same"])
EXPONENTS = st.floats(-39, 30)


@given(
    seed=st.integers(0, 2**20),
    kinds=st.tuples(KINDS, KINDS, KINDS),
    exponents=st.tuples(EXPONENTS, EXPONENTS, EXPONENTS),
    balanced=st.booleans(),
    stored=st.sampled_from(["float32", "bfloat16", "float16"]),
    asked=st.sampled_from(["float32", "float16"]),
    policy=st.sampled_from(list(POLICIES)),
    spec=st.sampled_from(list(SPECS)),
    implementation=st.sampled_from([None, "xla"]),
    log_scale=st.sampled_from([0.0, 0.0, 0.0, 6.0, 30.0, -20.0]),
)
def test_bounds_hold_at_every_magnitude(
    seed, kinds, exponents, balanced, stored, asked, policy, spec, implementation, log_scale
):
    if SPECS[spec].sketch_bits is None or (policy == "ball" and not SPECS[spec].ball):
        policy = "box"
    of_query, of_keys, of_values = exponents
    if balanced:  # scores of order 1, whatever their factors
        of_query = max(-39.0, min(30.0, -of_keys - log_scale))
    rng = np.random.default_rng(seed)
    check(
        Problem(
            draw(rng, (GROUP, D), kinds[0], 10.0**of_query, asked),
            draw(rng, (T, D), kinds[1], 10.0**of_keys, stored),
            draw(rng, (T, D), kinds[2], 10.0**of_values, stored),
            float(np.float32(0.35 * 10.0**log_scale)),
        ),
        policy,
        spec,
        implementation,
    )


@given(
    seed=st.integers(0, 2**20),
    kinds=st.tuples(KINDS, KINDS, KINDS),
    exponents=st.tuples(EXPONENTS, EXPONENTS, EXPONENTS),
    balanced=st.booleans(),
    stored=st.sampled_from(["float32", "bfloat16"]),
    policy=st.sampled_from(list(SAMPLED)),
    outside=st.booleans(),
)
def test_a_sampled_read_bounds_its_error_at_every_magnitude_or_gives_up(
    seed, kinds, exponents, balanced, stored, policy, outside
):
    of_query, of_keys, of_values = exponents
    if balanced:
        of_query = max(-39.0, min(30.0, -of_keys))
    rng = np.random.default_rng(seed)
    query = draw(rng, (GROUP, D), kinds[0], 10.0**of_query, "float32")
    keys = draw(rng, (T, D), kinds[1], 10.0**of_keys, stored)
    values = draw(rng, (T, D), kinds[2], 10.0**of_values, stored)
    cache = fill(jnp.asarray(keys)[None, None], jnp.asarray(values)[None, None], SPECS["plain"])
    if outside:
        cache = eqx.tree_at(lambda c: c.page_table, cache, cache.page_table + 10**6)
    output, info = compiled(policy, None)(jnp.asarray(query)[None], cache, np.float32(0.35))
    bound, certified = np.asarray(info.error_bound)[0], np.asarray(info.certified)[0]
    if not bool(info.result == Result.successful):
        assert np.all(bound == np.inf)
        assert not certified.any()
        return
    assert not outside
    longest = float(np.max(np.linalg.norm(values.astype(np.longdouble), axis=-1)))
    for h in range(GROUP):
        one = truth(query[h], keys, values, float(np.float32(0.35)))
        error = np.linalg.norm(np.asarray(output)[0, h].astype(np.longdouble) - one.output)
        of_score = 0.35 * ((D + 2) * EPS * one.parts + small_parts(query[h], keys))
        rounding = longest * (2 * min(1.0, 2 * of_score) + (T + 32) * EPS) + D * 2 * TINY
        # Exceeded by chance once in a billion reads; NaN would say that no bound was asked for.
        assert error <= bound[h] + rounding


@pytest.mark.parametrize("policy", ["box", "sketch, widened", *SAMPLED])
def test_scores_that_overflow_leave_an_endless_error_and_no_nan(policy: str) -> None:
    rng = np.random.default_rng(0)
    query, keys = (1e25 * rng.normal(size=(n, D)).astype(np.float32) for n in (GROUP, T))
    values = jnp.asarray(rng.normal(size=(1, 1, T, D)), jnp.float32)
    cache = fill(jnp.asarray(keys)[None, None], values, SPECS["plain"])
    _, info = compiled(policy, None)(jnp.asarray(query)[None], cache, np.float32(1.0))
    assert bool(info.result == Result.nonfinite_input)
    assert np.all(info.error_bound == np.inf)
    assert not np.any(info.certified)


def share_of_first(query: np.ndarray, keys: np.ndarray, scale: float, coupling: float) -> Any:
    """Weight of the first of two keys under coupled attention, by bisection in 60 digits.

    α/(1 − α) = exp(s⟨q − γ(k₂ + αδ), δ⟩) with δ = k₁ − k₂; the right side falls as α grows.
    """
    first, second, q = ([Fraction(float(x)) for x in row] for row in (*keys, query))
    step = [a - b for a, b in zip(first, second, strict=True)]

    def dot(a: list[Fraction], b: list[Fraction]) -> Any:
        exact = sum((x * y for x, y in zip(a, b, strict=True)), Fraction())
        return mpmath.mpf(exact.numerator) / exact.denominator

    with mpmath.workdps(60):
        least = scale * (dot(q, step) - coupling * dot(second, step))
        steep = scale * coupling * dot(step, step)
        # In the logit of α, which tells shares from 0 and 1 that are nearer than any number.
        low, high = least - steep, least
        for _ in range(200):
            middle = (low + high) / 2
            falls = least - steep / (1 + mpmath.exp(-middle)) < middle
            low, high = (low, middle) if falls else (middle, high)
        return 1 / (1 + mpmath.exp(-high))


@pytest.mark.slow
@given(
    seed=st.integers(0, 2**20),
    kinds=st.tuples(KINDS, KINDS),
    exponents=st.tuples(EXPONENTS, EXPONENTS),
    balanced=st.booleans(),
    coupling=st.sampled_from([1e-3, 1.0, 30.0]),
)
def test_coupled_attention_is_right_or_says_that_it_is_not(
    seed, kinds, exponents, balanced, coupling
):
    rng = np.random.default_rng(seed)
    of_query, of_keys = exponents
    of_query = max(-39.0, min(30.0, -of_keys)) if balanced else of_query
    query = draw(rng, (1, D), kinds[0], 10.0**of_query, "float32")
    keys = draw(rng, (2, D), kinds[1], 10.0**of_keys, "float32")
    keys = np.where(np.abs(keys) < TINY, 0, keys)  # what counts as 0 in any case
    query = np.where(np.abs(query) < TINY, 0, query)
    values = np.eye(2, D, dtype=np.float32)
    scale = float(np.float32(D**-0.5))
    output, info = coupled(query[None], keys[None, None], values[None, None], coupling)
    assert not np.any(info.certified)
    assert np.all(np.isnan(info.error_bound))
    if bool(info.result != Result.successful):
        spread = float(np.max(np.abs(keys)))
        stiff = scale * coupling * spread**2 + scale * spread * float(np.max(np.abs(query)))
        assert stiff > 1e3, "nothing here is hard"
        return
    found = np.asarray(output)[0, 0, :2].astype(float)
    exact = float(share_of_first(query[0], keys, scale, coupling))
    # The coupled mean has half of the digits of float32: twice the residual in units of the spread,
    # which is half of the distance between the keys.
    assert abs(found[0] - exact) <= 2 * EPS**0.5
    assert abs(found.sum() - 1) <= 8 * EPS


@functools.partial(jax.jit, static_argnums=3)
def coupled(query: Any, keys: Any, values: Any, coupling: float) -> Any:
    cache = PagedKV.from_tokens(keys, values, page_size=2, spec=SPECS["box alone"])
    return vashista_attention(query, cache, Policy.dense(), coupling=coupling)

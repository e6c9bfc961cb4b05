"""Sampled reads (T8) end to end: unbiased, of the stated variance, below their bound, repeatable.

Many draws of one problem are a batch whose sequences name the same pages: one call, one key each.
"""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from tests.attention.dense_reference import attend
from tests.attention.sampled_reference import Expected, expected
from tests.thinned import spread
from vashista_theory import Result
from vashista_theory.attention import (
    DecodeInfo,
    PagedKV,
    Policy,
    SummarySpec,
    vashista_attention,
)
from vashista_theory.attention.bounds.sampling import bennett_radius
from vashista_theory.attention.step import sampling

D, SIZE, DRAWS = 8, 4, 2000


class Problem:
    """One kv head, its queries and tokens, as a cache of any number of equal sequences."""

    def __init__(self, seed=0, *, tokens=203, group=2, bits=2, spread=1.5, kind="plain"):
        rng = np.random.default_rng(seed)
        self.keys = rng.normal(size=(tokens, D))
        self.values = rng.normal(size=(tokens, D)) + 1.0
        self.query = spread * rng.normal(size=(group, D))
        if kind == "duplicates":
            self.keys[:] = self.keys[rng.integers(0, 3, size=tokens)]
        elif kind == "one holds all":
            self.keys[tokens // 2] += 12 * self.query.sum(axis=0) / (self.query**2).sum()
        elif kind == "mixed values":
            self.values *= np.exp(1.5 * rng.normal(size=(tokens, 1)))
        self.bits = bits

    def cache(self, copies: int, dtype=np.float64) -> PagedKV:
        pages = -(-len(self.keys) // SIZE)
        room = np.zeros((2, 1, pages, SIZE, D))
        room.reshape(2, -1, D)[:, : len(self.keys)] = self.keys, self.values
        table = np.broadcast_to(np.arange(pages), (copies, pages))
        spec = SummarySpec(sketch_bits=self.bits, dtype=str(np.dtype(dtype)))
        return PagedKV.from_pages(
            *jnp.asarray(room, dtype), table, np.full(copies, len(self.keys)), spec=spec
        )

    def queries(self, copies: int) -> np.ndarray:
        return np.broadcast_to(self.query, (copies, *self.query.shape))

    def expected(self, tokens: int, **given) -> Expected:
        given = {"tokens": tokens, "bits": self.bits, "size": SIZE, **given}
        return expected(self.query[None], self.keys[None], self.values[None], **given)[0]


def policy_of(tokens: int = 40, **given) -> Policy:
    return Policy.sampled(tokens, **{"dense_below": 0, **given})


def draws(problem: Problem, policy: Policy, copies: int = DRAWS, seed: int = 0):
    output, info = vashista_attention(
        problem.queries(copies), problem.cache(copies), policy, key=jax.random.key(seed)
    )
    assert bool(info.result == Result.successful)
    return np.asarray(output), jax.tree.map(np.asarray, info)


def scaled_errors(exact: Expected, output, info: DecodeInfo):
    """S/Z of every draw, and Ẑ/Z."""
    ratio = np.exp(info.log_mass - exact.log_mass)
    return (output - exact.output) * ratio[..., None], ratio


def z_scores(samples: np.ndarray, mean) -> np.ndarray:
    """How many standard errors the mean of samples (N, ...) is from what it should be."""
    return (samples.mean(axis=0) - mean) / (samples.std(axis=0) / np.sqrt(len(samples)) + 1e-15)


PROBLEMS = {
    "plain": {},
    "alone": {"group": 1, "seed": 1},
    "one bit": {"bits": 1, "seed": 2},
    "duplicates": {"kind": "duplicates", "seed": 3},
    "one holds all": {"kind": "one holds all", "seed": 4},
    "mixed values": {"kind": "mixed values", "seed": 5},
    "flat": {"spread": 0.01, "seed": 6},
}


@functools.cache
def drawn(name: str):
    problem = Problem(**PROBLEMS[name])
    return problem.expected(40), *draws(problem, policy_of())


@pytest.mark.parametrize("name", PROBLEMS)
def test_mean_and_variance_are_those_of_the_theorem(name):
    exact, output, info = drawn(name)
    error, ratio = scaled_errors(exact, output, info)
    assert np.abs(z_scores(ratio, 1.0)).max() < 4.5
    assert np.abs(z_scores(error, 0.0)).max() < 4.5  # of 2 heads of 8 numbers
    assert np.abs(z_scores((error**2).sum(axis=-1), exact.variance)).max() < 4
    assert np.abs(z_scores(info.tokens_read[:, 0], exact.pi.sum())) < 4
    assert exact.pi.sum() == pytest.approx(40)


@pytest.mark.parametrize("flaw", spread(["missing weight", "biased weight", "reused key"], 1))
def test_a_flawed_read_is_seen(flaw, monkeypatch):
    """Controls: the comparison above notices a wrong weight and a key used for all rows."""
    inclusion, draw, row_keys = sampling.inclusion, sampling.draw, sampling.row_keys
    right = {}
    if flaw == "reused key":
        monkeypatch.setattr(
            sampling, "row_keys", lambda *a: jnp.broadcast_to(row_keys(*a)[:1], (DRAWS, 2))
        )
    else:
        power = 0.9 if flaw == "biased weight" else 0.0

        def flawed(*given):
            right["probability"] = inclusion(*given)
            return right["probability"] ** power

        monkeypatch.setattr(sampling, "inclusion", flawed)
        monkeypatch.setattr(sampling, "draw", lambda t, _, *a: draw(t, right["probability"], *a))
    problem = Problem()
    # A seed of its own: nothing that was compiled for the sound read is used.
    output, info = draws(problem, policy_of(seed=1 + len(flaw)))
    error, ratio = scaled_errors(problem.expected(40), output, info)
    wrong_mean = np.abs(z_scores(ratio, 1.0)).max() > 8
    spread = z_scores((error**2).sum(axis=-1), problem.expected(40).variance)
    assert wrong_mean or np.abs(spread).max() > 8


def test_lengths_of_values_that_are_left_out_are_seen(monkeypatch):
    """Control: unbiased all the same, but of another variance."""
    monkeypatch.setattr(sampling, "weighted_by_values", lambda proxy, *_: proxy)
    problem = Problem(**PROBLEMS["mixed values"])
    output, info = draws(problem, policy_of(seed=77))
    exact = problem.expected(40)
    error, ratio = scaled_errors(exact, output, info)
    assert np.abs(z_scores(ratio, 1.0)).max() < 4.5
    assert np.abs(z_scores((error**2).sum(axis=-1), exact.variance)).max() > 8


def exceeded_too_often(errors: np.ndarray, bounds: np.ndarray, failure: float) -> bool:
    """Whether so many errors beyond their bounds refute that each has probability `failure`."""
    beyond = int((errors > bounds * (1 + 1e-12)).sum())
    return bool(stats.binomtest(beyond, errors.size, failure, "greater").pvalue < 1e-4)


def bound_holds(rounds: int) -> None:
    """Errors beyond the bound at 1e-3, in rounds of 2,000 rows, and how wide it is."""
    policy, failure = policy_of(60, confidence=1 - 1e-3), 1e-3
    for name in ("plain", "mixed values", "one holds all"):
        given = {**PROBLEMS[name], "bits": 4, "group": 1}
        problem = Problem(**given)
        exact = problem.expected(60)
        found = [draws(problem, policy, seed=i) for i in range(rounds)]
        errors = np.concatenate(
            [np.linalg.norm(output - exact.output, axis=-1) for output, _ in found]
        )
        bounds = np.concatenate([info.error_bound for _, info in found])
        estimates = np.concatenate([info.error_estimate for _, info in found])
        assert not exceeded_too_often(errors, bounds, failure)
        assert name != "plain" or np.median(bounds) < 25 * np.sqrt(exact.variance[0]), "useless"
        # The same with the exact V and B, where no slack of the sketch hides anything.
        sizes = np.concatenate(
            [np.linalg.norm(scaled_errors(exact, *one)[0], axis=-1) for one in found]
        )
        for share in (0.2, 0.01, failure):
            ends = jnp.asarray(exact.variance), jnp.asarray(exact.largest)
            assert not exceeded_too_often(sizes, np.asarray(bennett_radius(*ends, share)), share)
        # The control: the estimate is no bound, and is found out.
        assert exceeded_too_often(errors, estimates, failure) or estimates.max() < 1e-9


def test_the_bound_is_exceeded_no_more_often_than_it_says():
    bound_holds(rounds=3)


@pytest.mark.slow
def test_the_bound_is_exceeded_no_more_often_than_it_says_in_200000_rows():
    bound_holds(rounds=100)


@pytest.mark.parametrize("name", ["plain", "alone", "one bit", "flat", "mixed values"])
def test_the_sample_knows_its_own_error(name):
    exact, output, info = drawn(name)
    errors = np.linalg.norm(output - exact.output, axis=-1)
    ratio = errors / info.error_estimate
    assert 0.7 < np.median(ratio) < 1.15
    assert np.percentile(ratio, 95) < 2.2
    # And V̂, squared and in units of Z, is right on average.
    scaled = info.error_estimate**2 * np.exp(2 * (info.log_mass - exact.log_mass))
    mean = scaled.mean(axis=0) / exact.variance
    assert np.all((mean > 0.8) & (mean < 1.1))  # 40 tokens: ô lies nearer to what was drawn than o


@pytest.mark.slow
def test_a_context_of_at_most_so_many_tokens_is_read_whole():
    problem = Problem(tokens=40)
    output, info = draws(problem, policy_of(40), copies=2)
    np.testing.assert_allclose(output[0], problem.expected(40).output, atol=1e-13)
    assert np.all(info.certified)
    assert not np.any(info.error_estimate)
    assert not np.any(info.error_bound)
    assert np.all(info.tokens_read == 40)
    # Also in a cache with room for many more.
    cache = problem.cache(1).grow(pages=100, pages_per_sequence=100)
    output, info = vashista_attention(problem.queries(1), cache, policy_of(40))
    np.testing.assert_allclose(output[0], problem.expected(40).output, atol=1e-13)
    assert bool(jnp.all(info.certified))
    assert not np.any(info.error_estimate)
    assert np.all(np.asarray(info.tokens_read) == 40)
    assert np.all(np.asarray(info.gap) == np.inf)


@pytest.mark.slow
def test_empty_and_one_token_sequences():
    cache = PagedKV.create(
        batch=2, kv_heads=1, head_size=D, pages=60, page_size=SIZE, dtype="float64"
    )
    token = np.ones((2, 1, 1, D))
    cache, _ = cache.append(token, 3 * token, counts=np.array([0, 1]))
    policy = policy_of(40, confidence=0.9, tolerance=0.1)
    output, info = vashista_attention(np.ones((2, 1, D)), cache, policy)
    np.testing.assert_array_equal(output[:, 0], [np.zeros(D), np.full(D, 3.0)])
    np.testing.assert_array_equal(info.tokens_read[:, 0], [0, 1])
    assert not np.any(info.error_bound)
    assert not np.any(info.error_estimate)
    assert bool(info.result == Result.successful)


def test_too_many_drawn_tokens_are_read_densely_and_said(monkeypatch):
    monkeypatch.setattr(sampling, "capacity_for", lambda tokens, _: tokens - 8)
    problem = Problem()
    output, info = draws(problem, policy_of(seed=90), copies=100)
    fell = info.fell_back[:, 0]
    assert 0.3 < fell.mean() < 0.9  # 36 drawn on average, room for 32
    exact = problem.expected(40).output
    np.testing.assert_allclose(output[fell], np.broadcast_to(exact, output[fell].shape), atol=1e-13)
    assert np.all(info.tokens_read[fell] == 203)
    assert np.all(info.certified[fell])
    assert not np.any(info.error_estimate[fell])
    assert np.all(info.tokens_read[~fell] <= 32 + 8)
    assert not np.any(info.certified[~fell])
    assert np.all(np.isnan(info.dropped_mass_bound[~fell]))
    # The draw that was one too many is paid for beside the 203 tokens, each of which is read once.
    token = 2 * D * 8
    summaries = (info.bytes_read - token * info.tokens_read)[:, 0]
    assert len(set(summaries[~fell])) == 1
    assert np.min(summaries[fell] - summaries[~fell][0]) == 33 * token


def test_rows_with_a_large_error_read_more_and_at_last_everything():
    tolerance = 0.1
    output, info = draws(Problem(), policy_of(tolerance=tolerance), copies=100)
    relative = info.error_estimate / np.linalg.norm(output, axis=-1)
    assert np.all(relative <= tolerance)
    once = 2 * D * 8 * 46  # tokens of a read without more, at 16 numbers of 8 bytes
    more = info.bytes_read[:, 0] > 2 * once
    assert more.any()
    assert np.all(info.tokens_read[info.fell_back] == 203)
    harder = draws(Problem(), policy_of(tolerance=1e-3), copies=100)[1]
    assert np.all(harder.fell_back)
    easier = draws(Problem(), policy_of(tolerance=0.9), copies=100)[1]
    assert np.all(easier.tokens_read < 80)


def test_the_error_is_proved_to_be_within_the_tolerance_where_it_is():
    problem = Problem(bits=8, group=1)
    policy = policy_of(150, confidence=0.99, tolerance=0.5)
    output, info = draws(problem, policy, copies=100)
    assert info.certified.any()
    size = np.linalg.norm(problem.expected(150).output, axis=-1)
    errors = np.linalg.norm(output - problem.expected(150).output, axis=-1)
    assert np.all(errors[info.certified] <= 0.5 * size)
    without = draws(problem, policy_of(150, tolerance=0.5), copies=100)[1]
    assert not np.any(without.certified & ~without.fell_back)
    assert np.all(np.isnan(without.error_bound[~without.fell_back]))


@pytest.mark.slow
def test_equal_keys_read_equally_and_others_do_not():
    problem, policy = Problem(), policy_of()
    cache, query = problem.cache(3), problem.queries(3)
    typed = jax.random.key(7)
    call = functools.partial(vashista_attention, query, cache, policy)
    first, info = call(key=typed)
    for key in (typed, jax.random.key_data(typed), jax.random.PRNGKey(7)):
        np.testing.assert_array_equal(call(key=key)[0], first)
    # Compiled as part of something larger, sums may be added in another order.
    compiled = jax.jit(lambda k: call(key=k)[0])(typed)
    np.testing.assert_allclose(compiled, first, rtol=1e-13, atol=1e-14)
    assert len(np.unique(np.asarray(first)[:, 0, 0])) == 3  # sequences draw for themselves
    assert not np.any(np.asarray(call(key=jax.random.key(8))[0]) == np.asarray(first))
    wide = jax.random.key(7, impl="rbg")
    assert not np.any(np.asarray(call(key=wide)[0]) == np.asarray(first))
    several = jax.vmap(lambda k: call(key=k)[0])(jax.random.split(typed, 3))
    np.testing.assert_allclose(several[1], call(key=jax.random.split(typed, 3)[1])[0], atol=1e-14)
    assert len(np.unique(np.asarray(several)[:, 0, 0, 0])) == 3
    assert bool(jnp.all(info.tokens_read < 80))


def test_without_a_key_a_step_repeats_whatever_else_is_in_the_batch():
    problem, policy = Problem(), policy_of()
    query = np.concatenate([problem.queries(1), 2 * problem.queries(1), problem.queries(1)])
    output, _ = vashista_attention(query, problem.cache(3), policy)
    again, _ = vashista_attention(query, problem.cache(3), policy)
    np.testing.assert_array_equal(output, again)
    np.testing.assert_array_equal(output[0], output[2])
    alone, _ = vashista_attention(query[:1], problem.cache(1), policy)
    np.testing.assert_allclose(alone[0], output[0], atol=1e-14)
    other, _ = vashista_attention(query, problem.cache(3), replace(policy, seed=1))
    assert not np.any(np.asarray(other) == np.asarray(output))


@pytest.mark.slow
def test_decoding_and_appending_inside_a_scan():
    rng = np.random.default_rng(4)
    keys, values = rng.normal(size=(2, 1, 2, 140, D))
    start = 120
    cache = PagedKV.from_tokens(
        keys[:, :, :start], values[:, :, :start], page_size=SIZE, pages_per_sequence=40, pages=40
    )
    query = rng.normal(size=(1, 4, D))
    policy = policy_of(30)

    def step(cache, new):
        token, key = new
        cache, result = cache.append(*token)
        output, info = vashista_attention(query, cache, policy, key=key)
        return cache, (output, info.error_estimate, info.tokens_read, result)

    later = tuple(np.moveaxis(a[:, :, start:], 2, 0) for a in (keys, values))
    random = jax.random.split(jax.random.key(0), 20)
    run = jax.jit(lambda cache: jax.lax.scan(step, cache, (later, random)))
    cache, (outputs, estimates, read, results) = run(cache)
    assert bool(jnp.all(results == Result.successful))
    assert np.all((np.asarray(read) > 8) & (np.asarray(read) < 70))
    alone, _ = vashista_attention(query, cache, policy, key=random[-1])
    np.testing.assert_allclose(outputs[-1], alone, atol=1e-13)
    for i in range(20):
        held = keys[0, :, : start + i + 1], values[0, :, : start + i + 1]
        for h in range(4):
            exact = attend(query[0, h], held[0][h // 2], held[1][h // 2], D**-0.5).output
            error = np.linalg.norm(np.asarray(outputs[i, 0, h]) - exact)
            assert error <= 5 * float(estimates[i, 0, h])


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_single_and_half_precision_draw_as_double_does(dtype):
    problem = Problem()
    problem.keys, problem.values = (
        np.asarray(jnp.asarray(a, dtype).astype(jnp.float64))
        for a in (problem.keys, problem.values)
    )
    query = problem.queries(50).astype(np.float32)
    cache = problem.cache(50)
    narrow = PagedKV.from_pages(
        cache.keys.astype(dtype), cache.values.astype(dtype), cache.page_table, cache.lengths,
        spec=replace(cache.spec, dtype="float32"),
    )  # fmt: skip
    given = {"policy": policy_of(confidence=0.99), "key": jax.random.key(1)}
    output, info = vashista_attention(query, narrow, **given)
    expected, exact = vashista_attention(query.astype(np.float64), cache, **given)
    # π differs in the last bits of float32: hardly ever by what a draw can notice.
    same = np.asarray(info.tokens_read == exact.tokens_read)[:, 0]
    assert same.mean() > 0.9
    np.testing.assert_allclose(output[same], expected[same], atol=2e-4)
    np.testing.assert_allclose(info.error_estimate[same], exact.error_estimate[same], rtol=1e-2)
    np.testing.assert_allclose(info.error_bound[same], exact.error_bound[same], rtol=2e-2)
    assert output.dtype == jnp.float32


def test_bytes_are_those_of_the_sketch_and_of_the_tokens():
    problem = Problem(tokens=204)  # on 51 pages, as those of `drawn`: compiled with them
    _, info = draws(problem, policy_of())
    # 49 pages of the tail: box, codes, the longest value and a byte of the length of each.
    summary = 49 * (2 * D * 8 + SIZE * D * problem.bits / 8 + 8 + SIZE)
    tokens = info.tokens_read[:, 0] * 2 * D * 8
    np.testing.assert_array_equal(info.bytes_read[:, 0], summary + tokens)
    assert np.all(info.pages_read <= info.tokens_read)

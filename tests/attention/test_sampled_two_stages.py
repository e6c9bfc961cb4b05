"""Draws in two stages: unbiased, as spread as a draw in NumPy is, and with an honest estimate."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.attention.sampled_reference import inclusion, sketched, value_weights
from tests.attention.test_sampled import (
    DRAWS,
    SIZE,
    D,
    Problem,
    draws,
    policy_of,
    scaled_errors,
    z_scores,
)
from tests.thinned import spread
from vashista_theory import Result
from vashista_theory.attention import PagedKV, Policy, SummarySpec, vashista_attention
from vashista_theory.attention.bounds.sampling import estimated_variance, two_stage_variance
from vashista_theory.attention.step import two_stages

SPAN = 16 * SIZE  # tokens of a superpage
TOKENS = 27 * SPAN + 7  # the first superpage and the last two have pages that are always read
OPENED, ASKED = 8, 60


def problem_of(name: str) -> Problem:
    """Superpages of unequal mass and with values of their own: which are opened matters."""
    given = {"plain": {}, "alone": {"group": 1, "seed": 1}, "one holds all": {"seed": 2}}[name]
    problem = Problem(tokens=TOKENS, **given)
    rng = np.random.default_rng(9)
    places = np.repeat(np.arange(-(-TOKENS // SPAN)), SPAN)[:TOKENS]
    own = rng.normal(size=(2, places.max() + 1, D))[:, places]
    problem.keys += 0.6 * own[0]
    problem.values += own[1]
    if name == "one holds all":
        problem.keys[TOKENS // 2] += 8 * problem.query.sum(axis=0) / (problem.query**2).sum()
    return problem


def two_stage_policy(tokens: int = ASKED, **given) -> Policy:
    return policy_of(tokens, **{"superpages": OPENED, **given})


class Reference:
    """The same draw in NumPy, by sorting, with random numbers of its own."""

    def __init__(self, problem: Problem):
        keys, query = problem.keys, problem.query
        scale = D**-0.5
        scores = scale * query @ keys.T
        self.log_mass = np.logaddexp.reduce(scores, axis=1)
        self.mass = np.exp(scores - self.log_mass[:, None])
        self.values = problem.values
        self.output = self.mass @ problem.values
        page = np.arange(TOKENS) // SIZE
        pages = -(-TOKENS // SIZE)
        self.tail = (page >= 1) & (page < pages - 1)
        self.unit = np.arange(TOKENS) // SPAN
        whole = np.array([self.tail[self.unit == u].all() for u in range(self.unit[-1] + 1)])
        whole &= np.bincount(self.unit) == SPAN
        self.forced = ~whole
        full = TOKENS // SIZE * SIZE
        rough = np.zeros_like(keys)
        rough[:full] = sketched(keys[:full], problem.bits, SIZE)
        guess = np.where(self.tail, scale * query @ rough.T, scores)
        self.guess = guess
        means = np.stack([keys[self.unit == u].mean(axis=0) for u in np.flatnonzero(whole)])
        log_unit = np.log(SPAN) + scale * query @ means.T
        sure = np.logaddexp.reduce(np.where(self.tail, -np.inf, scores), axis=1)
        share = np.exp(
            log_unit - np.logaddexp(sure, np.logaddexp.reduce(log_unit, axis=1))[:, None]
        )
        self.pi_unit = np.ones(whole.size)
        self.pi_unit[whole] = inclusion(np.sqrt((share**2).sum(axis=0)), OPENED)
        self.sure = sure

    def draw(self, rng) -> np.ndarray:
        """S/Z of one draw."""
        # Random order, laid end to end, and what covers one of u, u + 1, …: as many every time.
        order = rng.permutation(np.flatnonzero(~self.forced))
        ends = np.cumsum(self.pi_unit[order]) + rng.random()
        opened = self.forced.copy()
        opened[order] = np.floor(ends) > np.floor(ends - self.pi_unit[order])
        there = self.tail & opened[self.unit]
        pi_unit = self.pi_unit[self.unit][there]
        guess = self.guess[:, there] - np.log(pi_unit)
        total = np.logaddexp(self.sure, np.logaddexp.reduce(guess, axis=1))
        proxy = np.sqrt((np.exp(guess - total[:, None]) ** 2).sum(axis=0))
        proxy = proxy * value_weights(self.values, there, SIZE)[there]
        pi = np.ones(TOKENS)
        pi[there] = inclusion(proxy, ASKED - (~self.tail).sum())
        drawn = ~self.tail
        drawn[there] = rng.random(there.sum()) < pi[there]
        weight = np.where(drawn, 1 / (pi * np.where(self.tail, self.pi_unit[self.unit], 1)), 0)
        parts = (weight - 1) * self.mass
        return np.einsum("gt,gtd->gd", parts, self.values - self.output[:, None])


@functools.cache
def found(name: str):
    problem = problem_of(name)
    return problem, *draws(problem, two_stage_policy())


def sizes(problem: Problem, output, info) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """S/Z, ‖S/Z‖² and Ẑ/Z of every draw."""
    error, ratio = scaled_errors(Reference(problem), output, info)
    return error, (error**2).sum(axis=-1), ratio


@pytest.mark.parametrize("name", spread(["plain", "alone", "one holds all"], 1))
def test_unbiased_and_as_spread_as_a_draw_in_numpy(name):
    problem, output, info = found(name)
    error, squares, ratio = sizes(problem, output, info)
    assert not np.any(info.fell_back)
    assert np.abs(z_scores(ratio, 1.0)).max() < 4.5
    assert np.abs(z_scores(error, 0.0)).max() < 4.5  # of 2 heads of 8 numbers
    reference, rng = Reference(problem), np.random.default_rng(0)
    own = np.array([(reference.draw(rng) ** 2).sum(axis=-1) for _ in range(DRAWS)])
    spread = np.sqrt((squares.var(axis=0) + own.var(axis=0)) / DRAWS)
    assert np.all(np.abs(squares.mean(axis=0) - own.mean(axis=0)) < 4 * spread)


@pytest.mark.parametrize("name", spread(["plain", "alone"], 1))
def test_the_sample_knows_its_own_error(name):
    problem, output, info = found(name)
    _, squares, ratio = sizes(problem, output, info)
    estimate = info.error_estimate**2 * ratio**2
    mean = estimate.mean(axis=0) / squares.mean(axis=0)
    # About ô, which lies nearer to what was drawn than o: of some 50 tokens and 8 superpages.
    assert np.all((mean > 0.7) & (mean < 1.15))
    away = np.linalg.norm(output - Reference(problem).output, axis=-1) / info.error_estimate
    assert 0.7 < np.median(away) < 1.2
    assert np.percentile(away, 95) < 2.5


def test_units_are_drawn_with_their_probabilities_and_as_many_every_time():
    rng = np.random.default_rng(1)
    steps = np.round(2.0**24 * rng.dirichlet(0.3 * np.ones(40), size=3) * 7)
    steps[0, :3], steps[1, -1] = 2.0**24, 1.0
    meant = rng.random((3, 40)) < 0.8
    meant[0, :3] = True
    probability = np.where(meant, np.clip(steps, 1, 2**24) / 2**24, 0.5)
    keys = jax.random.bits(jax.random.key(0), (20000, 3, 2), jnp.uint32)
    draw = jax.jit(jax.vmap(two_stages.draw_systematically, in_axes=(None, None, 0)))
    drawn = np.asarray(draw(jnp.asarray(probability), jnp.asarray(meant), keys))
    assert not drawn[:, ~meant].any()
    share, pi = drawn[:, meant].mean(axis=0), probability[meant]
    assert np.all(np.abs(share - pi) < 4.5 * np.sqrt(pi * (1 - pi) / 20000) + 3 / 20000)
    total = np.where(meant, probability, 0).sum(axis=1)
    number = drawn.sum(axis=2)
    assert np.all((number == np.floor(total)) | (number == np.ceil(total)))
    assert drawn[:, 0, :3].all()


@pytest.mark.slow
@pytest.mark.parametrize("flaw", spread(["unweighted", "blind estimate"], 1))
def test_a_flawed_read_is_seen(flaw, monkeypatch):
    """Controls: superpages that do not count 1/π₁ times, an estimate without their variance."""
    problem, seed = problem_of("plain"), 1 + len(flaw)
    if flaw == "unweighted":
        opening = two_stages.open_superpages

        def flat(*args, **given):
            opened = opening(*args, **given)
            return opened._replace(log_pi=jnp.zeros_like(opened.log_pi))

        monkeypatch.setattr(two_stages, "open_superpages", flat)
        _, _, ratio = sizes(problem, *draws(problem, two_stage_policy(seed=seed)))
        assert np.abs(z_scores(ratio, 1.0)).max() > 8
        return

    def blind(log_mass, log_unit, log_inclusion, away, members):
        unit = jnp.sum(jnp.where(members, log_unit[..., None, :], 0.0), axis=-1)
        distance = jnp.linalg.norm(away, axis=-1)
        counted = jnp.any(members, axis=-1)
        mass = jnp.where(counted, log_mass - unit, -jnp.inf)
        return estimated_variance(mass, log_inclusion, distance)

    monkeypatch.setattr(two_stages, "two_stage_variance", blind)
    output, info = draws(problem, two_stage_policy(seed=seed))
    _, squares, ratio = sizes(problem, output, info)
    mean = (info.error_estimate**2 * ratio**2).mean(axis=0) / squares.mean(axis=0)
    assert np.all(mean < 0.5)


def test_the_variance_between_and_within_is_right_on_average():
    """Known probabilities, the true output in place of the estimate: V̂ is unbiased."""
    rng = np.random.default_rng(3)
    units, each, dims = 6, 5, 3
    unit = np.repeat(np.arange(units), each)
    mass = rng.dirichlet(np.ones(units * each))
    values = rng.normal(size=(units * each, dims)) + 2
    away = values - mass @ values
    first, second = rng.uniform(0.2, 0.9, units), rng.uniform(0.2, 0.9, units * each)
    first[0], second[:7] = 1.0, 1.0
    terms = mass[:, None] * away
    sums = np.stack([terms[unit == u].sum(axis=0) for u in range(units)])
    exact = ((1 / first - 1) * (sums**2).sum(axis=1)).sum()
    exact += ((1 / second - 1) / first[unit] * (terms**2).sum(axis=1)).sum()

    opened = rng.random((4000, units)) < first
    drawn = opened[:, unit] & (rng.random((4000, units * each)) < second)
    members = (unit[:, None] == np.arange(units)) & drawn[..., None]
    logs = (jnp.log(jnp.asarray(a))[None] for a in (mass, first, second))
    every = jnp.broadcast_to(away, (len(members), *away.shape))
    estimates = two_stage_variance(
        jnp.broadcast_to(next(logs), every.shape[:2]), *logs, every, jnp.asarray(members)
    )
    assert abs(z_scores(np.asarray(estimates), exact)) < 4
    # With certain units it is the estimate of one stage.
    certain = two_stage_variance(
        jnp.log(mass), jnp.zeros(units), jnp.log(second), jnp.asarray(away), jnp.asarray(members[0])
    )
    one = estimated_variance(
        jnp.where(drawn[0], jnp.log(mass), -jnp.inf), jnp.log(second), jnp.linalg.norm(away, axis=1)
    )
    np.testing.assert_allclose(certain, one, rtol=1e-12)


def test_bytes_are_those_of_the_means_and_of_what_was_opened():
    problem, _, info = found("plain")
    # 26 superpages have no page that is always read: a mean and its error each, in float64.
    means = 26 * (D + 1) * 8
    page = 2 * D * 8 + SIZE * D * problem.bits / 8 + 8 + SIZE
    pages = (info.bytes_read[:, 0] - means - info.tokens_read[:, 0] * 2 * D * 8) / page
    np.testing.assert_array_equal(pages, np.round(pages))
    # 15 pages of the first superpage, 16 as well of the next to last, and 8 superpages on average.
    assert np.abs(z_scores(pages, 15 + 16 * OPENED + (TOKENS // SIZE - 27 * 16))) < 4


def test_few_superpages_are_scored_whole():
    """Where the first stage has nothing to spare, the draw is that of one stage, bit for bit."""
    problem = Problem()
    one = draws(problem, policy_of(), copies=3)
    two = draws(problem, policy_of(superpages=4), copies=3)
    np.testing.assert_array_equal(one[0], two[0])
    np.testing.assert_array_equal(one[1].bytes_read, two[1].bytes_read)


def test_a_short_sequence_in_a_long_table_is_read_whole():
    problem = problem_of("alone")
    cache = problem.cache(2).truncate(np.array([ASKED, 5 * SPAN]))
    output, info = vashista_attention(
        problem.queries(2), cache, two_stage_policy(), key=jax.random.key(0)
    )
    assert bool(info.result == Result.successful)
    assert np.asarray(info.tokens_read)[0, 0] == ASKED
    assert np.asarray(info.error_estimate)[0, 0] == 0
    scores = problem.query @ problem.keys[:ASKED].T * D**-0.5
    weights = np.exp(scores - np.logaddexp.reduce(scores, axis=1)[:, None])
    np.testing.assert_allclose(output[0], weights @ problem.values[:ASKED], atol=1e-12)
    assert np.asarray(info.error_estimate)[1, 0] > 0


@pytest.mark.slow
def test_rows_with_a_large_error_open_more_and_at_last_read_everything():
    problem = problem_of("alone")
    output, info = draws(problem, two_stage_policy(tolerance=1e-6), copies=2)
    assert np.all(info.fell_back)
    np.testing.assert_allclose(output[0], Reference(problem).output, atol=1e-12)
    assert np.all(info.tokens_read == TOKENS)
    assert np.all(info.error_estimate == 0)


@pytest.mark.slow
def test_rows_that_are_loose_enough_do_not_read_again():
    problem = problem_of("alone")
    size = np.linalg.norm(Reference(problem).output)
    _, info = draws(problem, two_stage_policy(tolerance=0.15), copies=200)
    once = info.tokens_read < 2 * ASKED
    assert 0 < once.mean() < 1
    assert np.all(info.error_estimate[~info.fell_back] < 0.3 * size)


@pytest.mark.slow
def test_kv_heads_of_a_sequence_share_and_kernels_read_the_same():
    """The portable kernels read what was drawn as plain JAX does."""
    rng = np.random.default_rng(0)
    heads = [problem_of("alone"), problem_of("plain")]
    keys = np.stack([one.keys for one in heads])[None].astype(np.float32)
    values = np.stack([one.values for one in heads])[None].astype(np.float32)
    spec = SummarySpec(sketch_bits=2)
    cache = PagedKV.from_tokens(keys, values, page_size=SIZE, spec=spec)
    query = rng.normal(size=(1, 4, D)).astype(np.float32)
    asked = query, cache, two_stage_policy(80)
    plain, info = vashista_attention(*asked, key=jax.random.key(1), implementation="jax")
    kernels, same = vashista_attention(*asked, key=jax.random.key(1), implementation="xla")
    np.testing.assert_allclose(kernels, plain, rtol=2e-5, atol=2e-5)  # float32 sums of 100 terms
    np.testing.assert_array_equal(info.tokens_read, same.tokens_read)
    np.testing.assert_allclose(info.error_estimate, same.error_estimate, rtol=1e-4)


def test_what_two_stages_cannot_do_is_refused_by_name():
    with pytest.raises(ValueError, match=r"superpages=4 are drawn as one"):
        Policy.sampled(256, superpages=4, confidence=0.999)
    with pytest.raises(ValueError, match=r"superpages is 0"):
        Policy.sampled(256, superpages=0)
    problem = Problem()
    spec = SummarySpec(ball=False, sketch_bits=2)
    cache = PagedKV.from_tokens(
        problem.keys[None, None], problem.values[None, None], page_size=SIZE, spec=spec
    )
    with pytest.raises(ValueError, match=r"superpages=2 by their means.*ball=True"):
        vashista_attention(problem.queries(1), cache, policy_of(superpages=2))


def test_equal_keys_read_equally():
    problem = problem_of("alone")
    first, again = (draws(problem, two_stage_policy(), copies=2) for _ in range(2))
    np.testing.assert_array_equal(first[0], again[0])
    other = draws(problem, two_stage_policy(), copies=2, seed=1)
    assert not np.any(first[0] == other[0])

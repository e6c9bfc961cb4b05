"""What random cases are too kind to see: hypotheses of T7 and T8 that matter, and what is sharp.

Many rare tokens of one size and one direction make ‖D‖ a binomial number, whose tail is exact.
"""

import numpy as np
import pytest
from scipy import stats

from tests.paper import statements_sampling

TOKENS, CHANCE = 200, 0.02
VARIANCE, LARGEST = TOKENS * (1 / CHANCE - 1), 1 / CHANCE - 1


def claimed(r: np.ndarray, variance: float, largest: float) -> np.ndarray:
    y = largest * r / variance
    return 2 * np.exp(-variance / largest**2 * ((1 + y) * np.log1p(y) - y))


def holds(claim: np.ndarray, r: np.ndarray) -> bool:
    drawn = np.arange(TOKENS + 1)
    sums = np.abs(drawn / CHANCE - TOKENS)
    chance = stats.binom.pmf(drawn, TOKENS, CHANCE)
    return all(
        chance[sums >= one].sum() <= of * (1 + 1e-9) for one, of in zip(r, claim, strict=True)
    )


REACHED = np.arange(6, 60) / CHANCE - TOKENS


def test_the_tail_of_many_rare_tokens_is_bounded() -> None:
    assert holds(claimed(REACHED, VARIANCE, LARGEST), REACHED)


@pytest.mark.parametrize(("variance", "largest"), [(0.8, 1.0), (0.5, 1.0), (1.0, 0.8), (1.0, 0.5)])
def test_less_variance_or_shorter_terms_would_not_bound_it(variance: float, largest: float) -> None:
    claim = claimed(REACHED, variance * VARIANCE, largest * LARGEST)
    assert not holds(claim, REACHED)


def test_a_normal_tail_would_not_bound_it() -> None:
    assert not holds(2 * np.exp(-(REACHED**2) / (2 * VARIANCE)), REACHED)


def test_a_term_that_is_not_drawn_counts_where_drawing_is_likely() -> None:
    """B is at least the term of a token that is left out: of π = .9 that is 1, not 1/π − 1."""
    tokens, chance, variance = 40, 0.9, 40 * (1 / 0.9 - 1)
    drawn = np.arange(tokens + 1)
    sums, pmf = np.abs(drawn / chance - tokens), stats.binom.pmf(drawn, tokens, chance)
    r = np.sort(sums)[5:30]
    beyond = np.array([pmf[sums >= one].sum() for one in r])
    assert np.all(beyond <= claimed(r, variance, 1.0) * (1 + 1e-9))
    assert np.any(beyond > claimed(r, variance, 1 / chance - 1))


def test_the_estimate_is_the_variance_on_average_about_the_true_output() -> None:
    """T8's estimate, over every draw; with 1/π in place of 1/π² it is not."""
    for seed in range(20):
        reads = statements_sampling.Reads.at_random(np.random.default_rng(seed))
        squares = (1 - reads.pi) * (reads.drift**2).sum(axis=1)
        found = reads.mean(reads.draws @ (squares / reads.pi**2))
        assert np.isclose(found, reads.variance, rtol=1e-12)
        assert reads.mean(reads.draws @ (squares / reads.pi)) < 0.999 * reads.variance


def test_a_ball_about_another_point_than_the_mean_needs_the_box_form() -> None:
    """(T7ball) wants c = the mean: three of four keys at the far end are too many for cosh."""
    keys, centre, radius, s = np.array([0.0, 1, 1, 1]), 0.5, 0.5, 3.0
    mass = np.exp(s * keys).sum()
    assert mass > 4 * np.exp(s * centre) * np.cosh(s * radius)
    mean = keys.mean()
    assert mass <= 4 * np.exp(s * mean) * np.cosh(s * np.abs(keys - mean).max())


def test_no_draw_of_as_many_tokens_varies_less_where_distances_are_known() -> None:
    """What follows (T8group): a² = Σ w² ‖v − o‖²/Z²; drawing by the masses alone is worse."""
    rng = np.random.default_rng(0)
    masses = np.exp(rng.normal(size=(3, 8)))
    values = rng.normal(size=(8, 2)) * 3.0 ** rng.normal(size=(8, 1))
    shares = masses / masses.sum(axis=1, keepdims=True)
    away = np.linalg.norm(values[None] - (shares @ values)[:, None], axis=2)
    exact, blind = ((shares * d) ** 2 for d in (away, 1.0))

    def drawn(by: np.ndarray) -> np.ndarray:
        lower, upper = 0.0, 1e9
        for _ in range(200):
            middle = (lower + upper) / 2
            wider = np.minimum(1, middle * np.sqrt(by)).sum() < 4
            lower, upper = (middle, upper) if wider else (lower, middle)
        return np.minimum(1, lower * np.sqrt(by))

    best, other = (drawn(one.sum(axis=0)) for one in (exact, blind))
    assert np.isclose(best.sum(), 4) & np.isclose(other.sum(), 4)
    cost = [float((exact.sum(axis=0) * (1 / pi - 1)).sum()) for pi in (best, other)]
    assert cost[0] < 0.95 * cost[1]

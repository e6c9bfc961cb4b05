"""The tail bound of T8 is hardly more than true: with anything less in it, it fails.

Many rare tokens of one size and one direction make ‖D‖ a binomial number, whose tail is exact. The
random cases of `test_inequalities` leave more room than half of the variance.
"""

import numpy as np
import pytest
from scipy import stats

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

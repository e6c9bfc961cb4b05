"""The exact projection that attacks are judged by, against brute force and cases by hand."""

import dataclasses
import math
from fractions import Fraction

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from experiments.projection_attack import exact as exact_projection
from tests.hull import reference
from tests.hull.problems import PROBLEMS, Problem


def same_as_brute_force(keys: np.ndarray, query: np.ndarray) -> None:
    tried = reference.project(keys, query)
    found = exact_projection.project(keys.tolist(), query.tolist())
    unit = Fraction(4) ** found.exponent
    assert found.point == tried.point
    assert [m * unit for m in found.multipliers] == tried.multipliers
    assert found.inside == tried.inside
    assert np.array_equal(found.face, tried.face)
    # The support is one of those that brute force met, so it lies in the smallest face.
    assert tried.minimal_face[list(found.support)].all()
    assert found.point == [
        sum(w * Fraction(float(row[c])) for w, row in zip(found.weights, keys, strict=True))
        for c in range(keys.shape[1])
    ]


@pytest.mark.parametrize(
    "problem", [p for p in PROBLEMS if len(p.keys) <= reference.MAX_KEYS], ids=lambda p: p.name
)
def test_hand_worked_problems(problem: Problem) -> None:
    same_as_brute_force(problem.keys, problem.query)


@given(
    st.integers(1, 6),
    st.integers(1, 3),
    st.integers(0, 2**31),
    st.sampled_from((1.0, 3.7, 2.0**-530, 2.0**500)),
)
def test_any_small_problem(n: int, d: int, seed: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    keys, query = rng.integers(-2, 3, size=(n, d)) * size, rng.integers(-3, 4, size=d) * size
    same_as_brute_force(keys, query)
    same_as_brute_force(rng.normal(size=(n, d)) * size, rng.normal(size=d) * size)


def test_floats_become_integers_of_the_largest_unit_that_does() -> None:
    # 3 · 2⁻¹, 2³ and −2⁻² in units of 2⁻²: 6, 32, −1; the zeros, of either sign, have no exponent.
    assert exact_projection.as_integers([[1.5, 8.0, 0.0], [-0.25, -0.0, 0.0]]) == (
        [[6, 32, 0], [-1, 0, 0]],
        -2,
    )
    least, most = np.finfo(np.float64).smallest_subnormal, np.finfo(np.float64).max
    assert exact_projection.as_integers([[3 * least, 2.0**1000]]) == ([[3, 2**2074]], -1074)
    assert exact_projection.as_integers([[most]]) == ([[2**53 - 1]], 971)
    with pytest.raises(ValueError, match="finite"):
        exact_projection.project([[math.nan]], [0.0])


def test_an_answer_that_is_not_optimal_is_not_returned() -> None:
    # p* = (1, 1/2) on the edge of the first two keys, weights 3/4 and 1/4; μ = 1 + 8 of the third.
    found = exact_projection.project([[1, 1], [1, -1], [-8, 0]], [2, 0.5])
    assert found.point == [1, Fraction(1, 2)]
    assert found.weights == [Fraction(3, 4), Fraction(1, 4), 0]
    assert found.gap * Fraction(4) ** found.exponent == 9
    one_key = dataclasses.replace(found, support=(0,), shares=(1,), total=1, lean=found.keys[0])
    with pytest.raises(AssertionError):
        exact_projection._verify(one_key)
    with pytest.raises(AssertionError):
        exact_projection._verify(dataclasses.replace(found, shares=(1, 1), total=2))
    with pytest.raises(AssertionError):
        exact_projection._verify(dataclasses.replace(found, lean=[x + 1 for x in found.lean]))

"""The judge of the attack notices each kind of wrong answer, and only those."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from experiments.projection_attack import exact as exact_projection
from experiments.projection_attack.families import FAMILIES
from experiments.projection_attack.judge import Answer, condition, judge, root
from tests.experiments.quick_runs import quick

KEYS = np.array([[1.0, 1.0], [1.0, -1.0], [-1e6, 0.0], [0.5, 0.0]])
QUERY = np.array([2.0, 0.5])
EXACT = exact_projection.project(KEYS.tolist(), QUERY.tolist())
# By hand: p* = (1, 1/2), weights (3/4, 1/4), r* = (1, 0), so μ = (0, 0, 1 + 1e6, 1/2).
RIGHT = Answer(
    result="successful",
    point=np.array([1.0, 0.5]),
    weights=np.array([0.75, 0.25, 0.0, 0.0]),
    face=np.array([True, True, False, False]),
    gap=0.5,
    duality_gap=0.0,
    multipliers=np.array([0.0, 0.0, 1.0 + 1e6, 0.5]),
    roundoff=2.0**-52,
    least=2.0**-1022,
    most=float(np.finfo(np.float64).max),
)


def wrong(**changes: object) -> set[str]:
    return set(judge(EXACT, dataclasses.replace(RIGHT, **changes)).wrong)


def test_a_right_answer_is_right() -> None:
    assert not wrong()
    assert judge(EXACT, RIGHT).point_error == 0
    # A refusal is not wrong, whatever stands beside it.
    assert not wrong(result="stagnated", point=np.array([np.nan, 0.0]))
    assert not judge(EXACT, dataclasses.replace(RIGHT, result="stagnated")).decided


def test_roundings_are_allowed_and_more_is_not() -> None:
    u = RIGHT.roundoff
    # Along the edge: the far key, at 1e6, must not widen what the point may be off.
    for units, expected in ((8, {"promise"}), (4000, {"promise", "point"})):
        moved = RIGHT.point + np.array([0.0, units * u])
        assert wrong(point=moved) == expected
    assert wrong(point=RIGHT.point + np.array([0.0, 8 * u]), duality_gap=(16 * u) ** 2) == set()
    assert wrong(gap=0.5 + 8 * u) == set()
    assert wrong(gap=0.5 + 4000 * u) == {"gap"}
    # The far key's own multiplier may be off by its own rounding.
    assert wrong(multipliers=RIGHT.multipliers + np.array([0, 0, 1e-9, 0])) == set()
    assert wrong(multipliers=RIGHT.multipliers + np.array([0, 0, 0, 1e-9])) == {"multipliers"}
    assert wrong(multipliers=RIGHT.multipliers * np.nan) == {"multipliers"}


def test_each_criterion() -> None:
    assert wrong(weights=np.array([0.75, 0.25 + 1e-12, 0, 0])) == {"weights", "point"}
    assert "weights" in wrong(weights=np.array([0.75 + 1e-16, 0.25, -1e-16, 0]))
    assert "point" in wrong(weights=np.array([0.5, 0.5, 0, 0]))
    assert wrong(face=np.array([True, True, False, True])) == {"face", "gap"}
    assert wrong(face=np.array([True, False, False, False])) == {"face", "gap"}
    assert wrong(face=np.ones(4, bool), gap=math.inf) == {"face"}
    assert "gap" in wrong(gap=math.nan)
    assert "promise" in wrong(duality_gap=math.nan)
    assert wrong(result="inside_hull") == {"distance"}
    vertex = {"point": KEYS[0], "weights": np.array([1.0, 0, 0, 0]), "duality_gap": 1.0}
    assert wrong(**vertex) == {"point"}


def test_inside_called_outside() -> None:
    exact = exact_projection.project([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]], [0.5, 0.5])
    assert exact.inside
    point, weights = np.array([0.5, 0.5]), np.array([0.5, 0.25, 0.25])
    told = dataclasses.replace(
        RIGHT,
        result="inside_hull",
        point=point,
        weights=weights,
        face=np.ones(3, bool),
        multipliers=np.zeros(3),
        gap=math.nan,
    )
    assert not judge(exact, told).wrong
    assert "inside" in judge(exact, dataclasses.replace(told, result="successful")).wrong


def test_roots_and_condition_numbers() -> None:
    assert root(exact_projection.Fraction(9, 4)) == 1.5
    # An exponent no float has: √(2^−3000 · 2) = 2^−1500 √2.
    found = root(exact_projection.Fraction(2, 2**3000)) * 2**1500
    assert float(found) == pytest.approx(math.sqrt(2), rel=1e-15)
    # Edges (1, 0) and (1e9, 1e9) from the first key: unit vectors at 45°, σ² = 1 ∓ cos 45°.
    keys = [[0, 0], [1, 0], [10**9, 10**9]]
    assert float(condition(keys, [0, 1, 2], [1, 2, 3])) == pytest.approx(
        1 / math.sqrt(1 - 0.5**0.5)
    )
    assert condition(keys, [2], [1, 2, 3]) == 0


@pytest.mark.parametrize("name", FAMILIES)
def test_families_repeat_and_fit_their_type(name: str) -> None:
    for kind in ("float64", "float32"):
        for number in range(6):
            keys, query = FAMILIES[name].make(3, number, np.dtype(kind))
            again, _ = FAMILIES[name].make(3, number, np.dtype(kind))
            assert keys.dtype == query.dtype == kind
            assert keys.shape in FAMILIES[name].shapes
            assert query.shape == keys.shape[1:]
            assert np.array_equal(keys, again)


@pytest.mark.slow  # 800 answers
def test_quick_run(tmp_path: Path) -> None:
    values = quick("projection_attack", tmp_path).values
    assert values["answers"] == 2 * values["instances"] == 2 * 2 * 8 * len(FAMILIES)
    assert values["wrong"] == 0

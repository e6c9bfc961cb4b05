"""Projection by passes: known answers, optimality recomputed here, nasty input, every cutting.

Everything is embedded in 12 or 64 dimensions by zeros, which changes no distance: the solver is
compiled once for each number of dimensions.
"""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from hypothesis import given

import vashista_theory as vt
from tests.hull.checks import kkt_defects
from tests.hull.problems import PROBLEMS
from tests.hull.problems import Problem as Worked
from tests.hull.strategies import Problem, family_problems, problems
from tests.thinned import diagonal

# 64 units of roundoff: several times what rounding makes of a zero multiplier; a few such
# errors meet in a residual.
ROUNDING = 4 * 64 * 2.0**-52


def embed(array: np.ndarray) -> np.ndarray:
    d = array.shape[-1]
    return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, (12 if d <= 12 else 64) - d)])


def dense(found: vt.BlockProjection, multipliers: np.ndarray) -> SimpleNamespace:
    weights = np.zeros(found.shape[0])
    weights[found.support] = found.weights
    return SimpleNamespace(point=found.point, weights=weights, multipliers=multipliers)


def check(keys: np.ndarray, query: np.ndarray, **options: object) -> vt.BlockProjection:
    """Project, recompute the optimality conditions in extended precision, return the answer."""
    keys, query = embed(keys), embed(query)
    multipliers = np.full(len(keys), np.nan)
    found = vt.project_blocks(keys, query, multipliers=multipliers, throw=False, **options)
    defects = kkt_defects(keys, query, dense(found, multipliers))
    magnitude = np.linalg.norm(query) + np.linalg.norm(found.point)
    # Lengths are known to roundings of the input's own magnitude, however close it lies together.
    blur = 1 + magnitude**2 / (found.scale or 1.0)
    assert defects.primal <= ROUNDING
    assert defects.dual <= ROUNDING * blur
    assert defects.complementarity <= ROUNDING * blur
    assert defects.stationarity <= ROUNDING * blur
    assert defects.reported_multipliers <= ROUNDING * blur
    assert found.passes >= 1
    return found


@pytest.mark.parametrize(
    ("problem", "block_rows"),
    diagonal(PROBLEMS, (1, 3, None), 3),
    ids=lambda one: getattr(one, "name", str(one)),
)
def test_answers_worked_by_hand(problem: Worked, block_rows: int | None) -> None:
    found = check(problem.keys, problem.query, block_rows=block_rows, workers=1)
    length = np.sqrt(found.scale) + np.linalg.norm(problem.query)
    # Distances to the hand's decimal numbers are those of rounding them.
    np.testing.assert_allclose(found.point, embed(problem.point), rtol=0, atol=ROUNDING * length)
    np.testing.assert_allclose(found.gap, problem.gap, rtol=1e-9, atol=ROUNDING * found.scale)
    assert found.face_size == problem.face.sum()
    if np.isnan(problem.gap):
        assert found.result == vt.Result.inside_hull
        assert found.face is None
    else:
        assert found.result == vt.Result.successful
        np.testing.assert_array_equal(found.face, np.flatnonzero(problem.face))


@pytest.mark.parametrize(
    ("problem", "block_rows"),
    diagonal(family_problems(), (1, 7, None), 3),
    ids=lambda one: getattr(one, "name", str(one)),
)
def test_families(problem: Problem, block_rows: int | None) -> None:
    workers = 1 if block_rows == 1 else 2
    found = check(problem.keys, problem.query, block_rows=block_rows, workers=workers)
    assert found.result in (
        vt.Result.successful,
        vt.Result.inside_hull,
        vt.Result.ambiguous_face,
    )


@given(problems())
def test_adversarial_input(problem: Problem) -> None:
    check(problem.keys, problem.query, block_rows=2, workers=1)


def test_a_block_clean_for_an_earlier_point_is_priced_again() -> None:
    # From p = k_0, r = (−5, 1), k_1 lies behind: ⟨r, (.5, 1)⟩ = −1.5. With k_2 p is (0, 0), r is
    # (0, 1), and k_1 violates by 1. The answer is on the edge from k_2 to k_1, and k_0, which was
    # clean twice, is below it.
    keys, query = np.array([[5.0, 0.0], [5.5, 1.0], [-5.0, 0.0]]), np.array([0.0, 1.0])
    edge = keys[1] - keys[2]
    point = keys[2] + edge * ((query - keys[2]) @ edge) / (edge @ edge)
    found = check(keys, query, block_rows=1, workers=1)
    np.testing.assert_allclose(found.point[:2], point, rtol=0, atol=1e-14)
    assert found.face.tolist() == [1, 2]
    np.testing.assert_allclose(found.gap, (query - point) @ (point - keys[0]), rtol=1e-13)


def cloud(n: int = 20_000, d: int = 64, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), 1.5 * rng.normal(size=d)


@pytest.mark.parametrize("order", ["as drawn", "nearest last", "nearest first"])
def test_the_answer_of_project(order: str) -> None:
    keys, query = cloud()
    if order != "as drawn":
        rank = np.argsort(keys @ query)
        keys = keys[rank if order == "nearest last" else rank[::-1]]
    reference = vt.project(keys, query)
    found = check(keys, query, block_rows=1000, workers=2)
    np.testing.assert_allclose(found.point, reference.point, rtol=0, atol=1e-13)
    np.testing.assert_array_equal(found.face, np.flatnonzero(reference.face))
    np.testing.assert_allclose(found.gap, reference.gap, atol=1e-13 * found.scale)
    np.testing.assert_allclose(found.scale, reference.scale, rtol=1e-13)
    assert found.support.tolist() == np.flatnonzero(reference.weights > 0).tolist()
    assert found.passes < 5
    assert len(found.history) == np.ceil(found.passes)
    assert sum(one.rows for one in found.history) == round(found.passes * len(keys))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int16])
def test_stored_types_are_computed_in_float64(dtype: type) -> None:
    keys, query = cloud(3000)
    stored = (keys * (100 if dtype is np.int16 else 1)).astype(dtype)
    found = check(stored, query, block_rows=700)
    exact = check(stored.astype(np.float64), query, block_rows=700)
    np.testing.assert_array_equal(found.point, exact.point)
    np.testing.assert_array_equal(found.face, exact.face)


def test_the_64_bit_mode_of_jax_need_not_be_on() -> None:
    keys, query = cloud(3000)
    expected = vt.project_blocks(keys, query)
    with jax.enable_x64(False):
        found = vt.project_blocks(keys, query)
        assert not jax.config.jax_enable_x64
    np.testing.assert_array_equal(found.point, expected.point)
    assert float(found.residuals.dual) == float(expected.residuals.dual)


def test_copies_of_a_violating_key_hide_no_other() -> None:
    keys, query = cloud(500)
    nearest = keys[np.argmax(keys @ query)]
    many = np.concatenate([np.tile(nearest, (6000, 1)), keys])
    alone = check(keys, query)
    found = check(many, query, block_rows=512)
    np.testing.assert_allclose(found.point, alone.point, rtol=0, atol=1e-13)
    assert found.face_size == alone.face_size + (6000 if nearest in keys[alone.face] else 0)


def test_a_face_of_everything() -> None:
    keys, query = cloud(5000)
    keys[:, 0], query[0] = 1.0, 3.0
    query[1:] = keys[:40, 1:].mean(axis=0)
    found = check(keys, query, block_rows=999)
    assert found.face_size == 5000
    assert found.gap == np.inf


def test_a_face_too_large_to_list_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vashista_theory.streaming.project.FACE_ROWS", 3)
    keys = np.zeros((10, 12))
    keys[:, 0] = np.arange(10)
    query = np.zeros(12)
    query[:2] = 4.5, 1.0
    found = vt.project_blocks(keys, query, block_rows=2)
    assert (found.face, found.face_size) == (None, 10)


def test_a_larger_tolerance_stops_early_and_keeps_its_promise() -> None:
    keys, query = cloud()
    exact = vt.project_blocks(keys, query, block_rows=1000)
    loose = vt.project_blocks(keys, query, block_rows=1000, tolerance=1e-2)
    assert loose.solves < exact.solves
    assert loose.duality_gap <= 1e-2 * loose.scale
    assert np.linalg.norm(loose.point - exact.point) <= loose.duality_gap**0.5


def test_passes_used_up_then_continued() -> None:
    keys, query = cloud()
    first = vt.project_blocks(keys, query, block_rows=5000, workers=1, max_passes=1, throw=False)
    assert first.result == vt.Result.max_passes_reached
    assert 1 <= first.passes <= 2
    exact = vt.project_blocks(keys, query)
    assert 0 < np.linalg.norm(first.point - exact.point) <= first.duality_gap**0.5
    with pytest.raises(RuntimeError, match=r"initial_rows=answer\.support"):
        vt.project_blocks(keys, query, block_rows=5000, workers=1, max_passes=1)
    again = vt.project_blocks(keys, query, initial_rows=first.support)
    np.testing.assert_allclose(again.point, exact.point, rtol=0, atol=1e-13)
    warm = vt.project_blocks(keys, query, initial_rows=exact.support)
    assert (warm.passes, warm.solves) == (1.0, 0)


def test_the_number_of_workers_decides_the_last_bits_alone() -> None:
    keys, query = cloud()
    one, two, same = (
        vt.project_blocks(keys, query, block_rows=1000, workers=workers) for workers in (1, 3, 3)
    )
    np.testing.assert_allclose(one.point, two.point, rtol=0, atol=1e-13)
    np.testing.assert_array_equal(two.point, same.point)
    np.testing.assert_array_equal(two.weights, same.weights)

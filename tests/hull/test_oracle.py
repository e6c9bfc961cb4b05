"""The cvxpy oracle against answers it did not compute."""

import math
import sys

import mpmath as mp
import numpy as np
import pytest

from tests.hull import reference
from tests.hull.problems import PROBLEMS, Problem
from vashista_theory.hull.instances import make
from vashista_theory.hull.oracle import project_qp, relax_exponential_cone


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.name)
def test_projection_of_hand_worked_problems(problem: Problem):
    found = project_qp(problem.keys, problem.query)
    scale = float(np.max(np.sum((problem.keys - problem.query) ** 2, axis=1))) or 1.0
    # The accuracy the docstring states for the worst case; the gap certifies its root.
    assert np.linalg.norm(found.point - problem.point) <= 1e-6 * math.sqrt(scale)
    assert found.duality_gap <= 1e-12 * scale
    assert found.weights.min() >= 0.0


@pytest.mark.parametrize("name", ["planted", "duplicates", "simplex", "cross_polytope"])
@pytest.mark.parametrize("seed", [0, 1])
def test_projection_of_planted_faces(name: str, seed: int):
    instance = make(name, seed=seed)
    found = project_qp(instance.keys, instance.query)
    scale = float(np.max(np.sum((instance.keys - instance.query) ** 2, axis=1)))
    # The accuracy the docstring states for well-separated faces.
    assert np.linalg.norm(found.point - instance.known.point) <= 1e-11 * math.sqrt(scale)
    np.testing.assert_allclose(
        found.multipliers, instance.known.multipliers, rtol=0, atol=1e-12 * scale
    )
    np.testing.assert_array_equal(found.face, instance.known.face)
    assert found.gap == pytest.approx(instance.known.gap, abs=1e-12 * scale)
    assert (found.status, found.solver) == ("optimal", "CLARABEL")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_other_solvers_may_be_asked(seed: int):
    instance = make("planted", seed=seed, n=30, d=6, face_size=3)
    found = project_qp(instance.keys, instance.query, solver="OSQP", eps_abs=1e-9, eps_rel=1e-9)
    # A first-order method at 1e-9.
    np.testing.assert_allclose(found.point, instance.known.point, atol=1e-6)


@pytest.mark.parametrize("epsilon", [1.0, 0.1, 0.01])
@pytest.mark.parametrize("name", ["planted", "degenerate"])
def test_relaxation_against_fifty_digits(name: str, epsilon: float):
    sizes = {"planted": {"face_size": 3}, "degenerate": {"minimal_face_size": 2}}[name]
    instance = make(name, seed=4, n=8, d=4, **sizes)
    exact = reference.relax(reference.project(instance.keys, instance.query), epsilon)
    found = relax_exponential_cone(instance.keys, instance.query, epsilon)
    scale = float(np.max(np.sum((instance.keys - instance.query) ** 2, axis=1)))
    # The accuracy the docstring states.
    assert np.linalg.norm(found.point - reference.floats(exact.point)) <= 3e-8 * math.sqrt(scale)
    weights = reference.floats(mp.exp(x) for x in exact.log_weights)
    np.testing.assert_allclose(found.weights, weights, rtol=0, atol=5e-7)
    with mp.workdps(30):
        entropy_term = float(mp.fsum(mp.exp(x) * x for x in exact.log_weights))
    distance = np.linalg.norm(reference.floats(exact.point) - instance.query)
    assert found.objective == pytest.approx(distance**2 / 2 + epsilon * entropy_term, abs=1e-9)


def test_input_is_checked():
    keys, query = np.eye(3), np.ones(3)
    with pytest.raises(ValueError, match=r"no solver 'CLARABELLE' here; it has: .*CLARABEL"):
        project_qp(keys, query, solver="CLARABELLE")
    with pytest.raises(ValueError, match=r"got \(3, 3\) and \(2,\)"):
        project_qp(keys, np.ones(2))
    with pytest.raises(ValueError, match="finite"):
        project_qp(np.full((3, 3), np.nan), query)
    for epsilon in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="epsilon must be positive"):
            relax_exponential_cone(keys, query, epsilon)


def test_failure_of_the_solver_is_reported():
    instance = make("planted", seed=0)
    with pytest.raises(RuntimeError, match="CLARABEL"):
        project_qp(instance.keys, instance.query, max_iter=1)


def test_missing_cvxpy_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "cvxpy", None)
    with pytest.raises(ImportError, match="pip install cvxpy"):
        project_qp(np.eye(2), np.ones(2))

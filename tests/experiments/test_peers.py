"""The peers solve the projection they are given, and the reference certifies itself."""

import numpy as np
import pytest

from experiments.bench_projection.peers import PEERS, Peer
from experiments.bench_projection.reference import NotCertifiedError, certify

INSTALLED = [
    pytest.param(peer, id=peer.name, marks=() if peer.installed else pytest.mark.skip("absent"))
    for peer in PEERS
]

# Keys e₁, e₂, e₃ and two beyond the plane they span; the query is (1, 1, 1), so the nearest point
# is (⅓, ⅓, ⅓) with r* = (⅔, ⅔, ⅔) and μ = ⟨r*, p* − k⟩ = 0, 0, 0 and ⅔(1 − Σk).
KEYS = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [-1, 0, 0.5], [0, -2, 1]])
QUERY = np.ones(3)
POINT = np.full(3, 1 / 3)
MULTIPLIERS = np.array([0, 0, 0, 1.0, 4 / 3])


@pytest.mark.parametrize("peer", INSTALLED)
def test_a_projection_worked_by_hand(peer: Peer) -> None:
    problem = peer.prepare(KEYS, QUERY)
    # 1e-4: the loosest of them stops at a gap of 1e-8, and the error is its square root.
    np.testing.assert_allclose(problem.point(problem.solve()), POINT, atol=1e-4)


@pytest.mark.parametrize("peer", INSTALLED)
def test_forms_agree_on_a_random_instance(peer: Peer) -> None:
    rng = np.random.default_rng(5)
    keys, query = rng.normal(size=(200, 6)), 3 * rng.normal(size=6)
    problem = peer.prepare(keys, query)
    point = problem.point(problem.solve())
    # Optimality by the variational inequality ⟨q − p, k − p⟩ ≤ 0, free of any other solver; the
    # duality gap of a solution good to 1e-4 is of that order times the diameter of the keys.
    assert np.max((keys - point) @ (query - point)) < 1e-3


def test_reference_of_the_hand_worked_case() -> None:
    reference = certify(KEYS, QUERY, np.array([0, 1, 2]))
    # One rounding from 40 digits to float64.
    np.testing.assert_allclose(reference.point, POINT, rtol=2e-16)
    np.testing.assert_allclose(reference.multipliers.astype(float), MULTIPLIERS, atol=2e-16)
    assert reference.smallest_weight == pytest.approx(1 / 3)
    assert reference.gap == pytest.approx(1.0)
    assert reference.equation_error < 1e-30
    assert reference.point_error(POINT + np.array([0, 0, 1e-9])) == pytest.approx(1e-9)
    assert reference.multiplier_error(MULTIPLIERS - 1e-9) == pytest.approx(1e-9)


def test_reference_of_the_published_instance() -> None:
    rng = np.random.default_rng(0)
    keys = rng.normal(size=(1024, 64))
    query = 1.5 * rng.normal(size=64)
    # The support as the keys nearest to the supporting plane of NNLS's answer.
    from experiments.bench_projection.peers import _nnls

    problem = _nnls(keys, query)
    weights = problem.solve()
    reference = certify(keys, query, np.flatnonzero(weights > 0))
    # Values and their digits are from the project's list of reference values.
    assert reference.gap == pytest.approx(0.28012510083585, abs=1e-13)
    assert len(reference.support) == 14
    assert reference.smallest_weight == pytest.approx(0.01266756, abs=5e-9)


@pytest.mark.parametrize("support", [[0, 1], [0, 1, 3], [0], [0, 1, 2, 3]])
def test_a_wrong_support_is_not_certified(support: list[int]) -> None:
    with pytest.raises((NotCertifiedError, np.linalg.LinAlgError)):
        certify(KEYS, QUERY, np.array(support))

"""The reference against hand-worked answers: it must be right before anything is held to it."""

import math

import hypothesis.strategies as st
import mpmath as mp
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays

from tests.hull import reference
from tests.hull.problems import PROBLEMS, Problem


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.name)
def test_reference_and_hand_agree(problem: Problem):
    exact = reference.project(problem.keys, problem.query)
    length = math.sqrt(float(np.max(np.sum((problem.keys - problem.query) ** 2, axis=1))))
    # Both are exact; only the decimal numbers of the problem were rounded to float64.
    np.testing.assert_allclose(
        reference.floats(exact.point), problem.point, rtol=0, atol=4e-16 * (length or 1.0)
    )
    np.testing.assert_array_equal(exact.face, problem.face)
    np.testing.assert_allclose(exact.gap, problem.gap, rtol=4e-16)
    assert exact.strict is not problem.degenerate
    assert exact.inside == math.isnan(problem.gap)


def test_reference_refuses_a_wrong_face():
    keys, query = [[0.0, 0.0], [4.0, 0.0], [0.0, -1.0]], [1.0, 2.0]
    assert reference.project_on_face(keys, query, [True, True, False]).gap == 2.0
    with pytest.raises(AssertionError, match="beyond"):
        reference.project_on_face(keys, query, [True, False, False])
    with pytest.raises(AssertionError, match="not positive"):
        reference.project_on_face(keys, [-3.0, 1.0], [True, True, False])


def test_entropy_and_tangent_by_hand():
    # Weights (.05, .95) on keys (∓1, 0): h is their entropy and ⟨w₀, v_2 − v_1⟩ = log 19 with
    # v_2 − v_1 = (2, 0), so w₀ = (½ log 19, 0). The query .9 is rounded: 1e-16 relative.
    exact = reference.project([[-1.0, 0.0], [1.0, 0.0], [10.0, -1.0]], [0.9, 1.0])
    face = reference.face_entropy(exact)
    entropy = -(0.05 * math.log(0.05) + 0.95 * math.log(0.95))
    assert float(face.entropy) == pytest.approx(entropy, rel=1e-14)
    np.testing.assert_allclose(reference.floats(face.tangent), [math.log(19) / 2, 0], rtol=1e-14)


def test_relaxation_by_hand():
    # Keys (±1, 0) and (0, −1), q = (0, 1): by symmetry α = (a, a, m), p^ε = (0, −m), so
    # m/a = exp(⟨q − p^ε, k_3 − k_1⟩/ε) = exp(−(1 + m)/ε): with m = 1/10 and a = 9/20 this needs
    # ε = 1.1/log 4.5.
    with mp.workdps(60):
        epsilon = mp.mpf("1.1") / mp.log(mp.mpf("4.5"))
        exact = reference.project([[1.0, 0.0], [-1.0, 0.0], [0.0, -1.0]], [0.0, 1.0])
        relaxed = reference.relax(exact, epsilon)
        assert abs(relaxed.displacement - mp.mpf("0.1")) < mp.mpf(10) ** -50
        assert abs(relaxed.log_off_face_mass - mp.log(mp.mpf("0.1"))) < mp.mpf(10) ** -50
        assert abs(mp.exp(relaxed.log_weights[0]) - mp.mpf("0.45")) < mp.mpf(10) ** -50


@given(
    keys=arrays(np.float64, (5, 3), elements=st.integers(-4, 4)),
    query=arrays(np.float64, 3, elements=st.integers(-6, 6)),
    exponent=st.integers(-6, 2),
)
def test_master_identity_in_the_reference(keys: np.ndarray, query: np.ndarray, exponent: int):
    # (★) with w̄ = 0 for the two independent solves (maximum entropy on the minimal face, Newton
    # on all keys): any error in either breaks it far above 1e-40.
    exact = reference.project(keys, query)
    face = reference.face_entropy(exact)
    with mp.workdps(60):
        epsilon = mp.mpf(10) ** exponent
        relaxed = reference.relax(exact, epsilon)
        mu = [mp.mpf(m.numerator) / m.denominator for m in exact.multipliers]
        tilt = [-m / epsilon for m in mu]
        level = mp.log(mp.fsum(mp.exp(t) for t in tilt))
        divergence_star = mp.fsum(
            mp.exp(a) * (a - b)
            for a, b in zip(face.log_weights, relaxed.log_weights, strict=True)
            if a > mp.mpf("-inf")
        )
        divergence_tilt = mp.fsum(
            mp.exp(b) * (b - t + level) for b, t in zip(relaxed.log_weights, tilt, strict=True)
        )
        left = relaxed.displacement**2 + epsilon * (divergence_star + divergence_tilt)
        right = epsilon * (level - face.entropy)
        assert abs(left - right) < mp.mpf(10) ** -40 * (1 + epsilon)

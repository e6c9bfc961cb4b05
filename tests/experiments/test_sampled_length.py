"""Errors by length: T8's size by hand, what they are compared with, and a quick run."""

from pathlib import Path

import numpy as np
import pytest

from experiments import sampled_length as lengths
from tests.experiments.quick_runs import quick


def one(shares: np.ndarray) -> lengths.Truth:
    return lengths.Truth(shares, np.zeros(2), np.ones(shares.size), 1.0)


def test_the_size_of_a_perfect_sketch_by_hand() -> None:
    # 64 equal tokens, 32 of them always read: half of the mass is the tail, and of 16 drawn tokens
    # the error is at most 1/2 · √(1/16).
    equal = np.full(64, 1 / 64)
    np.testing.assert_allclose(lengths.t8(one(equal), equal, 48), (0.125, 1.0), rtol=1e-12)


def test_one_token_that_is_sure_leaves_the_tail() -> None:
    shares = np.full(64, 1 / 128)
    shares[20] = 1 - 63 / 128
    # It takes one of the 16 tokens; 31 of 128 are left to the other 15.
    expected = 31 / 128 * np.sqrt(1 / 15)
    np.testing.assert_allclose(lengths.t8(one(shares), shares, 48), (expected, 1.0), rtol=1e-12)


def test_rho_of_a_sketch_that_is_off() -> None:
    # Half of the tail's proxies are twice too large: ρ = (16/2 + 16)(32 + 16)/32² = 1.125.
    equal = np.full(64, 1 / 64)
    proxies = np.where(np.arange(64) % 2 == 0, 2 * equal, equal)
    assert lengths.t8(one(equal), proxies, 48)[1] == pytest.approx(1.125)


def test_values_at_several_distances() -> None:
    # Half of the values are three times as far as the others, at the same mass: of share × distance
    # the tail has 32/64 · 2, and drawing by the mass alone costs ρ = (1 + 9)/2 / 2² = 1.25.
    equal = np.full(64, 1 / 64)
    far = lengths.Truth(equal, np.zeros(2), np.tile([1.0, 3.0], 32), 1.0)
    np.testing.assert_allclose(lengths.t8(far, equal, 48), (np.sqrt(1.25 / 16), 1.25), rtol=1e-12)


def test_what_is_selected_is_read_and_nothing_else() -> None:
    config = lengths.Config().reduced()
    context = lengths.context(64, config)
    found = lengths.truth(context, context.queries[0])
    for pages in (True, False):
        assert lengths.selection(context, found, 64, pages=pages) < 1e-12
        assert lengths.selection(context, found, 48, pages=pages) > 1e-3


@pytest.mark.slow
def test_a_quick_run(tmp_path: Path) -> None:
    outcome = quick("sampled_length", tmp_path)
    assert not outcome.failures
    assert [row["tokens"] for row in outcome.tables["lengths"].rows] == [2048, 4096]


@pytest.mark.parametrize("wrong", [{"lengths": (8192,)}, {"lengths": (100, 8192)}, {"draws": 1}])
def test_what_cannot_be_read_is_named(wrong: dict) -> None:
    with pytest.raises(ValueError, match="expected"):
        lengths.Config(**wrong)

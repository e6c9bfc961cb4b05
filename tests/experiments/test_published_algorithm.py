"""The published step by hand, and what its committed replication must say."""

from pathlib import Path

import numpy as np
import pytest

from experiments.framework import results
from experiments.published_algorithm import algorithm as published
from experiments.published_algorithm import report
from tests.experiments.quick_runs import quick


def test_the_solver_by_hand() -> None:
    # Six times 0.2: weights in the ratio e^{1.2 · difference}.
    weights = published.exponentiated_gradient(np.array([0.0, 1.0]))
    assert weights[1] / weights[0] == pytest.approx(np.exp(1.2), rel=1e-14)
    # With a twelfth of the scores' difference it is as warm as softmax(0.1 · score).
    weights = published.exponentiated_gradient(np.array([0.0, 1.0, 2.0]), steps=1, step_size=0.1)
    assert weights == pytest.approx(np.exp([0, 0.1, 0.2]) / np.exp([0, 0.1, 0.2]).sum(), rel=1e-14)
    # A score far below loses all its weight, without a warning or a NaN.
    weights = published.exponentiated_gradient(np.array([0.0, -1e6]))
    assert weights.tolist() == [1.0, 0.0]


def test_the_step_by_hand() -> None:
    # Pages of two: means 2, 2.5, 1; the page with the best key has the worst mean.
    keys = np.array([[2.0], [2.0], [4.0], [1.0], [9.0], [-7.0]])
    query = np.array([1.0])
    assert published.page_means(keys, 2).ravel().tolist() == [2.0, 2.5, 1.0]
    found = published.decode(query, keys, pages=2, candidates=3, page=2)
    assert found.pages.tolist() == [0, 1]
    assert found.tokens.tolist() == [0, 1, 2]
    assert found.weights == pytest.approx(published.softmax(1.2 * np.array([2.0, 2.0, 4.0])))
    short = published.page_means(keys[:5], 2)
    assert short.ravel().tolist() == [2.0, 2.5, 9.0], "the last page's mean is over its own tokens"


def test_the_cost_by_hand() -> None:
    rows = {(row["tokens"], row["step"]): row for row in report.cost()}
    # 131,072/16 means of 128 numbers of 2 bytes; keys of 64 pages, values of 128 candidates.
    row = rows[131072, "published: means of all pages"]
    assert row["scored"] == 8192
    assert row["routing_mb"] == pytest.approx(8192 * 256 / 1e6)
    assert row["read_mb"] == pytest.approx((1024 + 128) * 256 / 1e6)
    # All 512 superpages, then the children of 32.
    assert rows[131072, "boxes on two levels"]["scored"] == 512 + 32 * 16
    assert rows[8192, "boxes on two levels"]["scored"] == 32 + 32 * 16


@pytest.mark.slow  # compiles four routers and a relaxation
def test_quick_run(tmp_path: Path) -> None:
    content = quick("published_algorithm", tmp_path)
    check(content.values, pages=(8,))


def test_committed_result() -> None:
    outcome = results.outcome("published_algorithm")
    check(outcome.values, pages=(4, 8, 16))
    assert not outcome.failures
    # 1.2 over 1/√64.
    assert outcome.values["times_colder"] == pytest.approx(9.6)


def check(values: dict, *, pages: tuple[int, ...]) -> None:
    assert values["solver_deviation_float64"] < 1e-12
    assert values["solver_deviation_float32"] < 1e-4
    for count in pages:
        best = values[f"kept_best_possible_{count}"]
        for name in ("as_published", "page_means", "boxes", "4-bit_keys"):
            assert values[f"kept_{name}_{count}"] <= best + 1e-12
        assert values[f"error_as_published_{count}"] > values[f"error_routing_{count}"]
    # All 64 pages, all tokens: what is left is the temperature.
    whole = values["error_as_published_64"]
    assert whole == pytest.approx(values["error_1_2_on_raw_scores"], rel=0.05)

"""Scores against numbers worked by hand, and intervals against scipy's."""

import numpy as np
import pytest
import scipy.stats
import xarray as xr

from vashista_theory.evaluation import plan, summary
from vashista_theory.evaluation.config import EvaluationConfig
from vashista_theory.evaluation.retrieval import log_probabilities, wilson


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (3, 10), (10, 10), (27, 30), (1, 1)])
def test_wilsons_interval_is_scipys(successes: int, trials: int) -> None:
    known = scipy.stats.binomtest(successes, trials).proportion_ci(method="wilson")
    # z is given to seven digits.
    np.testing.assert_allclose(wilson(successes, trials), known, atol=1e-6)


def test_no_trial_says_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


def test_log_probabilities_by_hand() -> None:
    logits = np.log(np.array([[1.0, 2.0, 1.0], [8.0, 1.0, 1.0]], np.float32))
    expected = np.log([2 / 4, 1 / 10])
    # The logits are in float32.
    np.testing.assert_allclose(log_probabilities(logits, [1, 2]), expected, rtol=1e-6)
    np.testing.assert_allclose(log_probabilities(logits + 1e4, [1, 2]), expected, rtol=1e-2)


def small() -> EvaluationConfig:
    return EvaluationConfig(
        policy=("boxes",), contexts=(64,), positions=32, segments=1, prompts=4, audited=2,
        tasks=("key-value", "copying"),
    ).resolved()  # fmt: skip


def filled(template: xr.Dataset, **values: object) -> xr.Dataset:
    found = template.copy(deep=True)
    for name, variable in found.data_vars.items():
        variable.values[...] = values.get(str(name), 0)
    return found


def test_perplexity_and_its_change_by_hand() -> None:
    config = small()
    surprise = np.zeros((1, 3, 32), np.float32)
    surprise[0, 0], surprise[0, 2] = np.log(10), np.log(12)
    dataset = filled(plan.perplexity_template(config, layers=2), surprise=surprise, agrees=1)
    dense, control, boxes = summary.perplexity_rows(dataset)
    assert [row.policy for row in (dense, control, boxes)] == [
        "dense",
        "sink-recent@16",
        "boxes@16",
    ]
    np.testing.assert_allclose([dense.perplexity, boxes.perplexity], [10, 12], rtol=1e-6)
    np.testing.assert_allclose(
        [dense.change, control.change, boxes.change], [0, -0.9, 0.2], rtol=1e-5
    )
    np.testing.assert_allclose(boxes.interval, (0.2, 0.2), rtol=1e-5)
    assert (boxes.pages, boxes.positions, boxes.agreement) == (4, 32, 1)


@pytest.mark.parametrize(
    ("exact", "chosen", "counts"),
    [((1, 1, 1, 1), (0, 0, 0, 0), True), ((1, 1, 1, 0), (1, 1, 1, 0), False),
     ((0, 0, 0, 0), (1, 1, 1, 1), True)],
)  # fmt: skip
def test_a_task_counts_where_dense_solves_it(
    exact: tuple[int, ...], chosen: tuple[int, ...], counts: bool
) -> None:
    dataset = filled(plan.retrieval_template(small()))
    place = np.flatnonzero(dataset["task"].values == "copying")
    dataset["exact"].values[place, 0] = exact
    dataset["chosen"].values[place, 0] = chosen
    dataset["exact"].values[place, 2] = (0, 1, 0, 0)
    rows = {(row.task, row.policy): row for row in summary.retrieval_rows(dataset)}
    assert rows["copying", "boxes@16"].counts is counts
    assert rows["copying", "boxes@16"].exact == 0.25
    np.testing.assert_allclose(rows["copying", "boxes@16"].exact_interval, wilson(1, 4))
    assert not rows["key-value", "boxes@16"].counts


def test_violations_and_missing_values_are_counted() -> None:
    dataset = filled(
        plan.certificates_template(small(), layers=2, heads=3),
        dropped=0.01, bound=0.02, pages_read=3, certified=1,
    )  # fmt: skip
    clean = summary.certificate_rows(dataset)
    assert [(row.queries, row.violations, row.pages) for row in clean] == [(12, 0, 4)] * 2
    dataset["dropped"].values[0, 0, 1, 2, 0] = 0.021
    dataset["bound"].values[0, 1, 0, 0, 0] = np.nan
    assert [row.violations for row in summary.certificate_rows(dataset)] == [1, 1]
    assert clean[0].read_all == 1.0
    assert (clean[0].pages_median, clean[0].pages_high) == (3, 3)


def test_long_contexts_are_judged_by_how_far_back_the_answer_lies() -> None:
    config = EvaluationConfig(
        policy=("boxes",), contexts=(8192,), positions=32, segments=1, prompts=4,
        tasks=("copying", "frequent-words"),
    ).resolved()  # fmt: skip
    dataset = filled(plan.retrieval_template(config), tokens=8000, depth=np.nan)
    place = np.flatnonzero(dataset["task"].values == "copying")
    # 8,000, 6,400, 4,000 and 800 tokens back.
    dataset["depth"].values[place] = (0.0, 0.2, 0.5, 0.9)
    dataset["exact"].values[place, 0] = (0, 0, 1, 1)
    rows = {
        (row.task, row.reach): row
        for row in summary.retrieval_rows(dataset)
        if row.policy == "dense"
    }
    assert set(rows) == {("copying", "far"), ("copying", "near"), ("frequent-words", "")}
    assert [rows["copying", reach].exact for reach in ("far", "near")] == [0.0, 1.0]
    assert rows["copying", "near"].counts
    assert not rows["copying", "far"].counts

"""The gallery's cases are what they claim to be, and its verdicts follow from its numbers."""

import math
from pathlib import Path

import numpy as np
import pytest

from experiments.failure_gallery import report
from experiments.failure_gallery.cases import CASES
from experiments.framework import results
from experiments.framework.outcome import Outcome
from tests.experiments.quick_runs import quick


@pytest.mark.parametrize("name", list(CASES))
def test_cases_are_what_they_claim(name: str) -> None:
    case = CASES[name](np.random.default_rng(0))
    assert case.keys.shape == case.values.shape == (1024, 64)
    scores = case.keys @ case.query / 8
    weights = np.exp(scores - scores.max())
    weights /= weights.sum()
    if name == "uniform attention":
        assert weights.max() < 1.01 / 1024
    elif name == "equal keys":
        assert np.ptp(weights) == 0
    elif name == "sink":
        assert weights[0] == pytest.approx(0.97, rel=1e-12)
        assert not case.values[0].any()
    elif name == "near-degenerate":
        up = case.query / np.linalg.norm(case.query)
        # A face at height 8 below a query at 24, so ‖r*‖ = 16 and Δ = 16 · depth.
        assert 16 * (8 - case.keys[512] @ up) == pytest.approx(1e-6, rel=1e-6)
    elif name == "duplicate keys":
        assert np.array_equal(case.keys[:8], case.keys[8:16])


def test_names_of_values() -> None:
    assert report._key("Δ/ε of the hull") == "gap_ratio"
    assert report._key("fixed, with proof") == "fixed_with_proof"
    assert report._key("near-degenerate") == "near_degenerate"


@pytest.mark.slow  # compiles four policies
def test_quick_run(tmp_path: Path) -> None:
    content = quick("failure_gallery", tmp_path)
    check(content, cases=2)


def test_committed_result() -> None:
    found = results.outcome("failure_gallery")
    check(found, cases=len(CASES))
    rows = {(r["case"], r["policy"]): r for r in found.tables["reads"].rows}
    # Equal keys, 16 of 64 pages of 16 tokens: exactly three quarters are dropped.
    assert rows["equal keys", "fixed, with proof"]["dropped"] == pytest.approx(0.75, abs=1e-9)


def check(outcome: Outcome, *, cases: int) -> None:
    assert not outcome.failures
    assert outcome.values["cases"] == cases
    assert outcome.values["missed_proven_bound"] == 0
    for row in outcome.tables["reads"].rows:
        if row["policy"] == "certified":
            assert row["certified"]
            assert row["dropped"] <= 0.05 + 1e-11
    gaps = {row["case"]: row["gap"] for row in outcome.tables["cases"].rows}
    for row in outcome.tables["leakage"].rows:
        if row["log_leakage"] is not None and row["log_bound"] is not None:
            assert row["log_leakage"] <= row["log_bound"] + 1e-9
        if row["gap_ratio"] is not None:
            assert math.isclose(row["gap_ratio"], gaps[row["case"]] / row["epsilon"])
    for row in outcome.tables["diagnostics"].rows:
        right = "rightly" in row["verdict"]
        assert right == (row["trusts"] == row["safe"])

"""The decode benchmark runs, and its made-up keys ask for the share of pages they were made for."""

from pathlib import Path

import numpy as np
import pytest

from experiments.__main__ import BAD_USE, main
from experiments.decode_cpu import report
from experiments.shared import decode_data as data
from tests.experiments.quick_runs import quick


@pytest.mark.slow  # compiles every policy
def test_quick_run(tmp_path: Path) -> None:
    content = quick("decode_cpu", tmp_path)
    tables = content.tables
    rows = tables["decode"].rows
    assert {row["step"] for row in rows} == {"dense", "sampled", "budget", "certified"}
    assert {row["keys"] for row in rows} == {"real heads", "normal"}
    assert all(row["p50_ms"] > 0 for row in rows)
    proven = [row for row in tables["reading"].rows if row["step"] == "certified"]
    assert all(row["certified"] == 1.0 for row in proven), "widening ends with a proof"
    for row in tables["append and summaries"].rows:
        assert row["summary_mb"] == row["formula_mb"]
    for row in tables["stages"].rows:
        parts = row["score_ms"] + row["select_ms"] + row["read_ms"]
        assert parts == pytest.approx(row["whole_ms"])


def test_a_configuration_that_makes_no_sense(tmp_path: Path) -> None:
    try:
        code = main(["decode_cpu", "--heads", "9", "--results", str(tmp_path)])
    except SystemExit as stop:
        code = stop.code
    assert code == BAD_USE


def test_the_law_is_the_measured_one_and_falls() -> None:
    # The straight line in logarithms misses no measured point by more than a tenth.
    for tokens, share in data.MEASURED_SHARE.items():
        assert data.target_share(tokens) == pytest.approx(share, rel=0.1)
    assert data.target_share(524288) < data.target_share(8192) / 2


def test_copies_are_lowered_by_the_same_nats_for_a_typical_query() -> None:
    source = data.real_heads(2, 4, seed=1)
    keys, _ = data.like_real_heads(source, 2048, 3.0, seed=2)
    level, _ = data.like_real_heads(source, 2048, 0.0, seed=2)
    shift = np.asarray(level - keys)
    assert not shift[:, :63].any()
    assert not shift[:, -1].any()
    mean = source.away * 8 / (source.away**2).sum(axis=1, keepdims=True)  # the mean query again
    lowered = np.einsum("hd,hpsd->hps", mean, shift[:, 63:-1]) / 8
    assert lowered == pytest.approx(3.0, rel=1e-3)  # float32 keys


def test_findings_say_met_and_missed() -> None:
    def row(step: str, tokens: int, times: float) -> dict:
        return {
            "keys": "real heads",
            "tokens": tokens,
            "step": step,
            "layout": "8 bits" if step == "certified" else "",
            "p50_ms": tokens / 1e4 / times,
            "times_dense": times,
            "share_read": 0.1,
        }

    rows = [row("dense", t, 1.0) for t in (8192, 32768)]
    rows += [row("sampled", 8192, 1.2), row("sampled", 32768, 2.6)]
    rows += [row("budget", 8192, 1.5), row("budget", 32768, 7.0)]
    rows += [row("certified", 8192, 0.6), row("certified", 32768, 1.2)]
    held = [
        {"tokens": t, "append_p50_us": 10.0, "summary_mb": 1.0, "formula_mb": 1.0}
        for t in (8192, 32768)
    ]
    forms = [
        {"form": "a", "tokens": 8192, "p50_ms": 1.0},
        {"form": "b", "tokens": 8192, "p50_ms": 9.0},
    ]
    values, said = report.findings(rows, held, forms, {8192: 0.2, 32768: 0.1})
    text = " ".join(said)
    assert "sampled: 1.20 at 8,192 (aim 1.3, missed); 2.60 at 32,768 (aim 2.5, met)" in text
    assert "1.50 at 8,192 (aim 2, missed)" in text
    assert "7.00 at 32,768 (aim 6, met)" in text
    assert "certified 8 bits at 8,192" in text
    assert "extrapolated" in text
    assert values["exponent_dense"] == pytest.approx(1.0)
    assert values["append_ratio"] == 1.0


def test_what_bounds_a_missed_aim_is_said() -> None:
    def row(step: str, tokens: int, times: float, megabytes: float) -> dict:
        return {
            "keys": "real heads", "tokens": tokens, "step": step, "layout": "", "p50_ms": 4 / times,
            "times_dense": times, "megabytes": megabytes,
        }  # fmt: skip

    rows = [row("dense", 8192, 1.0, 40.0), row("sampled", 8192, 0.8, 5.0)]
    rows += [row("dense", 32768, 1.0, 160.0), row("sampled", 32768, 2.6, 8.0)]
    stages = [
        {"tokens": 8192, "step": "sampled", "layout": "", "score_ms": 1.0, "select_ms": 2.5,
         "read_ms": 1.5, "whole_ms": 5.0}
    ]  # fmt: skip
    (said,) = report.bounded_by(rows, stages)
    # 5 of 40 MB at 4 ms are half a millisecond, a tenth of the step's 5.
    assert said.endswith(
        "at 8,192 tokens scoring takes 20% of the step, drawing 50%, reading and the report 30%, "
        "and its bytes at the rate of dense 10%."
    )
    assert "32,768" not in said
    assert report.bounded_by(rows[2:], stages) == []

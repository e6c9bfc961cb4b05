"""Two stages beside one: what is read, what is said of it, and a quick run."""

from pathlib import Path

import numpy as np
import pytest

from experiments import sampled_stages as stages
from experiments.framework.outcome import Measured
from experiments.shared import decode_data as data
from tests.experiments.quick_runs import quick


@pytest.mark.slow
def test_a_quick_run(tmp_path: Path) -> None:
    outcome = quick("sampled_stages", tmp_path)
    rows = outcome.tables["reads"].rows
    assert {row["keys"] for row in rows} == {"real heads", "normal"}
    assert {row["tokens"] for row in rows} == {4096, 8192}
    assert all(row["error"] > 0 for row in rows)
    assert all(row["estimate"] > 0 for row in rows)
    few = [row["megabytes"] for row in rows if row["read"] == "two stages"]
    every = [row["megabytes"] for row in rows if row["superpages"] == 0]
    assert all(np.less(few, np.divide(every, 2)))


def test_the_bytes_of_one_stage_are_met_and_not_passed() -> None:
    for length in stages.Config().lengths:
        reads = list(stages.Config().reads(length))
        _, tokens, superpages = reads[-1]
        # Box, codes, the longest value and a byte of the length of each.
        token, page = 2 * 64 * 4, 4 * 64 + 16 * 64 // 4 + 2 + 16
        one = length // 16 * page + 256 * token
        two = length // 256 * 130 + superpages * 16 * page + tokens * token
        assert two <= one
        assert tokens <= superpages * 256


def test_copies_keep_whole_superpages_together() -> None:
    source = data.real_heads(1, 4, seed=1)
    keys, _ = data.like_real_heads(source, 4096, 0.0, seed=2, run=16)
    runs = np.asarray(keys)[0, 64:240].reshape(-1, 16, 16, 64)
    captured = source.keys[0].reshape(-1, 16, 16, 64)
    for run in runs:
        assert any(np.array_equal(run, one) for one in captured)


def test_what_is_said_compares_with_one_stage() -> None:
    common = {"keys": "normal", "tokens": 512, "drawn": 64, "estimate": 1.0, "of_dense": 2.0}
    common["error_p90"] = 1.0
    rows = [
        {**common, "read": "every token scored", "superpages": 0, "error": 0.2, "megabytes": 4.0},
        {**common, "read": "two stages", "superpages": 1, "error": 0.3, "megabytes": 1.0},
    ]
    (said,) = stages.report(Measured({"reads": rows})).findings
    assert "1.50 times the error for 0.25 of the bytes at 512" in said


@pytest.mark.parametrize("wrong", [{"lengths": (32768,)}, {"lengths": (100, 32768)}, {"draws": 1}])
def test_what_cannot_be_read_is_named(wrong: dict) -> None:
    with pytest.raises(ValueError, match="expected"):
        stages.Config(**wrong)

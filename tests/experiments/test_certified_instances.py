"""The experiment on certificates runs, lists every family, and says what it found."""

from pathlib import Path

import numpy as np
import pytest

import experiments.certified_instances as experiment
from experiments.shared import tampering
from tests.experiments.quick_runs import quick
from vashista_theory.hull import instances


def test_every_family_has_an_expected_outcome() -> None:
    assert {case[1] for case in experiment._CASES} == set(instances.families())
    with pytest.raises(ValueError, match="at least 1"):
        experiment.Config(instances=0)


def test_an_interval_is_moved_off_its_value() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        low, high = map(float.fromhex, tampering._moved([(1.5).hex(), (1.5).hex()], rng))
        assert low <= high
        assert not low <= 1.5 <= high


@pytest.mark.slow  # a compilation for each of a dozen shapes
def test_a_quick_run(tmp_path: Path) -> None:
    content = quick("certified_instances", tmp_path)
    values = content.values
    assert values["accepted"] == values["instances"] >= 30
    assert values["refused"] == values["tampered"] == 24
    assert values["open"] == 0
    assert content.failures == []

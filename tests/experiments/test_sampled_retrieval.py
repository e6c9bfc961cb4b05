"""Right answers beside dense ones, from answers made by hand."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("xarray")

import xarray as xr

from experiments import sampled_retrieval
from experiments.framework.outcome import Measured


def answers(**exact: list[int]) -> xr.Dataset:
    table = np.array(list(exact.values())).T
    labels = [{"sampled": "sampled@16"}.get(name, name) for name in exact]
    return xr.Dataset(
        {
            "exact": (("instance", "policy"), table),
            "error": (("instance", "policy"), np.full(table.shape, 0.5)),
        },
        coords={"policy": labels, "context": ("instance", [2048] * len(table))},
    )


def test_differences_by_hand() -> None:
    found = answers(dense=[1, 1, 1, 0, 0], sampled=[1, 0, 0, 1, 0])
    (row,) = sampled_retrieval.rows_of(found)
    assert (row["prompts"], row["lost"], row["gained"]) == (5, 2, 1)
    numbers = [row[name] for name in ("dense", "right", "difference", "error")]
    np.testing.assert_allclose(numbers, [0.6, 0.4, -0.2, 0.5])
    assert row["difference_low"] < -0.2 < row["difference_high"]
    said = sampled_retrieval.report(
        Measured({"retrieval": [row]}, configuration={"model": "a model"})
    ).findings
    assert said == ["sampled, 256 tokens: 40% right at 2,048, dense 60% (of 5 lost 2, gained 1)."]


def test_equal_answers_differ_by_nothing() -> None:
    (row,) = sampled_retrieval.rows_of(answers(dense=[1, 0, 1], sampled=[1, 0, 1]))
    assert [row[f"difference{end}"] for end in ("", "_low", "_high")] == [0, 0, 0]


def test_what_is_asked_of_the_evaluation(tmp_path: Path) -> None:
    whole = sampled_retrieval.Config(store=tmp_path).asked()
    assert [one.contexts for one in whole] == [(2048,), (4096,), (8192,)]
    assert all(one.prompts * len(one.tasks) >= 100 and not one.text for one in whole)
    (quick,) = sampled_retrieval.Config(store=tmp_path, quick=True).asked()
    assert (quick.contexts, quick.prompts) == ((512,), 2)

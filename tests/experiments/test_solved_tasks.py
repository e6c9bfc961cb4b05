"""Which tasks are solved: rows made by hand, and what is asked of the evaluation."""

import dataclasses

import pytest

pytest.importorskip("xarray")

from experiments import solved_tasks
from tests.experiments.test_model_quality import answered


def test_a_task_is_solved_where_dense_says_so() -> None:
    rows = [
        answered("needle", "dense", 1.0, 5), answered("needle", "sink-recent@16", 0.2, 5),
        answered("words", "dense", 0.4, 5, counts=False),
        answered("words", "sink-recent@16", 0.4, 5, counts=False),
    ]  # fmt: skip
    rows += [dataclasses.replace(row, context=8192, counts=False) for row in rows]
    counted = solved_tasks.measured(rows)
    found = solved_tasks.report(dataclasses.replace(counted, configuration={"model": "tiny"}))
    needle, words = found.tables["tasks"].rows[:2]
    assert (needle["task"], needle["solved"], needle["window_exact"]) == ("needle", True, 0.2)
    assert (words["task"], words["solved"]) == ("words", False)
    assert needle["exact_interval"] == "0.00 to 1.00"
    assert found.values == {"solved_2048": 1, "asked_2048": 2, "solved_8192": 0, "asked_8192": 2}
    assert found.findings[0].endswith("solves 1 of 2: needle (100% exact, 100% by choice).")
    assert found.findings[1].startswith("At 8,192 tokens dense attention solves 0 of 2.")


def test_every_length_has_a_store_and_dense_alone_is_asked() -> None:
    asked = solved_tasks.Config(contexts=(512, 1024)).asked()
    assert [one.contexts for one in asked] == [(512,), (1024,)]
    assert len({one.output for one in asked}) == len(asked)
    assert all(one.policy == ("dense",) and not one.text for one in asked)
    (quick,) = solved_tasks.Config(quick=True).asked()
    assert (quick.contexts, quick.prompts, len(quick.tasks)) == ((512,), 2, 2)

"""Right answers counted by hand: each task by the test that dense passes, lost tasks not at all."""

from typing import Any

from experiments.shared.right_answers import Right, right_answers


def row(task: str, policy: str, exact: float, chosen: float, **more: Any) -> dict[str, Any]:
    common = {"reach": "", "context": 10, "prompts": 5, "counts": True}
    return common | {"task": task, "policy": policy, "exact": exact, "chosen": chosen} | more


def test_each_task_is_held_to_its_own_test() -> None:
    rows = [
        # Solved exactly: choice must not help.
        row("needle", "dense", 0.8, 0.6), row("needle", "boxes", 0.2, 1.0),
        # Solved by choice: exact answers must not be asked for.
        row("copy", "dense", 0.6, 1.0), row("copy", "boxes", 0.0, 0.4),
        # Not solved: does not count.
        row("words", "dense", 0.0, 0.2, counts=False),
        row("words", "boxes", 1.0, 1.0, counts=False),
        # The same task beyond the model's reach, and at another length, are tasks of their own.
        row("needle", "dense", 0.0, 1.0, reach="far", prompts=1),
        row("needle", "boxes", 0.0, 1.0, reach="far", prompts=1),
        row("needle", "dense", 0.0, 1.0, context=20), row("needle", "boxes", 0.2, 0.6, context=20),
    ]  # fmt: skip
    assert right_answers(rows) == {
        ("dense", 10): Right(4 + 5 + 1, 11),
        ("boxes", 10): Right(1 + 2 + 1, 11),
        ("dense", 20): Right(5, 5),
        ("boxes", 20): Right(3, 5),
    }


def test_nothing_solved_is_nothing_counted() -> None:
    assert right_answers([row("words", "dense", 0.0, 0.2, counts=False)]) == {}

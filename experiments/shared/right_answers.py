"""Right answers of a policy over the retrieval tasks that dense attention solves.

Each task is held to the test that dense passes: exact answers where dense is exact often enough,
otherwise the choice of the right answer among distractors. So dense itself scores high, and what a
policy lacks is lost by reading less.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from vashista_theory.evaluation.summary import EXACT_COUNTS


class Right(NamedTuple):
    """How many prompts were answered right, out of how many."""

    answers: int
    prompts: int

    @property
    def share(self) -> float:
        """Of the prompts."""
        return self.answers / self.prompts


def right_answers(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, int], Right]:
    """By policy and context, from the rows of a table of retrieval.

    Args:
        rows: With task, reach, context, policy, prompts, exact, chosen and counts.
    """
    counted = [row for row in rows if row["counts"]]
    exactly = {
        _task(row) for row in counted if row["policy"] == "dense" and row["exact"] >= EXACT_COUNTS
    }
    found: dict[tuple[str, int], Right] = {}
    for row in counted:
        share = row["exact"] if _task(row) in exactly else row["chosen"]
        key = row["policy"], row["context"]
        answers, prompts = found.get(key, Right(0, 0))
        found[key] = Right(answers + round(share * row["prompts"]), prompts + row["prompts"])
    return found


def _task(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["task"], row["reach"], row["context"]

"""Retrieval tasks in the style of RULER, made from seeds without downloads."""

from vashista_theory.evaluation.lookup import find
from vashista_theory.evaluation.tasks import needles, structure
from vashista_theory.evaluation.tasks.prompt import Prompt as Prompt
from vashista_theory.evaluation.tasks.prompt import Task as Task

_ALL = {task.name: task for task in (*needles.TASKS, *structure.TASKS)}


def tasks() -> dict[str, Task]:
    """All tasks by name."""
    return dict(_ALL)


def get(name: str) -> Task:
    """The task of a name.

    Raises:
        ValueError: There is none; the message has the nearest one and all of them.
    """
    return find("task", name, _ALL)

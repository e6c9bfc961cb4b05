"""Retrieval tasks in the style of RULER, made from seeds without downloads."""

import difflib

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
    if name not in _ALL:
        near = difflib.get_close_matches(name, _ALL, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"task {name!r} is unknown{hint} (known: {', '.join(_ALL)})")
    return _ALL[name]

"""Long lists of cases: a spread of them in every run, the others among the slow tests.

Each case stays in `pytest -m "slow or not slow"`, which `.ci/run full` runs.
"""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def spread(cases: Iterable[Any], kept: int) -> list[Any]:
    """Values of one parameter: so many of them, evenly spread, in every run."""
    listed = list(cases)
    chosen = {place * len(listed) // kept for place in range(kept)}
    return [_unless(place in chosen, case) for place, case in enumerate(listed)]


def diagonal(rows: Collection[Any], columns: Collection[Any], every: int) -> list[Any]:
    """Values of two parameters: each row meets one in so many columns, each column such rows."""
    return [
        _unless((i + j) % every == 0, row, column)
        for i, row in enumerate(rows)
        for j, column in enumerate(columns)
    ]


def _unless(kept: bool, *values: Any) -> Any:
    return pytest.param(*values, marks=() if kept else pytest.mark.slow)

"""Configurations as people write them: paths as strings, several values as a list."""

from pathlib import Path
from typing import Any

import pytest

from vashista_theory.evaluation import EvaluationConfig
from vashista_theory.sweep import SweepConfig

pytestmark = pytest.mark.usefixtures("as_users_run_it")


def test_strings_are_paths_and_lists_are_tuples() -> None:
    said: Any = {"output": "here", "heads": "some.npz", "families": ["gaussian"]}
    meant = SweepConfig(output=Path("here"), heads=Path("some.npz"), families=("gaussian",))
    assert SweepConfig(**said) == meant
    asked: Any = {
        "output": "here",
        "policy": ["boxes"],
        "pages": [4],
        "text": [],
        "tasks": ["copying"],
    }
    wanted = EvaluationConfig(
        output=Path("here"), policy=("boxes",), pages=(4,), text=(), tasks=("copying",)
    )
    found = EvaluationConfig(**asked)
    assert found == wanted
    assert hash(found) == hash(wanted)


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        (SweepConfig, {"output": 3}, "output is 3; expected a path"),
        (SweepConfig, {"heads": ["a.npz"]}, r"heads is \['a.npz'\]; expected a path"),
        (SweepConfig, {"families": "gaussian"}, r"families is 'gaussian'; .*: \('gaussian',\)"),
        (EvaluationConfig, {"policy": "boxes"}, r"expected several, in a tuple: \('boxes',\)"),
        (EvaluationConfig, {"contexts": 2048}, r"contexts is 2048; .*\(2048,\)"),
    ],
)
def test_what_is_neither_is_refused(kind: Any, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        kind(**given)

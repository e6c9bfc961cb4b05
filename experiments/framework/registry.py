"""Which experiments there are: the files beside this folder, and the folders that measure."""

import ast
import difflib
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1]


def names() -> list[str]:
    """Names of all experiments, in alphabetical order."""
    files = [path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_")]
    return sorted([*files, *(path.parent.name for path in FOLDER.glob("*/measure.py"))])


def module_of(name: str) -> str:
    """The module that measures: the experiment's own file, or `measure` in its folder."""
    inside = ".measure" if (FOLDER / name / "measure.py").is_file() else ""
    return f"experiments.{name}{inside}"


def claim(name: str) -> str:
    """The first line of an experiment's docstring, read without importing what it needs."""
    return (ast.get_docstring(_tree(name)) or "").partition("\n")[0]


def left_to_people(name: str) -> str:
    """Why `update` does not compute an experiment, its `BY_HAND`; empty if it does."""
    for node in _tree(name).body:
        match node:
            case ast.Assign(targets=[ast.Name(id="BY_HAND")], value=value):
                return ast.literal_eval(value)
    return ""


def load(name: str) -> Any:
    """Import the module that measures.

    Raises:
        ValueError: There is none of this name; the message has the nearest ones.
    """
    known = names()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        guess = f"Did you mean {near[0]!r}? " if near else ""
        raise ValueError(
            f"there is no experiment {name!r}. {guess}Known: {', '.join(known)}; "
            "`python -m experiments --list` says what each one shows"
        )
    return importlib.import_module(module_of(name))


def reporter(name: str) -> Callable[[Any], Any]:
    """The function that says what was measured: `report`, in the file or beside `measure`."""
    if (FOLDER / name / "report.py").is_file():
        return importlib.import_module(f"experiments.{name}.report").report
    return load(name).report


def own_command(name: str) -> Callable[[list[str]], int] | None:
    """The experiment's own command line, a function `main`, where it has one.

    Raises:
        ValueError: There is no experiment of this name.
    """
    return getattr(load(name), "main", None)


def _tree(name: str) -> ast.Module:
    place = Path(*module_of(name).split(".")[1:]).with_suffix(".py")
    return ast.parse((FOLDER / place).read_text(encoding="utf-8"))

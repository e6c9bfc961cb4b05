"""Which experiments there are."""

import ast
import difflib
import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).resolve().parent


def names() -> list[str]:
    """Names of all experiments, in alphabetical order."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))


def claim(name: str) -> str:
    """The first line of an experiment's docstring, read without importing what it needs."""
    source = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    docstring = ast.get_docstring(ast.parse(source)) or ""
    return docstring.partition("\n")[0]


def load(name: str) -> ModuleType:
    """Import an experiment.

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
    return importlib.import_module(f"experiments.{name}")


def own_command(name: str) -> Callable[[list[str]], int] | None:
    """The experiment's own command line, a function `main`, where it has one.

    Raises:
        ValueError: There is no experiment of this name.
    """
    return getattr(load(name), "main", None)

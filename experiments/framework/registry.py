"""Which experiments there are."""

import ast
import difflib
import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).resolve().parents[1]


def names() -> list[str]:
    """Names of all experiments, in alphabetical order."""
    files = [path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_")]
    return sorted([*files, *(path.parent.name for path in FOLDER.glob("*/measure.py"))])


def source(name: str) -> Path:
    """The file that measures: the experiment's own, or `measure.py` in its folder."""
    folder = FOLDER / name / "measure.py"
    return folder if folder.is_file() else FOLDER / f"{name}.py"


def claim(name: str) -> str:
    """The first line of an experiment's docstring, read without importing what it needs."""
    docstring = ast.get_docstring(ast.parse(source(name).read_text(encoding="utf-8"))) or ""
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
    inside = ".measure" if source(name).stem != name else ""
    return importlib.import_module(f"experiments.{name}{inside}")


def own_command(name: str) -> Callable[[list[str]], int] | None:
    """The experiment's own command line, a function `main`, where it has one.

    Raises:
        ValueError: There is no experiment of this name.
    """
    return getattr(load(name), "main", None)

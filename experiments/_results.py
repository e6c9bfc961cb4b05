"""Result files: where they lie, and whether they still answer the question asked."""

import ast
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from experiments import _registry
from experiments._outcome import Outcome
from vashista_theory import __version__, runs

FOLDER = _registry.FOLDER / "results"

# Changing how results are shown or stored does not change what they say.
_FRAMEWORK = {"__init__", "__main__", "_outcome", "_registry", "_results", "_update"}


def path_of(name: str, *, quick: bool = False, folder: Path | None = None) -> Path:
    """The result file of an experiment; quick runs never replace full ones."""
    folder = folder or FOLDER
    return (folder / "quick" if quick else folder) / f"{name}.json"


def read(path: Path) -> dict[str, Any] | None:
    """A result file's content, or None where there is no such file.

    Raises:
        ValueError: It is damaged; the message names it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        Outcome.from_json(content["outcome"])
        if type(content["fingerprint"]) is str and type(content["manifest"]) is dict:
            return content
        raise ValueError("no fingerprint or manifest")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"the result {path} is damaged ({type(error).__name__}: {error}); restore it, or "
            f"compute it again: python -m experiments {path.stem}"
        ) from error


def read_if_whole(path: Path) -> dict[str, Any] | None:
    """Like `read`, for what can compute it again: a damaged file is named and counts as none."""
    try:
        return read(path)
    except ValueError as error:
        print(error, file=sys.stderr)
        return None


def outcome(name: str, *, folder: Path | None = None) -> Outcome:
    """The stored outcome of an experiment, for figures and texts.

    Raises:
        FileNotFoundError: It has not been computed; the message says how to.
        ValueError: Its file is damaged.
    """
    stored = read(path_of(name, folder=folder))
    if stored is None:
        raise FileNotFoundError(
            f"no result of {name!r} in {folder or FOLDER}; run `python -m experiments {name}`"
        )
    return Outcome.from_json(stored["outcome"])


def write(path: Path, *, name: str, key: str, manifest: runs.Manifest, result: Outcome) -> None:
    """Write a result with the circumstances it was computed in."""
    content = {
        "experiment": name,
        "claim": _registry.claim(name),
        "fingerprint": key,
        "outcome": runs.canonical(result),
        "manifest": manifest.as_dict(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    runs.write_atomically(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def fingerprint(name: str, config: object, inputs: object = None) -> str:
    """Names everything a result depends on: configuration, source, version of the package.

    `inputs` is what else an experiment says that it depends on.
    """
    sources = {module: _digest(module) for module in sorted(_sources(name))}
    known = {"configuration": config, "sources": sources, "version": __version__}
    return runs.fingerprint(known if inputs is None else {**known, "inputs": inputs})


def _digest(module: str) -> str:
    return hashlib.sha256((_registry.FOLDER / f"{module}.py").read_bytes()).hexdigest()


def _sources(name: str) -> set[str]:
    """The experiment's module and the shared ones it imports, at any depth."""
    found: set[str] = set()
    waiting = {name}
    while waiting:
        module = waiting.pop()
        found.add(module)
        tree = ast.parse((_registry.FOLDER / f"{module}.py").read_text(encoding="utf-8"))
        waiting |= _imported(tree) - found - _FRAMEWORK
    return found


def _imported(tree: ast.Module) -> set[str]:
    modules: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "experiments":
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("experiments."):
            modules.add((node.module or "").split(".")[1])
    return {module for module in modules if (_registry.FOLDER / f"{module}.py").is_file()}

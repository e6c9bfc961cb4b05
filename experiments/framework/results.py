"""Result files: where they lie, and whether they still answer the question asked."""

import json
from pathlib import Path
from typing import Any

from experiments.framework import registry
from experiments.framework.outcome import Outcome
from vashista_theory import __version__, runs

FOLDER = registry.FOLDER / "results"


def path_of(name: str, *, quick: bool = False, folder: Path | None = None) -> Path:
    """The result file of an experiment; quick runs never replace full ones."""
    folder = folder or FOLDER
    return (folder / "quick" if quick else folder) / f"{name}.json"


def read(path: Path) -> dict[str, Any] | None:
    """A result file's content, or None where there is none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and "fingerprint" in content else None


def outcome(name: str, *, folder: Path | None = None) -> Outcome:
    """The stored outcome of an experiment, for figures and texts.

    Raises:
        FileNotFoundError: It has not been computed; the message says how to.
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
        "claim": registry.claim(name),
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
    known = {"configuration": config, "version": __version__}
    return runs.fingerprint(known if inputs is None else {**known, "inputs": inputs})

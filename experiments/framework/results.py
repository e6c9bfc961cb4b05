"""Result files: where they lie, what was measured, and what is said of it when it is read."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.framework import registry
from experiments.framework.outcome import Measured, Outcome
from vashista_theory import runs

FOLDER = registry.FOLDER / "results"


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
        if type(content["manifest"]) is not dict or type(content["fingerprint"]) is not dict:
            raise ValueError("no fingerprint or manifest")
        Measured.from_json(content)
        return content
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
    """What the stored result of an experiment says, for figures and texts.

    Raises:
        FileNotFoundError: It has not been computed; the message says how to.
        ValueError: Its file is damaged.
    """
    stored = read(path_of(name, folder=folder))
    if stored is None:
        raise FileNotFoundError(
            f"no result of {name!r} in {folder or FOLDER}; run `python -m experiments {name}`"
        )
    return rendered(name, stored)


def rendered(name: str, stored: Mapping[str, Any]) -> Outcome:
    """Columns, findings and notes for what a result file holds."""
    return registry.reporter(name)(Measured.from_json(stored))


def write(
    path: Path,
    *,
    name: str,
    fingerprint: Mapping[str, Any],
    manifest: runs.Manifest,
    measured: Measured,
) -> dict[str, Any]:
    """Write what was measured with the circumstances, and return it as it will be read."""
    content = {
        "experiment": name,
        "fingerprint": fingerprint,
        "measured": runs.canonical(
            {name: getattr(measured, name) for name in ("tables", "values", "failures")}
        ),
        "manifest": manifest.as_dict(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=1, allow_nan=False)
    runs.write_atomically(path, text + "\n")
    return json.loads(text)

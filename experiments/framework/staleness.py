"""Whether a result was computed by the code and from the inputs it lies beside, and if not, why.

A fingerprint names the configuration, every module that the measuring code reaches (`imports`) and
what else is read. Prose, captions, drawing and what only `report` needs are no part of it.
"""

import dataclasses
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.framework import imports, registry, results
from vashista_theory import runs

# Blocks are the same bit for bit whatever the number of workers, wherever they are kept.
_NO_INFLUENCE = ("store", "workers")
_SAYS = frozenset({"report", "BY_HAND"})


def fingerprint(name: str, config: Any) -> dict[str, Any]:
    """Everything that a result of this configuration depends on, in JSON's types."""
    module = registry.load(name)
    graph = imports.Graph(registry.FOLDER.parent)
    digests = graph.reached(registry.module_of(name), unless_for=_SAYS)
    read = {other: _checksum(other) for other in getattr(module, "READS", ())}
    default = type(config)()
    return {
        "configuration": {k: v for k, v in _fields(config).items() if k not in _NO_INFLUENCE},
        "chosen": {k: v for k, v in _fields(config).items() if v != _fields(default)[k]},
        "modules": {path: digest[:16] for path, digest in digests.items()},
        "inputs": runs.canonical(read | (module.inputs() if hasattr(module, "inputs") else {})),
    }


def reasons(
    stored: Mapping[str, Any], now: Mapping[str, Any], *, accept_dirty: bool = False
) -> list[str]:
    """Why a stored result is not what the code gives now; nothing if it is.

    Args:
        stored: A result file's content.
        now: The fingerprint it would get.
        accept_dirty: Whether uncommitted changes at the time are no reason.
    """
    before = stored["fingerprint"]
    dirty = stored["manifest"]["dirty"] and not accept_dirty
    said = ["computed from a tree with uncommitted changes"] if dirty else []
    said += [
        f"configuration {line}"
        for line in runs.differences(before["configuration"], now["configuration"])
    ]
    if not _is_elsewhere(before["inputs"], now["inputs"]):
        said += [f"inputs {line}" for line in runs.differences(before["inputs"], now["inputs"])]
    old, new = before["modules"], now["modules"]
    said += [f"{path} changed" for path in new if old.get(path, new[path]) != new[path]]
    said += [f"{path} is needed now" for path in new.keys() - old.keys()]
    said += [f"{path} is not needed any more" for path in old.keys() - new.keys()]
    return said


def _is_elsewhere(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether a library is missing here: then versions of the others are no sign of a change."""
    return any(now.get(name, "") is None for name in before if before[name] is not None)


def status(name: str) -> tuple[str, Any, dict[str, Any]]:
    """Why the stored result is not current ("" if it is), its configuration and fingerprint.

    The configuration is today's default with what was chosen otherwise for the stored result.
    """
    stored = results.read(results.path_of(name))
    config = _configuration(registry.load(name).Config, stored)
    now = fingerprint(name, config)
    return ("missing" if stored is None else "; ".join(reasons(stored, now))), config, now


def _configuration(kind: Any, stored: Mapping[str, Any] | None) -> Any:
    if stored is None:
        return kind()
    before = stored["fingerprint"]
    given = before["chosen"] if isinstance(before, dict) else stored["manifest"]["configuration"]
    hints = typing.get_type_hints(kind)
    fields = [field for field in dataclasses.fields(kind) if field.init and field.name in given]
    return kind(**{f.name: _typed(given[f.name], hints[f.name]) for f in fields})


def _typed(value: Any, hint: Any) -> Any:
    """A value of JSON as its field had it."""
    if isinstance(value, list):
        return tuple(_typed(one, None) for one in value)
    is_path = isinstance(value, str) and Path in (hint, *typing.get_args(hint))
    return Path(value) if is_path else value


def _fields(config: Any) -> dict[str, Any]:
    return typing.cast("dict[str, Any]", runs.canonical(config))


def _checksum(name: str) -> str | None:
    """Of what another result says in numbers."""
    stored = results.read(results.path_of(name))
    if stored is None:
        return None
    found = results.rendered(name, stored)
    return runs.fingerprint(([table.rows for table in found.tables.values()], found.values))[:16]

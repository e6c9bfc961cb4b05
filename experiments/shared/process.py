"""Measurements in a process of their own: a module of `experiments` that prints JSON."""

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]
STATUS = Path("/proc/self/status")


def run(
    module: str,
    *arguments: object,
    interpreter: str = sys.executable,
    environment: Mapping[str, str] | None = None,
) -> Any:
    """What `python -m MODULE ARGUMENTS...` prints in its last line.

    Raises:
        RuntimeError: It failed; the message has the command and the end of what it said.
    """
    command = [interpreter, "-m", module, *map(str, arguments)]
    given = {**os.environ, **(environment or {})}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=_ROOT, env=given
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    # Compilers and libraries may print too.
    return json.loads(done.stdout.splitlines()[-1])


def version(package: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def memory(field: str) -> int:
    """Bytes that the system notes of this process under a name such as RssAnon (Linux alone)."""
    fields = dict(line.split(":", 1) for line in STATUS.read_text("utf-8").splitlines())
    return int(fields[field].split()[0]) * 1024

"""Measurements in a process of their own: a module of this folder that prints JSON."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]


def run(module: str, *arguments: object) -> Any:
    """What `python -m MODULE ARGUMENTS...` prints.

    Raises:
        RuntimeError: It failed; the message has the command and the end of what it said.
    """
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=_ROOT)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)

"""Runs that are stopped while they go on."""

import os
import signal
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_LIMIT = 300  # seconds: for the compilation, on a busy machine


def started(
    command: list[str], finished: Path, *, blocks: int, stderr: int | None = None
) -> subprocess.Popen[bytes]:
    """Start a command, and return once it has finished so many blocks, and not yet itself."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=stderr
    )
    deadline = time.monotonic() + _LIMIT
    while not (finished.is_dir() and len(list(finished.glob("0*.json"))) >= blocks):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


def kill_after(blocks: int, command: list[str], finished: Path) -> None:
    """Start a command and kill it after so many blocks."""
    process = started(command, finished, blocks=blocks)
    process.send_signal(signal.SIGKILL)
    process.wait()

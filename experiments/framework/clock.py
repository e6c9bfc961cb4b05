"""How long something took in all, over the runs that it was stopped and begun again in."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vashista_theory import runs

_EVERY = 10.0  # seconds that a killed run loses at most


@contextmanager
def counted(note: Path | None) -> Iterator[Callable[[], float]]:
    """Count seconds on top of those noted, and note them while they go by.

    Args:
        note: The file; None where a run that was stopped has to begin anew.

    Yields:
        A function that says the seconds so far.
    """
    before = float(json.loads(note.read_text("utf-8"))) if note and note.is_file() else 0.0
    started, stop = time.perf_counter(), threading.Event()

    def seconds() -> float:
        return before + time.perf_counter() - started

    def keep() -> None:
        while note and not stop.wait(_EVERY):
            runs.write_atomically(note, json.dumps(seconds()))

    if note:
        note.parent.mkdir(parents=True, exist_ok=True)
    beat = threading.Thread(target=keep, daemon=True)
    beat.start()
    try:
        yield seconds
    finally:
        stop.set()
        beat.join()
        if note:
            runs.write_atomically(note, json.dumps(seconds()))

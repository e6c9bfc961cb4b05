"""How the command lines end when somebody ends them.

A reader that leaves early (`| head`) ends them quietly. Ctrl-C and SIGTERM both interrupt what is
computed, so that what can be resumed says how; a second SIGTERM ends the program at once.
"""

import io
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import NoReturn, cast

# What a shell reports of a program that the signal ended: 128 + its number.
INTERRUPTED, READER_LEFT, TERMINATED = 130, 141, 143


class _Pipe(io.FileIO):
    """A stream that ends the program without a traceback once nobody reads it.

    `SystemExit` rather than the signal: the signal would also end a program one of whose sockets
    closed, as those of a cluster do. Handlers of `OSError` and of `Exception` let it pass.
    """

    def write(self, data: object) -> int:  # type: ignore[override]
        try:
            return cast(int, super().write(data))  # pyright: ignore[reportArgumentType]
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())  # for what is still buffered
            raise SystemExit(READER_LEFT) from None


def run(main: Callable[[], int]) -> NoReturn:
    """Run a command line as a program of its own and exit with its code, or with a signal's."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper) and not stream.isatty():
            setattr(sys, name, _guarded(stream))
    terminated = _interrupted_by_sigterm()
    try:
        code = main()
    except KeyboardInterrupt:
        code = INTERRUPTED
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # as under pythonw
                stream.flush()
    sys.exit(TERMINATED if terminated and code == INTERRUPTED else code)


def _interrupted_by_sigterm() -> list[int]:
    """Let the first SIGTERM interrupt as Ctrl-C does; returns where it is noted."""
    seen: list[int] = []

    def interrupt(number: int, _: object) -> None:
        seen.append(number)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise KeyboardInterrupt

    alone = threading.current_thread() is threading.main_thread()
    # Whoever has a handler, or ignores the signal, has reasons.
    if alone and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, interrupt)
    return seen


def _guarded(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    stream.flush()
    raw = _Pipe(stream.fileno(), "wb", closefd=False)
    return io.TextIOWrapper(
        raw if stream.write_through else io.BufferedWriter(raw),  # pyright: ignore[reportArgumentType]
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )

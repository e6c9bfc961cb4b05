"""Standard output of the command lines: a reader that leaves early (`| head`) ends them quietly."""

import io
import os
import sys
from collections.abc import Callable
from typing import NoReturn, cast

READER_LEFT = 141  # what a shell reports of a program that SIGPIPE ended: 128 + 13


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
    """Run a command line as a program of its own and exit with its code."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper) and not stream.isatty():
            setattr(sys, name, _guarded(stream))
    try:
        code = main()
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # as under pythonw
                stream.flush()
    sys.exit(code)


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

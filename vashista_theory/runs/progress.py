"""A progress bar with remaining time on a terminal, a line now and then elsewhere."""

import io
import sys
import time
from typing import Literal, TextIO, TypeAlias, cast

import rich.progress
from rich.console import Console

Mode: TypeAlias = Literal["bar", "log", "none"]


class Progress:
    """Counts finished blocks for a person to watch.

    Args:
        total: How many blocks there are.
        description: What is being done.
        mode: "bar" falls back to "log" where the stream is not a terminal; "none" is silent
            but for notes.
        done: How many were finished before this run; they do not count for the remaining time.
        interval: Seconds between two lines of "log".
        unit: What is counted, in the plural.
        at_once: How many are computed side by side. The first so many are left out of the
            remaining time once there are more: what has to be compiled is compiled with them.
        stream: Where to write; standard error by default, so that results can be piped.
    """

    def __init__(
        self,
        total: int,
        *,
        description: str,
        mode: str = "bar",
        done: int = 0,
        interval: float = 10.0,
        unit: str = "blocks",
        at_once: int = 1,
        stream: io.TextIOBase | TextIO | None = None,
    ) -> None:
        if mode not in ("bar", "log", "none"):
            raise ValueError(f"progress is {mode!r}; expected 'bar', 'log' or 'none'")
        self._stream = stream or sys.stderr
        self._mode = "log" if mode == "bar" and not self._stream.isatty() else mode
        self._total, self._already, self._done = total, done, done
        one = f"{unit[:-3]}y" if unit.endswith("ies") else unit.removesuffix("s")
        self._description, self._interval = description, interval
        self._unit = one if total == 1 else unit
        self._at_once = at_once
        self._started = self._last_line = self._warm = time.monotonic()
        self._said_last = done == total
        self._bar: rich.progress.Progress | None = None
        self._task = rich.progress.TaskID(0)

    def __enter__(self) -> "Progress":
        self._started = self._last_line = self._warm = time.monotonic()
        if self._mode == "bar":
            self._bar = rich.progress.Progress(
                rich.progress.TextColumn("{task.description}"),
                rich.progress.BarColumn(),
                rich.progress.MofNCompleteColumn(),
                rich.progress.TimeElapsedColumn(),
                rich.progress.TextColumn("left"),
                rich.progress.TimeRemainingColumn(),
                console=Console(file=cast("TextIO", self._stream)),
                # It leaves the first block out by itself, but forgets blocks of longer than this.
                speed_estimate_period=3600.0,
            )
            self._bar.start()
            self._task = self._bar.add_task(
                self._description, total=self._total, completed=self._already
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._mode == "log" and not self._said_last:
            self._line()

    def advance(self) -> None:
        """One more block is finished."""
        self._done += 1
        if self._done - self._already == self._at_once:
            self._warm = time.monotonic()
        if self._bar is not None:
            self._bar.advance(self._task)
        elif self._mode == "log" and time.monotonic() - self._last_line >= self._interval:
            self._line()

    def note(self, message: str) -> None:
        """Say something above the bar; heard in every mode."""
        if self._bar is not None:
            self._bar.console.print(message, markup=False, highlight=False)
        else:
            print(message, file=self._stream, flush=True)

    def _line(self) -> None:
        self._last_line = time.monotonic()
        self._said_last = self._done == self._total
        elapsed = self._last_line - self._started
        fresh = self._done - self._already
        rest = self._total - self._done
        left = ""
        if fresh > self._at_once and rest:
            each = (self._last_line - self._warm) / (fresh - self._at_once)
            left = f", about {rest * each:.0f} s left"
        elif fresh and rest:
            left = f", at most about {rest * elapsed / fresh:.0f} s left"
        count = f"{self._done} of {self._total} {self._unit} after {elapsed:.0f} s"
        print(f"{self._description}: {count}{left}", file=self._stream, flush=True)

"""Passes as a person sees them: a bar for each, its rate, and what remains at least."""

import time

from vashista_theory._words import count
from vashista_theory.runs import Progress
from vashista_theory.streaming.answer import Pass


class Watch:
    """Times the passes and, unless `mode` is "none", shows them on standard error.

    How many passes there will be is known only when none is left: a violator found late needs the
    blocks before it once more. The line after each pass says what remains at least.
    """

    def __init__(self, steps: int, *, mode: str) -> None:
        if mode not in ("bar", "log", "none"):
            raise ValueError(f"`progress` is {mode!r}; expected 'bar', 'log' or 'none'.")
        self._steps, self._mode = steps, mode
        self._history: list[Pass] = []
        self._bar: Progress | None = None
        self._taken = self._rows = self._nbytes = self._improvements = 0
        self._solving, self._started = 0.0, time.perf_counter()

    @property
    def history(self) -> tuple[Pass, ...]:
        """The finished passes."""
        return tuple(self._history)

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *_: object) -> None:
        if self._taken:
            self._finish()
        self._close()

    def step(
        self, *, rows: int, nbytes: int, solving: float, improved: bool, remaining: int
    ) -> None:
        """Some blocks were priced; `remaining` such steps are left at least."""
        if self._bar is None and self._mode != "none":
            number = len(self._history) + 1
            self._bar = Progress(self._steps, description=f"pass {number}", mode=self._mode)
            self._bar.__enter__()
        self._taken += 1
        self._rows += rows
        self._nbytes += nbytes
        self._solving += solving
        self._improvements += improved
        if self._bar is not None:
            self._bar.advance()
        if self._taken == self._steps or remaining == 0:
            done = self._finish()
            if self._bar is not None:
                left = remaining / self._steps
                self._bar.note(
                    f"pass {len(self._history)}: {done.nbytes / 1e9:.3g} GB in "
                    f"{done.seconds:.1f} s, {done.nbytes / 1e9 / done.seconds:.2f} GB/s; the point "
                    f"moved {count(done.improvements, 'time')}; "
                    + (f"at least {left:.2f} passes left" if remaining else "nothing is nearer")
                )
            self._close()

    def _finish(self) -> Pass:
        now = time.perf_counter()
        seconds = max(now - self._started, 1e-9)
        done = Pass(self._rows, self._nbytes, seconds, self._solving, self._improvements)
        self._history.append(done)
        self._taken = self._rows = self._nbytes = self._improvements = 0
        self._solving, self._started = 0.0, now
        return done

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
            self._bar = None

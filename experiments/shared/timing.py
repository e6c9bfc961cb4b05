"""Timing several calls side by side, so that a slow moment of the machine hits them all."""

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_WARM_UP_COUNTS = 1.0  # seconds; above it a first call's own costs are small beside the rest
_PAUSE = 0.02  # seconds between rounds: idle threads of OpenMP and OpenBLAS spin for a while


@dataclass
class Timing:
    """What was measured of one call.

    Attributes:
        seconds: One entry a repetition.
        value: What the call returned last.
        failure: The exception that the call raised, as text; empty if it raised none.
        failed_after: Seconds until it did.
    """

    seconds: list[float] = field(default_factory=list)
    value: Any = None
    failure: str = ""
    failed_after: float = 0.0

    @property
    def median(self) -> float | None:
        return statistics.median(self.seconds) if self.seconds else None

    @property
    def best(self) -> float | None:
        return min(self.seconds) if self.seconds else None


def interleaved(
    calls: Mapping[str, Callable[[], Any]], *, repetitions: int, budget: float
) -> dict[str, Timing]:
    """Time every call in turn, round by round.

    The first call of each warms up and counts only if it took over a second. A call stops being
    repeated when its repetitions have used the budget. An exception is recorded, not raised.

    Args:
        calls: By name.
        repetitions: At most this many of each.
        budget: Seconds for each call, all repetitions together.
    """
    timings = {name: Timing() for name in calls}
    for name, call in calls.items():
        start = time.perf_counter()
        try:
            timings[name].value = call()
        except Exception as error:  # noqa: BLE001 - a solver's failure is a result
            timings[name].failure = f"{type(error).__name__}: {error}"
            timings[name].failed_after = time.perf_counter() - start
            continue
        elapsed = time.perf_counter() - start
        if elapsed > _WARM_UP_COUNTS:
            timings[name].seconds.append(elapsed)
    gc.collect()
    gc.disable()
    try:
        for _ in range(repetitions):
            time.sleep(_PAUSE)
            for name, call in calls.items():
                timing = timings[name]
                longest = max(timing.seconds, default=0.0)
                done = len(timing.seconds) >= repetitions
                if timing.failure or done or sum(timing.seconds) + longest > budget:
                    continue
                start = time.perf_counter()
                timing.value = call()
                timing.seconds.append(time.perf_counter() - start)
    finally:
        gc.enable()
    return timings


class Forecast:
    """Expects a call's time from its times at smaller sizes."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[int, float]] = {}

    def record(self, name: str, size: int, timing: Timing) -> None:
        """Remember the longest time at a size, that of a failure included."""
        seconds = max(timing.median or 0.0, timing.failed_after)
        if seconds > 0:
            sizes = self._seen.setdefault(name, {})
            sizes[size] = max(seconds, sizes.get(size, 0.0))

    def seconds(self, name: str, size: int) -> float | None:
        """What to expect at a size; None if nothing is known.

        From the power law through the two largest smaller sizes; with one, time is taken to be
        proportional to size.
        """
        known = sorted((n, t) for n, t in self._seen.get(name, {}).items() if n <= size)
        if not known:
            return None
        last, seconds = known[-1]
        power = 1.0
        if len(known) > 1:
            before, seconds_before = known[-2]
            power = math.log(seconds / seconds_before) / math.log(last / before)
        return seconds * (size / last) ** min(max(power, 1.0), 3.0)


def available_memory() -> float:
    """Bytes that a process may still take; infinite where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return math.inf
    amounts = {line.split(":")[0]: line.split()[1] for line in lines if ":" in line}
    return float(amounts["MemAvailable"]) * 1024 if "MemAvailable" in amounts else math.inf

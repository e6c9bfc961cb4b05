"""Timings are interleaved, bounded and honest about failures; forecasts follow a power law."""

import time

import pytest

from experiments.shared.timing import Forecast, Timing, interleaved


def test_calls_take_turns() -> None:
    order: list[str] = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    timings = interleaved(calls, repetitions=3, budget=10.0)
    assert order == ["a", "b"] * 4  # one of each warms up
    assert [len(t.seconds) for t in timings.values()] == [3, 3]


def test_a_failure_is_recorded_and_stops_nothing() -> None:
    def fails() -> None:
        raise ArithmeticError("on purpose")

    timings = interleaved({"bad": fails, "good": lambda: 5}, repetitions=2, budget=1.0)
    assert timings["bad"].failure == "ArithmeticError: on purpose"
    assert timings["bad"].median is None
    assert timings["good"].value == 5
    assert timings["good"].median is not None


def test_the_budget_ends_repetitions() -> None:
    timings = interleaved({"slow": lambda: time.sleep(0.05)}, repetitions=50, budget=0.2)
    assert 1 <= len(timings["slow"].seconds) <= 4


def test_forecast_follows_the_last_two_sizes() -> None:
    forecast = Forecast()
    assert forecast.seconds("x", 100) is None
    forecast.record("x", 100, Timing([0.1]))
    assert forecast.seconds("x", 400) == pytest.approx(0.4)  # proportional with one size
    forecast.record("x", 200, Timing([0.4]))
    assert forecast.seconds("x", 400) == pytest.approx(1.6)  # quadratic with these two
    assert forecast.seconds("x", 200) == pytest.approx(0.4)


def test_forecast_counts_failures() -> None:
    forecast = Forecast()
    forecast.record("x", 100, Timing(failure="no", failed_after=2.0))
    assert forecast.seconds("x", 200) == pytest.approx(4.0)

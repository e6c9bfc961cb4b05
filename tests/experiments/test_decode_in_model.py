"""What is said of a plane of batches and lengths, from times made by hand."""

import pytest

from experiments.decode_in_model import measure as plane
from experiments.decode_in_model.report import report
from experiments.framework.outcome import Measured


def row(batch: int, name: str, times: float) -> dict[str, object]:
    return {"batch": batch, "context": 4096, "read_by": name, "times_best": times}


def test_where_a_policy_is_faster_is_said() -> None:
    rows = [
        row(1, "sdpa, static cache", 1.0),
        row(1, "sampled, 256 tokens", 0.8),
        row(4, "sampled, 256 tokens", 1.5),
        row(4, "certified, 0.05", 0.5),
    ]
    found = Measured({"steps": rows}, configuration={"model": "a model"})
    sampled, certified = report(found).findings
    assert sampled.startswith("sampled, 256 tokens: 0.80 to 1.50 times")
    assert sampled.endswith("at (sequences × tokens) 4 × 4,096.")
    assert certified.endswith("nowhere.")
    assert report(found).values["sampled, 256 tokens, 4 x 4096"] == 1.5


def test_how_much_there_is_to_gain_by_hand() -> None:
    # The best takes 100 ms at 1k, 150 at 4k: 1.5 times. Dynamic: 200 ms, half as fast as the best.
    rows: list[dict[str, object]] = [
        row(1, "sdpa, dynamic cache", times) | {"context": context, "step_ms": step}
        for context, step, times in [(1024, 125.0, 0.8), (4096, 300.0, 0.5)]
    ]
    found = Measured({"steps": rows}, configuration={"model": "a model"})
    assert report(found).findings[-1].endswith("than all of those: 1.50 at 1 × 4,096.")


def test_rates_and_quartiles_by_hand() -> None:
    found = plane._row(4, 96, "eager", [0.1, 0.2, 0.3, 0.4, 0.5], best=0.15)
    assert (found["step_ms"], found["step_ms_low"], found["step_ms_high"]) == (300, 200, 400)
    assert found["times_best"] == 0.5
    assert abs(float(found["tokens_per_second"] or 0) - 4 / 0.3) < 1e-12


@pytest.mark.parametrize("context", [8, 8193])
def test_contexts_that_the_steps_or_the_model_do_not_fit_are_refused_before_timing(
    context: int,
) -> None:
    plane.Config().check(8192)
    plane.Config(contexts=(9, 8192)).check(8192)
    with pytest.raises(ValueError, match=f"contexts has {context}: expected more than the 8"):
        plane.Config(contexts=(4096, context)).check(8192)

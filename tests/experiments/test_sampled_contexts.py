"""Draws in longer contexts: one layer by hand, growth, and what is refused."""

import jax
import numpy as np
import pytest

from experiments import sampled_contexts as contexts
from experiments.framework.outcome import Measured, Outcome
from experiments.shared.recorded import layer_of


def test_a_layer_with_equal_scores() -> None:
    # Queries of 0: every token has 1 of 480 parts. Of 96 tokens 32 are read anyway, so that the
    # tail has 448 tokens and 448/480 of the mass; by the length of the values it is drawn from.
    rng = np.random.default_rng(0)
    keys, values = rng.normal(size=(2, 1, 480, 8))
    layer = layer_of(np.zeros((3, 2, 8)), keys, values, np.array([480, 480]), 0.5)
    config = contexts.Config(tokens=96, contexts=(480,), draws=3)
    found = contexts.read(layer, config, jax.random.key(0))
    np.testing.assert_allclose(found["tail"], 448 / 480, rtol=1e-12)
    np.testing.assert_allclose(found["drawn"], 64, rtol=1e-12)
    assert found["error"].shape == found["estimate"].shape == (3, 2, 3)
    # Errors of norms in 8 dimensions: within a factor of three of what is expected.
    np.testing.assert_allclose(np.log(found["error"] / found["predicted"]), 0, atol=np.log(3))
    np.testing.assert_allclose(np.log(found["estimate"] / found["predicted"]), 0, atol=np.log(2))
    assert np.all(found["best_tokens"] > 0.1)


def row(context: int, number: float) -> dict[str, float]:
    columns = (*contexts._QUANTITIES, *contexts._CALIBRATION)
    return {"context": context, **dict.fromkeys(columns, number)}


def test_growth_is_told() -> None:
    rows = [row(1024, 0.1), row(4096, 0.2)]
    texts = [{"text": "one", **row(1024, 1.5)}]

    def told(rows: list[dict[str, float]]) -> Outcome:
        tables = {"contexts": rows, "texts": texts, "layers": []}
        return contexts.report(Measured(tables, configuration={"tokens": 256}))

    outcome = told(rows)
    assert outcome.values["exponent of tail"] == pytest.approx(0.5)
    assert outcome.values["highest ratio"] == 1.5
    assert "tail 0.50" in outcome.findings[-1]
    one = told(rows[:1])
    assert len(one.findings) == 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"text": ()}, "a text, a query"),
        ({"tokens": 32}, "tokens is 32"),
        ({"contexts": (1000,)}, r"contexts are \(1000,\)"),
        ({"contexts": (512,)}, "above 512"),
    ],
)
def test_what_cannot_be_read_is_named(wrong: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        contexts.Config(**wrong)


def test_a_quick_run_keeps_the_first_context_and_text() -> None:
    quick = contexts.Config(contexts=(2048, 4096), text=("sotu", "moby-dick")).reduced()
    assert (quick.contexts, quick.text, quick.every) == ((2048,), ("sotu",), 10)

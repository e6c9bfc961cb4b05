"""Reads with so many tokens: what they are compared with by hand, and a quick run."""

from pathlib import Path

import numpy as np
import pytest

from experiments import sampled_reads as reads
from experiments.shared.recorded import Layer, read_layer
from tests.experiments.quick_runs import quick
from vashista_theory.hull.heads import Heads

TOKENS, D = 80, 2


@pytest.fixture(scope="module")
def layer() -> Layer:
    rng = np.random.default_rng(0)
    heads = Heads(
        queries=rng.normal(size=(1, 2, 3, D)),
        keys=rng.normal(size=(1, 1, TOKENS, D)),
        values=rng.normal(size=(1, 1, TOKENS, D)),
        layers=np.array([0]),
        positions=np.array([63, 70, 79]),
        scale=0.5,
        provenance={},
    )
    return read_layer(heads, 0)


def test_dense_by_a_loop(layer: Layer) -> None:
    for p, length in enumerate((64, 71, 80)):
        for h in range(2):
            weights = np.exp(0.5 * layer.keys[0, :length] @ layer.queries[p, h])
            expected = weights @ layer.values[0, :length] / weights.sum()
            np.testing.assert_allclose(layer.output[p, h], expected, rtol=1e-12)


def test_everything_read_is_dense(layer: Layer) -> None:
    whole = layer.output_by(np.ones((3, 1, TOKENS)))
    np.testing.assert_allclose(whole, layer.output, rtol=1e-12)
    np.testing.assert_allclose(layer.relative(2 * layer.output), 1, rtol=1e-12)


@pytest.mark.parametrize("name", reads.ORACLES)
def test_as_many_tokens_as_asked_for(layer: Layer, name: str) -> None:
    chosen = reads.ORACLES[name](layer, 48, np.random.default_rng(0))
    assert np.all((chosen > 0).sum(axis=2) <= 48)
    assert np.all(chosen[:, 0, :16] > 0)  # the sink
    for p, (first, length) in enumerate(((48, 64), (64, 71), (64, 80))):
        assert np.all(chosen[p, 0, first:length] > 0)


def test_a_uniform_half_is_unbiased(layer: Layer) -> None:
    # Weights of tokens that may be drawn are 1 on average, those of the others always.
    rng = np.random.default_rng(0)
    drawn = np.mean([reads.half_and_half(layer, 48, rng) for _ in range(4000)], axis=0)
    visible = np.arange(TOKENS) < layer.lengths[:, None]
    # A weight is at most 8, so its mean of 4000 is off by at most .05 but once in a million.
    np.testing.assert_allclose(drawn[:, 0][visible], 1, atol=0.2)
    assert np.all(drawn[:, 0][~visible] == 0)


@pytest.mark.parametrize(
    ("arguments", "said"), [({"draws": 0}, "draws is 0"), ({"tokens": (32,)}, r"tokens is \(32,\)")]
)
def test_bad_configurations_are_named(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        reads.Config(**arguments)  # pyright: ignore[reportArgumentType]


@pytest.mark.slow
def test_a_quick_run(tmp_path: Path) -> None:
    found = quick("sampled_reads", tmp_path)
    medians = {row["read"]: row["median"] for row in found.tables["errors"].rows}
    assert medians["drawn by 2 bits"] < medians["best pages by true mass"]
    assert found.values["bounds exceeded"] == 0
    (row,) = found.tables["calibration"].rows
    assert 0.5 < row["median"] < 1.5

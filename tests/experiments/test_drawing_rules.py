"""Rules to draw by: probabilities by hand, T8 against many draws, hashing against its formula."""

from pathlib import Path

import numpy as np
import pytest

from experiments.drawing_rules import hashing, measure, rules
from experiments.shared import drawing
from experiments.shared.recorded import Layer, read_layer
from tests.experiments.quick_runs import quick
from vashista_theory.hull.heads import Heads

TOKENS, D = 80, 4


def made(scale: float = 0.5) -> Layer:
    rng = np.random.default_rng(0)
    heads = Heads(
        queries=rng.normal(size=(1, 2, 3, D)),
        keys=rng.normal(size=(1, 1, TOKENS, D)),
        values=rng.normal(size=(1, 1, TOKENS, D)),
        layers=np.array([0]),
        positions=np.array([63, 70, 79]),
        scale=scale,
        provenance={},
    )
    return read_layer(heads, 0)


@pytest.fixture(scope="module")
def layer() -> Layer:
    return made()


def test_keys_of_one_bit_are_corners_and_of_many_are_themselves(layer: Layer) -> None:
    page = layer.keys[:, :16]
    corners = drawing.rounded(layer.keys, 1)[:, :16]
    near = np.abs(corners[..., None] - np.stack([page.min(axis=1), page.max(axis=1)], -1)[:, None])
    assert np.all(near.min(axis=-1) < 1e-12)
    np.testing.assert_allclose(drawing.rounded(layer.keys, 24), layer.keys, atol=1e-6)


def test_distances_by_subtraction(layer: Layer) -> None:
    expected = np.linalg.norm(layer.values[0][None, None] - layer.output[:, :, None], axis=-1)
    np.testing.assert_allclose(drawing.away(layer), expected, rtol=1e-12)


def test_probabilities_by_hand(layer: Layer) -> None:
    # All 80 tokens are seen from the last position; 32 are read anyway. Of the 48 others one has
    # the proxy 100 and 47 have 1: with 10 to draw it is sure, and the others have 9/47.
    proxies = np.ones((3, 1, TOKENS))
    proxies[:, :, 20] = 100.0
    found = drawing.in_proportion(layer, proxies, 42)[2, 0]
    assert np.all(found[:16] == 1)
    assert np.all(found[64:] == 1)
    assert found[20] == 1
    np.testing.assert_allclose(np.delete(found[16:64], 4), 9 / 47, rtol=1e-12)
    # With more tokens than there are every token is sure, and none that is not seen is read.
    every = drawing.in_proportion(layer, proxies, 200)
    assert np.array_equal(every[:, 0], np.arange(TOKENS) < layer.lengths[:, None])


@pytest.mark.parametrize("name", rules.RULES)
def test_as_many_tokens_as_asked_for(layer: Layer, name: str) -> None:
    chance = rules.RULES[name](layer, 48)
    np.testing.assert_allclose(chance.sum(axis=2), 48, rtol=1e-9)
    assert np.all((chance >= 0) & (chance <= 1))


def test_the_second_moment_is_what_t8_says(layer: Layer) -> None:
    chance = drawing.by_sketch(layer, 44)
    said = drawing.predict(layer, chance)
    rng = np.random.default_rng(1)
    values = np.repeat(layer.values, layer.group, axis=0)
    squares = []
    for _ in range(4000):
        kept = layer.shares * drawing.draw(layer, chance, rng)
        total = np.einsum("pht,htd->phd", kept, values) - kept.sum(axis=2)[..., None] * layer.output
        squares.append(np.sum(total**2, axis=2))
    found = np.sqrt(np.mean(squares, axis=0)) / np.linalg.norm(layer.output, axis=2)
    # A mean of 4000 squares of sums of some thirty terms is known to about 2 %: four times that.
    np.testing.assert_allclose(found, said.deviation, rtol=0.08)
    assert np.all(said.deviation <= said.bound * (1 + 1e-12))
    assert np.all(said.dispersion >= 1)


def test_no_rule_beats_mass_times_distance(layer: Layer) -> None:
    # Of the sum over the heads of a group, which share a draw.
    def total(name: str) -> np.ndarray:
        found = drawing.predict(layer, rules.RULES[name](layer, 44)).deviation
        size = np.linalg.norm(layer.output, axis=2)
        return np.sum((found * size) ** 2, axis=1)

    best = total("true mass × distance")
    for name in rules.RULES:
        assert np.all(best <= total(name) * (1 + 1e-9)), name


def test_nothing_is_left_to_chance_where_all_are_read(layer: Layer) -> None:
    said = drawing.predict(layer, drawing.by_sketch(layer, TOKENS))
    assert np.all(said.deviation == 0)
    assert np.all(said.dispersion == 1)


def test_buckets_meet_as_often_as_the_formula_says(layer: Layer) -> None:
    rng = np.random.default_rng(2)
    bits, tables, draws = 2, 5, 3000
    chance = hashing.inclusion(hashing.agreement(layer), bits, tables)
    met = np.mean([hashing.draw(layer, bits, tables, rng) > 0 for _ in range(draws)], axis=0)
    free = slice(16, 48)  # seen from every position, in no page that is always read
    # Of 3000 draws a frequency is known to .01; the greatest of 192 is off by less than five times.
    np.testing.assert_allclose(met[..., free], chance[..., free], atol=0.05)
    assert np.all(met[..., :16] == 1)


def test_two_buckets_of_two_by_hand() -> None:
    # p = 1/2 and one bit: both of two tables with 1/4, two of three with 4/8.
    assert hashing.inclusion(np.array(0.5), 1, 2) == pytest.approx(0.25)
    assert hashing.inclusion(np.array(0.5), 1, 3) == pytest.approx(0.5)


def test_tables_are_the_fewest(layer: Layer) -> None:
    tables = hashing.tables_for(layer, 4, 48)
    assert tables is not None
    seen = np.arange(TOKENS) < layer.lengths[:, None, None]
    always = np.repeat(
        drawing.in_proportion(layer, np.ones((3, 1, TOKENS)), 32)[:, :] == 1, 2, axis=1
    )

    def read(count: int) -> float:
        chance = hashing.inclusion(hashing.agreement(layer), 4, count)
        return float(np.where(always, 1, np.where(seen, chance, 0)).sum(axis=2).mean())

    assert read(tables) >= 48 > read(tables - 1)
    assert hashing.tables_for(layer, 10, 79) is None, "more than 2,048 bits a key"


@pytest.mark.parametrize(
    ("arguments", "said"), [({"draws": 1}, "draws is 1"), ({"tokens": (32,)}, r"tokens is \(32,\)")]
)
def test_bad_configurations_are_named(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        measure.Config(**arguments)  # pyright: ignore[reportArgumentType]


@pytest.mark.slow
def test_a_quick_run(tmp_path: Path) -> None:
    found = quick("drawing_rules", tmp_path)
    (row,) = found.tables["all heads"].rows
    assert 0.9 < row["ratio"] < 1.1
    assert row["best"] <= row["predicted"]

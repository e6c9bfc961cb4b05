"""The survey measures what it says, against numbers by hand and against numpy."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from experiments.framework.outcome import Outcome
from experiments.head_survey import measure as head_survey
from experiments.head_survey import report
from experiments.head_survey.rows import measured
from tests.experiments.survey_case import made_up
from vashista_theory.evaluation import survey
from vashista_theory.evaluation.language_model import Recorded

HEADS, KV_HEADS, QUERIES, TOKENS, D = 4, 2, 3, 90, 6
LENGTHS = np.array([50, 80, 90])


def recorded(seed: int = 0) -> Recorded:
    rng = np.random.default_rng(seed)
    queries = 4.0 * rng.normal(size=(HEADS, QUERIES, D))
    keys, values = rng.normal(size=(2, KV_HEADS, TOKENS, D))
    arrays = (a.astype(np.float32) for a in (queries, keys, values))
    return Recorded(*arrays, D**-0.5)


def weights(one: Recorded, head: int, query: int) -> np.ndarray:
    keys = one.keys[head // 2, : LENGTHS[query]].astype(np.float64)
    scores = keys @ one.queries[head, query].astype(np.float64) * one.scale
    masses = np.exp(scores - scores.max())
    return masses / masses.sum()


def test_support_by_numpy() -> None:
    one = recorded()
    found = survey.support(one, LENGTHS, 16)
    for head, query in np.ndindex(HEADS, QUERIES):
        mass = np.sort(weights(one, head, query))[::-1]
        for place, share in enumerate(survey.SHARES):
            count = found.tokens[place, head, query]
            assert mass[:count].sum() >= share - 1e-12
            assert mass[: count - 1].sum() < share
        # Sums of 90 terms in float64.
        entropy = -(mass * np.log(mass)).sum()
        np.testing.assert_allclose(np.log(found.perplexity[head, query]), entropy, rtol=1e-11)
        np.testing.assert_allclose(found.first[head, query], weights(one, head, query)[0])
        gap, boundary = np.log(mass[0] / mass[1]), np.log(mass[15] / mass[16])
        np.testing.assert_allclose(found.score_gap[head, query], gap, rtol=1e-9)
        np.testing.assert_allclose(found.boundary_gap[head, query], boundary, rtol=1e-9)


def test_no_boundary_where_everything_is_inside() -> None:
    found = survey.support(recorded(), LENGTHS, 64)
    assert np.all(np.isinf(found.boundary_gap[:, 0]))  # 50 tokens
    assert np.all(np.isfinite(found.boundary_gap[:, 1:]))
    assert np.all(np.isinf(survey.support(recorded(), LENGTHS, 200).boundary_gap))


def test_the_hull_satisfies_the_conditions_of_optimality() -> None:
    one = recorded()
    last = Recorded(one.queries[:, -1:], one.keys, one.values, one.scale)
    found = survey.hull(last, LENGTHS[-1:])
    assert not found.failed.any()
    for head in range(HEADS):
        keys = one.keys[head // 2].astype(np.float64)
        assert found.inside[head, 0] == (found.distance[head, 0] < 1e-6)
        # No key is nearer than the hull.
        nearest = np.linalg.norm(keys - one.queries[head, -1], axis=1).min()
        assert found.distance[head, 0] <= nearest
        if not found.inside[head, 0]:
            assert 1 <= found.face[head, 0] <= D
            np.testing.assert_allclose(found.gap_ratio[head, 0], found.gap[head, 0] * one.scale)


def test_a_sparse_read_reports_the_truth() -> None:
    one = recorded()
    found = survey.sparse_read(one, LENGTHS, 3)
    assert np.all(found.dropped <= found.bound + 1e-12)
    assert np.all(found.dropped > 0)
    for head, query in np.ndindex(HEADS, QUERIES):
        length = LENGTHS[query]
        pages = np.add.reduceat(weights(one, head, query), np.arange(0, length, 16))
        subsets = (np.arange(2**pages.size)[:, None] >> np.arange(pages.size)) & 1
        left_out = subsets[subsets.sum(axis=1) == pages.size - 3] @ pages
        # Three pages were read: what is dropped is the mass of some set of all others.
        assert np.min(np.abs(left_out - found.dropped[head, query])) < 1e-9
    everything = survey.sparse_read(one, LENGTHS, 6)
    assert everything.dropped.max() < 1e-12
    assert everything.error.max() < 1e-12


def said(dataset: xr.Dataset) -> Outcome:
    counted = dataclasses.replace(measured(dataset), configuration={"model": "m", "pages": 16})
    return report.report(counted)


def test_areas_and_exponents_by_hand() -> None:
    found = said(made_up())
    # A sum of some dozen trapezia.
    np.testing.assert_allclose(float(found.values["area_gap_ratio_mass"]), 1.0, rtol=1e-12)
    np.testing.assert_allclose(float(found.values["area_score_gap_mass"]), 0.5, rtol=1e-12)
    np.testing.assert_allclose(float(found.values["exponent_median"]), 1.0)
    assert found.values["violations"] == 0
    bins = [r for r in found.tables["calibration"].rows if r["diagnostic"] == "gap_ratio"]
    assert [row["unsafe"] for row in bins[:3]] == [1.0] * 3
    assert bins[-1]["unsafe"] == 0.0
    broken = made_up()
    broken["read_bound"].values[0, 0, 0, 0] = 0.0
    broken["read_dropped"].values[0, 0, 0, 0] = 0.01
    assert said(broken).values["violations"] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"contexts": (256,)}, "must exceed 256"), ({"queries": 0}, "at least"), ({"text": ()}, "at")],
)
def test_bad_configurations(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        head_survey.Config(**changes)


@pytest.mark.torch
def test_a_survey_of_a_tiny_model(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from tests.evaluation import tiny
    from vashista_theory.evaluation.language_model import LanguageModel

    model = LanguageModel(tiny.model(), tiny.Tokenizer(), name="tiny")
    config = head_survey.Config(
        text=("pydoc-topics",), contexts=(150,), segments=1, queries=2, pages=4, store=tmp_path
    )
    dataset = head_survey.surveyed(config, model)
    assert dataset.sizes == {"instance": 1, "layer": 2, "head": 6, "query": 2, "share": 4}
    assert not any(np.isnan(dataset[name]).any() for name in ("tokens", "read_dropped"))
    again = head_survey.surveyed(config, model)
    xr.testing.assert_identical(dataset, again)
    said(dataset)

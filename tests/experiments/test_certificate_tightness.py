"""The certificate's experiment: its arithmetic worked by hand, its study, and a quick run."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.__main__ import BAD_USE, main
from experiments.certificate_tightness import alarms, report
from experiments.certificate_tightness import sketch_study as study
from experiments.certificate_tightness.measure import Config
from experiments.framework.outcome import Measured
from experiments.shared import roc
from experiments.shared.page_masses import mass_kept, pages_needed, truth
from experiments.shared.readings import AllReadings, Readings
from tests.experiments.quick_runs import quick
from tests.thinned import spread
from vashista_theory.attention import SummarySpec
from vashista_theory.attention.bounds.page_bounds import PageBounds, as_query, page_bounds
from vashista_theory.attention.bounds.summaries import summarise_pages
from vashista_theory.hull.heads import load_heads

FALSE_ALARMS = np.array([0.0, 0.25, 0.5, 1.0])


def test_area_by_hand() -> None:
    # Pairs of a bad and a good answer: 3 beats 2 and 1; of the other bad one, 2 ties and beats 1.
    score, bad = np.array([3, 2, 2, 1]), np.array([1, 0, 1, 0])
    assert roc.area(score, bad) == pytest.approx(3.5 / 4)
    assert roc.area(-score, bad) == pytest.approx(0.5 / 4)
    assert roc.area(np.zeros(4), bad) == 0.5
    # Vertices (0, 0), (0, ½), (½, 1), (1, 1).
    assert roc.found_at(score, bad, FALSE_ALARMS) == pytest.approx([0.5, 0.75, 1.0, 1.0])


def test_no_area_without_good_and_bad() -> None:
    assert roc.area(np.arange(3), np.ones(3)) is None
    assert roc.found_at(np.arange(3), np.zeros(3), FALSE_ALARMS) is None


def test_infinite_scores_have_a_rank() -> None:
    score = np.array([np.inf, 1.0, -np.inf])
    assert roc.area(score, np.array([1, 1, 0])) == 1.0


def test_pages_needed_by_hand() -> None:
    # Order 0, 2, 1, 3; bounds unread over themselves and the mass read: after one page 5/(5 + 4),
    # then 2.5/(2.5 + 6.5), 0.5/(0.5 + 8) and 0.
    upper = np.array([[4.0, 2.0, 2.5, 0.5]])
    mass = np.array([[4.0, 1.5, 2.5, 0.1]])
    for tolerance, pages in ((0.6, 1), (0.3, 2), (0.27, 3), (0.06, 3), (0.05, 4)):
        assert pages_needed(upper, mass, tolerance) == pages
    # With page 3 first: 8.5/(8.5 + 0.1), 4.5/(4.5 + 4.1), 2/(2 + 6.6).
    forced = np.array([False, False, False, True])
    assert pages_needed(upper, mass, 0.27, forced=forced) == 3
    assert pages_needed(upper, mass, 0.99, forced=forced) == 1
    assert pages_needed(upper, mass, 0.99, forced=np.array([True, False, True, True])) == 3


def test_heads_of_a_group_all_have_to_be_proven() -> None:
    one, other = np.array([9.0, 0.5, 0.5]), np.array([1.0, 8.0, 1.0])
    for mass, pages in ((one[None], 1), (other[None], 2), (np.stack([one, other]), 2)):
        assert pages_needed(mass, mass, 0.15) == pages
    # Shares added over the group put page 0 (0.9 + 0.1) before page 1 (0.05 + 0.8),
    # so that both are within 0.12 after two pages: 0.5/10 and 1/10.
    assert pages_needed(np.stack([one, other]), np.stack([one, other]), 0.12) == 2


def test_the_earlier_measurement_of_the_best_pages_is_found_again() -> None:
    held = truth(load_heads(), layers=np.arange(7), positions=np.array([7]))
    mass = held.mass[0].reshape(63, 1, 64)
    assert mass.sum(axis=-1) == pytest.approx(1.0, abs=1e-12)
    needed = [np.median(pages_needed(mass, mass, tolerance)) for tolerance in (0.05, 0.01)]
    assert needed == [10, 22]
    kept = [mass_kept(mass[:, 0], mass[:, 0], n).mean() for n in (4, 8, 16)]
    assert np.round(kept, 3).tolist() == [0.759, 0.838, 0.902]


@pytest.mark.parametrize("bits", spread([1, 2, 4, 6, 8], 2))
def test_the_study_on_the_page_grid_is_the_library(bits: int) -> None:
    held = truth(load_heads(), layers=np.array([4]), positions=np.array([7]))
    # Captured keys are float16 numbers that often lie midway between two grid points, where numpy
    # and XLA may round to different sides; noise removes the ties.
    noise = 1e-3 * np.random.default_rng(0).normal(size=held.keys.shape[2:])
    keys, queries = held.keys[0, 1] + noise, held.queries[0, 0, 3:6]
    found = study.sketched(keys, queries, study.GRIDS["page"], bits, scale=held.scale)
    spec = SummarySpec(ball=False, sketch_bits=bits)

    @jax.jit
    def judge(keys: jax.Array, queries: jax.Array) -> PageBounds:
        query = as_query(queries, jnp.asarray(held.scale))
        return page_bounds(query, summarise_pages(keys, keys, spec), spec, "sketch", 16)

    bounds = judge(jnp.asarray(keys)[None], jnp.asarray(queries)[None])
    # The library adds the rounding of its float64 scores to the bound, some 1e-12 here.
    assert np.asarray(bounds.estimate[0]) == pytest.approx(found.estimate, abs=1e-10)
    assert np.asarray(bounds.upper[0]) == pytest.approx(found.by_token, abs=1e-10)
    assert np.all(found.by_token <= found.by_page + 1e-10)


@pytest.mark.parametrize("name", study.GRIDS)
@pytest.mark.parametrize("bits", [1, 4])
def test_every_grid_bounds_the_masses(name: str, bits: int) -> None:
    held = truth(load_heads(), layers=np.array([0]), positions=np.array([7]))
    keys, queries = held.keys[0, 0, :40], held.queries[0, 0, :3]  # two and a half superpages
    logits = held.scale * np.einsum("hd,psd->hps", queries, keys)
    exact = np.logaddexp.reduce(logits, axis=-1)
    found = study.sketched(keys, queries, study.GRIDS[name], bits, scale=held.scale)
    assert np.all(exact <= found.by_token + 1e-12)
    assert np.all(exact <= found.by_page + 1e-12)


def test_bytes_of_a_grid() -> None:
    # 16 tokens × 64 dimensions × 2 bits are 256 bytes, a bfloat16 box is 256 bytes.
    names = ("page", "corners in 8 bits", "corners in 4 bits", "superpage", "context")
    costs = [study.GRIDS[name].bytes_a_page(2, 64, 64) for name in names]
    assert costs == [512, 256 + 128 + 16, 256 + 64 + 16, 256 + 16, 256 + 4]


def readings(**given: list[float]) -> Readings:
    """Readings of four answers; what is not given is one that nothing depends on."""
    fields = dataclasses.fields(Readings)
    return Readings(**{f.name: np.array(given.get(f.name, [1.0] * 4)) for f in fields})


def test_alarms_by_hand() -> None:
    # Safe at 0.05: the first two, of which one is proven. The last is called safe and is not.
    found = readings(
        dropped=[0.01, 0.04, 0.2, 0.06],
        bound=[0.02, 0.3, 0.9, 0.05],
        lower=[0.0, 0.01, 0.1, 0.07],
        estimate=[0.01, 0.06, 0.04, 0.05],
        error_bound=[2.0, 2.0, 2.0, 0.5],
    )
    unproven = readings(dropped=[0.01, 0.04, 0.2, 0.06], bound=[np.nan] * 4)
    fallback = readings(
        dropped=[0.01, 0.0, 0.0, 0.0], bound=[0.05] * 4, fell_back=[0, 1, 1, 1], lower=[0.0] * 4
    )
    fallback = dataclasses.replace(fallback, certified=np.ones(4, bool))
    held = truth(load_heads(), layers=np.array([0]), positions=np.array([7]))
    measured = AllReadings(
        held,
        held,
        kept={("4 bits", 8): found, ("mean", 8): unproven},
        dense={("4 bits", 8, 0.05): fallback},
    )
    row, other = alarms.alarm_rows(measured, (0.05,))
    assert (row["safe"], row["false_alarms"], row["missed"]) == (0.5, 0.5, 1)
    assert (row["fell_back"], row["est_false"], row["est_missed"]) == (0.75, 0.5, 1.0)
    assert other["safe"] == 0.5
    assert "missed" not in other
    # Certified: two of `found` and the four of `fallback`. Broken: the bound, the lower bound and
    # the error bound of the fourth answer.
    assert alarms.held(measured, (0.05,)) == {
        "certified_answers": 6,
        "missed_alarms": 1,
        "bounds_checked": 24,
        "bounds_violated": 3,
    }


def test_curves_of_a_summary_that_proves_nothing() -> None:
    held = truth(load_heads(), layers=np.array([0]), positions=np.array([7]))
    missing = {name: [np.nan] * 4 for name in ("gap", "bound", "lower")}
    found = readings(dropped=[0, 0, 0.1, 0.2], estimate=[0, 1, 2, 3], error=[0] * 4, **missing)
    measured = AllReadings(held, held, kept={("mean", 8): found})
    areas, curves = alarms.roc_rows(measured, (0.05,))
    (row,) = areas["dropped mass"]
    assert (row["bad"], row["estimate"]) == (0.5, 1.0)
    assert "gap" not in row
    assert "estimate" not in areas["output error"][0], "no answer is bad"
    assert [curve["predictor"] for curve in curves] == ["estimate"]
    assert curves[0]["at_0"] == 1.0


@pytest.mark.slow  # compiles every summary
def test_quick_run(tmp_path: Path) -> None:
    content = quick("certificate_tightness", tmp_path)
    tables, values = content.tables, content.values
    assert values["certified_answers"] > 0
    assert values["bounds_checked"] > 0
    assert values["missed_alarms"] == values["bounds_violated"] == 0
    pages = {row["judged_by"]: row for row in tables["pages read"].rows}
    assert pages["best possible"]["mean_all"] <= pages["4 bits"]["mean_all"] < 64
    groups = {row["judged_by"]: row for row in tables["pages read by a group"].rows}
    assert 1 < groups["4 bits"]["over_one"] < 3, "a group reads more than one head, less than all"
    routers = {row["router"]: row for row in tables["routers"].rows}
    # 16 keys of 32 bytes, a bfloat16 box of 256; who only ranks reads no errors of keys.
    assert routers["4 bits"]["bytes"] == 768
    assert 0 < routers["4 bits"]["loss"] < 0.01
    assert all(table.rows for table in tables.values())
    assert tables["ROC curves"].rows


def test_findings_say_met_and_missed() -> None:
    pages = [
        {"tolerance": t, "judged_by": name, "earlier": 10, "median": m, "ratio": m / 10}
        | {"mean": 11.0, "mean_all": 12.0, "free": 10.0}
        for t, name, m in ((0.05, "4 bits", 10.0), (0.01, "8 bits", 12.0))
    ]
    routers = [
        {"router": name, "bytes": cost, "loss": loss}
        for name, cost, loss in (("box", 256.0, 0.1), ("1 bit", 130.0, 0.1), ("2 bits", 544.0, 0.0))
    ]
    row = {"bytes": 300.0, "token_5": 54.0, "page_5": 54.0, "mean_5": 11.0}
    row |= {"mean_page_5": 12.1}
    grids = [
        {"grid": "page", "bits": 2, "loss": 0.001, "traffic_5": 0.6} | row,
        {"grid": "superpage", "bits": 2, "loss": 0.02, "traffic_5": 0.5} | row,
    ]
    tables = {"pages read": pages, "routers": routers, "grids": grids}
    tables |= {"pages read by a group": [], "alarms": []}
    names = ("group", "layers", "kv_heads", "positions", "longest", *report._HELD)
    found = report.report(Measured(tables, dict.fromkeys(names, 0)))
    values, text = found.values, " ".join(found.findings)
    assert "8 bits at 1 % 12 for 10 (1.200) (aim within 10%: missed)" in text
    assert "these medians: 8 bits at 1 % from 10 to 12." in text
    assert "add up to 10.0%" in text
    assert "earlier medians in 1 of 1 cases" in text
    assert "0.0000 less mass than the best possible (aim 0.01: met), at 544 bytes" in text
    assert "2.12 times what a box router reads (aim about 1)" in text
    assert "0.51 times what a box router reads (aim about 0.5)" in text
    assert "page 300 and 0.001 (met); superpage 300 and 0.020 (missed)" in text
    assert "0.500 of dense (superpage, 2 bits); on the library's grid 0.600 (2 bits)" in text
    assert values["pages_ratio_farthest"] == 1.2
    assert report.slug("box + mean", 8, "0.5") == "box_mean_8_0.5"


@pytest.mark.parametrize(
    "options", [["--budgets", "1"], ["--tolerances", "1.5"], ["--heads", "missing.npz"]]
)
def test_a_configuration_that_makes_no_sense(options: list[str], tmp_path: Path) -> None:
    try:
        code = main(["certificate_tightness", *options, "--results", str(tmp_path)])
    except SystemExit as stop:
        code = stop.code
    assert code == BAD_USE


def test_another_file_of_heads_is_another_question(tmp_path: Path) -> None:
    held = load_heads()
    path = tmp_path / "heads.npz"
    names = ("queries", "keys", "values", "layers", "positions", "scale")
    np.savez(path, provenance="{}", **{name: getattr(held, name) for name in names})
    before = Config(heads=path)
    np.savez(path, provenance='{"again": 1}', **{name: getattr(held, name) for name in names})
    assert before.heads_sha256 != Config(heads=path).heads_sha256
    assert Config().heads_sha256 is None

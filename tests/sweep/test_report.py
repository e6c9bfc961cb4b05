"""The closing report says what the dataset says, and can say no."""

import io
import json
import re

import numpy as np
import pytest
import xarray as xr
from rich.console import Console

from vashista_theory.sweep import report as reports
from vashista_theory.sweep.config import SweepConfig

STATEMENTS = ("identity", "t1", "t1_published", "t2", "t3")


@pytest.fixture(scope="module")
def report(dataset: xr.Dataset) -> reports.Report:
    return reports.summarise(dataset)


def _verdict(report: reports.Report, statement: str):
    return next(v for v in report.statements if v.statement == statement)


def test_the_theorem_holds_here(report: reports.Report) -> None:
    assert report.exit_code == 0
    assert not report.problems
    for statement in ("(★)", "T1", "T2", "T3", "T4", "T5"):
        assert _verdict(report, statement).verdict == "holds", statement
    assert _verdict(report, "T1′").verdict == "holds for ε ≤ x"
    assert all(sum(f.checks[s] for f in report.families) > 50 for s in STATEMENTS)


def test_the_false_form_is_violated(report: reports.Report) -> None:
    verdict = _verdict(report, "factor 1")
    assert verdict.verdict == "fails"
    assert verdict.violations > 0


@pytest.mark.parametrize("statement", STATEMENTS)
def test_a_planted_violation_is_found(dataset: xr.Dataset, statement: str) -> None:
    broken = dataset.copy(deep=True)
    speaks = ~np.isnan(broken[f"excess_{statement}"].values)
    if statement == "t1_published":
        speaks &= broken["epsilon"].values <= broken["published_range"].values[:, None]
    i, t = np.argwhere(speaks)[7]
    broken[f"excess_{statement}"].values[i, t] = 2.0
    found = reports.summarise(broken)
    assert found.exit_code == 1
    assert len(found.problems) == 1
    assert broken["family"].values[i] in found.problems[0]
    assert sum(v.verdict == "fails" for v in found.statements) == 2  # with the false form


def test_a_failed_solve_is_not_a_success(dataset: xr.Dataset) -> None:
    broken = dataset.copy(deep=True)
    broken["solved"].values[2, 3] = False
    assert reports.summarise(broken).exit_code == 1
    broken = dataset.copy(deep=True)
    broken["kkt_residual"].values[2] = np.nan
    assert reports.summarise(broken).exit_code == 1


def test_rate_and_constant_of_an_exact_law(dataset: xr.Dataset) -> None:
    """log m = c − Δ/ε by hand gives rate 1 and constant c exactly, 0.9 Δ/ε does not."""
    made = dataset.copy(deep=True)
    gap = made["gap"].values[:, None]
    exact = made["log_constant"].values[:, None] - gap / made["epsilon"].values
    made["log_off_face_mass"].values[:] = exact
    family = reports.summarise(made).families[0]
    np.testing.assert_allclose(family.rate_over_gap, 1, rtol=1e-10)
    # The subtraction of Δ/ε ≈ 1e6 leaves its rounding.
    np.testing.assert_allclose(family.constant_error, 0, atol=1e-8)
    made["log_off_face_mass"].values[:] = exact + 0.1 * gap / made["epsilon"].values
    wrong = reports.summarise(made)
    np.testing.assert_allclose(wrong.families[0].rate_over_gap, 0.9, rtol=1e-10)
    assert _verdict(wrong, "T4").verdict == "fails"


def test_json_is_strict_and_complete(report: reports.Report, dataset: xr.Dataset) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    content = json.loads(reports.as_json(report, dataset), parse_constant=refuse)
    assert content["exit_code"] == 0
    assert content["run"]["configuration"]["families"][0] == "gaussian"
    assert [f["family"] for f in content["families"]] == list(
        dict.fromkeys(dataset["family"].values.tolist())
    )
    assert content["layers"][0]["layer"] == 3


def test_tables_name_everything(report: reports.Report) -> None:
    stream = io.StringIO()
    reports.show(report, Console(file=stream, width=80))
    text = stream.getvalue()
    for family in report.families:
        assert text.count(family.family) >= 3  # no name is cut short
    assert "ε = √d" in text
    assert text.startswith("The face-stability theorem held: no violation in")
    # Every symbol of the tables is explained under them.
    legend = text[text.index("Symbols:") :]
    assert all(f"{symbol} " in legend for symbol in ("★", "T1′", "h", "κ", "ρ", "w₀", "Δ"))


def test_one_is_no_plural(dataset: xr.Dataset) -> None:
    alone = dataset.isel(instance=np.flatnonzero(dataset["family"].values == "degenerate")[:1])
    found = reports.summarise(alone)
    said = " ".join([reports.headline(found), *(verdict.text for verdict in found.statements)])
    assert "on 1 instance of 1 family." in said
    assert "on 1 degenerate instance:" in said
    assert not re.search(r"\b1 (checks|instances|families|shapes|violations|times)\b", said)


def test_statements_that_were_not_tested_say_so(dataset: xr.Dataset) -> None:
    inside = dataset.isel(instance=dataset["family"].values == "inside")
    found = reports.summarise(inside)
    for statement in ("T1′", "T3", "T4", "T5"):
        assert _verdict(found, statement).verdict == "not tested", statement
    assert found.exit_code == 0


def test_quick_keeps_what_the_user_chose() -> None:
    resolved = SweepConfig(quick=True, instances=5).resolved()
    assert resolved.instances == 5
    assert resolved.n < 256
    assert "heads" not in resolved.families
    assert "gaussian" in resolved.families
    assert resolved.resolved() == resolved
    assert SweepConfig(quick=True, families=("heads",)).resolved().families == ("heads",)
    assert "heads" in SweepConfig().resolved().families

"""Rules decide from numbers: made-up results turn verdicts; pages are of committed results."""

import hashlib
import json
from typing import Any

import pytest

from experiments.framework import pages, results
from experiments.framework.outcome import Outcome, Table
from experiments.verdicts import measure as verdicts
from experiments.verdicts.judging import FAILS, HOLDS, NOT_MEASURED, judge
from experiments.verdicts.report import report


def claim(beginning: str) -> Any:
    (found,) = [c for c in verdicts.CLAIMS if c.sentence.startswith(beginning)]
    return found


def judged(beginning: str, **results: Outcome) -> str:
    return judge(claim(beginning), results.get).verdict


def table(*rows: dict[str, Any]) -> Table:
    return Table({name: "" for row in rows for name in row}, rows)


def test_nothing_is_known_without_results() -> None:
    found = report(verdicts.measured(lambda _: None))
    assert {row["verdict"] for row in found.tables["verdicts"].rows} == {NOT_MEASURED}
    assert found.values["not_measured"] == found.values["claims"] > 20


def test_a_result_without_the_value_is_not_measured() -> None:
    said = judge(claim("Real heads run"), {"regime_map": Outcome()}.get)
    assert said.verdict == NOT_MEASURED
    assert "regime_map has no value 'epsilon'" in said.evidence


@pytest.mark.parametrize(("of_t1", "of_t3", "rate", "verdict"), [
    (0, 0, 0.99, HOLDS), (0, 1, 0.99, FAILS), (1, 0, 0.99, FAILS), (0, 0, 0.4, FAILS),
])  # fmt: skip
def test_leakage(of_t1: int, of_t3: int, rate: float, verdict: str) -> None:
    values = {"violations_t3": of_t3, "checks_t3": 10, "rate_median": 1.0}
    values |= {"violations_t1": of_t1, "checks_t1": 10}
    values |= {"rates_fitted": 3, "rate_low": rate, "rate_high": 1.0, "constant_error_median": 0.1}
    assert judged("Mass off the face", theorem_constants=Outcome(values=values)) == verdict


@pytest.mark.parametrize(("constant", "verdict"), [
    (0.95, HOLDS), (0.6, "holds where a head is of the constant ones"), (0.2, FAILS),
])  # fmt: skip
def test_constant_support(constant: float, verdict: str) -> None:
    rows = table({"context": 512, "half": 3.0}, {"context": 8192, "half": 4.0})
    values = {"constant_heads": constant, "exponent_median": 0.4, "exponent_low": 0.0}
    survey = Outcome({"support": rows}, values | {"exponent_high": 0.7})
    assert judged("Effective support", head_survey=survey) == verdict


@pytest.mark.parametrize(("face", "leaked", "verdict"), [
    (4.0, 0.01, HOLDS),
    (4.0, 0.2, "holds where ε is far below the model's own"),
    (9.0, 0.01, FAILS),
])  # fmt: skip
def test_a_face_must_also_hold_the_mass(face: float, leaked: float, verdict: str) -> None:
    sizes = ((512, 3.0), (8192, face))
    rows = table(*({"context": n, "face": size, "face_tail": 9.0} for n, size in sizes))
    survey = Outcome({"hull at the model's temperature": rows})
    regime = Outcome(values={"leakage_median": leaked, "epsilon": 8.0, "factor_median": 16.0})
    said = judged("Attention concentrates", head_survey=survey, regime_map=regime)
    assert said == verdict


@pytest.mark.parametrize(("area", "worst", "unsafe", "verdict"), [
    (0.95, 0.9, 0.01, HOLDS),
    (0.95, 0.9, 0.17, "holds where an order of queries is enough"),
    (0.72, 0.6, 0.17, "holds where an order of queries is enough"),
    (0.72, 0.4, 0.17, FAILS),
    (0.60, 0.6, 0.17, FAILS),
])  # fmt: skip
def test_criterion(area: float, worst: float, unsafe: float, verdict: str) -> None:
    values = {f"area_gap_ratio_{kind}": area for kind in ("mass", "output")}
    values |= {"area_gap_ratio_median_layer": area, "area_gap_ratio_worst_layer": worst}
    bins = table(*({"diagnostic": "gap_ratio", "unsafe": share} for share in (0.8, unsafe)))
    survey = Outcome({"calibration": bins}, values | {"area_score_gap_mass": 0.5, "queries": 10})
    assert judged("The support gap is a practical", head_survey=survey) == verdict


@pytest.mark.parametrize(("times", "verdict"), [
    ((3.0, 5.0, 1.11, 2.0), HOLDS),
    ((1.05, 1.09, 1.05, 1.09), FAILS),  # less than a tenth is no speed-up
    ((3.0, 5.0, 0.9, 2.0),
     ("holds where the context is long: pages by boxes from 10 tokens and certified reading from "
      "20 tokens on")),
    ((3.0, 0.8, 2.0, 0.9), FAILS),
])  # fmt: skip
@pytest.mark.parametrize("late", [1.0, 10.0])
def test_speed(times: tuple[float, ...], verdict: str, late: float) -> None:
    names = ("budget_10", "budget_20", "certified_10", "certified_20")
    values = {f"times_dense_{name}": t for name, t in zip(names, times, strict=True)}
    rows = [
        {"keys": "real heads", "step": step, "tokens": n, "p50_ms": 1 / t, "p90_ms": late / t}
        for n in (10, 20)
        for step, t in [("dense", 1.0)]
        + [(step, values[f"times_dense_{step}_{n}"]) for step in ("budget", "certified")]
    ]
    found = judged("Strong wall-clock", decode_cpu=Outcome({"decode": table(*rows)}, values))
    assert found == verdict


def test_a_step_that_is_late_for_one_query_in_ten_is_no_speed_up() -> None:
    values = {f"times_dense_{step}_10": 2.0 for step in ("budget", "certified")}
    rows = [
        {"keys": "real heads", "step": step, "tokens": 10, "p50_ms": p50, "p90_ms": p90}
        for step, p50, p90 in (("dense", 2.0, 3.0), ("budget", 1.0, 2.9), ("certified", 1.0, 2.7))
    ]
    found = judged("Strong wall-clock", decode_cpu=Outcome({"decode": table(*rows)}, values))
    assert found == "holds where the context is long: certified reading from 10 tokens on"


def test_what_is_said_of_a_step_in_two_stages_is_said_of_no_other() -> None:
    def found(layout: str) -> str:
        rows = [
            {"keys": "real heads", "tokens": 10, "step": step, "layout": form, "p50_ms": ms}
            | {"p90_ms": ms, "p99_ms": ms}
            for step, form, ms in (("dense", "", 2.0), ("sampled", "scored", 1.5),
                                   ("sampled", layout, 1.0))
        ]  # fmt: skip
        values = {"times_dense_sampled_10": 2.0, "times_dense_budget_10": 0.5}
        rows.append(rows[0] | {"step": "budget", "p50_ms": 4.0, "p90_ms": 4.0})
        decode = Outcome({"decode": table(*rows)}, values)
        return judged("Strong wall-clock", decode_cpu=decode)

    assert found("packed, two stages").endswith("drawn tokens in two stages from 10 tokens on")
    assert found("packed").endswith("long: drawn tokens from 10 tokens on")


def test_a_dagger_is_on_the_thresholds_that_would_move_a_verdict() -> None:
    rows = verdicts.measure(verdicts.Config()).tables["verdicts"]
    moved = [row for row in rows if " in place of " in row["sensitivity"]]
    assert moved
    assert [row for row in rows if row["threshold"].endswith("†")] == moved


@pytest.mark.parametrize(("p99", "verdict"), [
    ((1.5, 2.4), HOLDS), ((1.5, 2.6), "holds where the context is 10 tokens"), ((3.0, 2.6), FAILS),
])  # fmt: skip
def test_latency(p99: tuple[float, float], verdict: str) -> None:
    rows = [
        {"keys": "real heads", "step": step, "tokens": n, "p50_ms": 1.0, "p90_ms": 1.0}
        | {"p99_ms": high}
        # Dense's own ratio is 2: a quarter above it is 2.5.
        for step, highs in (("dense", (2.0, 2.0)), ("budget", p99))
        for n, high in zip((10, 20), highs, strict=True)
    ]
    decode = Outcome({"decode": table(*rows)})
    assert (
        judged(
            "Predictable latency (p50, p90, p99): a fixed number of pages by boxes",
            decode_cpu=decode,
        )
        == verdict
    )


@pytest.mark.parametrize(("right", "verdict"), [
    ((0.9, 0.85), HOLDS),  # 5 points less are kept, whatever the subtraction rounds to
    ((0.9, 0.5), "holds where read by 64 pages by 2-bit keys"),
    ((0.2, 0.5), FAILS),
])  # fmt: skip
def test_retrieval(right: tuple[float, float], verdict: str) -> None:
    # One task is solved exactly, one by choice: each is held to its own test.
    shares = {"dense": 0.9, "budget@64": right[0], "certified-0.05": right[1], "budget@16": 0.0}
    rows = table(*(
        {"task": task, "reach": "", "context": 10, "policy": name, "prompts": 20, "counts": True}
        | ({"exact": s, "chosen": 0.3} if task == "needle" else {"exact": 0.0, "chosen": s})
        for name, s in shares.items() for task in ("needle", "copy")
    ))  # fmt: skip
    quality = Outcome({"retrieval": rows})
    assert judged("Minimal loss of quality: retrieval", model_quality=quality) == verdict


@pytest.mark.parametrize(("same", "holds"), [(64, True), (63, False)])
def test_drop_in(same: int, holds: bool) -> None:
    values = {"same_tokens_all": same, "new_tokens": 64, "prompt_tokens": 4096}
    found = judged("A drop-in", generation=Outcome(values=values))
    assert found.startswith("holds where") if holds else found == FAILS


def test_a_wrong_bound_ends_the_criterion() -> None:
    survey = {"area_mechanism_gap_mass": 0.94, "area_bound_mass": 0.99, "violations": 0}
    for exceeded, verdict in ((0, HOLDS), (1, FAILS)):
        text = {"certificate_violations": exceeded, "certified_pairs": 100}
        results = {"head_survey": Outcome(values=survey), "certified_text": Outcome(values=text)}
        assert judged("… as the gap Δ̂", **results) == verdict


def test_committed_verdicts_are_those_of_the_committed_results() -> None:
    stored = results.outcome("verdicts")
    now = verdicts.measure(verdicts.Config()).tables["verdicts"]
    assert [dict(r) for r in stored.tables["verdicts"].rows] == now, (
        "run `python -m experiments update` and `python -m experiments.framework.pages`"
    )
    assert not [row for row in now if " has no " in str(row["evidence"])]


@pytest.mark.parametrize("page", pages.PAGES)
def test_pages_have_the_numbers_of_the_results(page: str) -> None:
    text = (pages.ROOT / page).read_text(encoding="utf-8")
    assert pages.filled(text) == text, "run `python -m experiments.framework.pages`"
    assert "<!-- end -->" in text


def test_headlines_have_the_verdicts_of_their_sentences() -> None:
    rows = [{"sentence": s, "verdict": f"verdict {n}"} for n, s in enumerate(pages.HEADLINES)]
    said = pages.headlines(Outcome({"verdicts": table(*rows)}, findings=["Of 5 claims all."]))
    words = list(pages.HEADLINES.values())
    assert said.splitlines()[:3] == ["Of 5 claims all.", "", f"- {words[0]}: **verdict 0**."]
    assert said.endswith(f"- {words[4]}: **verdict 4**.")
    with pytest.raises(KeyError):
        pages.headlines(Outcome({"verdicts": table(*rows[:4])}, findings=["Of 4."]))


def test_pictures_are_of_committed_results_and_shown() -> None:
    folder = pages.ROOT / "docs" / "images"
    shown = "".join(
        page.read_text("utf-8")
        for page in (pages.ROOT / "README.md", *(pages.ROOT / "docs").glob("*.md"))
    )
    notes = sorted(folder.glob("*.json"))
    assert notes
    for path in notes:
        note = json.loads(path.read_text(encoding="utf-8"))
        result = results.FOLDER / note["result"]
        assert note["result_sha256"] == hashlib.sha256(result.read_bytes()).hexdigest(), (
            f"run `python -m figures {path.stem} --output docs/images`"
        )
        assert path.with_suffix(".png").is_file()
        assert f"images/{path.stem}.png)" in shown

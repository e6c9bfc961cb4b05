"""Numbers and sentences of the quality experiment, from rows made by hand."""

import dataclasses

import pytest

pytest.importorskip("xarray")

from experiments import model_quality
from experiments.framework.outcome import Outcome
from experiments.shared import quality
from experiments.shared.said import in_words
from vashista_theory.evaluation.report import Report
from vashista_theory.evaluation.summary import CertificateRow, PerplexityRow, RetrievalRow

TINY = {"model": "tiny"}


def predicted(text, policy, divergence):
    return PerplexityRow(
        text=text, context=2048, policy=policy, positions=256, pages_read=16.0, pages_median=16.0,
        pages_high=16.0, pages=128, perplexity=10.0, change=divergence / 2, interval=(0.0, 0.1),
        divergence=divergence, agreement=0.9, dropped=0.1, dropped_beyond_first=0.2, error=0.3,
        certified=0.0,
    )  # fmt: skip


def answered(task, policy, exact, prompts, *, counts=True):
    return RetrievalRow(
        task=task, context=2048, reach="", policy=policy, prompts=prompts, exact=exact,
        exact_interval=(0.0, 1.0), chosen=1.0, chosen_interval=(0.5, 1.0), token_accuracy=1.0,
        log_probability=-0.1, pages_read=16.0, error=0.1, counts=counts,
    )  # fmt: skip


def proven(context, violations):
    return CertificateRow(
        context=context, tolerance=0.05, queries=1000, violations=violations, certified=1.0,
        read_all=0.0, dropped=0.01, bound=0.04, pages_median=20.0, pages_high=60.0, pages=128,
    )  # fmt: skip


def said(found: Report) -> Outcome:
    return quality.report(dataclasses.replace(quality.measured(found), configuration=TINY))


def test_texts_are_averaged_and_policies_ordered():
    rows = tuple(
        predicted(text, policy, divergence)
        for text, policy, divergence in (
            ("a", "dense", 0.0), ("a", "boxes@16", 0.4), ("a", "budget@16", 0.02),
            ("b", "dense", 0.0), ("b", "boxes@16", 0.2), ("b", "budget@16", 0.04),
        )
    )  # fmt: skip
    found = said(Report(perplexity=rows))
    assert found.values["divergence_boxes@16_2048"] == pytest.approx(0.3)
    assert found.values["change_budget@16_2048"] == pytest.approx(0.015)
    assert "best first: budget@16 0.03, boxes@16 0.3." in found.findings[0]
    assert list(found.tables) == ["perplexity"]
    assert found.tables["perplexity"].rows[0]["interval"] == "0 to 0.1"


def test_only_tasks_that_dense_solves_enter_the_shares():
    rows = (
        answered("needle", "dense", 1.0, 10), answered("needle", "budget@16", 0.5, 10),
        answered("copy", "dense", 0.9, 30), answered("copy", "budget@16", 0.9, 30),
        answered("words", "dense", 0.1, 30, counts=False),
    )  # fmt: skip
    found = said(Report(retrieval=rows))
    assert found.values["exact_budget@16_2048"] == pytest.approx((5 + 27) / 40)
    assert "words" not in found.findings[0]


def test_a_violated_bound_fails_the_experiment():
    good = said(Report(certificates=(proven(512, 0), proven(1024, 0))))
    assert not good.failures
    assert good.values["certified_pairs"] == 2000
    assert "512: 20 and 60 of 128; 1,024: 20 and 60 of 128" in good.findings[1]
    bad = said(Report(certificates=(proven(512, 3),)))
    assert bad.failures == ["3 true dropped masses above their bound"]


def test_the_quick_run_asks_for_little():
    asked = model_quality.Config(quick=True).asked()
    assert list(asked) == ["texts", "prompts at 512"]
    assert all(one.contexts == (512,) for one in asked.values())
    assert asked["prompts at 512"].prompts == 2
    assert asked["texts"].tasks == ()


def test_lengths_have_stores_of_their_own():
    asked = model_quality.Config(tasks=("copying",), contexts=(2048, 8192)).asked()
    assert list(asked) == ["texts", "prompts at 2048", "prompts at 8192"]
    assert len({one.output for one in asked.values()}) == len(asked)
    assert asked["prompts at 8192"].pages == (16,)


def test_a_policy_in_words_says_whether_it_counts_pages_or_tokens() -> None:
    assert in_words("budget@64") == "64 pages by 2-bit keys"
    assert in_words("sampled@16") == "drawn by 2-bit keys, as many as 16 pages have"
    assert in_words("sampled") == "drawn by 2-bit keys"
    assert in_words("certified-0.05") == "certified to 5%"
    assert in_words("of-my-own@8") == "8 of-my-own"

"""The answer about whole heads, held against attention by hand."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vashista_theory as vt
import vashista_theory.diagnose as command
from vashista_theory._diagnose.answer import _percent, is_sparse, sentences
from vashista_theory._diagnose.figure import draw
from vashista_theory._diagnose.record import Asked, HeadReading

# One shape, so that everything is compiled once: 2 key heads for 4 query heads, 96 tokens.
RNG = np.random.default_rng(3)
KEYS = RNG.normal(size=(2, 96, 6))
QUERIES = 2.0 * RNG.normal(size=(4, 3, 6))
VALUES = RNG.normal(size=(2, 96, 6)) + 1.0
TOKENS = 48
SCALE = 0.5
OPTIONS = {"scale": SCALE, "tokens": TOKENS}


@pytest.fixture(scope="module")
def found() -> vt.Answer:
    return vt.diagnose(KEYS, QUERIES, VALUES, **OPTIONS)


def softmax(head: int, row: int, seen: int = 96) -> np.ndarray:
    logits = SCALE * KEYS[head // 2, :seen] @ QUERIES[head, row]
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def test_heads_are_read_in_groups_and_measured_against_softmax(found: vt.Answer) -> None:
    assert [(head.layer, head.head) for head in found.heads] == [(0, h) for h in range(4)]
    for head in found.heads:
        support = []
        for row in range(3):
            held = np.cumsum(np.sort(softmax(head.head, row))[::-1])
            support.append(int(np.argmax(held >= 0.9)) + 1)
        assert head.support == int(np.median(support))
        # Three draws of one head: an estimate and what it estimates are of one order.
        assert 0.2 < head.estimate / head.error < 5
        assert head.worst_estimate >= head.estimate > 0
        # Two pages of 16 are sure; of the 16 that a head draws on average it may draw half or half
        # as many again, give or take 4 standard deviations.
        assert abs(head.tokens_read - TOKENS) < 8 + 4 * math.sqrt(24)


def test_the_proof_reads_no_fewer_pages_than_the_best_choice_would(found: vt.Answer) -> None:
    for head in found.heads:
        best = []
        for row in range(3):
            # Two query heads share a read: at least what either needs.
            pages = softmax(head.head, row).reshape(6, 16).sum(axis=1)
            held = np.cumsum(np.sort(pages)[::-1])
            best.append((int(np.argmax(held >= 1 - found.asked.tolerance)) + 1) / 6)
        assert head.pages_to_prove >= np.mean(best) - 1e-12
        assert head.pages_to_prove <= 1


def test_the_distance_to_the_regime_is_that_of_the_page(found: vt.Answer) -> None:
    for head in found.heads:
        page = vt.diagnose(KEYS[head.head // 2], QUERIES[head.head, -1], scale=SCALE)
        assert type(page) is vt.Diagnosis
        assert head.regime == page.regime
        if page.regime == "outside":
            # A bracket of the first path, in which log m is nearly linear in 1/ε.
            assert head.colder == pytest.approx(page.epsilon / page.one_percent_epsilon, rel=0.1)


def test_the_page_is_that_of_the_head_with_the_largest_estimate(found: vt.Answer) -> None:
    worst = max(found.heads, key=lambda head: head.worst_estimate)
    assert found.shown == (0, worst.head, 95)
    alone = vt.diagnose(KEYS[worst.head // 2], QUERIES[worst.head, -1], scale=SCALE)
    assert found.gap == alone.gap
    assert str(alone).strip() in str(found)


def test_the_verdict_comes_first_and_says_what_the_table_says(found: vt.Answer) -> None:
    more = sum(head.worst_estimate > 0.05 for head in found.heads)
    text = " ".join(str(found).split())
    assert text.startswith(" ".join(found.sentences))
    assert f"reading {TOKENS} of 96 tokens" in text
    share = {0: "No head needs more", 4: "100 % of the heads need more"}
    assert share.get(more, f"{25 * more} % of the heads need more") in text
    assert "To prove that a read drops at most 5 %" in text
    assert "The theorem's regime" in text
    assert max(map(len, str(found).splitlines())) <= 100
    assert "nan" not in text.lower()


def test_json_has_the_heads_and_the_page(found: vt.Answer) -> None:
    read = json.loads(found.to_json())
    assert read["sentences"] == list(found.sentences)
    assert read["sparse"] is found.sparse is False
    assert read["regime_verdict"] == list(found.regime_verdict)
    assert "verdict" not in read
    assert read["asked"]["tokens"] == TOKENS
    assert [head["estimate"] for head in read["heads"]] == [h.estimate for h in found.heads]
    assert read["gap"] == found.gap


def test_without_values_errors_are_those_of_unit_values(found: vt.Answer) -> None:
    bare = vt.diagnose(KEYS, QUERIES, **OPTIONS)
    assert isinstance(bare, vt.Answer)
    assert "random ones" in " ".join(bare.sentences)
    for head, other in zip(bare.heads, found.heads, strict=True):
        assert head.pages_to_prove == other.pages_to_prove
        # |v| = 1, so that an error above 2 of them cannot be.
        assert 0 < head.estimate < 2


def test_a_context_that_fits_is_read_whole() -> None:
    small = vt.diagnose(KEYS, QUERIES, VALUES, scale=SCALE, tokens=96)
    assert small.sentences[0].startswith("Nothing to gain: the 96 tokens")
    assert {head.worst_estimate for head in small.heads} == {0.0}


def test_as_many_queries_as_keys_are_a_causal_pass() -> None:
    # The first queries of a pass see few keys, the last all of them.
    queries = RNG.normal(size=(96, 6))
    found = vt.diagnose(KEYS[0], queries, VALUES[0], **OPTIONS)
    assert "up to its own position" in str(found)
    assert "8 of 96 queries" in str(found)
    last = vt.diagnose(KEYS[0], queries[-1:], VALUES[0], **OPTIONS)
    assert last.gap == found.gap
    everywhere = vt.diagnose(KEYS[0], queries, VALUES[0], causal=False, **OPTIONS)
    assert "sees all 96 keys" in str(everywhere)


@pytest.mark.parametrize(
    ("keys", "queries", "values", "remedy"),
    [
        ((6, 96), (3, 6), None, "keys.swapaxes(-2, -1)"),
        ((96, 6), (6, 3), None, "queries.swapaxes(-2, -1)"),
        ((96, 2, 6), (3, 4, 6), None, "array.swapaxes(-3, -2)"),
        ((4, 3, 6), (2, 96, 6), None, "are swapped"),
        ((6,), (96, 6), None, "look swapped"),
        ((2, 96, 6), (6,), None, "one query for 2 key heads"),
        ((2, 96, 6), (3, 6), None, "H a multiple of Hkv"),
        ((2, 96, 6), (4, 3, 6), (96, 2, 6), "values.swapaxes(-3, -2)"),
        ((2, 96, 6), (4, 3, 6), (2, 6, 96), "values.swapaxes(-2, -1)"),
        ((2, 96, 6), (4, 3, 6), (2, 95, 6), "same shape"),
        ((3, 2, 96, 6), (2, 4, 3, 6), None, "2 layers of queries, 3 of keys"),
        ((2, 96, 6), (4, 0, 6), None, "empty"),
        ((1, 1, 2, 96, 6), (4, 3, 6), None, "Expected keys (T, D)"),
    ],
)
def test_wrong_order_of_axes_gets_a_hint(
    keys: tuple[int, ...], queries: tuple[int, ...], values: tuple[int, ...] | None, remedy: str
) -> None:
    given = None if values is None else np.zeros(values)
    with pytest.raises(ValueError, match=r".") as refused:
        vt.diagnose(np.zeros(keys), np.zeros(queries), given, tokens=48)
    assert remedy in str(refused.value)
    assert str(keys) in str(refused.value)


@pytest.mark.slow
def test_more_heads_than_keys_are_remarked_on() -> None:
    found = vt.diagnose(RNG.normal(size=(4, 3, 6)), RNG.normal(size=(4, 1, 6)))
    assert "READ AS 4 HEADS WITH 3 KEYS EACH" in str(found)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tokens": 0}, "`tokens` is 0; a positive integer"),
        ({"tokens": 20}, "use 33 or more"),
        ({"tokens": 2.5}, "`tokens` is 2.5"),
        ({"tolerance": 5}, "`tolerance` is 5"),
        ({"tolerance": "tight"}, "`tolerance` is 'tight'"),
        ({"scale": -1}, "`scale` must be a positive number"),
    ],
)
@pytest.mark.usefixtures("as_users_run_it")
def test_bad_options_are_named(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        vt.diagnose(KEYS, QUERIES, VALUES, **options)
    assert words in str(refused.value)


def test_recorded_heads_come_alone() -> None:
    heads = vt.heads.load_heads()
    with pytest.raises(ValueError, match="pass them alone"):
        vt.diagnose(heads, QUERIES)
    with pytest.raises(ValueError, match="a query is missing"):
        vt.diagnose(KEYS)


def heads_file(path: Path) -> Path:
    arrays = {"keys": KEYS[None], "values": VALUES[None], "queries": QUERIES[None, :, :1]}
    numbers = {"layers": np.array([7]), "positions": np.array([95]), "scale": np.array(SCALE)}
    np.savez(path, provenance=np.array("{}"), **arrays, **numbers)
    return path


def test_the_command_reads_arrays_archives_and_heads_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, array in (("k", KEYS), ("q", QUERIES[:, :1]), ("v", VALUES)):
        np.save(tmp_path / f"{name}.npy", array)
    np.savez(tmp_path / "a.npz", keys=KEYS, queries=QUERIES[:, :1], values=VALUES, scale=SCALE)
    three = [str(tmp_path / f"{name}.npy") for name in "kqv"]
    shown = []
    options = ["--tokens", "48", "--json"]
    for files in (
        [*three, "--scale", str(SCALE), "--figure", str(tmp_path / "f.svg")],
        [str(tmp_path / "a.npz")],
        [str(heads_file(tmp_path / "h.npz"))],
    ):
        assert command.main([*files, *options]) == 0
        shown.append(json.loads(capsys.readouterr().out))
    assert shown[0]["heads"] == shown[1]["heads"]
    assert shown[2]["shown"][0] == 7
    assert [h["estimate"] for h in shown[2]["heads"]] == [h["estimate"] for h in shown[0]["heads"]]
    assert (tmp_path / "f.svg").read_text().count("<svg") == 1


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("keys",), "holds keys; expected arrays named keys and queries"),
        (("keys", "queries", "value"), "holds keys, queries, value;"),
        (("arr_0", "arr_1"), "holds arr_0, arr_1;"),
        (("keys", "query", "queries"), "holds keys, queries, query;"),
    ],
)
def test_archives_have_to_name_their_arrays(
    names: tuple[str, ...], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "a.npz", **dict.fromkeys(names, KEYS))
    assert command.main([str(tmp_path / "a.npz")]) == 2
    assert words in capsys.readouterr().err


def reading(**changed: object) -> HeadReading:
    known: dict[str, Any] = {
        "layer": 0, "head": 0, "estimate": 0.02, "worst_estimate": 0.04, "error": 0.02,
        "tokens_read": 255.4, "tokens_needed": 300, "pages_to_prove": 0.5, "support": 9,
        "regime": "outside", "colder": 7.0,
    }  # fmt: skip
    return HeadReading(**(known | changed))


ASKED = Asked(context=4096, queries=4, tokens=256, tolerance=0.05, with_values=True)


@pytest.mark.parametrize(
    ("changed", "asked", "sparse", "words"),
    [
        ({}, {}, True, ["Yes, a sparse read"]),
        ({"worst_estimate": 0.06}, {}, False, ["No, too few tokens"]),
        ({}, {"context": 200}, None, ["Nothing to gain"]),
        (
            {"error": 0.2},
            {},
            False,
            ["No, reads are further", "Do not trust the estimate of 1 "],
        ),
        ({"worst_estimate": 1.2}, {}, False, ["100 % or more (1 head) means that such a read"]),
        ({"worst_estimate": math.inf}, {}, False, ["100 % or more"]),
    ],
)
def test_yes_and_no_are_those_of_the_sentences(
    changed: dict[str, object], asked: dict[str, object], sparse: bool | None, words: list[str]
) -> None:
    heads, of = (reading(**changed),), dataclasses.replace(ASKED, **asked)
    assert is_sparse(heads, of) is sparse
    said = " ".join(sentences(heads, of))
    assert said.startswith({True: "Yes,", False: "No,", None: "Nothing"}[sparse])
    assert all(part in said for part in words), said
    assert ("trust" in said or "noise" in said) is ("trust" in words[-1] or "100" in words[-1])


def test_errors_are_relative_to_the_exact_output() -> None:
    # Values of mean zero: their average is short, and a draw of a few is off by several times
    # that, which shows only if the estimate is not divided by the length of the draw itself.
    found = vt.diagnose(KEYS, 0.1 * QUERIES, VALUES - 1.0, scale=SCALE, tokens=40)
    for head in found.heads:
        assert head.error > 1
        assert 0.5 < head.estimate / head.error < 2
    assert max(head.estimate for head in found.heads) > 1.5
    assert found.sparse is False
    assert "gives noise instead of the output" in " ".join(found.sentences)


def points(figure: Any, panel: int) -> dict[str, list[tuple[float, float]]]:
    lines = figure.axes[panel].lines
    return {str(line.get_label()): [tuple(xy) for xy in line.get_xydata()] for line in lines}


def test_the_picture_marks_what_its_axis_cannot_hold() -> None:
    heads = (
        reading(),
        reading(estimate=0.0, worst_estimate=3e-5, regime="no gap", colder=math.nan),
        reading(estimate=1e-5, worst_estimate=0.02, regime="", colder=math.nan),
        reading(worst_estimate=math.inf, regime="inside", colder=0.0),
    )
    figure = draw(heads, ASKED)
    drawn = points(figure, 0)
    # Every mark of a number is where that number is, and every other one is told apart.
    assert drawn["median"] == [(0, 0.02), (3, 0.02)]
    assert drawn["worst query"] == [(0, 0.04), (2, 0.02)]
    assert [x for x, _ in drawn["below 0.01 %"]] == [1, 2]
    assert [x for x, _ in drawn["no estimate"]] == [3]
    said = " ".join(figure.axes[2].get_xlabel().split())
    assert "1 without a gap, 1 not looked at, 1 in the regime at any ε" in said
    plain = draw((reading(),), ASKED)
    assert set(points(plain, 0)) >= {"median", "worst query"}
    assert "below" not in " ".join(points(plain, 0))
    assert "not drawn" not in plain.axes[2].get_xlabel()


def test_the_legend_explains_every_column(found: vt.Answer) -> None:
    text = str(found)
    for word in ("expected, worst:", "measured:", "tokens:", "would do:", "pages:", "90 % in:"):
        assert word in text
    assert f"so about {TOKENS}" in text
    head = found.shown[1]
    assert f"head {head}, its last query (sees the keys 0 to 95)" in text


@pytest.mark.parametrize(("share", "said"), [
    (0.0, "0 %"), (2.1e-8, "<0.001 %"), (1.2e-5, "0.0012 %"), (0.0994, "9.9 %"), (0.314, "31 %"),
    (math.inf, "∞"),
])  # fmt: skip
def test_no_share_is_wider_than_its_column(share: float, said: str) -> None:
    assert _percent(share) == said
    assert len(said) <= 8

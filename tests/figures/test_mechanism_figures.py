"""The figures of the mechanism: what they show, and how legibly."""

import pytest

from experiments.framework import results
from experiments.framework.outcome import Outcome, Table
from figures import _style as style
from tests.figures.quality_case import made_up as made_up_quality
from tests.figures.test_theory_figures import PAGE, SMALLEST, draw, outcome_of, texts_of

NAMES = ("failures", "latency", "decode_speed", "tightness", "support", "quality", "schematic")


def result(name: str) -> Outcome:
    if name != "quality":
        return outcome_of(name)
    stored = results.read(results.path_of("model_quality"))
    return made_up_quality() if stored is None else outcome_of(name)


@pytest.mark.parametrize("name", NAMES)
def test_labels_can_be_read(name: str) -> None:
    figure = draw(name, result(name))
    assert figure.get_figwidth() <= PAGE
    assert min(text.get_fontsize() for text in texts_of(figure)) >= SMALLEST
    for axis in figure.axes:
        if axis.axison:
            assert axis.get_title(loc="left"), "every panel says what to see"
            assert axis.get_xlabel()


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_result_is_not_drawn(name: str) -> None:
    full = result(name)
    empty = Outcome({key: Table(table.columns, []) for key, table in full.tables.items()})
    with pytest.raises(style.NothingToDrawError):
        draw(name, empty)


def test_speeds_below_dense_lie_in_the_shaded_part() -> None:
    outcome = outcome_of("decode_speed")
    figure = draw("decode_speed", outcome)
    worst = [r["times_dense"] for r in outcome.tables["decode"].rows
             if r["keys"] == "normal" and r["step"] == "certified"]  # fmt: skip
    drawn = [list(map(float, line.get_ydata())) for line in figure.axes[1].lines]
    assert worst in drawn
    low, high = figure.axes[1].get_ylim()
    every = [r["times_dense"] for r in outcome.tables["decode"].rows]
    assert low < min(every) < 1 < max(every) < high


def test_the_verdicts_are_those_of_the_result() -> None:
    outcome = outcome_of("failures")
    figure = draw("failures", outcome)
    said = [text.get_text().replace("\n", " ") for text in figure.axes[2].texts]
    verdicts = [row["verdict"] for row in outcome.tables["diagnostics"].rows]
    for verdict in ("missed", "false alarm"):
        assert said.count(verdict) == verdicts.count(verdict)
    assert said.count("right") == sum("rightly" in verdict for verdict in verdicts)


def test_ratios_and_pages_are_drawn_as_stored() -> None:
    outcome = outcome_of("latency")
    figure = draw("latency", outcome)
    drawn = [list(map(float, line.get_ydata())) for line in figure.axes[1].lines]
    lengths = sorted({row["tokens"] for row in outcome.tables["times"].rows})
    for policy in ("dense", "budget", "certified"):
        assert [outcome.values[f"ratio_p99_p50_{policy}_{t}"] for t in lengths] in drawn


def test_medians_and_masses_are_drawn_as_stored() -> None:
    outcome = outcome_of("tightness")
    figure = draw("tightness", outcome)
    said = [text.get_text() for text in figure.axes[0].texts]
    for key in ("pages_4_bits_5", "pages_4_bits_1", "pages_2_bits_5"):
        assert f"{outcome.values[key]:.0f}" in said
    points = [tuple(line.get_xdata()) for line in figure.axes[1].lines]
    known = {row["router"]: row for row in outcome.tables["routers"].rows}
    names = ("mean", "box", "ball", "1 bit", "2 bits", "4 bits", "best possible")
    assert tuple(known[name]["kept_8"] for name in names) in points


def test_the_support_of_a_text_is_drawn_as_stored() -> None:
    outcome = outcome_of("support")
    figure = draw("support", outcome)
    rows = [row for row in outcome.tables["support"].rows if row["text"] == "sotu"]
    drawn = [list(line.get_ydata()) for line in figure.axes[0].lines]
    for column in ("half", "median", "most"):
        assert [row[column] for row in rows] in drawn


def test_quality_orders_policies_and_leaves_out_what_dense_cannot_do() -> None:
    figure = draw("quality", made_up_quality())
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["dense", "certified to 5%", "pages of most mass", "pages by 2-bit keys",
                     "pages by boxes", "window", "pages by their means", "random"]  # fmt: skip
    dots = [(float(line.get_xdata()[0]), round(float(line.get_ydata()[0])))
            for line in figure.axes[1].lines if len(line.get_xdata()) == 1]  # fmt: skip
    assert (0.5, names.index("pages by 2-bit keys")) in dots
    assert not any(share == 0.05 for share, _ in dots)


def test_half_a_result_is_drawn_and_says_what_is_missing() -> None:
    full = made_up_quality()
    half = Outcome({"retrieval": full.tables["retrieval"]}, full.values)
    figure = draw("quality", half)
    assert [text.get_text() for text in figure.axes[0].texts] == ["not measured"]
    assert not figure.axes[1].texts

"""The figures of the theory, drawn from the committed results: what they show, and how legibly."""

import importlib

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from experiments.framework import results
from experiments.framework.outcome import Outcome, Table
from figures import _style as style
from vashista_theory.plots import STYLE

NAMES = ("theorem", "constants_slack", "degenerate", "gaps", "vacuity", "regimes")
SMALLEST = 6.0  # points: what can be read in print
PAGE = 7.0  # inches: a figure across both columns


def outcome_of(name: str) -> Outcome:
    return results.outcome(importlib.import_module(f"figures.{name}").RESULT)


def draw(name: str, outcome: Outcome) -> Figure:
    with mpl.rc_context(STYLE):
        return importlib.import_module(f"figures.{name}").draw(outcome)


def texts_of(figure: Figure) -> list[Text]:
    """Every text that is shown; the cells of a table keep theirs to themselves."""
    cells = [c for axis in figure.axes for t in axis.tables for c in t.get_celld().values()]
    found = [*figure.findobj(Text), *(cell.get_text() for cell in cells)]
    return [text for text in found if text.get_text().strip()]


@pytest.mark.parametrize("name", NAMES)
def test_labels_can_be_read(name: str) -> None:
    figure = draw(name, outcome_of(name))
    assert figure.get_figwidth() <= PAGE
    texts = texts_of(figure)
    assert texts
    assert min(text.get_fontsize() for text in texts) >= SMALLEST
    for axis in figure.axes:
        if axis.get_label() != "<colorbar>" and axis.axison:
            assert axis.get_title(loc="left"), "every panel says what to see"
            assert axis.get_xlabel()


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_result_is_not_drawn(name: str) -> None:
    full = outcome_of(name)
    empty = Outcome({key: Table(table.columns, []) for key, table in full.tables.items()})
    with pytest.raises(style.NothingToDrawError):
        draw(name, empty)


def test_the_map_shows_each_head() -> None:
    outcome = outcome_of("regimes")
    figure = draw("regimes", outcome)
    shown = np.asarray(figure.axes[0].images[0].get_array())
    rows = outcome.tables["heads"].rows
    layers, heads = (sorted({row[name] for row in rows}) for name in ("layer", "head"))
    assert shown.shape == (len(layers), len(heads))
    for row in rows:
        value = shown[layers.index(row["layer"]), heads.index(row["head"])]
        assert value == pytest.approx(row["gap_ratio"])


def test_the_theorem_shows_its_numbers() -> None:
    outcome = outcome_of("theorem")
    figure = draw("theorem", outcome)
    said = " ".join(text.get_text() for text in texts_of(figure))
    for row in outcome.tables["reference values"].rows:
        assert row["instance"] in said
        mass = [r["log_mass"] for r in outcome.tables["leakage"].rows
                if r["instance"] == row["instance"] and 1 <= r["ratio"] <= 45]  # fmt: skip
        assert any(
            np.array_equal(line.get_ydata(), mass)
            for line in figure.axes[0].lines
            if len(line.get_ydata()) == len(mass)
        )
    values = outcome.values
    assert f"{values['violations']} violations in {values['checks']:,} checks" in said


def test_the_slack_is_drawn_as_measured() -> None:
    outcome = outcome_of("constants_slack")
    figure = draw("constants_slack", outcome)
    drawn = [list(map(float, line.get_ydata())) for line in figure.axes[0].lines]
    for form in ("published", "t1", "t3"):
        wanted = [r["median"] for r in outcome.tables["curves"].rows
                  if r["form"] == form and r["group"] == "real heads"]  # fmt: skip
        assert wanted in drawn

"""Tables on a terminal: nothing is cut off, however narrow it is."""

import io

import pytest
from rich.console import Console

from experiments.framework.outcome import Outcome, Table

ROWS = [
    {"judged_by": "key sketches of 4 bits", "queries": 259_200, "dropped_mass_bound": 0.00937},
    {"judged_by": "boxes", "queries": 7, "dropped_mass_bound": None},
]


def printed(width: int, columns: dict[str, str], rows: list[dict]) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    Outcome({"certificates": Table(columns, rows)}).show(console)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [24, 30, 40, 110])
def test_every_number_and_every_word_of_a_title_is_whole(width: int) -> None:
    text = printed(width, dict.fromkeys(ROWS[0], ""), ROWS)
    for whole in ("259,200", "0.00937", "queries", "dropped", "bound", "sketches", "boxes"):
        assert whole in text, whole
    assert all(len(line) <= width for line in text.splitlines())


def test_a_table_too_wide_goes_on_with_its_first_column() -> None:
    text = printed(24, dict.fromkeys(ROWS[0], ""), ROWS)
    assert text.count("certificates, continued") == 1
    assert text.count("judged") == text.count("boxes") == 2


def test_one_column_and_none() -> None:
    assert "boxes" in printed(40, {"judged_by": ""}, [{"judged_by": "boxes"}])
    printed(40, {}, [])

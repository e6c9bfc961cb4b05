"""What an experiment measures, and what its report makes of it: tables, values, findings."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

Cell = str | int | float | bool | None


class NotMeasured(Exception):  # noqa: N818 - no error: it is the answer of this machine
    """This machine lacks what the experiment needs; the message says what. Nothing is stored."""


Row = Mapping[str, Cell]
Rows = Sequence[Any]  # to a report, which knows what its cells hold


@dataclasses.dataclass(frozen=True)
class Measured:
    """What was measured, before a word is said about it.

    Attributes:
        tables: Rows by the name of the table.
        values: Single numbers that do not follow from the tables.
        failures: What must not be, as far as the tables do not show it.
        configuration: Of the run, in JSON's types; known once it is stored.
    """

    tables: Mapping[str, Sequence[Row]] = dataclasses.field(default_factory=dict)
    values: Mapping[str, Cell] = dataclasses.field(default_factory=dict)
    failures: Sequence[str] = ()
    configuration: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Measured":
        """Read back what a result file holds."""
        held = stored["measured"]
        tables = {
            name: [{column: _number(cell) for column, cell in row.items()} for row in rows]
            for name, rows in held["tables"].items()
        }
        values = {name: _number(value) for name, value in held["values"].items()}
        return cls(tables, values, held["failures"], stored["manifest"]["configuration"])

    def described(
        self, columns: Mapping[str, Mapping[str, str]], *, hidden: Sequence[str] = ()
    ) -> dict[str, "Table"]:
        """The tables that have descriptions, in their order, each with those of its columns."""
        return {
            name: Table(columns[name], self.tables[name], shown=name not in hidden)
            for name in columns
            if name in self.tables
        }


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows under labelled columns.

    Attributes:
        columns: What each column holds, with its unit, by name.
        rows: One mapping a row; a missing column is an empty cell.
        shown: Whether people see it on the terminal; the file always has it.
    """

    columns: Mapping[str, str]
    rows: Sequence[Mapping[str, Cell]]
    shown: bool = True

    def __post_init__(self) -> None:
        for row in self.rows:
            unknown = row.keys() - self.columns.keys()
            if unknown:
                raise ValueError(f"a row has {sorted(unknown)}, which no column describes")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of one experiment.

    Attributes:
        tables: By name.
        values: Single numbers that a text may quote, by name.
        findings: Sentences for people: what holds, what was missed and what bounds it.
        notes: How it was measured.
        failures: What must not be; the command line then ends with exit code 1.
    """

    tables: Mapping[str, Table] = dataclasses.field(default_factory=dict)
    values: Mapping[str, Cell] = dataclasses.field(default_factory=dict)
    findings: Sequence[str] = ()
    notes: Sequence[str] = ()
    failures: Sequence[str] = ()

    def show(self, console: "Console") -> None:
        """Print for people."""
        for name, table in self.tables.items():
            if table.shown:
                _print_table(console, name, table)
        for title, lines in (("How it was measured", self.notes), ("Findings", self.findings)):
            if lines:
                console.print(f"\n{title}", style="bold")
                for line in lines:
                    console.print(f"- {line}", markup=False, highlight=False)


def sentences(text: str) -> list[str]:
    """The items of a text, each begun by "- " on a line of its own, without its line breaks."""
    return [" ".join(item.split()) for item in re.split(r"^ *- ", text, flags=re.MULTILINE)[1:]]


def _print_table(console: "Console", name: str, table: Table) -> None:
    # A GPU machine that only writes results may lack rich.
    from rich import box
    from rich.table import Table as RichTable

    rows = [[_text(row.get(column)) for column in table.columns] for row in table.rows]
    titles = [column.replace("_", " ") for column in table.columns]
    widths = [
        max(
            (len(w) for text in (title, *(row[i] for row in rows)) for w in text.split()), default=0
        )
        for i, title in enumerate(titles)
    ]
    numeric = [
        any(isinstance(row.get(column), (int, float)) for row in table.rows)
        for column in table.columns
    ]
    for part in _parts_that_fit(widths, console.width):
        printed = RichTable(
            title=name if part[-1] < 2 or part[1] == 1 else f"{name}, continued",
            box=box.SIMPLE_HEAD,
            title_justify="left",
            pad_edge=False,
            collapse_padding=True,
        )
        for i in part:
            if numeric[i]:
                printed.add_column(titles[i], justify="right", width=widths[i])
            else:
                printed.add_column(titles[i], overflow="fold", min_width=widths[i])
        for row in rows:
            printed.add_row(*(row[i] for i in part))
        console.print(printed)


def _number(cell: Cell) -> Cell:
    """JSON has no infinities: they are stored as words."""
    return float(cell) if cell in ("inf", "-inf", "nan") else cell


def _parts_that_fit(widths: Sequence[int], room: int) -> list[list[int]]:
    """Columns cut into tables that are not too wide, the first column in each."""
    parts = [[0]] if widths else []
    for i in range(1, len(widths)):
        # Two blanks between columns, one at either end.
        if len(parts[-1]) > 1 and sum(widths[k] + 2 for k in [*parts[-1], i]) > room:
            parts.append([0])
        parts[-1].append(i)
    return parts


def _text(cell: Cell) -> str:
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, float):
        tiny = cell != 0 and not 1e-3 <= abs(cell) < 1e5
        return f"{cell:.1e}" if tiny else f"{cell:.3g}" if abs(cell) < 100 else f"{cell:.0f}"
    return f"{cell:,}" if isinstance(cell, int) else cell

"""What an experiment hands back: labelled tables, single values, findings in words."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

Cell = str | int | float | bool | None


class NotMeasured(Exception):  # noqa: N818 - no error: it is the answer of this machine
    """This machine lacks what the experiment needs; the message says what. Nothing is stored."""


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

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Outcome":
        """Read back what the result file holds under "outcome"."""
        tables = {name: Table(**table) for name, table in stored["tables"].items()}
        lines = (stored[name] for name in ("findings", "notes"))
        return cls(tables, stored["values"], *lines, stored.get("failures", ()))

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

"""Writes generated/tables/*.tex: each table of the paper, from the rows of a result.

tables.toml declares them: result, table, columns (key, heading, format, and shorter words to be
shown for some values), rows to keep. A result that is not there gives a table that says "not
measured".

Examples:
  python -m paper.tables
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paper import _sources as sources

DECLARED = sources.FOLDER / "tables.toml"


def tabular(name: str, spec: Mapping[str, Any], *, results: Path | None = None) -> list[str]:
    """The lines of one table.

    Raises:
        SourceError: the result has no such table or column, or no row is left.
    """
    what = f"table {name} (result {spec['result']!r})"
    columns = spec["columns"]
    layout = spec.get("layout", "l" + "r" * (len(columns) - 1))
    heading = " & ".join(column["heading"] for column in columns) + r" \\"
    outcome = sources.outcome_or_none(spec["result"], results)
    if outcome is None:
        body = [rf"\multicolumn{{{len(columns)}}}{{c}}{{{sources.NOT_MEASURED}}} \\"]
    else:
        table = sources.pick(outcome.tables, spec["table"], what=what)
        for column in columns:
            sources.pick(table.columns, column["key"], what=what)
        rows = sources.rows_where(table, spec.get("where", {}), what=what)
        if not rows:
            raise sources.SourceError(f"{what}: no row has {spec.get('where')}")
        body = [
            " & ".join(_cell(row.get(c["key"]), c, what) for c in columns) + r" \\" for row in rows
        ]
    environment = ("tabularx", r"{\linewidth}") if "X" in layout else ("tabular", "")
    return [
        rf"\begin{{{environment[0]}}}{environment[1]}{{@{{}}{layout}@{{}}}}",
        r"\toprule",
        heading,
        r"\midrule",
        *body,
        r"\bottomrule",
        rf"\end{{{environment[0]}}}",
    ]


def _cell(value: Any, column: Mapping[str, Any], what: str) -> str:
    value = column.get("shown", {}).get(value, value)
    if value is None or value == "":
        return "--"
    return sources.as_latex(value, column.get("format", ""), what=f"{what}, {column['key']}")


def main() -> int:
    """Write the files; returns the exit code."""
    try:
        for name, spec in sources.declared(DECLARED).items():
            path = sources.GENERATED / "tables" / f"{name}.tex"
            sources.write(path, ["% by python -m paper.tables", *tabular(name, spec)])
    except sources.SourceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

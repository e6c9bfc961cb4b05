"""The figures of docs/scaling.md, from the result of `bench_out_of_core`.

``python -m experiments._scaling_page`` writes them anew after that experiment; a test compares.
"""

import re
from pathlib import Path

from experiments import _results
from experiments._outcome import Outcome
from vashista_theory import runs

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "scaling.md"
_PART = re.compile(r"(<!-- (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(page: str, result: Outcome) -> str:
    """The page with every part between markers written from the result.

    Raises:
        KeyError: for a marker that names no part.
    """
    parts = {"measured": _measured(result), "found": _found(result), "paper": _paper(result)}
    return _PART.sub(lambda found: f"{found[1]}{parts[found[2]]}\n{found[3]}", page)


def read_result() -> Outcome:
    """The committed result."""
    return _results.outcome("bench_out_of_core")


def _measured(result: Outcome) -> str:
    passes: dict[tuple[object, object], list[str]] = {}
    for row in result.tables["passes"].rows:
        passes.setdefault((row["cache"], row["workers"]), []).append(f"{row['seconds']:.1f}")
    rows = [
        (
            f"{row['cache']}, {row['workers']}",
            f"{row['seconds']:.1f} s",
            f"{' and '.join(passes[row['cache'], row['workers']])} s",
            str(row["solves"]),
            f"{row['peak_mib']:.0f} MiB",
        )
        for row in result.tables["runs"].rows
    ]
    heads = ("page cache, workers", "projection", "passes", "solves", "peak anonymous memory")
    return _table(heads, rows)


def _found(result: Outcome) -> str:
    load = result.values["load_average"]
    said = [*result.findings, f"Load average at the end: {load:.1f}."]
    return "\n".join(f"- {sentence}" for sentence in said)


def _paper(result: Outcome) -> str:
    rows = [
        (
            str(row["workers"]),
            f"{row['passes']:.2f}",
            str(row["solves"]),
            f"{row['pass_memory']:.3g} s, {row['pass_disk']:.3g} s",
            f"{row['total_memory']:.3g} s, {row['total_disk']:.3g} s",
        )
        for row in result.tables["scaling, on paper"].rows
    ]
    both = "in memory, from disk"
    return _table(("workers", "passes", "solves", f"a pass: {both}", f"all: {both}"), rows)


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    runs.write_atomically(PAGE, filled(PAGE.read_text(encoding="utf-8"), read_result()))

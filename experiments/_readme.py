"""The generated parts of README.md and of pages in docs/.

``python -m experiments._readme`` writes them anew from the committed results; a test compares.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from experiments import _registry, _results, _update
from experiments._outcome import Outcome

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/verdicts.md", "docs/experiments.md", "docs/supported_models.md")
_PART = re.compile(r"(<!-- (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(page: str) -> str:
    """The page with every part between markers written from the committed results.

    Raises:
        KeyError: for a marker that names no part.
    """
    return _PART.sub(lambda found: f"{found[1]}\n{_PARTS[found[2]]()}\n\n{found[3]}", page)


def verdict_table(verdicts: Outcome) -> str:
    """Claim, statement, module, experiment, verdict."""
    heads = ("claim", "statement", "module", "experiment", "verdict")
    rows = [
        (
            row["sentence"],
            row["statement"],
            _code(row["module"]),
            _code(row["experiment"]),
            f"**{row['verdict']}**",
        )
        for row in verdicts.tables["verdicts"].rows
    ]
    return _table(heads, rows)


def evidence(verdicts: Outcome) -> str:
    """Each claim with its verdict and the numbers that decide it."""
    return "\n\n".join(
        f"**{row['sentence']}**: {row['verdict']}. {row['evidence']} "
        f"(`python -m experiments {str(row['experiment']).partition(',')[0]}`)"
        for row in verdicts.tables["verdicts"].rows
    )


def experiment_table() -> str:
    """Every experiment with its question, the time it took, and where."""
    rows = []
    for name in _registry.names():
        stored = _results.read(_results.path_of(name))
        made: Mapping[str, object] = stored["manifest"] if stored else {}
        where = f"{made['cpu']}, JAX {made['versions']['jax']}" if made else "not measured"
        took = _time(float(made["duration"])) if made else ""
        rows.append(
            (f"`{name}`", _registry.claim(name), took, where, _update.BY_HAND.get(name, ""))
        )
    return _table(("experiment", "question", "took", "machine", "left to you because"), rows)


def model_table() -> str:
    """Every family of language models, what became of it in each release, and the counts."""
    result = _results.outcome("supported_models")
    rows = result.tables["families"].rows
    releases = list(dict.fromkeys(str(row["release"]) for row in rows))
    cells = {(row["family"], row["release"]): _what_became(row) for row in rows}
    families = sorted({str(row["family"]) for row in rows})
    table = _table(
        ("model type", *(f"transformers {release}" for release in releases)),
        [
            (f"`{family}`", *(cells.get((family, release), "—") for release in releases))
            for family in families
        ],
    )
    said = "\n".join(f"- {sentence}" for sentence in (*result.findings, *result.notes))
    return f"{said}\n\n{table}"


def _what_became(row: Mapping[str, object]) -> str:
    words = re.sub(r"\bhttps?://\S+", "", str(row["words"])).replace("<", "‹").replace(">", "›")
    if row["outcome"] == "exact":
        return "**exact**"
    if row["outcome"] == "exact in part":
        ways, _, reason = words.partition(": ")
        return f"**exact**, but {ways} **refused**: {reason}"
    return f"**{row['outcome']}**: {words}"


def _verdicts() -> Outcome:
    return _results.outcome("verdicts")


_PARTS: Mapping[str, Callable[[], str]] = {
    "verdicts": lambda: f"{_verdicts().findings[0]}\n\n{verdict_table(_verdicts())}",
    "evidence": lambda: evidence(_verdicts()),
    "experiments": experiment_table,
    "supported_models": model_table,
}


def _code(names: object) -> str:
    return ", ".join("—" if name == "—" else f"`{name}`" for name in str(names).split(", "))


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _table(heads: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return "\n".join(
        f"| {' | '.join(str(cell).replace('|', '∣') for cell in line)} |" for line in lines
    )


if __name__ == "__main__":
    for page in PAGES:
        path = ROOT / page
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")

"""The parts of README.md and of pages in docs/ that are written from the committed results.

``python -m experiments.framework.pages`` writes them anew; a test compares.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from experiments.framework import registry, results
from experiments.framework.outcome import Outcome
from vashista_theory import runs

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    "README.md",
    "docs/verdicts.md",
    "docs/experiments.md",
    "docs/scaling.md",
    "docs/supported_models.md",
    "docs/peers.md",
)
# The README's five lines: sentences of the verdicts, each in words that stand alone.
HEADLINES = {
    "Mass off the face falls like exp(−Ω(Δ/ε))": "Weight off the face falls at the gap's rate",
    "Real heads run in the regime of the theorem": "Real heads run in the theorem's regime",
    "… as the gap Δ̂ and the certificate of the mechanism": "A proof says when a read is safe",
    "Minimal loss of quality: predictions, by drawn tokens": (
        "Drawn tokens keep a language model's predictions"
    ),
    "Strong wall-clock speed-ups: a decode step on CPU": "A decode step is faster on a CPU",
}
_PART = re.compile(r"(<!-- (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(page: str) -> str:
    """The page with every part between markers written from the committed results.

    Raises:
        KeyError: for a marker that names no part.
    """
    return _PART.sub(lambda found: f"{found[1]}\n{_PARTS[found[2]]()}\n\n{found[3]}", page)


def verdict_table(verdicts: Outcome) -> str:
    """Claim, verdict, statement, experiment, module."""
    heads = ("claim", "verdict", "statement", "experiment", "module")
    rows = [
        (
            row["sentence"],
            f"**{row['verdict']}**",
            row["statement"],
            _code(row["experiment"]),
            _code(row["module"]),
        )
        for row in verdicts.tables["verdicts"].rows
    ]
    return _table(heads, rows)


def headlines(verdicts: Outcome) -> str:
    """How many claims became what, and five of them.

    Raises:
        KeyError: a headline is of a sentence that no claim has.
    """
    judged = {str(row["sentence"]): row["verdict"] for row in verdicts.tables["verdicts"].rows}
    lines = [f"- {said}: **{judged[sentence]}**." for sentence, said in HEADLINES.items()]
    return "\n".join([verdicts.findings[0], "", *lines])


def evidence(verdicts: Outcome) -> str:
    """Each claim with its verdict and the numbers that decide it."""
    return "\n\n".join(
        f"**{row['sentence']}**: {row['verdict']}. {row['evidence']} "
        f"{_sensitivity(str(row['sensitivity']))}"
        f"(`python -m experiments {str(row['experiment']).partition(',')[0]}`)"
        for row in verdicts.tables["verdicts"].rows
    )


def _sensitivity(said: str) -> str:
    return f"Thresholds: {said}. " if said else ""


def experiment_table() -> str:
    """Every experiment with its question, the time it took, and where."""
    rows = []
    for name in registry.names():
        stored = results.read(results.path_of(name))
        made: Mapping[str, object] = stored["manifest"] if stored else {}
        where = f"{made['cpu']}, JAX {made['versions']['jax']}" if made else "not measured"
        seconds = float(made["duration"]) if made else 0.0
        took = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
        rows.append(
            (
                f"`{name}`",
                registry.claim(name),
                took if made else "",
                where,
                registry.left_to_people(name),
            )
        )
    return _table(("experiment", "question", "took", "machine", "left to you because"), rows)


def _scaling_measured(result: Outcome) -> str:
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


def _scaling_found(result: Outcome) -> str:
    load = result.values["load_average"]
    said = [*result.findings, f"Load average at the end: {load:.1f}."]
    return "\n".join(f"- {sentence}" for sentence in said)


def _scaling_on_paper(result: Outcome) -> str:
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


def model_table() -> str:
    """Every family of language models, what became of it in each release, and the counts."""
    try:
        result = results.outcome("supported_models")
    except FileNotFoundError:
        return "Not measured yet: `python -m experiments supported_models` makes the table."
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


def peer_table() -> str:
    """Every read beside dense attention, and where a press wins."""
    try:
        result = results.outcome("peers")
    except FileNotFoundError:
        return "Not measured yet: `python -m experiments peers` makes the table."
    said = "\n".join(f"- {sentence}" for sentence in (*result.findings, *result.notes))
    rows = [
        (
            f"{row['context']:,}",
            row["read"],
            str(row["budget"] or "all"),
            row["chooses"],
            f"{row['exact']:.0%}",
            f"{row['chosen']:.0%}",
            f"{row['difference']:+.0%} ({_ends(row)})",
            f"{row['divergence']:.2g}",
            f"{row['tokens']:.0f}",
            f"{row['bytes'] / 1024:.0f}",
            f"{row['held'] / 1024:.0f}",
        )
        for row in result.tables["answers"].rows
        if row["prompts"]
    ]
    heads = (
        "context", "read", "tokens", "chooses", "exact", "by choice", "exact, less dense (95 %)",
        "KL, nats", "read a step", "KiB a step", "KiB held",
    )  # fmt: skip
    return f"{said}\n\n{_table(heads, rows)}"


def _ends(row: Mapping[str, float]) -> str:
    return f"{row['difference_low']:+.0%} to {row['difference_high']:+.0%}"


def _verdicts() -> Outcome:
    return results.outcome("verdicts")


_PARTS: Mapping[str, Callable[[], str]] = {
    "headlines": lambda: headlines(_verdicts()),
    "verdicts": lambda: f"{_verdicts().findings[0]}\n\n{verdict_table(_verdicts())}",
    "evidence": lambda: evidence(_verdicts()),
    "experiments": experiment_table,
    "supported_models": model_table,
    "peers": peer_table,
    "measured": lambda: _scaling_measured(results.outcome("bench_out_of_core")),
    "found": lambda: _scaling_found(results.outcome("bench_out_of_core")),
    "paper": lambda: _scaling_on_paper(results.outcome("bench_out_of_core")),
}


def _code(names: object) -> str:
    return ", ".join("—" if name == "—" else f"`{name}`" for name in str(names).split(", "))


def _table(heads: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return "\n".join(
        f"| {' | '.join(str(cell).replace('|', '∣') for cell in line)} |" for line in lines
    )


if __name__ == "__main__":
    for page in PAGES:
        path = ROOT / page
        runs.write_atomically(path, filled(path.read_text(encoding="utf-8")))

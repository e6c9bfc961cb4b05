"""The end of an evaluation: tables for people, JSON for programs."""

import dataclasses
import json
import math

import xarray as xr
from rich import box
from rich.console import Console
from rich.table import Table

from vashista_theory._words import count
from vashista_theory.evaluation import plan
from vashista_theory.evaluation.policies import CONTROL
from vashista_theory.evaluation.summary import (
    CertificateRow,
    PerplexityRow,
    RetrievalRow,
    certificate_rows,
    perplexity_rows,
    retrieval_rows,
)
from vashista_theory.runs import canonical

_WIDTH = 128
_TASKS = 3  # side by side


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What an evaluation found; empty where nothing was asked for."""

    perplexity: tuple[PerplexityRow, ...] = ()
    retrieval: tuple[RetrievalRow, ...] = ()
    certificates: tuple[CertificateRow, ...] = ()

    @property
    def violations(self) -> int:
        """Query–head pairs whose true dropped mass exceeds its bound."""
        return sum(row.violations for row in self.certificates)

    @property
    def exit_code(self) -> int:
        """0, or 1 if a bound was violated."""
        return 1 if self.violations else 0


def summarise(datasets: dict[str, xr.Dataset]) -> Report:
    """Reduce datasets to their report."""
    found: dict[str, tuple[object, ...]] = {}
    if plan.PERPLEXITY in datasets:
        found["perplexity"] = perplexity_rows(datasets[plan.PERPLEXITY])
    if plan.RETRIEVAL in datasets:
        found["retrieval"] = retrieval_rows(datasets[plan.RETRIEVAL])
    if plan.CERTIFICATES in datasets:
        found["certificates"] = certificate_rows(datasets[plan.CERTIFICATES])
    return Report(**found)  # pyright: ignore[reportArgumentType]


def as_json(report: Report, datasets: dict[str, xr.Dataset]) -> str:
    """The report with each run's attributes, as indented JSON."""
    runs = {name: {k: str(v) for k, v in data.attrs.items()} for name, data in datasets.items()}
    found = canonical(report)
    assert isinstance(found, dict)
    content = {"runs": runs, **found, "exit_code": report.exit_code}
    return json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)


def show(report: Report, console: Console) -> None:
    """Print the tables and what has to be known to read them."""
    console.width = max(console.width, _WIDTH)
    for text, context in dict.fromkeys((r.text, r.context) for r in report.perplexity):
        rows = [r for r in report.perplexity if (r.text, r.context) == (text, context)]
        console.print(_perplexity(rows))
    for context in dict.fromkeys(row.context for row in report.retrieval):
        here = [row for row in report.retrieval if row.context == context]
        tasks = list(dict.fromkeys(_name(row) for row in here))
        for first in range(0, len(tasks), _TASKS):
            shown = tasks[first : first + _TASKS]
            console.print(_retrieval([row for row in here if _name(row) in shown]))
    if report.certificates:
        console.print(_certificates(report.certificates))
    for note in _notes(report):
        console.print(note, markup=False, highlight=False)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if index else "left", no_wrap=True)
    return table


def _perplexity(rows: list[PerplexityRow]) -> Table:
    first = rows[0]
    table = _table(
        f"{first.text}, {first.context:,} tokens ({first.pages} pages), "
        f"{count(first.positions, 'position')} predicted",
        *("policy", "pages (½, 90 %)", "perplexity", "change [95 %]"),
        *("KL, nats", "agrees", "dropped", "error"),
    )
    for row in rows:
        low, high = row.interval
        dense = row.policy == "dense"
        table.add_row(
            row.policy + (" (control)" if row.policy.startswith(CONTROL) else ""),
            f"{row.pages_read:.1f} ({row.pages_median:.0f}, {row.pages_high:.0f})",
            f"{row.perplexity:.2f}",
            "–" if dense else f"{row.change:+.1%} [{low:+.1%} {high:+.1%}]",
            _digits(row.divergence),
            f"{row.agreement:.1%}",
            _digits(row.dropped),
            _digits(row.error),
        )
    return table


def _digits(value: float) -> str:
    """Three significant digits, however small; 0 only for nothing."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.2e}" if abs(value) < 1e-3 else f"{value:#.3g}"


def _retrieval(rows: list[RetrievalRow]) -> Table:
    tasks = list(dict.fromkeys(_name(row) for row in rows))
    counted = {_name(row): row.counts for row in rows}
    names = [name if counted[name] else f"({name})" for name in tasks]
    table = _table(
        f"Retrieval at {rows[0].context:,} tokens, prompts in the last row: exact [95 %]"
        + (" · chosen among five" if rows[0].chosen is not None else ""),
        *("policy", "pages", *names),
    )
    for policy in dict.fromkeys(row.policy for row in rows):
        mine = {_name(row): row for row in rows if row.policy == policy}
        pages = sum(row.pages_read for row in mine.values()) / len(mine)
        table.add_row(policy, f"{pages:.1f}", *(_share(mine[task]) for task in tasks))
    prompts = {_name(row): row.prompts for row in rows}
    table.add_row("prompts", "", *(str(prompts[task]) for task in tasks))
    return table


def _name(row: RetrievalRow) -> str:
    return f"{row.task}, {row.reach}" if row.reach else row.task


def _share(row: RetrievalRow) -> str:
    low, high = row.exact_interval
    chosen = "" if row.chosen is None else f" · {row.chosen:.0%}"
    return f"{row.exact:.0%} [{100 * low:.0f}–{high:.0%}]{chosen}"


def _certificates(rows: tuple[CertificateRow, ...]) -> Table:
    table = _table(
        "Certificates against the truth, on recorded queries, in float64",
        *("context", "tolerance", "query–heads", "bound violated", "certified"),
        *("true mass", "bound", "pages, median", "90 %", "of", "read all"),
    )
    for row in rows:
        table.add_row(
            f"{row.context:,}",
            f"{row.tolerance:.0%}",
            f"{row.queries:,}",
            str(row.violations),
            f"{row.certified:.2%}",
            _digits(row.dropped),
            _digits(row.bound),
            f"{row.pages_median:.0f}",
            f"{row.pages_high:.0f}",
            str(row.pages),
            f"{row.read_all:.1%}",
        )
    return table


def _notes(report: Report) -> list[str]:
    notes: list[str] = []
    if report.perplexity:
        notes.append(
            "The prefix is read densely; over the predicted positions every step, layer and hidden "
            "state is that of sparse decoding.\nPerplexity hardly sees long context: a policy is "
            f"better than a window only as far as it beats {CONTROL}. dropped: true mass left out; "
            "error: of the attention output, relative."
        )
    if report.perplexity or report.retrieval:
        notes.append(
            "name@16: 16 pages of 16 tokens for each kv head and step, the last one partial; the "
            "bytes of summaries that policies judge pages by are not counted."
        )
    weak = dict.fromkeys(
        f"{_name(row)} at {row.context:,}" for row in report.retrieval if not row.counts
    )
    if weak:
        by_choice = any(row.chosen is not None for row in report.retrieval)
        notes.append(
            f"In brackets, does not count (dense gives less than 80 % exact"
            f"{' and 90 % by choice' if by_choice else ''}): {', '.join(weak)}."
        )
    if report.certificates:
        pairs = sum(row.queries for row in report.certificates)
        said = count(report.violations, "time") if report.violations else "never"
        notes.append(
            f"The true dropped mass was {said} above its bound, over {count(pairs, 'pair')}."
        )
    return notes

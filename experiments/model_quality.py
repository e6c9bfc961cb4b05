"""What sparse reading does to a real language model: its predictions, its retrieval, its proofs.

Dense attention, oracles, floors and the routers at equal pages, over texts and retrieval tasks, by
length of the context; and certificates counted against the true dropped mass. Needs the extra lm;
the model and two of the texts are fetched by package. Hours for the default, and resumable: a run
that was stopped goes on from the store.

Examples:
  python -m experiments model_quality
  python -m experiments model_quality --contexts 2048 --prompts 10
"""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.framework.outcome import NotMeasured, Outcome, Table
from vashista_theory import evaluation
from vashista_theory.evaluation import report, tasks
from vashista_theory.evaluation.summary import CertificateRow, PerplexityRow, RetrievalRow

_CONTROL = "sink-recent"
_COLUMNS = {
    "text": "name",
    "task": "name; in the style of RULER, made from seeds",
    "reach": "near: the answer lies within 6,144 tokens; far: beyond, lost even dense",
    "context": "tokens",
    "policy": "with its pages of 16 tokens, for each kv head and step",
    "positions": "predicted tokens",
    "pages_read": "mean over layers, kv heads and steps",
    "pages_median": "median",
    "pages_high": "90th percentile",
    "pages": "of the context",
    "perplexity": "e to the mean surprise",
    "change": "of the perplexity, relative to dense",
    "interval": "95 % of that change, bootstrap over runs of 32 positions",
    "divergence": "mean KL(dense ‖ policy), nats",
    "agreement": "share of positions with dense's most likely token",
    "dropped": "mean true dropped mass",
    "dropped_beyond_first": "the same among all tokens but the first",
    "error": "mean relative error of the attention output",
    "certified": "share proven within the tolerance",
    "prompts": "how many",
    "exact": "share of exact answers",
    "exact_interval": "Wilson, 95 %",
    "chosen": "share of prompts whose answer beats every distractor",
    "chosen_interval": "Wilson, 95 %",
    "token_accuracy": "mean share of the answer's tokens that are the most likely",
    "log_probability": "of the answer, mean, nats",
    "counts": "whether dense solves the task at this length: 80 % exact or 90 % by choice",
    "tolerance": "dropped mass allowed",
    "queries": "pairs of query and head",
    "violations": "of them, true dropped mass above the bound",
    "read_all": "share that read every page",
    "bound": "mean bound on the dropped mass",
}


@dataclass(frozen=True)
class Config:
    """What to measure.

    Attributes:
        model: A packaged name, a GGUF file, a Hugging Face folder or a hub id.
        text: Names or files.
        contexts: Lengths, in tokens.
        pages: Pages of 16 tokens for policies of a fixed number, over texts.
        segments: Stretches of each text.
        positions: Last positions of a stretch, predicted under each policy.
        tasks: Retrieval tasks; none for none.
        prompts: Prompts a task and length.
        prompt_pages: As pages, over prompts.
        audited: Last positions of a stretch whose certificates are counted.
        workers: Processes that share the work, each on one thread; none for this one.
        store: Folder of what is measured already; a run that was stopped goes on from it.
        quick: One text at 512 tokens, one task of two prompts, three policies.
    """

    model: str = "smollm2-135m"
    text: tuple[str, ...] = ("pydoc-topics", "moby-dick", "sotu")
    contexts: tuple[int, ...] = (2048, 4096, 8192)
    pages: tuple[int, ...] = (16, 64)
    segments: int = 1
    positions: int = 256
    tasks: tuple[str, ...] = tuple(tasks.tasks())
    prompts: int = 6
    prompt_pages: tuple[int, ...] = (16,)
    audited: int = 32
    workers: int | None = None
    store: Path = Path("vashista_quality")
    quick: bool = False

    def asked(self) -> dict[str, evaluation.EvaluationConfig]:
        """As `python -m vashista_theory.evaluation` takes it: texts, then prompts by length.

        Each has a store of its own, so that another length leaves the rest as it is.
        """
        small: dict[str, Any] = {}
        contexts, texts, wanted = self.contexts, self.text, self.tasks
        if self.quick:
            contexts, texts, wanted = (512,), self.text[:1], ("needle-noise",)
            small = {"pages": (8,), "positions": 32, "prompts": 2, "audited": 2}
            small["policy"] = ("dense", "budget", "boxes")
        common = {"model": self.model, "workers": self.workers, "segments": self.segments}
        common |= {"positions": self.positions, "audited": self.audited, "prompts": self.prompts}
        parts: dict[str, dict[str, Any]] = {}
        if texts:
            parts["texts"] = {"text": texts, "tasks": (), "contexts": contexts, "pages": self.pages}
        if wanted:
            for context in contexts:
                part = {"text": (), "tasks": wanted, "contexts": (context,)}
                parts[f"prompts at {context}"] = part | {"pages": self.prompt_pages}
        place = self.store / ("quick" if self.quick else "full")
        return {
            name: evaluation.EvaluationConfig(
                output=place / name.replace(" ", "-"), **(common | part | small)
            )
            for name, part in parts.items()
        }


def run(config: Config) -> Outcome:
    """Evaluate what is missing, then put the tables into words."""
    try:
        found = [report.summarise(evaluation.run(asked)) for asked in config.asked().values()]
    except ImportError as error:
        raise NotMeasured(str(error)) from None
    return outcome(
        report.Report(
            perplexity=tuple(row for one in found for row in one.perplexity),
            retrieval=tuple(row for one in found for row in one.retrieval),
            certificates=tuple(row for one in found for row in one.certificates),
        ),
        config.model,
    )


def outcome(found: report.Report, model: str) -> Outcome:
    """Tables, values and findings of a report."""
    violations = sum(row.violations for row in found.certificates)
    tables = {
        "perplexity": _table(PerplexityRow, found.perplexity),
        "retrieval": _table(RetrievalRow, found.retrieval),
        "certificates": _table(CertificateRow, found.certificates),
    }
    values, said = _of_predictions(found.perplexity)
    more = _of_retrieval(found.retrieval), _of_certificates(found.certificates)
    for further, sentences in more:
        values |= further
        said += sentences
    return Outcome(
        tables={name: table for name, table in tables.items() if table.rows},
        values=values,
        findings=said,
        notes=_notes(found, model),
        failures=[f"{violations} true dropped masses above their bound"] if violations else [],
    )


def _notes(found: report.Report, model: str) -> list[str]:
    notes = [f"{model} in float32."]
    if found.perplexity or found.retrieval:
        notes += [
            (
                "The prefix is read densely; over the predicted positions every step, layer and "
                "hidden state is that of sparse decoding."
            ),
            "Bytes of the summaries that policies judge pages by are not counted in the pages.",
        ]
    if found.perplexity:
        notes.append(
            "Perplexity hardly sees long context: a policy is better than a window only as far as "
            f"it beats {_CONTROL}, the first page and the last ones."
        )
    if found.certificates:
        notes.append("Certificates: 4-bit keys; queries, keys and values recorded, then float64.")
    return notes


def _table(kind: type, rows: Iterable[Any]) -> Table:
    names = [field.name for field in dataclasses.fields(kind)]
    cells = [
        {
            name: " to ".join(f"{end:.4g}" for end in value) if isinstance(value, tuple) else value
            for name in names
            for value in (getattr(row, name),)
        }
        for row in rows
    ]
    return Table({name: _COLUMNS[name] for name in names}, cells)


Said = tuple[dict[str, Any], list[str]]


def _of_predictions(rows: Iterable[PerplexityRow]) -> Said:
    """Divergence and change of perplexity by policy, averaged over texts."""
    values: dict[str, Any] = {}
    said: list[str] = []
    grouped: dict[int, dict[str, list[PerplexityRow]]] = {}
    for row in rows:
        grouped.setdefault(row.context, {}).setdefault(row.policy, []).append(row)
    for context, policies in sorted(grouped.items()):
        parts = []
        for policy, of_texts in policies.items():
            if policy == "dense":
                continue
            mean = {
                name: sum(getattr(row, name) for row in of_texts) / len(of_texts)
                for name in ("divergence", "change", "agreement", "pages_read")
            }
            values |= {f"{name}_{policy}_{context}": value for name, value in mean.items()}
            parts.append((mean["divergence"], f"{policy} {mean['divergence']:.3g}"))
        said.append(
            f"KL from dense at {context:,} tokens, nats, mean over texts, best first: "
            f"{', '.join(text for _, text in sorted(parts))}."
        )
    return values, said


def _of_retrieval(rows: Iterable[RetrievalRow]) -> Said:
    """Exact answers over the tasks that count, by policy."""
    values: dict[str, Any] = {}
    said: list[str] = []
    grouped: dict[int, dict[str, list[RetrievalRow]]] = {}
    for row in rows:
        if row.counts:
            grouped.setdefault(row.context, {}).setdefault(row.policy, []).append(row)
    for context, policies in sorted(grouped.items()):
        shares: list[tuple[float, str]] = []
        for policy, of_tasks in policies.items():
            total = sum(row.prompts for row in of_tasks)
            share = sum(row.exact * row.prompts for row in of_tasks) / total
            values[f"exact_{policy}_{context}"] = share
            shares.append((-share, f"{policy} {share:.0%}"))
        names = {f"{row.task} {row.reach}".strip() for of in policies.values() for row in of}
        said.append(
            f"Exact answers at {context:,} tokens over the tasks that count "
            f"({', '.join(sorted(names))}): {', '.join(text for _, text in sorted(shares))}."
        )
    return values, said


def _of_certificates(rows: Iterable[CertificateRow]) -> Said:
    """Violations over everything, and what proofs make one read by length."""
    rows = list(rows)
    if not rows:
        return {}, []
    pairs, violations = sum(r.queries for r in rows), sum(r.violations for r in rows)
    values: dict[str, Any] = {"certified_pairs": pairs, "certificate_violations": violations}
    said = [
        (
            f"True dropped mass above its bound: {violations} of {pairs:,} pairs of query and head "
            "(aim 0 of at least 100,000)."
        )
    ]
    by_tolerance: Mapping[float, list[CertificateRow]] = {
        t: [r for r in rows if r.tolerance == t] for t in sorted({r.tolerance for r in rows})
    }
    for tolerance, of_length in by_tolerance.items():
        parts = []
        for row in sorted(of_length, key=lambda r: r.context):
            key = f"{100 * tolerance:g}_{row.context}"
            values[f"certified_share_{key}"] = row.certified
            values[f"certified_pages_{key}"] = row.pages_median
            values[f"certified_high_{key}"] = row.pages_high
            parts.append(
                f"{row.context:,}: {row.pages_median:.0f} and {row.pages_high:.0f} of {row.pages}"
            )
        said.append(
            f"Pages read to prove {tolerance:.0%}, median and 90th percentile, by length: "
            f"{'; '.join(parts)}."
        )
    return values, said

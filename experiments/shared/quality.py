"""What an evaluation of a language model says: predictions, retrieval, certificates."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from experiments.framework.outcome import Measured, Outcome, Rows, Table
from vashista_theory.evaluation.report import Report

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


def measured(found: Report) -> Measured:
    """The rows of an evaluation, by what they are of."""
    parts = ("perplexity", "retrieval", "certificates")
    tables = {part: list(map(dataclasses.asdict, getattr(found, part))) for part in parts}
    return Measured({part: rows for part, rows in tables.items() if rows})


def report(found: Measured) -> Outcome:
    """Tables, values and findings."""
    tables = found.tables
    violations = sum(row["violations"] for row in tables.get("certificates", ()))
    values: dict[str, Any] = {}
    said: list[str] = []
    for name, describe in _PARTS.items():
        more, sentences = describe(tables.get(name, ()))
        values |= more
        said += sentences
    return Outcome(
        tables={name: _table(tables[name]) for name in _PARTS if name in tables},
        values=values,
        findings=said,
        notes=_notes(found),
        failures=[f"{violations} true dropped masses above their bound"] if violations else [],
    )


def _notes(found: Measured) -> list[str]:
    notes = [f"{found.configuration['model']} in float32."]
    if {"perplexity", "retrieval"} & found.tables.keys():
        notes += [
            (
                "The prefix is read densely; over the predicted positions every step, layer and "
                "hidden state is that of sparse decoding."
            ),
            "Bytes of the summaries that policies judge pages by are not counted in the pages.",
        ]
    if "perplexity" in found.tables:
        notes.append(
            "Perplexity hardly sees long context: a policy is better than a window only as far as "
            f"it beats {_CONTROL}, the first page and the last ones."
        )
    if "certificates" in found.tables:
        notes.append("Certificates: 4-bit keys; queries, keys and values recorded, then float64.")
    return notes


def _table(rows: Rows) -> Table:
    cells = [
        {
            name: " to ".join(f"{end:.4g}" for end in value) if name.endswith("interval") else value
            for name, value in row.items()
        }
        for row in rows
    ]
    return Table({name: _COLUMNS[name] for name in rows[0]}, cells)


Said = tuple[dict[str, Any], list[str]]


def _of_predictions(rows: Rows) -> Said:
    """Divergence and change of perplexity by policy, averaged over texts."""
    values: dict[str, Any] = {}
    said: list[str] = []
    grouped: dict[int, dict[str, list[Any]]] = {}
    for row in rows:
        grouped.setdefault(row["context"], {}).setdefault(row["policy"], []).append(row)
    for context, policies in sorted(grouped.items()):
        parts = []
        for policy, of_texts in policies.items():
            if policy == "dense":
                continue
            mean = {
                name: sum(row[name] for row in of_texts) / len(of_texts)
                for name in ("divergence", "change", "agreement", "pages_read")
            }
            values |= {f"{name}_{policy}_{context}": value for name, value in mean.items()}
            parts.append((mean["divergence"], f"{policy} {mean['divergence']:.3g}"))
        said.append(
            f"KL from dense at {context:,} tokens, nats, mean over texts, best first: "
            f"{', '.join(text for _, text in sorted(parts))}."
        )
    return values, said


def _of_retrieval(rows: Rows) -> Said:
    """Exact answers over the tasks that count, by policy."""
    values: dict[str, Any] = {}
    said: list[str] = []
    grouped: dict[int, dict[str, list[Any]]] = {}
    for row in rows:
        if row["counts"]:
            grouped.setdefault(row["context"], {}).setdefault(row["policy"], []).append(row)
    for context, policies in sorted(grouped.items()):
        shares: list[tuple[float, str]] = []
        for policy, of_tasks in policies.items():
            total = sum(row["prompts"] for row in of_tasks)
            share = sum(row["exact"] * row["prompts"] for row in of_tasks) / total
            values[f"exact_{policy}_{context}"] = share
            shares.append((-share, f"{policy} {share:.0%}"))
        names = {f"{row['task']} {row['reach']}".strip() for of in policies.values() for row in of}
        said.append(
            f"Exact answers at {context:,} tokens over the tasks that count "
            f"({', '.join(sorted(names))}): {', '.join(text for _, text in sorted(shares))}."
        )
    return values, said


def _of_certificates(rows: Rows) -> Said:
    """Violations over everything, and what proofs make one read by length."""
    if not rows:
        return {}, []
    pairs, violations = sum(r["queries"] for r in rows), sum(r["violations"] for r in rows)
    values: dict[str, Any] = {"certified_pairs": pairs, "certificate_violations": violations}
    said = [
        (
            f"True dropped mass above its bound: {violations} of {pairs:,} pairs of query and head "
            "(aim 0 of at least 100,000)."
        )
    ]
    by_tolerance: Mapping[float, list[Any]] = {
        t: [r for r in rows if r["tolerance"] == t] for t in sorted({r["tolerance"] for r in rows})
    }
    for tolerance, of_length in by_tolerance.items():
        parts = []
        for row in sorted(of_length, key=lambda r: r["context"]):
            key = f"{100 * tolerance:g}_{row['context']}"
            values[f"certified_share_{key}"] = row["certified"]
            values[f"certified_pages_{key}"] = row["pages_median"]
            values[f"certified_high_{key}"] = row["pages_high"]
            parts.append(
                f"{row['context']:,}: {row['pages_median']:.0f} and {row['pages_high']:.0f} of "
                f"{row['pages']}"
            )
        said.append(
            f"Pages read to prove {tolerance:.0%}, median and 90th percentile, by length: "
            f"{'; '.join(parts)}."
        )
    return values, said


_PARTS = {
    "perplexity": _of_predictions,
    "retrieval": _of_retrieval,
    "certificates": _of_certificates,
}

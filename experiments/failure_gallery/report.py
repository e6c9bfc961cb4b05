"""What `failure_gallery` says: columns, values, sentences."""

from typing import Any

from experiments.failure_gallery.cases import DIAGNOSTICS, TOKENS, D
from experiments.framework.outcome import Measured, Outcome, Rows, sentences

Reads = dict[tuple[str, str], Any]

COLUMNS = {
    "cases": {
        "case": "what it is",
        "why": "what it shows",
        "outcome": "member of Result that face_stability reports",
        "face": "|F|, keys",
        "gap": "Δ, squared length; empty if there is none or it is infinite",
        "gap_kind": "finite, infinite (all keys on the face) or none (query in the hull)",
        "residual": "‖r*‖",
    },
    "leakage": {
        "case": "as above",
        "epsilon": "temperature ε, squared length; the model's is √d",
        "gap_ratio": "Δ/ε",
        "log_leakage": "log of the mass off the face, nats; empty where nothing is off it",
        "log_bound": "its bound; 0 says nothing",
    },
    "reads": {
        "case": "as above",
        "policy": "of the read",
        "share_read": "pages read over all",
        "dropped": "true dropped mass",
        "bound": "proven bound on it; empty where no proof was asked for",
        "estimate": "estimated dropped mass",
        "mechanism_gap": "Δ̂, best score read less the best bound of an unread page",
        "certified": "whether the tolerance was proven",
        "error": "relative error of the output",
        "error_bound": "proven bound on it",
    },
    "diagnostics": {
        "case": "as above",
        "diagnostic": "what is asked before the output is used",
        "dropped": "true dropped mass of the read of a fixed number of pages",
        "error": "its relative error",
        "safe": "whether that is within the tolerance",
        "trusts": "whether the diagnostic says so",
        "verdict": "rightly trusted, rightly warned, false alarm or missed",
    },
}


def report(found: Measured) -> Outcome:
    """What fails, and which diagnostic saw it."""
    reads, warnings = found.tables["reads"], found.tables["diagnostics"]
    pages, tolerance = (found.configuration[name] for name in ("pages", "tolerance"))
    values, said = findings(reads, warnings, tolerance)
    trusted = [
        f"{row['case']}: the proven bound trusts a read that dropped {row['dropped']:.3f}"
        for row in warnings
        if row["diagnostic"] == "proven bound" and row["verdict"] == "missed"
    ]
    return Outcome(
        tables=found.described(COLUMNS),
        values=values,
        findings=said,
        notes=sentences(
            f"""- {TOKENS:,} tokens in pages of 16, head size {D}, scale 1/√{D}, float64; summaries
              in bfloat16, sketches of 4 bits. Relative errors are over the length of the dense
              output.
            - A read of {pages} pages is unsafe where its true dropped mass exceeds {tolerance:.0%}.
              Trust is: for Δ/ε above log n; for the leakage bound, the estimate and the proven
              bound at most the tolerance; for Δ̂ above 0. With no gap to speak of (query in the
              hull) the hull's diagnostics warn.
            - The hull's diagnostics are those of the entropic projection; the reads are softmax
              attention on the raw query (T6), which is what a language model does.
            """
        ),
        failures=[*found.failures, *trusted],
    )


def findings(reads: Rows, warnings: Rows, tolerance: float) -> tuple[dict[str, Any], list[str]]:
    """Single values, and sentences."""
    values: dict[str, Any] = {"cases": len({row["case"] for row in reads})}
    by_policy = {(row["case"], row["policy"]): row for row in reads}
    for (case, policy), row in by_policy.items():
        key = f"{_key(policy)}_{_key(case)}"
        values |= {f"dropped_{key}": row["dropped"], f"error_{key}": row["error"]}
        values[f"share_{key}"] = row["share_read"]
    said = [_certified(by_policy, tolerance), _lost(by_policy, tolerance)]
    for diagnostic in DIAGNOSTICS:
        of = [row for row in warnings if row["diagnostic"] == diagnostic]
        counts = {
            verdict: [row["case"] for row in of if row["verdict"] == verdict]
            for verdict in ("missed", "false alarm")
        }
        values |= {
            f"missed_{_key(diagnostic)}": len(counts["missed"]),
            f"false_alarms_{_key(diagnostic)}": len(counts["false alarm"]),
        }
        said.append(
            f"{diagnostic}: right in {len(of) - sum(map(len, counts.values()))} of {len(of)} cases"
            + "".join(f"; {name}: {', '.join(where)}" for name, where in counts.items() if where)
            + "."
        )
    return values, said + _remarks(by_policy)


def _key(name: str) -> str:
    plain = {"Δ/ε of the hull": "gap_ratio", "Δ̂ of the mechanism": "mechanism_gap"}
    return plain.get(name, name).replace(",", "").replace("-", "_").replace(" ", "_")


def _certified(reads: Reads, tolerance: float) -> str:
    rows = [row for (_, policy), row in reads.items() if policy == "certified"]
    shares = ", ".join(f"{row['case']} {row['share_read']:.0%}" for row in rows)
    worst = max(row["dropped"] for row in rows)
    return (
        f"certified proves {tolerance:.0%} in every case (largest true dropped mass {worst:.3f}), "
        f"and pays for it in pages: {shares}."
    )


def _lost(reads: Reads, tolerance: float) -> str:
    parts = []
    for policy in ("budget", "published routing"):
        over = {
            case: row["dropped"]
            for (case, name), row in reads.items()
            if name == policy and row["dropped"] > tolerance
        }
        listed = ", ".join(f"{case} {mass:.0%}" for case, mass in over.items()) or "nowhere"
        parts.append(f"{policy} drops more than {tolerance:.0%} in: {listed}")
    return "; ".join(parts) + ". Neither says so: no proof was asked for."


def _remarks(reads: Reads) -> list[str]:
    said = []
    if row := reads.get(("equal keys", "fixed, with proof")):
        said.append(
            "An infinite gap is no promise of few tokens: with equal keys nothing is off the face, "
            f"the face is all of them, and {row['share_read']:.0%} of the pages drop "
            f"{row['dropped']:.0%} of the mass."
        )
    if row := reads.get(("sink", "certified")):
        said.append(
            "Mass is not output: with a sink of empty value certified reads "
            f"{row['share_read']:.0%} of the pages and keeps its promise (dropped "
            f"{row['dropped']:.3f}), and the output is off by {row['error']:.0%} of its length. "
            f"The proven error bound does warn: {row['error_bound']:.1f} times that length."
        )
    if row := reads.get(("near-degenerate", "certified")):
        said.append(
            "A tiny gap is no proof of danger: a key a millionth off the face makes Δ/ε warn, and "
            f"certified drops {row['dropped']:.1e} with {row['share_read']:.0%} of the pages."
        )
    return said

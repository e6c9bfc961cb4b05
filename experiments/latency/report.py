"""What `latency` says: columns, values, sentences."""

from typing import Any

from experiments.framework.outcome import Measured, Outcome, Rows, sentences
from experiments.shared.predictable import TAIL

COLUMNS = {
    "times": {
        "keys": "real heads (thinned with the length), or normal: the worst case",
        "tokens": "length of the context",
        "policy": "dense, budget or certified",
        "layout": "of the key sketch",
        "queries": "distinct queries timed",
        "p50_ms": "median time, milliseconds",
        "p90_ms": "90th percentile, milliseconds",
        "p99_ms": "99th percentile, milliseconds",
        "ratio_p90": "90th percentile over the median",
        "ratio_p99": "99th percentile over the median",
        "times_dense_p50": "dense median over this median: below 1 is a slow-down",
        "times_dense_p99": "dense 99th percentile over this one",
    },
    "pages": {
        "policy": "certified with its tolerance, or budget with its pages",
        "judged_by": "what pages are judged by; best possible: their masses",
        "queries": "pairs of query and head",
        "least": "pages read",
        "p10": "10th percentile",
        "p50": "median",
        "p90": "90th percentile",
        "p99": "99th percentile",
        "most": "pages read",
        "mean": "pages read",
        "ratio_p90": "90th percentile over the median",
        "ratio_p99": "99th percentile over the median",
        "between": "share of the variance of log pages that is between heads; empty if there is "
        "none",
        "token": "pages of all heads together for one query: most over least of the positions",
    },
    "distribution of pages": {
        "policy": "as above",
        "judged_by": "as above",
        "pages": "number",
        "share": "of the pairs of query and head that read at most so many",
    },
}


def report(found: Measured) -> Outcome:
    """What is predictable, and by how much."""
    values, said = findings(found.tables["times"], found.tables["pages"])
    of = found.values
    return Outcome(
        tables=found.described(COLUMNS, hidden=["distribution of pages"]),
        values=values,
        findings=said,
        notes=sentences(
            f"""- Times: experiments/results/decode_cpu.json, {of["times_cpu"]}, commit
              {of["times_commit"]}. The sketch of certified is the one with the least median at that
              length. Normal keys are its worst case.
            - Pages: {of["layers"]} layers of {of["heads"]} heads at {of["positions"]} positions, of
              the {of["pages"]} pages of up to {of["longest"]:,} tokens; float64, every query head
              reads for itself, no context is too short to be read sparsely.
            - Best possible: the fewest pages that any reader could read for the tolerance.
            """
        ),
        failures=found.failures,
    )


def findings(times: Rows, pages: Rows) -> tuple[dict[str, Any], list[str]]:
    """Single values, and sentences."""
    values: dict[str, Any] = {}
    for row in times:
        key = f"{row['policy']}_{row['tokens']}" + ("_normal" if row["keys"] == "normal" else "")
        values |= {f"p{p}_ms_{key}": row[f"p{p}_ms"] for p in (50, 90, 99)}
        values |= {f"ratio_p{p}_p50_{key}": row[f"ratio_p{p}"] for p in (90, 99)}
        values |= {f"times_dense_p{p}_{key}": row[f"times_dense_p{p}"] for p in (50, 99)}
    for row in pages:
        key = page_key(row)
        for name in ("least", "p10", "p50", "p90", "p99", "most", "mean", "between", "token"):
            values[f"pages_{name}_{key}"] = row[name]
        values |= {f"pages_ratio_p{p}_p50_{key}": row[f"ratio_p{p}"] for p in (90, 99)}
    said = [_ratios(times), _tails(times), *_worst(times), *map(_pages, pages), _verdict(times)]
    return values, said


def page_key(row: Any) -> str:
    """The end of a value's name: certified_5_4_bits, certified_1_best_possible, budget_16."""
    policy = row["policy"].removesuffix(" %").replace(" ", "_").replace(".", "_")
    if policy.startswith("budget"):
        return policy
    return f"{policy}_{row['judged_by'].replace(' ', '_')}"


def _real(times: Rows, policy: str) -> list[Any]:
    found = [r for r in times if r["policy"] == policy and r["keys"] != "normal"]
    return sorted(found, key=lambda row: row["tokens"])


def _ratios(times: Rows) -> str:
    parts = []
    for policy in ("dense", "budget", "certified"):
        rows = _real(times, policy)
        at = ", ".join(f"{row['ratio_p99']:.2f} at {row['tokens']:,}" for row in rows)
        parts.append(f"{policy} {at}")
    return (
        f"p99 over p50 of a step: {'; '.join(parts)}. Dense does the same work for every query: "
        "its ratio is the machine's."
    )


def _tails(times: Rows) -> str:
    parts = []
    for policy in ("budget", "certified"):
        rows = _real(times, policy)
        at = ", ".join(f"{row['times_dense_p99']:.2f} at {row['tokens']:,}" for row in rows)
        parts.append(f"{policy} {at}")
    return f"Dense p99 over p99, above 1 where the tail is faster than dense: {'; '.join(parts)}."


def _worst(times: Rows) -> list[str]:
    rows = [r for r in times if r["keys"] == "normal" and r["policy"] == "certified"]
    if not rows:
        return []
    row = max(rows, key=lambda r: r["tokens"])
    return [
        (
            f"Worst case, normal keys at {row['tokens']:,} tokens: certified takes "
            f"{row['p50_ms']:.0f} ms in the median and {row['p99_ms']:.0f} ms at p99, "
            f"{1 / row['times_dense_p50']:.2g} and {1 / row['times_dense_p99']:.2g} times dense."
        )
    ]


def _pages(row: Any) -> str:
    where = f"{row['policy']}, {row['judged_by']}"
    if row["least"] == row["most"]:
        return f"Pages read by {where}: {row['most']} for every query and head."
    return (
        f"Pages read by {where}: median {row['p50']:.0f}, p90 {row['p90']:.0f}, p99 "
        f"{row['p99']:.0f}, from {row['least']} to {row['most']}; {row['between']:.0%} of the "
        "variance (of the logarithm) is between heads, and the sum over heads differs by a factor "
        f"of {row['token']:.2f} between positions."
    )


def _verdict(times: Rows) -> str:
    """In the words of the claim, for lengths at which the tail follows the machine's or not."""
    dense = {row["tokens"]: row["ratio_p99"] for row in _real(times, "dense")}

    def where(policy: str) -> str:
        kept = [
            f"{row['tokens']:,}"
            for row in _real(times, policy)
            if row["ratio_p99"] <= TAIL * dense[row["tokens"]]
        ]
        return f"holds at {', '.join(kept)} tokens" if kept else "does not hold at any length"

    return (
        "Predictable latency, p99 over p50 at most a quarter above that of dense: for budget it "
        f"{where('budget')}; for certified it {where('certified')}. The pages that budget reads "
        "are fixed in number, those of certified depend on head and query."
    )

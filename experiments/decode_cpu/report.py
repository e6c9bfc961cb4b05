"""What `decode_cpu` says of its measurements: columns, values, aims met and missed."""

from typing import Any

import numpy as np

from experiments.framework.outcome import Measured, Outcome, Rows, Table, sentences
from experiments.shared.decode_data import MEASURED_UP_TO, PAGE, target_share

SAMPLED_AIMS = {8192: 1.3, 32768: 2.5, 131072: 5.0, 524288: 8.0}
BUDGET_AIMS = {8192: 2.0, 32768: 6.0, 131072: 15.0, 524288: 40.0}
CERTIFIED_AIMS = {32768: 1.0, 131072: 1.5, 524288: 1.0}
AIMS = {"sampled": SAMPLED_AIMS, "budget": BUDGET_AIMS, "certified": CERTIFIED_AIMS}
STEPS = ("dense", *AIMS)

_STEP = {
    "keys": "real heads (thinned with the length), or normal: the worst case",
    "tokens": "length of the context",
    "step": "dense, sampled, budget or certified",
    "layout": "of the key sketch; of dense, whose",
}
COLUMNS = {
    "decode": {
        **_STEP,
        "queries": "distinct queries timed",
        "p50_ms": "median time, milliseconds",
        "p90_ms": "90th percentile, milliseconds",
        "p99_ms": "99th percentile, milliseconds",
        "times_dense": "dense median over this median: below 1 is a slow-down",
    },
    "reading": {
        **_STEP,
        "megabytes": "read of keys, values and summaries, 10⁶ bytes",
        "times_fewer": "dense bytes over these",
        "share_read": "pages read over all, mean",
        "median": "the same, median over heads and queries",
        "certified": "share of heads and queries proven",
    },
    "stages": {
        "tokens": "length of the context",
        "step": "sampled, budget or certified",
        "layout": "of the key sketch",
        "score_ms": "judging the summaries, milliseconds (all of this in plain JAX)",
        "select_ms": "drawing tokens, choosing or ordering pages, milliseconds",
        "read_ms": "reading them, and the report, milliseconds",
        "whole_ms": "the whole step, milliseconds",
    },
    "dense forms": {
        "form": "dense attention",
        "tokens": "length of the context",
        "p50_ms": "median time, milliseconds",
    },
}
SUMMARY_COLUMNS = {
    "tokens": "length of the context",
    "append_p50_us": "median time to append a token, microseconds",
    "append_p90_us": "90th percentile, microseconds",
    "summary_mb": "held by summaries, 10⁶ bytes",
    "formula_mb": "the same by the formula",
    "share_of_kv": "summaries over keys and values",
}


def report(found: Measured) -> Outcome:
    """Aims met and missed, growth, reading, slow-downs."""
    rows, forms, held = (
        found.tables[name] for name in ("steps", "dense forms", "append and summaries")
    )
    target = {row["tokens"]: target_share(row["tokens"]) for row in rows}
    values, said = findings(rows, held, forms, target)
    said += bounded_by(rows, found.tables["stages"])
    of = found.values
    return Outcome(
        tables={
            "decode": _table("decode", rows),
            "reading": _table("reading", rows),
            **found.described(
                {
                    "stages": COLUMNS["stages"],
                    "dense forms": COLUMNS["dense forms"],
                    "append and summaries": SUMMARY_COLUMNS,
                }
            ),
        },
        values=values,
        findings=said,
        notes=sentences(
            f"""- Batch 1, {of["heads"]} heads of {of["heads"]} kv heads, head size
              {of["head_size"]}, float32, pages of {PAGE}; every step under jit, its report
              computed; steps side by side, each round with a query of its own.
            - Keys: the 1,024 captured tokens of each head, then copies of their pages whose scores
              are lowered so that the mean share read follows .37 / .33 / .27 / .20 at 1k / 2k / 4k
              / 8k. Beyond {MEASURED_UP_TO:,} tokens that law is extrapolated.
            - Queries: mixtures of two recorded queries of the head with a tenth of noise.
            - Stages: the step cut short after scoring and after selecting; read is the rest, the
              report included. Differences of medians, so small ones can be negative.
            """
        ),
    )


def _table(name: str, rows: Rows) -> Table:
    """Those columns of the rows that belong to one table."""
    columns = COLUMNS[name]
    return Table(columns, [{k: v for k, v in row.items() if k in columns} for row in rows])


def findings(
    rows: Rows, held: Rows, forms: Rows, target: dict[int, float]
) -> tuple[dict[str, Any], list[str]]:
    """Single values, and sentences."""
    real = [row for row in rows if row["keys"] == "real heads"]
    slowest_first = sorted(real, key=lambda row: -row["p50_ms"])
    best = {(row["tokens"], row["step"]): row for row in slowest_first}
    lengths = sorted({row["tokens"] for row in real})
    values: dict[str, Any] = {}
    for (tokens, step), row in best.items():
        values[f"times_dense_{step}_{tokens}"] = row["times_dense"]
    for step in STEPS:
        times = [best[tokens, step]["p50_ms"] for tokens in lengths]
        values[f"exponent_{step}"] = float(np.polyfit(np.log(lengths), np.log(times), 1)[0])
    values["append_ratio"] = held[-1]["append_p50_us"] / held[0]["append_p50_us"]
    said = [_judge(best, step, aims) for step, aims in AIMS.items()]
    said.append(
        "Growth of the median time with the length, as an exponent: "
        + ", ".join(f"{step} {values[f'exponent_{step}']:.2f}" for step in STEPS)
        + " (0 would be constant in the context)."
    )
    reached = [
        f"{best[t, 'certified']['share_read']:.3f} at {t:,} (made for {target[t]:.3f}"
        + (", extrapolated)" if t > MEASURED_UP_TO else ")")
        for t in lengths
    ]
    said.append("Mean share of pages read by certified: " + ", ".join(reached) + ".")
    said.append(_slow_downs(rows))
    said += _worst_case(rows)
    fastest = min(forms, key=lambda row: row["p50_ms"])
    said.append(
        f"Fastest dense form at {fastest['tokens']:,} tokens: {fastest['form']}; the others take "
        + " and ".join(
            f"{row['p50_ms'] / fastest['p50_ms']:.1f} times as long ({row['form']})"
            for row in forms
            if row is not fastest
        )
        + "."
    )
    off = [abs(row["summary_mb"] / row["formula_mb"] - 1) for row in held]
    said.append(
        f"Appending a token at {held[-1]['tokens']:,} takes {values['append_ratio']:.2f} times as "
        f"long as at {held[0]['tokens']:,}. Bytes held by summaries "
        + ("equal" if max(off) < 1e-9 else "DIFFER from")
        + " the formula at every length."
    )
    return values, said


def _judge(best: dict[tuple[int, str], Any], step: str, aims: dict[int, float]) -> str:
    parts = []
    for (tokens, name), row in sorted(best.items()):
        if name != step:
            continue
        aim = aims.get(tokens)
        verdict = "" if aim is None else " met" if row["times_dense"] >= aim else " missed"
        wanted = "" if aim is None else f" (aim {aim:g},{verdict})"
        layout = f", {row['layout']}" if row["layout"] else ""
        parts.append(f"{row['times_dense']:.2f} at {tokens:,}{wanted}{layout}")
    return f"Times as fast as dense, {step}: " + "; ".join(parts) + "."


def bounded_by(rows: Rows, stages: Rows) -> list[str]:
    """Where drawn tokens miss their aim: what takes the time, and what their bytes alone would."""
    real = [row for row in rows if row["keys"] == "real heads"]
    parts = []
    for tokens, aim in SAMPLED_AIMS.items():
        here = [row for row in real if row["tokens"] == tokens]
        drawn = [row for row in here if row["step"] == "sampled"]
        if not drawn or max(row["times_dense"] for row in drawn) >= aim:
            continue
        best = max(drawn, key=lambda row: row["times_dense"])
        dense = min((row for row in here if row["step"] == "dense"), key=lambda row: row["p50_ms"])
        floor = best["megabytes"] / dense["megabytes"] * dense["p50_ms"]
        cut = next(
            row
            for row in stages
            if (row["tokens"], row["step"], row["layout"]) == (tokens, "sampled", best["layout"])
        )
        share = {name: cut[f"{name}_ms"] / cut["whole_ms"] for name in ("score", "select", "read")}
        parts.append(
            f"at {tokens:,} tokens scoring takes {share['score']:.0%} of the step, drawing "
            f"{share['select']:.0%}, reading and the report {share['read']:.0%}, and its bytes at "
            f"the rate of dense {floor / best['p50_ms']:.0%}"
        )
    if not parts:
        return []
    return [f"What bounds sampled where its aim is missed: {'; '.join(parts)}."]


def _slow_downs(rows: Rows) -> str:
    slow = [
        f"{row['step']} {row['layout']} at {row['tokens']:,} on {row['keys']} keys "
        f"({row['times_dense']:.2f} times dense)"
        for row in rows
        if row["times_dense"] < 1 and row["step"] != "dense"
    ]
    return "Slower than dense: " + ("; ".join(slow) if slow else "nothing") + "."


def _worst_case(rows: Rows) -> list[str]:
    worst = [row for row in rows if row["keys"] == "normal" and row["step"] == "certified"]
    if not worst:
        return []
    row = max(worst, key=lambda row: row["tokens"])
    return [
        (
            f"Worst case, normal keys at {row['tokens']:,}: to prove the tolerance, certified "
            f"reads {100 * row['share_read']:.0f} % of the pages and takes "
            f"{1 / row['times_dense']:.1f} times as long as dense; budget proves nothing."
        )
    ]

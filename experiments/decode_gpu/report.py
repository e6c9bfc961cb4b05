"""What `decode_gpu` says of its measurements: columns, values, aims met and missed."""

from typing import Any

import numpy as np

from experiments.framework.outcome import Measured, Outcome, Rows, Table, sentences
from experiments.shared.published_times import PUBLISHED, PUBLISHED_SOURCE

BUDGET_AIMS = {32: 20.0, 8: 12.0}  # times dense at 131,072 tokens, by kv heads
AT, SHORT = 131072, 8192
CERTIFIED_OVER_FLOOR, SHARE_OF_COPY, GROWTH = 1.3, 0.7, 1.25

_WHERE = {
    "batch": "sequences",
    "heads": "query heads",
    "kv_heads": "kv heads",
    "tokens": "length of the context",
}
_TIMES = {
    "counted_us": "what counts: cold_us where it was measured, else us, microseconds",
    "cold_us": "in a loop that evicts the chip's caches after each step, eviction subtracted",
    "us": "median over loops of the time of a step in a loop, microseconds",
    "low_us": "of the fastest loop",
    "high_us": "of the slowest loop",
    "steps": "steps of one loop, each with a query of its own",
    "p50_us": "median of steps sent from the host one by one, launch included",
    "p90_us": "90th percentile of those",
    "p99_us": "99th percentile of those",
    "queries": "distinct queries of those",
    "gigabytes": "keys, values and summaries it has to read, 10⁹ bytes",
    "gb_per_s": "these over counted_us",
    "share_of_copy": "the same over the measured copy bandwidth",
    "floor_us": "the bytes at the measured copy bandwidth, microseconds",
    "over_floor": "counted_us over the floor",
}
COLUMNS: dict[str, dict[str, str]] = {
    "decode": {
        "keys": "real heads (thinned with the length), or normal: the worst case",
        **_WHERE,
        "step": "dense, published algorithm, or a policy of ours",
        "how": "library, or the public front, or the stages with the implementation of each",
        "times_dense": "fastest dense of the same block over this: below 1 is a slow-down",
        **_TIMES,
        "share_read": "pages read over all, mean",
        "certified": "share of heads and queries proven; of stages, before what fails goes dense",
    },
    "stages": {
        **_WHERE,
        "stage": "alone in a loop",
        "implementation": "that computes it",
        **_TIMES,
    },
    "not measured": {**_WHERE, "step": "what", "reason": "why"},
    "numerics": {
        "what": "held against float64",
        "shape": "batch, heads, kv heads, tokens",
        "error": "relative, in the Euclidean norm; of a dropped mass, the mass",
        "allowed": "the most that passes",
        "verdict": "right, WRONG, or why it cannot run",
    },
}
_PUBLISHED = {
    "tokens": "length of the context",
    "dense_ms": "published dense time a step, milliseconds",
    "sparse_ms": "published sparse time a step, milliseconds",
    "source": "where the numbers are from",
}


def report(found: Measured) -> Outcome:
    """Aims, growth and the published algorithm, of the blocks that there are."""
    decode, stages = found.tables["decode"], found.tables["stages"]
    values, growth = exponents(decode)
    said = [*aims(decode, stages), *growth, _published(decode)]
    if missing := [str(row["block"]) for row in found.tables["missing blocks"]]:
        said.append(f"Not measured in this run: {', '.join(missing)}.")
    published = [
        {"tokens": t, "dense_ms": d, "sparse_ms": s, "source": PUBLISHED_SOURCE}
        for t, (d, s) in PUBLISHED.items()
    ]
    return Outcome(
        tables=found.described(COLUMNS) | {"published": Table(_PUBLISHED, published)},
        values={**found.values, **values},
        findings=said,
        notes=sentences(
            """- Copy bandwidth first, on the same chip in the same process; a step's floor is the
              bytes it has to read at that bandwidth. Clocks are as found, not set.
            - A step's time is the median over loops of many steps in one launch, each step with a
              query of its own. Steps that read less than 1 GB count with the chip's caches evicted
              between steps. Percentiles are of single launches from the host.
            - Keys like real heads: captured pages of eight heads and copies lowered so that the
              share a proof needs falls with the length as measured on text up to 8,192 tokens,
              extrapolated beyond, carried to this head size by an isometry. Query heads of a group
              are mixtures of the same recorded queries, so more alike than a model's.
            - Libraries that want tokens first read a cache of the same size of normal numbers;
              dense time does not depend on them.
            """
        ),
    )


def aims(rows: Rows, stages: Rows) -> list[str]:
    """Each aim of the measurement: met, missed, or not measured."""
    said = []
    for kv_heads, aim in BUDGET_AIMS.items():
        row = _best(rows, "budget", AT, kv_heads)
        what = f"budget at {AT:,} tokens with {kv_heads} kv heads, times the fastest dense"
        said.append(_verdict(what, row, "times_dense", aim, least=True))
        row = _best(rows, "certified", AT, kv_heads)
        what = f"certified at {AT:,} tokens with {kv_heads} kv heads, times its own floor"
        said.append(_verdict(what, row, "over_floor", CERTIFIED_OVER_FLOOR, least=False))
        for step in ("budget", "certified"):
            row = _best(rows, step, SHORT, kv_heads)
            what = f"{step} at {SHORT:,} tokens with {kv_heads} kv heads, times the fastest dense"
            said.append(_verdict(what, row, "times_dense", 1.0, least=True))
    for name in ("score and select, boxes", "score, sketch", "attend"):
        # Of each geometry the fastest implementation, of those the worst geometry.
        best: dict[Any, dict[str, Any]] = {}
        for row in stages:
            if row["tokens"] == AT and row["stage"].startswith(name):
                where = (row["batch"], row["kv_heads"])
                best[where] = max(row, best.get(where, row), key=lambda r: r["share_of_copy"])
        worst = min(best.values(), key=lambda r: r["share_of_copy"], default=None)
        what = f"{name} at {AT:,} tokens, least share of the copy bandwidth"
        said.append(_verdict(what, worst, "share_of_copy", SHARE_OF_COPY, least=True))
    long = [_best(rows, "budget", t, 8, batch=1) for t in (65536, 1048576)]
    what = "budget from 65,536 to 1,048,576 tokens at batch 1, growth of its time"
    grown = None
    if long[0] and long[1]:
        grown = {"growth": long[1]["counted_us"] / long[0]["counted_us"], "how": long[1]["how"]}
    said.append(_verdict(what, grown, "growth", GROWTH, least=False))
    return said


def _best(
    rows: Rows, step: str, tokens: int, kv_heads: int, *, batch: int = 16
) -> dict[str, Any] | None:
    """The fastest way of a step on real keys."""
    found = [
        row
        for row in rows
        if (row["step"], row["tokens"], row["kv_heads"], row["batch"])
        == (step, tokens, kv_heads, batch)
        and row["keys"] == "real heads"
    ]
    return min(found, key=lambda row: row["counted_us"], default=None)


def _verdict(what: str, row: dict[str, Any] | None, cell: str, aim: float, *, least: bool) -> str:
    if row is None or row.get(cell) is None:
        return f"Not measured: {what} (aim {'at least' if least else 'at most'} {aim:g})."
    value = row[cell]
    met = value >= aim if least else value <= aim
    how = row.get("how") or row.get("implementation")
    bound = "at least" if least else "at most"
    return f"{'Met' if met else 'Missed'}: {what}: {value:.2f} (aim {bound} {aim:g}; {how})."


def exponents(rows: Rows) -> tuple[dict[str, float], list[str]]:
    """Growth of each step's time with the length, as an exponent."""
    series: dict[tuple[Any, ...], dict[int, float]] = {}
    for row in rows:
        name = (row["keys"], row["batch"], row["kv_heads"], row["step"])
        if row["step"] == "dense":
            name = ("any keys", *name[1:])
        times = series.setdefault(name, {})
        times[row["tokens"]] = min(row["counted_us"], times.get(row["tokens"], np.inf))
    values, said = {}, []
    for (keys, batch, kv_heads, step), times in series.items():
        if len(times) < 2:
            continue
        slope = np.polyfit(np.log(list(times)), np.log(list(times.values())), 1)[0]
        values[f"exponent {step}, {keys}, batch {batch}, {kv_heads} kv heads"] = float(slope)
        said.append(f"{step} on {keys}, batch {batch}, {kv_heads} kv heads: {slope:.2f}")
    if not said:
        return values, []
    return values, ["Growth of the time with the length, as an exponent. " + "; ".join(said) + "."]


def _published(rows: Rows) -> str:
    parts = []
    for tokens, (dense, sparse) in PUBLISHED.items():
        row = _best(rows, "published algorithm", tokens, 32)
        if row:
            parts.append(
                f"{row['counted_us'] / 1e3:.3f} ms at {tokens:,} (published {sparse:.3f}, its "
                f"dense {dense:.3f})"
            )
    if not parts:
        return "The published algorithm at its own geometry was not measured."
    return "The published algorithm re-implemented, 32 kv heads: " + "; ".join(parts) + "."


def as_text(found: Outcome) -> str:
    """The main numbers and the findings, for machines without rich."""
    lines = []
    for row in found.tables["decode"].rows:
        times = row.get("times_dense")
        lines.append(
            f"B{row['batch']} Hkv{row['kv_heads']} T{row['tokens']:>8,} {row['keys']:<10} "
            f"{row['step']:<20} {row['counted_us']:>10.1f} us  p99 {row['p99_us']:>10.1f} us  "
            f"{'' if times is None else f'{times:.2f}':>6} x dense  {row['gb_per_s']:>7.0f} GB/s  "
            f"{100 * (row['share_of_copy'] or 0):>4.0f} % of copy  {row['how']}"
        )
    return "\n".join([*lines, "", *(f"- {line}" for line in found.findings)])

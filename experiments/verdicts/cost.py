"""The claims about the cost of a read: its spread between queries, memory and appending."""

from collections.abc import Mapping
from typing import Any

from experiments.shared.predictable import TAIL
from experiments.verdicts.judging import (
    FAILS,
    HOLDS,
    REAL_HEADS,
    TWO_STAGES,
    Claims,
    Found,
    Judged,
    listed,
    where,
)

CLAIMS = Claims()


def _spread_rule(step: str, promise: str, form: str = "", remark: str = "") -> None:
    @CLAIMS.add(f"Predictable latency (p50, p90, p99): {promise}", "—", "attention", "decode_cpu")
    def latency(decode: Found, *, tail_beyond_dense: float = TAIL - 1) -> Judged:
        rows = decode.rows("decode", keys=REAL_HEADS, step=step)
        rows = [row for row in rows if form in row.get("layout", "")]
        by: dict[int, Mapping[str, Any]] = {}
        for row in sorted(rows, key=lambda r: -r["p50_ms"]):  # the fastest layout stays
            by[row["tokens"]] = row
        said = "Milliseconds on CPU: " + "; ".join(
            f"{row['p50_ms']:.2f}, {row['p90_ms']:.2f} and {row['p99_ms']:.2f} at {n:,} tokens"
            for n, row in sorted(by.items())
        )
        dense = decode.rows("decode", keys=REAL_HEADS, step="dense")
        own = {
            row["tokens"]: row["p99_ms"] / row["p50_ms"]
            for row in sorted(dense, key=lambda r: -r["p50_ms"])  # the fastest form stays
        }
        narrow = [
            n
            for n, row in sorted(by.items())
            if row["p99_ms"] <= (1 + tail_beyond_dense) * own[n] * row["p50_ms"]
        ]
        said += (
            f". Predictable means p99 over p50 at most {1 + tail_beyond_dense:g} times that of "
            f"dense, which does the same work for every query.{remark}"
        )
        if len(narrow) == len(by):
            return Judged(HOLDS, said)
        if not narrow:
            return Judged(FAILS, said)
        return Judged(where(f"the context is {listed(f'{n:,}' for n in narrow)} tokens"), said)


_spread_rule(
    "sampled",
    f"a fixed number of drawn tokens, {TWO_STAGES}",
    TWO_STAGES,
    " Up to some 14,000 tokens there are too few runs for a second stage: every token is scored.",
)
_spread_rule("budget", "a fixed number of pages by boxes")
_spread_rule(
    "certified",
    "certified reading",
    remark=" The share of pages read was set when the caches were made, from text up to 8,192 "
    "tokens and a line beyond.",
)


@CLAIMS.add("Predictable cost without outside retrieval", "—", "attention.cache", "decode_cpu")
def cost(decode: Found, *, growth_of_append: float = 0.5) -> Judged:
    rows = decode.rows("append and summaries")
    share = [row["share_of_kv"] for row in rows]
    exact = all(abs(row["summary_mb"] - row["formula_mb"]) < 1e-6 for row in rows)
    tokens = [row["tokens"] for row in rows]
    said = (
        f"Nothing is fetched from outside the cache: summaries take {_shares(share)} of its bytes, "
        f"{'as' if exact else 'not as'} the formula says at every length, and appending a token "
        f"takes {decode['append_ratio']:.2f} times as long at {max(tokens):,} tokens as at "
        f"{min(tokens):,}. Quality against retrieval from outside was not compared."
    )
    flat = decode["append_ratio"] <= 1 + growth_of_append
    return Judged(HOLDS if exact and flat else FAILS, said)


def _shares(shares: list[float]) -> str:
    low, high = f"{min(shares):.0%}", f"{max(shares):.0%}"
    return low if low == high else f"{low} to {high}"

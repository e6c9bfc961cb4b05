"""What is said of decoding inside a model: from which batch and length on it pays."""

from experiments.decode_in_model.ways import OWN
from experiments.framework.outcome import Measured, Outcome, Rows, sentences

_COLUMNS = {
    "batch": "sequences",
    "context": "tokens of each",
    "read_by": "transformers' own attention and cache, or a policy of this mechanism",
    "step_ms": "a step of the whole model, milliseconds, median",
    "step_ms_low": "a quarter of the steps take no longer",
    "step_ms_high": "three quarters take no longer",
    "tokens_per_second": "of all sequences together, by the median",
    "times_best": "speed relative to the fastest of transformers' own",
    "tokens_read": "by a kv head, mean over layers and sequences",
    "first_s": "the first step, compiling included, seconds",
}


def from_here_on(rows: Rows, name: str) -> list[tuple[int, int]]:
    """Batch and context of the cells where a policy is at least as fast as transformers' own."""
    return [
        (row["batch"], row["context"])
        for row in rows
        if row["read_by"] == name and row["times_best"] >= 1
    ]


def gains(rows: Rows) -> dict[tuple[int, int], float]:
    """The fastest own step of each cell over that of as many of the shortest sequences."""
    own = {
        (row["batch"], row["context"]): row["step_ms"] * row["times_best"]
        for row in rows
        if row["read_by"] == OWN[0] and "step_ms" in row
    }
    short = min((context for _, context in own), default=0)
    return {
        (batch, context): best / own[batch, short]
        for (batch, context), best in own.items()
        if context > short and (batch, short) in own
    }


def report(found: Measured) -> Outcome:
    """Where each policy is faster, and by how much."""
    rows = found.tables["steps"]
    names = [name for name in dict.fromkeys(row["read_by"] for row in rows) if name not in OWN]
    values = {
        f"{row['read_by']}, {row['batch']} x {row['context']}": row["times_best"] for row in rows
    }
    said = []
    for name in names:
        faster = from_here_on(rows, name)
        where = ", ".join(f"{batch} × {context:,}" for batch, context in faster) or "nowhere"
        own = [row["times_best"] for row in rows if row["read_by"] == name]
        said.append(
            f"- {name}: {min(own):.2f} to {max(own):.2f} times as fast as the fastest of "
            f"transformers' own; at least as fast at (sequences × tokens) {where}."
        )
    found_gains = gains(rows)
    values |= {f"gain, {batch} x {context}": gain for (batch, context), gain in found_gains.items()}
    if found_gains:
        short = min(row["context"] for row in rows)
        listed = "; ".join(f"{gain:.2f} at {b} × {n:,}" for (b, n), gain in found_gains.items())
        said.append(
            "- The fastest of transformers' own takes so many times as long as at "
            f"{short:,} tokens, and a sparse read can hardly be faster than all of those: {listed}."
        )
    return Outcome(
        tables=found.described({"steps": _COLUMNS}),
        values=values,
        findings=sentences("\n".join(said)),
        notes=[
            (
                f"{found.configuration['model']} in float32 on the CPU. A step is the whole model: "
                "its linear layers, which attention leaves as they are, are part of the time. "
                "The model by its own attention is timed in a process whose threads wait as torch "
                "has them wait, by a policy in one with GOMP_SPINCOUNT=20000."
            )
        ],
    )

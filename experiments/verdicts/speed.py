"""The claims about the speed of a decode step, alone, in a model and on a device."""

from collections.abc import Mapping
from typing import Any

from experiments.verdicts.judging import (
    FAILS,
    HOLDS,
    REAL_HEADS,
    TWO_STAGES,
    Claims,
    Found,
    Judged,
    MissingError,
    listed,
    where,
)

CLAIMS = Claims()

_GAIN = 0.1
"""How much faster a speed-up is: what one would change a stack for, and timers see."""
_FORMS = {
    "sampled": "drawn tokens",
    "budget": "pages by boxes",
    "certified": "certified reading",
}
_OWN = ("sdpa, dynamic cache", "sdpa, static cache", "eager")


@CLAIMS.add("Strong wall-clock speed-ups: a decode step on CPU", "—", "attention", "decode_cpu")
def fast_step(decode: Found, *, gain: float = _GAIN) -> Judged:
    lengths = sorted({row["tokens"] for row in decode.rows("decode", keys=REAL_HEADS)})
    times = {
        step: {n: decode[f"times_dense_{step}_{n}"] for n in lengths}
        for step in ("sampled", "budget", "certified")
        if decode.get(f"times_dense_{step}_{lengths[0]}") is not None
    }
    # A step that is faster in the median and slower where it matters is no speed-up.
    late = {step: {n: _times_at_p90(decode, step, n) for n in by} for step, by in times.items()}
    said = (
        "Times as fast as the fastest dense form, by the median and by the 90th percentile, real "
        "heads (the budget by boxes, drawn tokens in two stages where that is faster): "
        + "; ".join(
            f"{step} "
            + listed(f"{t:.2f} ({late[step][n]:.2f}) at {n:,}" for n, t in by.items())
            + " tokens"
            for step, by in times.items()
        )
    )
    starts = {
        step: _faster_from({n: min(t, late[step][n]) for n, t in by.items()}, gain)
        for step, by in times.items()
    }
    said += (
        f". A speed-up counts from {gain:.0%} on. These are speeds alone: what such reads do to "
        "predictions is judged apart, and of two stages not at all"
    )
    if all(start == lengths[0] for start in starts.values()):
        return Judged(HOLDS, f"{said}.")
    if all(start is None for start in starts.values()):
        return Judged(FAILS, f"{said}.")
    conditions = [
        f"{_FORMS[step]}{_in_stages(decode, step, start)} from {start:,} tokens"
        for step, start in starts.items()
        if start is not None
    ]
    return Judged(where(f"the context is long: {listed(conditions)} on"), f"{said}.")


@CLAIMS.add("… inside a language model on CPU", "—", "models", "decode_in_model")
def fast_model(plane: Found, *, gain: float = _GAIN) -> Judged:
    """Kept where a read is faster than every dense step, that of its own kernels too."""
    rows = [row for row in plane.rows("steps") if row["read_by"] not in _OWN]
    by: dict[str, list[Any]] = {}
    for row in rows:
        by.setdefault(row["read_by"], []).append(row)
    said = (
        "Speed of a whole step relative to the fastest of transformers' own (sequences × tokens): "
    )
    said += "; ".join(
        f"{name} " + listed(f"{row['times_best']:.2f} at {_cell(row)}" for row in cells)
        for name, cells in by.items()
    )
    dense = {_cell(row): max(1.0, row["times_best"]) for row in by.pop("dense")}
    said += (
        f". Faster is a read {gain:.0%} faster in the median than the fastest of these and of "
        "dense reads by its own kernels, three quarters of whose steps take less than that"
    )
    faster = {
        name: [row for row in cells if _is_faster(row, dense[_cell(row)], gain)]
        for name, cells in by.items()
    }
    if not any(faster.values()):
        return Judged(FAILS, f"{said}.")
    if all(len(faster[name]) == len(cells) for name, cells in by.items()):
        return Judged(HOLDS, f"{said}.")
    conditions = [
        f"{name.split(',')[0]} reads at {listed(_cell(row) for row in cells)}"
        for name, cells in faster.items()
        if cells
    ]
    return Judged(where(listed(conditions)), f"{said}.")


def _is_faster(row: Any, dense: float, gain: float) -> bool:
    """By more than the spread of its steps, too: three quarters beat the fastest dense step.

    `dense` is the speed of that, relative to the fastest of transformers' own.
    """
    times = row["times_best"] / dense
    return times >= 1 + gain and times * row["step_ms"] / row["step_ms_high"] > 1


def _cell(row: Any) -> str:
    return f"{row['batch']} × {row['context']:,}"


@CLAIMS.add("… the same, one sequence at a time", "—", "models", "generation")
def fast_generation(generation: Found, *, gain: float = _GAIN) -> Judged:
    times = {
        name: generation[f"times_dense_{name}"]
        for name in ("sampled", "sketch", "boxes", "certified", "all")
    }
    said = (
        f"Speed of a whole step after {generation['prompt_tokens']:,} tokens relative to the "
        "model's own attention: " + listed(f"{t:.2f} ({name})" for name, t in times.items())
    )
    faster = [name for name, t in times.items() if t >= 1 + gain]
    return Judged(where(f"read by {listed(faster)}") if faster else FAILS, f"{said}.")


@CLAIMS.add("… on a GPU", "—", "attention.kernels", "decode_gpu")
def fast_gpu(decode: Found, *, gain: float = _GAIN) -> Judged:
    rows = [r for r in decode.rows("decode") if r["step"] in ("budget", "certified")]
    if not rows:
        raise MissingError("decode_gpu has no sparse step")
    device = decode["machine device"]
    # The same step can be run in several ways: the fastest counts, as for dense.
    best: dict[tuple[str, int, int], float] = {}
    for row in rows:
        if row["times_dense"] is not None and row["keys"] == REAL_HEADS:
            key = row["step"], row["kv_heads"], row["tokens"]
            best[key] = max(best.get(key, 0.0), row["times_dense"])
    said = f"Times as fast as the fastest dense library on {device}: " + listed(
        f"{t:.2f} ({step}, {tokens:,} tokens, {heads} kv heads)"
        for (step, heads, tokens), t in sorted(best.items())
    )
    faster = [t >= 1 + gain for t in best.values()]
    verdict = HOLDS if all(faster) else where("the list says so") if any(faster) else FAILS
    return Judged(verdict, f"{said}.")


@CLAIMS.add("… of the published implementation, by its own times", "—", "—", "published_algorithm")
def published_times(published: Found) -> Judged:
    least, most = published["recorded_least"], published["recorded_most"]
    said = (
        f"Its recorded steps are {least:.3f} to {most:.3f} times as fast as dense attention from "
        "8,192 to 131,072 tokens on an H100 (published times, not measured here)."
    )
    return Judged(FAILS if most < 1 else HOLDS if least > 1 else where("contexts are long"), said)


def _times_at_p90(decode: Found, step: str, tokens: int) -> float:
    """Speed relative to dense by the 90th percentiles, each in the form of the least median."""
    dense, own = (
        min(
            decode.rows("decode", keys=REAL_HEADS, step=name, tokens=tokens),
            key=lambda r: r["p50_ms"],
        )
        for name in ("dense", step)
    )
    return dense["p90_ms"] / own["p90_ms"]


def _in_stages(decode: Found, step: str, start: int) -> str:
    """Whether the fastest form of a step draws in two stages, from a length on."""
    rows = [r for r in decode.rows("decode", keys=REAL_HEADS, step=step) if r["tokens"] >= start]
    fastest = {
        n: min((r for r in rows if r["tokens"] == n), key=lambda r: r["p50_ms"])
        for n in {r["tokens"] for r in rows}
    }
    staged = all(TWO_STAGES in row.get("layout", "") for row in fastest.values())
    return f" in {TWO_STAGES}" if staged else ""


def _faster_from(times: Mapping[int, float], gain: float) -> int | None:
    """The least length from which on every measured one is so much faster than dense."""
    start = None
    for tokens, times_dense in sorted(times.items(), reverse=True):
        if times_dense < 1 + gain:
            break
        start = tokens
    return start

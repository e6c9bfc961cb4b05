"""The claims about the mechanism, its speed, its quality and its cost, each with its rule."""

from collections.abc import Mapping
from typing import Any

from experiments.shared.predictable import TAIL
from experiments.shared.right_answers import right_answers
from experiments.shared.said import in_words
from experiments.verdicts.judging import (
    FAILS,
    HOLDS,
    NOT_MEASURED,
    Claims,
    Found,
    Judged,
    MissingError,
    listed,
    where,
)

CLAIMS = Claims()

_ROUNDING = 1e-9  # of a difference of two shares of few prompts
_REAL = "real heads"
_STAGED = "two stages"  # in the name of a layout
_FORMS = {
    "sampled": "drawn tokens",
    "budget": "pages by boxes",
    "certified": "certified reading",
}
_OWN = ("sdpa, dynamic cache", "sdpa, static cache", "eager")


@CLAIMS.add(
    "A drop-in mechanism for existing inference stacks", "—", "models.interface", "generation"
)
def drop_in(generation: Found) -> Judged:
    same, total = generation["same_tokens_all"], generation["new_tokens"]
    said = (
        f"Registered by name in transformers, reading all pages it writes the same {same} of "
        f"{total} tokens as its own attention after {generation['prompt_tokens']:,}. What pages "
        "cannot reproduce (ALiBi, latent keys) is refused by name."
    )
    condition = "a decoder uses the attention interface of transformers"
    return Judged(where(condition) if same == total else FAILS, said)


@CLAIMS.add(
    "A small candidate set per query, by paged selection",
    "T7",
    "attention.decode",
    "certified_text",
    "decode_cpu",
)
def small_set(text: Found, decode: Found, *, small: float = 0.25) -> Judged:
    """Small in the median at the longest text, and there at the ninetieth percentile too."""
    rows = sorted(text.rows("certificates", tolerance=0.05), key=lambda row: row["context"])
    first, last = rows[0], rows[-1]
    normal = decode.rows("reading", keys="normal", step="certified", layout="8 bits")
    worst = max(row["share_read"] for row in normal)
    median, tail = (last[name] / last["pages"] for name in ("pages_median", "pages_high"))
    said = (
        f"To prove 5 % dropped on text, {first['pages_median'] / first['pages']:.0%} of the pages "
        f"are read at {first['context']:,} tokens and {median:.1%} at {last['context']:,} in the "
        f"median, {tail:.0%} at the ninetieth percentile there; {worst:.0%} of independent normal "
        "keys. Longer texts were not measured. A budget reads a fixed number and proves nothing."
    )
    if median > small:
        return Judged(FAILS, said)
    condition = f"the context is {last['context']:,} tokens and the query not diffuse"
    return Judged(HOLDS if max(tail, worst) <= small else where(condition), said)


@CLAIMS.add(
    "… as published: routing on page means at constant cost",
    "T7",
    "attention.step",
    "published_algorithm",
)
def published_routing(
    published: Found, *, growth_of_cost: float = 2.0, mass_lost: float = 0.05
) -> Judged:
    growth = published["scored_growth_published"]
    kept, best = published["kept_page_means_16"], published["kept_best_possible_16"]
    said = (
        f"It scores {published['scored_published_131072']:,} page means at 131,072 tokens, "
        f"{growth:.0f} times as many as at a sixteenth of that; 16 of 64 pages keep {kept:.2f} of "
        f"the mass (best possible {best:.2f}, 2-bit keys "
        f"{published['kept_2-bit_keys_16']:.2f})."
    )
    return Judged(FAILS if growth > growth_of_cost or kept < best - mass_lost else HOLDS, said)


@CLAIMS.add("Strong wall-clock speed-ups: a decode step on CPU", "—", "attention", "decode_cpu")
def fast_step(decode: Found) -> Judged:
    lengths = sorted({_tokens(row) for row in decode.rows("decode", keys=_REAL)})
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
        step: _faster_from({n: min(t, late[step][n]) for n, t in by.items()})
        for step, by in times.items()
    }
    said += (
        ". These are speeds alone: what such reads do to predictions is judged apart, and of two "
        "stages not at all"
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
def fast_model(plane: Found) -> Judged:
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
    del by["dense"]
    said += ". Faster is a read three quarters of whose steps take less than the fastest's median"
    faster = {name: [row for row in cells if _is_faster(row)] for name, cells in by.items()}
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


def _is_faster(row: Any) -> bool:
    """By more than the spread of its steps: three quarters beat the fastest of the others."""
    return row["times_best"] * row["step_ms"] / row["step_ms_high"] > 1


def _cell(row: Any) -> str:
    return f"{row['batch']} × {row['context']:,}"


@CLAIMS.add("… the same, one sequence at a time", "—", "models", "generation")
def fast_generation(generation: Found) -> Judged:
    times = {
        name: generation[f"times_dense_{name}"] for name in ("sketch", "boxes", "certified", "all")
    }
    said = (
        f"Speed of a whole step after {generation['prompt_tokens']:,} tokens relative to the "
        "model's own attention: " + listed(f"{t:.2f} ({name})" for name, t in times.items())
    )
    if all(t <= 1 for t in times.values()):
        return Judged(FAILS, f"{said}.")
    faster = listed(name for name, t in times.items() if t > 1)
    return Judged(where(f"pages are read by {faster}"), f"{said}.")


@CLAIMS.add("… on a GPU", "—", "attention.kernels", "decode_gpu")
def fast_gpu(decode: Found) -> Judged:
    rows = [r for r in decode.rows("decode") if r["step"] in ("budget", "certified")]
    if not rows:
        raise MissingError("decode_gpu has no sparse step")
    device = decode["machine device"]
    # The same step can be run in several ways: the fastest counts, as for dense.
    best: dict[tuple[str, int, int], float] = {}
    for row in rows:
        if row["times_dense"] is not None and row["keys"] == _REAL:
            key = row["step"], row["kv_heads"], row["tokens"]
            best[key] = max(best.get(key, 0.0), row["times_dense"])
    said = f"Times as fast as the fastest dense library on {device}: " + listed(
        f"{t:.2f} ({step}, {tokens:,} tokens, {heads} kv heads)"
        for (step, heads, tokens), t in sorted(best.items())
    )
    faster = [t > 1 for t in best.values()]
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


@CLAIMS.add("Minimal loss of quality: predictions", "T7", "evaluation", "model_quality")
def predictions(quality: Found, *, divergence: float = 0.05) -> Judged:
    """Kept while KL from dense is at most so many nats."""
    rows = quality.rows("perplexity")
    policies = _policies(rows)
    contexts = sorted({row["context"] for row in rows})
    kept = {
        policy: [n for n in contexts if quality[f"divergence_{policy}_{n}"] <= divergence]
        for policy in policies
    }
    said = f"KL from dense, nats, mean over texts, at {listed(f'{n:,}' for n in contexts)} tokens: "
    said += "; ".join(
        f"{policy} " + listed(f"{quality[f'divergence_{policy}_{n}']:.3g}" for n in contexts)
        for policy in policies
    )
    return _by_policy(kept, contexts, f"{said}. Kept means at most {divergence:g}.")


@CLAIMS.add("Minimal loss of quality: retrieval", "T7", "evaluation", "model_quality")
def retrieval(quality: Found, *, answers_lost: float = 0.05) -> Judged:
    """Kept while at most that share of the prompts is lost."""
    rows = quality.rows("retrieval")
    policies = _policies(rows)
    right = right_answers(rows)
    contexts = sorted({context for _, context in right})
    if not contexts:
        return Judged(NOT_MEASURED, "Dense attention solves no task, so nothing can be lost.")
    kept = {
        policy: [
            n
            for n in contexts
            if right["dense", n].share - right[policy, n].share <= answers_lost + _ROUNDING
        ]
        for policy in policies
    }
    prompts = listed(f"{right['dense', n].prompts} prompts at {n:,}" for n in contexts)
    asked = listed(sorted({row["task"] for row in rows}))
    said = f"Tasks compared: {asked}. Right answers where dense solves them ({prompts} tokens): "
    said += "; ".join(
        f"{policy} " + listed(f"{right[policy, n].share:.0%}" for n in contexts)
        for policy in ("dense", *policies)
    )
    return _by_policy(kept, contexts, f"{said}. Kept means within {answers_lost:.0%} of dense.")


@CLAIMS.add("… in the regimes that the support gap predicts", "T3", "evaluation", "head_survey")
def predicted(survey: Found, *, unsafe_share: float = 0.05) -> Judged:
    rows = survey.rows("calibration", diagnostic="gap_ratio")
    most, least = rows[-1], rows[0]
    own = survey.rows("calibration", diagnostic="estimate")
    said = (
        f"Share of reads of 16 pages that lose over 5 %: {least['unsafe']:.0%} in the tenth with "
        f"the least Δ/ε, {most['unsafe']:.0%} in the tenth with the most. By the mechanism's own "
        f"estimate of the kept mass: {max(r['unsafe'] for r in own):.0%} and "
        f"{min(r['unsafe'] for r in own):.0%}."
    )
    if most["unsafe"] <= unsafe_share:
        return Judged(where("Δ/ε is in its highest tenth"), said)
    return Judged(FAILS, said)


def _spread_rule(step: str, promise: str, form: str = "", remark: str = "") -> None:
    @CLAIMS.add(f"Predictable latency (p50, p90, p99): {promise}", "—", "attention", "decode_cpu")
    def latency(decode: Found, *, tail_beyond_dense: float = TAIL - 1) -> Judged:
        rows = decode.rows("decode", keys=_REAL, step=step)
        rows = [row for row in rows if form in row.get("layout", "")]
        by: dict[int, Mapping[str, Any]] = {}
        for row in sorted(rows, key=lambda r: -r["p50_ms"]):  # the fastest layout stays
            by[_tokens(row)] = row
        said = "Milliseconds on CPU: " + "; ".join(
            f"{row['p50_ms']:.2f}, {row['p90_ms']:.2f} and {row['p99_ms']:.2f} at {n:,} tokens"
            for n, row in sorted(by.items())
        )
        dense = decode.rows("decode", keys=_REAL, step="dense")
        own = {
            _tokens(row): row["p99_ms"] / row["p50_ms"]
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
    f"a fixed number of drawn tokens, {_STAGED}",
    _STAGED,
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


def _tokens(row: Mapping[str, Any]) -> int:
    return row["tokens"]


def _times_at_p90(decode: Found, step: str, tokens: int) -> float:
    """Speed relative to dense by the 90th percentiles, each in the form of the least median."""
    dense, own = (
        min(decode.rows("decode", keys=_REAL, step=name, tokens=tokens), key=lambda r: r["p50_ms"])
        for name in ("dense", step)
    )
    return dense["p90_ms"] / own["p90_ms"]


def _in_stages(decode: Found, step: str, start: int) -> str:
    """Whether the fastest form of a step draws in two stages, from a length on."""
    rows = [r for r in decode.rows("decode", keys=_REAL, step=step) if r["tokens"] >= start]
    fastest = {
        n: min((r for r in rows if r["tokens"] == n), key=lambda r: r["p50_ms"])
        for n in {r["tokens"] for r in rows}
    }
    staged = all(_STAGED in row.get("layout", "") for row in fastest.values())
    return f" in {_STAGED}" if staged else ""


def _faster_from(times: Mapping[int, float]) -> int | None:
    """The least length from which on every measured one is faster than dense."""
    start = None
    for tokens, times_dense in sorted(times.items(), reverse=True):
        if times_dense <= 1:
            break
        start = tokens
    return start


def _policies(rows: list[Mapping[str, Any]]) -> list[str]:
    """What is offered to users, and the published routing, at the most pages that were tried."""
    names = {row["policy"] for row in rows}
    wanted = []
    for name in ("budget", "published"):
        sizes = [int(n.split("@")[1]) for n in names if n.startswith(f"{name}@")]
        wanted += [f"{name}@{max(sizes)}"] if sizes else []
    wanted += sorted(n for n in names if n.startswith("certified"))
    if not wanted:
        raise MissingError("model_quality has no policy that is offered to users")
    return wanted


def _by_policy(kept: Mapping[str, list[int]], contexts: list[int], said: str) -> Judged:
    """One verdict about several policies and lengths."""
    if all(found == contexts for found in kept.values()):
        return Judged(HOLDS, said)
    conditions = [
        in_words(policy)
        + ("" if found == contexts else f" at {listed(f'{n:,}' for n in found)} tokens")
        for policy, found in kept.items()
        if found
    ]
    return Judged(where(f"read by {listed(conditions)}") if conditions else FAILS, said)


def _shares(shares: list[float]) -> str:
    low, high = f"{min(shares):.0%}", f"{max(shares):.0%}"
    return low if low == high else f"{low} to {high}"

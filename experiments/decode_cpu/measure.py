"""One decode step on a CPU against the fastest dense form: its time, its bytes, how both grow.

Aims, at batch 1, 8 heads, head size 64, float32: `sampled` (256 tokens by 2-bit keys, of all tokens
or of 16 superpages that are drawn first) at least 1.3, 2.5, 5 and 8 times as fast as dense at 8k,
32k, 128k and 512k tokens; `budget` (64 pages by boxes on
two levels) at least 2, 6, 15 and 40 times; `certified` (dropped mass at most 5 %) not slower than
dense from 32k on and at least 1.5 times as fast at 128k; an append that costs the same at 8k and
512k; summaries that hold what their formula says. Dense is the fastest of our own forms, over whole
arrays and over pages, and, where it is installed, torch's `scaled_dot_product_attention`.

Keys are pages of real heads, thinned with the length as measured on text up to 8,192 tokens; beyond
that the thinning is an extrapolation. The worst case is normal keys, where nothing can be left out.

Example: python -m experiments decode_cpu --queries 100 --force
"""

import gc
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.decode_cpu import timing
from experiments.framework.outcome import Measured
from experiments.shared import decode_data as data
from vashista_theory.attention import PagedKV, Policy, SummarySpec

BY_HAND = "times want an idle machine"

_LAYOUTS = {
    "4 bits packed": SummarySpec(sketch_bits=4),
    "4 bits, a byte each": SummarySpec(sketch_bits=4, packed=False),
    "6 bits, a byte each": SummarySpec(sketch_bits=6, packed=False),
    "8 bits": SummarySpec(sketch_bits=8, packed=False),
}
_DRAWING = "2 bits packed"
_TWO_STAGES = "2 bits packed, two stages"
_KEPT_TO_DRAW = SummarySpec(sketch_bits=2)


@dataclass(frozen=True)
class Config:
    """What to measure.

    Attributes:
        tokens: Lengths of the context.
        heads: Real heads in the cache, at most eight.
        queries: Distinct queries at each length; a slow step takes fewer of them.
        seconds: Budget of each step at each length.
        pages: Of the `budget` policy.
        drawn: Tokens of the `sampled` policy.
        superpages: That are drawn first, where it draws in two stages.
        tolerance: Of the `certified` policy.
        all_layouts_to: Longest context at which every layout of the sketch is measured; beyond it
            only the fastest so far.
        worst_to: Longest context of the worst case.
        appended: Tokens appended one by one at each length.
        seed: Of pages and queries.
        quick: Small sizes, for tests.
    """

    tokens: tuple[int, ...] = (8192, 32768, 131072, 524288)
    heads: int = 8
    queries: int = 1000
    seconds: float = 20.0
    pages: int = 64
    drawn: int = 256
    superpages: int = 16
    tolerance: float = 0.05
    all_layouts_to: int = 131072
    worst_to: int = 131072
    appended: int = 66
    seed: int = 0
    quick: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.heads <= 8 or self.queries < 2 or self.seconds <= 0:
            raise ValueError(f"expected 1 to 8 heads, 2 queries or more, seconds > 0; got {self}")
        if len(self.tokens) < 2 or any(t % data.PAGE or t < 1024 for t in self.tokens):
            raise ValueError(
                f"tokens is {self.tokens}; two lengths or more are expected, each of at least "
                f"1024 and a multiple of {data.PAGE}"
            )
        if self.appended < 3:
            raise ValueError(f"appended is {self.appended}; at least 3 are expected")

    def reduced(self) -> "Config":
        """The configuration of a quick run."""
        return Config(
            (1024, 2048), 2, 4, 0.2, 8, 64, 1, self.tolerance, 1024, 1024, 4, self.seed, True
        )


def measure(config: Config) -> Measured:
    """Time decode steps and appends at every length."""
    with jax.enable_x64(False):
        return _measured(config)


def _measured(config: Config) -> Measured:
    source = data.real_heads(config.heads, config.queries, config.seed)
    rows: list[dict[str, Any]] = []
    stages: list[dict[str, Any]] = []
    held: list[dict[str, Any]] = []
    layouts = list(_LAYOUTS)
    forms = _dense_forms(config, source)
    for tokens in sorted(config.tokens):
        nats = data.thinning(source, tokens, tolerance=config.tolerance)
        keys, values = data.like_real_heads(source, tokens, nats, config.seed)
        if tokens > config.all_layouts_to:
            layouts = [_fastest(rows)]
        caches = {name: data.cache_of(keys, values, _LAYOUTS[name]) for name in layouts}
        drawing = data.cache_of(keys, values, _KEPT_TO_DRAW)
        found = _measure(config, caches, drawing, keys, values, source.queries)
        rows += [{"keys": "real heads", "tokens": tokens, **row} for row in found]
        best = _fastest([row for row in rows if row["tokens"] == tokens])
        stages += _stages(config, caches[best], drawing, best, source.queries, tokens)
        kept = caches[best].summary_bytes()
        del caches, drawing
        gc.collect()
        held.append(_append(config, keys, values, tokens, best, kept))
        del keys, values
        gc.collect()
    for tokens in (t for t in sorted(config.tokens) if t <= config.worst_to):
        d = source.keys.shape[-1]
        *pools, queries = data.gaussian(config.heads, d, tokens, config.queries, config.seed)
        cache = data.cache_of(*pools, _LAYOUTS[_fastest(rows)])
        drawing = data.cache_of(*pools, _KEPT_TO_DRAW)
        found = _measure(config, {_fastest(rows): cache}, drawing, *pools, queries)
        rows += [{"keys": "normal", "tokens": tokens, **row} for row in found]
        del pools, cache, drawing
    return Measured(
        {"steps": rows, "stages": stages, "dense forms": forms, "append and summaries": held},
        {"heads": config.heads, "head_size": source.keys.shape[-1]},
    )


def _fastest(rows: list[dict[str, Any]]) -> str:
    """The layout whose certified step was fastest at the longest context so far."""
    certified = [row for row in rows if row["step"] == "certified" and row["keys"] == "real heads"]
    longest = max(row["tokens"] for row in certified)
    at_longest = [row for row in certified if row["tokens"] == longest]
    return min(at_longest, key=lambda row: row["p50_ms"])["layout"]


def _dense_forms(config: Config, source: data.Source) -> list[dict[str, Any]]:
    tokens = min(config.tokens)
    keys, values = data.like_real_heads(source, tokens, 0.0, config.seed)
    steps = timing.dense_forms(keys, values)
    seconds = timing.over_queries(steps, source.queries[:, :50], budget=config.seconds)
    return [
        {"form": name, "tokens": tokens, "p50_ms": 1e3 * float(np.median(times))}
        for name, times in seconds.items()
    ]


def _measure(
    config: Config,
    caches: dict[str, PagedKV],
    drawing: PagedKV,
    keys: jax.Array,
    values: jax.Array,
    queries: np.ndarray,
) -> list[dict[str, Any]]:
    """Time dense, sampled, budget and certified, and look into their reports."""
    last = list(caches)[-1]
    certified = Policy.certified(config.tolerance, dense_below=0)
    steps: dict[tuple[str, str], timing.Step] = {
        ("dense", ""): timing.dense(keys, values),
        ("dense", "pages"): timing.sparse(caches[last], Policy.dense()),
        ("sampled", _DRAWING): timing.sparse(drawing, _drawn(config)),
        ("sampled", _TWO_STAGES): timing.sparse(drawing, _drawn(config, config.superpages)),
        ("budget", ""): timing.sparse(caches[last], Policy.budget(config.pages, summary="box")),
    }
    steps |= {("certified", name): timing.sparse(c, certified) for name, c in caches.items()}
    in_torch = timing.dense_in_torch(keys, values)
    if in_torch is not None:
        steps["dense", "torch"] = in_torch
    named = {" | ".join(name): step for name, step in steps.items()}
    seconds = timing.over_queries(named, queries, budget=config.seconds)
    dense_bytes = 2.0 * keys.nbytes
    pages = keys.shape[1]
    forms = [name for name in named if name.startswith("dense")]
    base = min(float(np.median(seconds[name])) for name in forms)
    rows = []
    for (step, layout), call in steps.items():
        times = 1e3 * seconds[f"{step} | {layout}"]
        row: dict[str, Any] = {"step": step, "layout": layout, "queries": len(times)}
        row |= {f"p{p}_ms": float(np.percentile(times, p)) for p in (50, 90, 99)}
        row["times_dense"] = 1e3 * base / row["p50_ms"]
        row |= {"megabytes": dense_bytes / 1e6, "times_fewer": 1.0}
        if step != "dense":
            reports = _reports(call, queries, 3 if config.quick else 16)
            read = float(np.mean([r.bytes_read.sum() for r in reports]))
            share = np.array([r.pages_read for r in reports]) / pages
            row["megabytes"] = read / 1e6
            row["times_fewer"] = dense_bytes / read
            row["share_read"] = float(share.mean())
            row["median"] = float(np.median(share))
            row["certified"] = float(np.mean([r.certified for r in reports]))
        rows.append(row)
    return rows


def _drawn(config: Config, superpages: int | None = None) -> Policy:
    return Policy.sampled(config.drawn, superpages=superpages, dense_below=0)


def _reports(step: timing.Step, queries: np.ndarray, count: int) -> list[Any]:
    some = np.linspace(0, queries.shape[1] - 1, min(count, queries.shape[1])).astype(int)
    return [step(jnp.asarray(queries[:, i])[None])[1] for i in some]


def _stages(
    config: Config, cache: PagedKV, drawing: PagedKV, layout: str, queries: np.ndarray, tokens: int
) -> list[dict[str, Any]]:
    rows = []
    certified = Policy.certified(config.tolerance, dense_below=0)
    two = _drawn(config, config.superpages)
    cuts = [
        ("sampled", _DRAWING, timing.stages_of_a_draw(drawing, _drawn(config))),
        ("sampled", _TWO_STAGES, timing.stages_of_a_draw(drawing, two)),
        ("budget", "", timing.stages(cache, Policy.budget(config.pages, summary="box"))),
        ("certified", layout, timing.stages(cache, certified)),
    ]
    for name, judged_by, steps in cuts:
        found = timing.over_queries(steps, queries[:, :100], budget=config.seconds / 4)
        scored, selected, whole = (1e3 * float(np.median(found[key])) for key in steps)
        rows.append(
            {
                "tokens": tokens,
                "step": name,
                "layout": judged_by,
                "score_ms": scored,
                "select_ms": selected - scored,
                "read_ms": whole - selected,
                "whole_ms": whole,
            }
        )
    return rows


def _append(
    config: Config,
    keys: jax.Array,
    values: jax.Array,
    tokens: int,
    layout: str,
    kept: dict[str, int],
) -> dict[str, Any]:
    """Append to a cache of nearly this length; the pools are consumed."""
    spec = _LAYOUTS[layout]
    heads, pages, size, d = keys.shape
    code_bytes = d if not spec.packed else d * (spec.sketch_bits or 0) // 8
    # bfloat16: box 2 d, mean d, its error, radius, longest value; by token a residual
    # and the length of the value in a byte.
    formula = heads * pages * (2 * (2 * d + d + 2 + 1) + size * (code_bytes + 3))
    formula += heads * (pages // 16) * 2 * (2 * d + d + 2 + 1)
    short = tokens - -(-config.appended // size) * size
    cache = data.cache_of(keys, values, spec, tokens=short)
    seconds = timing.appending(cache, config.appended)
    return {
        "tokens": tokens,
        "append_p50_us": 1e6 * float(np.median(seconds)),
        "append_p90_us": 1e6 * float(np.percentile(seconds, 90)),
        "summary_mb": sum(kept.values()) / 1e6,
        "formula_mb": formula / 1e6,
        "share_of_kv": sum(kept.values()) / (2.0 * heads * pages * size * d * 4),
    }

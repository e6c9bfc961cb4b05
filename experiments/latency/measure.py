"""Is the latency predictable? Median, p90 and p99 of a step by policy, and the pages behind them.

The times are those of `decode_cpu`, whose committed result is read: every round has a query of its
own, so their spread is that of the queries and of the machine together. Dense attention does the
same work for every query, which shows what the machine alone contributes. Then the cause, computed
here on the captured heads: `budget` reads a fixed number of pages, `certified` as many as the proof
needs, and how many that is depends on the head and the query.

Example: python -m experiments latency --force
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.framework import results
from experiments.framework.outcome import Measured, NotMeasured
from experiments.shared.page_masses import Truth, pages_needed, truth
from experiments.shared.readings import KINDS, Reader
from vashista_theory.attention import Policy
from vashista_theory.hull.heads import load_heads

_TIMES = "decode_cpu"
READS = (_TIMES,)
_SKETCHES = ("4 bits", "8 bits")
# The masses are sums of 1,024 terms in float64.
_ROUNDING = 1e-11


@dataclass(frozen=True)
class Config:
    """What to compute.

    Attributes:
        tolerances: Of `certified`.
        pages: Of `budget`, of the 64 there are.
        quick: Two layers, two positions, one sketch, for tests.
    """

    tolerances: tuple[float, ...] = (0.05, 0.01)
    pages: int = 16
    quick: bool = False

    def __post_init__(self) -> None:
        if not self.tolerances or not all(0 < t < 1 for t in self.tolerances):
            raise ValueError(f"tolerances are {self.tolerances}; each must be between 0 and 1")
        if self.pages < 2:
            raise ValueError(f"pages is {self.pages}; 2 or more are expected, first and last")


def measure(config: Config) -> Measured:
    """Read the times, count the pages, and say what is predictable."""
    stored = results.read(results.path_of(_TIMES))
    if stored is None:
        raise NotMeasured(f"there are no times; run `python -m experiments {_TIMES}` first")
    times = list(steps(results.rendered(_TIMES, stored).tables["decode"].rows))
    held, failures = _held(quick=config.quick), []
    pages, curves = [], []
    for policy, judged_by, read, tolerance, dropped in _counted(held, config):
        row = {"policy": policy, "judged_by": judged_by, **spread(read)}
        pages.append(row)
        curves += [
            {"policy": policy, "judged_by": judged_by, "pages": count, "share": share}
            for count, share in cumulative(read, held.mass.shape[-1])
        ]
        if tolerance is None and row["least"] != row["most"]:
            failures.append(f"{policy} read {row['least']} to {row['most']} pages, not one number")
        if tolerance is not None and dropped > tolerance + _ROUNDING:
            failures.append(f"{policy}, {judged_by}: dropped {dropped:.6g}, above its tolerance")
    layers, heads = held.mass.shape[1:3]
    return Measured(
        {"times": times, "pages": pages, "distribution of pages": curves},
        {
            "times_cpu": stored["manifest"]["cpu"],
            "times_commit": stored["manifest"]["commit"][:8],
            "layers": layers,
            "heads": heads,
            "positions": len(held.lengths),
            "pages": held.mass.shape[-1],
            "longest": int(held.lengths[-1]),
        },
        failures,
    )


def steps(rows: Iterable[Any]) -> Iterable[dict[str, Any]]:
    """One row a policy, length and kind of keys, with the ratios that a deadline asks for."""
    fastest: dict[tuple[str, int, str], dict[str, Any]] = {}
    for row in rows:
        place = row["keys"], row["tokens"], row["step"]
        if place not in fastest or row["p50_ms"] < fastest[place]["p50_ms"]:
            fastest[place] = dict(row)
    for (keys, tokens, policy), row in fastest.items():
        dense = fastest[keys, tokens, "dense"]
        yield {
            "keys": keys,
            "tokens": tokens,
            "policy": policy,
            "layout": row["layout"],
            **{name: row[name] for name in ("queries", "p50_ms", "p90_ms", "p99_ms")},
            "ratio_p90": row["p90_ms"] / row["p50_ms"],
            "ratio_p99": row["p99_ms"] / row["p50_ms"],
            "times_dense_p50": dense["p50_ms"] / row["p50_ms"],
            "times_dense_p99": dense["p99_ms"] / row["p99_ms"],
        }


def spread(read: np.ndarray) -> dict[str, Any]:
    """Order statistics of the pages (position, layer, head), and where their spread comes from."""
    found: dict[str, Any] = {"queries": read.size, "least": int(read.min())}
    found |= {f"p{p}": float(np.percentile(read, p)) for p in (10, 50, 90, 99)}
    found |= {"most": int(read.max()), "mean": float(read.mean())}
    found["ratio_p90"] = found["p90"] / found["p50"]
    found["ratio_p99"] = found["p99"] / found["p50"]
    logs = np.log(read)
    # The variance of one number many times is its rounding, not zero.
    varies = found["least"] < found["most"]
    found["between"] = float(logs.mean(axis=0).var() / logs.var()) if varies else None
    found["token"] = float(read.sum(axis=(1, 2)).max() / read.sum(axis=(1, 2)).min())
    return found


def cumulative(read: np.ndarray, pages: int) -> list[tuple[int, float]]:
    """Share of the queries that read at most so many pages."""
    counts = np.bincount(read.ravel(), minlength=pages + 1)
    return [
        (n, float(share)) for n, share in enumerate(np.cumsum(counts / read.size)) if 0 < n <= pages
    ]


def _held(*, quick: bool) -> Truth:
    heads = load_heads()
    layers, positions = (np.arange(count) for count in (heads.layers.size, heads.positions.size))
    if quick:
        layers, positions = layers[[0, -1]], positions[-2:]
    return truth(heads, layers=layers, positions=positions).one_head_each()


def _counted(
    held: Truth, config: Config
) -> Iterable[tuple[str, str, np.ndarray, float | None, float]]:
    """Policy, what pages are judged by, pages read, tolerance, largest dropped mass."""
    for tolerance in config.tolerances:
        name = f"certified {100 * tolerance:g} %"
        each = held.mass[..., None, :]  # a group of one head
        yield name, "best possible", pages_needed(each, each, tolerance), tolerance, 0.0
    for kind in _SKETCHES[:1] if config.quick else _SKETCHES:
        reader = Reader(held, KINDS[kind], optimise=not config.quick)
        for tolerance in config.tolerances:
            name = f"certified {100 * tolerance:g} %"
            found = reader.read(Policy.certified(tolerance, dense_below=0))
            yield name, kind, found.pages, tolerance, float(found.dropped.max())
    policy = Policy.budget(config.pages, summary="box", dense_below=0)
    found = Reader(held, KINDS["box"], optimise=not config.quick).read(policy)
    yield f"budget {config.pages}", "boxes", found.pages, None, float(found.dropped.max())

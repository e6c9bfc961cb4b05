r"""What do drawn tokens keep of dense attention (T8), beside the best pages and tokens there are?

Every kind of read gets the same number of tokens a kv head, sink and recent pages included, and its
output is held against dense attention in float64 on the packaged heads of a language model: the
relative error ‖ô − o‖/‖o‖ over layers, heads and positions. Drawn tokens are the mechanism itself
(`Policy.sampled`), by sketches of 1, 2 and 4 bits; what they are compared with knows the true
scores: the pages and the tokens that hold most mass for a group of heads, and half of the tokens
the best, half a uniform sample of the others, weighted by its share.

A read reports its own error. How often is it right: error over estimate, by bits and tokens? And
the bound at a confidence: how wide is it, and how often is it exceeded?

Examples:
  python -m experiments sampled_reads
  python -m experiments sampled_reads --draws 1 --tokens 128 256
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from scipy.stats import binom

from experiments.framework.outcome import Measured, Outcome, sentences
from experiments.shared.recorded import (
    PAGE,
    SURE,
    Layer,
    always_read,
    largest,
    mass_of_group,
    read_layer,
)
from experiments.shared.recorded import best_tokens as best
from vashista_theory import runs
from vashista_theory.attention import PagedKV, Policy, SummarySpec, vashista_attention
from vashista_theory.hull.heads import load_heads

BITS = (1, 2, 4)
_BOUNDED_BITS = (4, 8)
CONFIDENCE = 0.999
_RARE = 1e-3

_ERRORS = {
    "read": "what is read",
    "tokens": "tokens a kv head, sink and recent ones included",
    "median": "relative error of the output, median over rows",
    "mean": "the same, mean",
    "tenth": "the same, of the worst tenth",
}
_CALIBRATION = {
    "bits": "of the sketch",
    "tokens": "tokens a kv head",
    "median": "error over its estimate, median over rows",
    "p95": "the same, 95th percentile",
    "below_2": "share of rows with an error below twice the estimate",
}
_BOUNDS = {
    "bits": "of the sketch",
    "tokens": "tokens a kv head",
    "rows": "rows looked at",
    "exceeded": "rows whose error is above the bound",
    "median": "bound over the length of the output, median",
    "tenth": "the same, of the tightest tenth",
}


@dataclass(frozen=True)
class Config:
    """What to read.

    Attributes:
        tokens: Tokens a kv head.
        draws: Draws for each query.
        seed: Of all draws.
        quick: One layer and one number of tokens, for tests.
    """

    tokens: tuple[int, ...] = (64, 128, 256, 512)
    draws: int = 4
    seed: int = 0
    quick: bool = False

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise ValueError(f"draws is {self.draws}; expected at least 1")
        if not self.tokens or min(self.tokens) <= SURE:
            raise ValueError(
                f"tokens is {self.tokens}; expected numbers above {SURE}, of which some are left "
                "to draw"
            )

    def reduced(self) -> "Config":
        """The configuration of a quick run."""
        return Config((128,), 1, self.seed, quick=True)


def best_pages(layer: Layer, tokens: int, rng: np.random.Generator) -> np.ndarray:  # noqa: ARG001
    """The pages with most mass for the group."""
    mass = mass_of_group(layer, layer.shares)
    pages = mass.reshape(*mass.shape[:2], -1, PAGE).sum(axis=3)
    return np.repeat(largest(pages, tokens // PAGE), PAGE, axis=2).astype(float)


def best_tokens(layer: Layer, tokens: int, rng: np.random.Generator) -> np.ndarray:  # noqa: ARG001
    """The tokens with most mass for the group."""
    return best(layer, layer.shares, tokens).astype(float)


def half_and_half(layer: Layer, tokens: int, rng: np.random.Generator) -> np.ndarray:
    """Half of what is not always read the best tokens, half a uniform sample, weighted."""
    free = tokens - int(always_read(layer).sum(axis=1).max())
    top = best(layer, layer.shares, tokens - free // 2)
    left = layer.seen & ~top
    drawn = largest(np.where(left, rng.random(left.shape), -1.0), free // 2) & left
    share = left.sum(axis=2, keepdims=True) / np.maximum(drawn.sum(axis=2, keepdims=True), 1)
    return top + drawn * share


ORACLES: Mapping[str, Callable[[Layer, int, np.random.Generator], np.ndarray]] = {
    "best pages by true mass": best_pages,
    "best tokens by true mass": best_tokens,
    "half best, half uniform": half_and_half,
}


def measure(config: Config) -> Measured:
    """Read every layer in every way."""
    heads = load_heads()
    indices = range(1) if config.quick else range(len(heads.layers))
    errors: dict[tuple[str, int], list[np.ndarray]] = {}
    ratios: dict[tuple[int, int], list[np.ndarray]] = {}
    bounds: dict[tuple[int, int], list[np.ndarray]] = {}
    rng = np.random.default_rng(config.seed)
    with runs.Progress(
        len(indices), description="Layers", mode="none" if config.quick else "bar", unit="layers"
    ) as bar:
        for index in indices:
            layer = read_layer(heads, index)
            for tokens in config.tokens:
                for name, choose in ORACLES.items():
                    found = layer.relative(layer.output_by(choose(layer, tokens, rng)))
                    errors.setdefault((name, tokens), []).append(found)
            for bits, tokens, error, said in _drawn(layer, config, index, None):
                errors.setdefault((drawn_by(bits), tokens), []).append(error)
                ratios.setdefault((bits, tokens), []).append(error / said)
            for bits, tokens, error, said in _drawn(layer, config, index, CONFIDENCE):
                bounds.setdefault((bits, tokens), []).append(np.stack([error, said]))
            bar.advance()
    return Measured(
        {
            "errors": [_error_row(*key, np.concatenate(e, None)) for key, e in errors.items()],
            "calibration": [_ratio_row(*key, np.concatenate(r, None)) for key, r in ratios.items()],
            "bounds": [
                _bound_row(*key, np.concatenate([x.reshape(2, -1) for x in b], axis=1))
                for key, b in bounds.items()
            ],
        }
    )


def drawn_by(bits: int) -> str:
    """Name of a read by sketches of so many bits."""
    return f"drawn by {bits} bit{'s' if bits > 1 else ''}"


def _cache(layer: Layer, bits: int) -> PagedKV:
    copies = len(layer.lengths)
    keys, values = (np.repeat(a[None], copies, axis=0) for a in (layer.keys, layer.values))
    spec = SummarySpec(ball=False, sketch_bits=bits)
    return PagedKV.from_tokens(keys, values, lengths=layer.lengths, page_size=PAGE, spec=spec)


def _drawn(
    layer: Layer, config: Config, index: int, confidence: float | None
) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
    """Bits, tokens, relative errors, and what the read says of them: an estimate, or a bound."""
    size = np.linalg.norm(layer.output, axis=-1)
    bounded = confidence is not None
    many, one = (_BOUNDED_BITS, _BOUNDED_BITS[:1]) if bounded else (BITS, BITS[1:2])
    for bits in one if config.quick else many:
        cache = _cache(layer, bits)
        for tokens in config.tokens:
            policy = Policy.sampled(tokens, confidence=confidence, dense_below=0)
            for draw in range(config.draws):
                seed = jax.random.key(config.seed + bounded)
                key = jax.random.fold_in(seed, 1000 * index + draw)
                output, info = vashista_attention(
                    layer.queries, cache, policy, scale=layer.scale, key=key
                )
                said = info.error_bound if bounded else info.error_estimate
                yield bits, tokens, layer.relative(np.asarray(output)), np.asarray(said) / size


def _error_row(read: str, tokens: int, errors: np.ndarray) -> dict[str, Any]:
    return {
        "read": read,
        "tokens": tokens,
        "median": float(np.median(errors)),
        "mean": float(np.mean(errors)),
        "tenth": float(np.quantile(errors, 0.9)),
    }


def _ratio_row(bits: int, tokens: int, ratios: np.ndarray) -> dict[str, Any]:
    return {
        "bits": bits,
        "tokens": tokens,
        "median": float(np.median(ratios)),
        "p95": float(np.quantile(ratios, 0.95)),
        "below_2": float(np.mean(ratios < 2)),
    }


def _bound_row(bits: int, tokens: int, pairs: np.ndarray) -> dict[str, Any]:
    error, bound = pairs
    return {
        "bits": bits,
        "tokens": tokens,
        "rows": len(error),
        "exceeded": int(np.sum(error > bound)),
        "median": float(np.median(bound)),
        "tenth": float(np.quantile(bound, 0.1)),
    }


def report(found: Measured) -> Outcome:
    """What drawn tokens keep, and whether they know their error."""
    errors, bounds = found.tables["errors"], found.tables["bounds"]
    rows, exceeded = (sum(int(r[c]) for r in bounds) for c in ("rows", "exceeded"))  # pyright: ignore[reportArgumentType]
    chance = float(binom.sf(exceeded - 1, rows, 1 - CONFIDENCE)) if exceeded else 1.0
    failures = [] if chance > _RARE else [f"{exceeded} of {rows} bounds are exceeded"]
    values = {"bounded rows": rows, "bounds exceeded": exceeded}
    for row in errors:
        values[f"{row['read']}, {row['tokens']} tokens"] = row["median"]
    return Outcome(
        tables=found.described({"errors": _ERRORS, "calibration": _CALIBRATION, "bounds": _BOUNDS}),
        values=values,
        findings=[
            *_beside(errors),
            *_known(found.tables["calibration"]),
            *_bound(bounds, exceeded),
        ],
        notes=sentences(
            """- One draw for the heads of a group; pages of 16 tokens; the first page and the last,
              full or not, are always read. float64.
            - Best pages and tokens are chosen by the true mass of the group, which no mechanism
              has; drawn tokens know the sketch alone.
            """
        ),
        failures=failures,
    )


Rows = Sequence[Mapping[str, Any]]


def _beside(errors: Rows) -> Iterator[str]:
    by = {(row["read"], row["tokens"]): row["median"] for row in errors}
    for tokens in sorted({row["tokens"] for row in errors}):
        ours = by[drawn_by(2), tokens]
        others = ", ".join(f"{by[name, tokens]:.2g} for {name}" for name in ORACLES)
        yield f"{tokens} tokens drawn by 2 bits: median error {ours:.2g}, beside {others}."


def _known(calibration: Rows) -> Iterator[str]:
    for bits in sorted({row["bits"] for row in calibration}):
        rows = [row for row in calibration if row["bits"] == bits]
        middles, tails = ([row[c] for row in rows] for c in ("median", "p95"))
        yield (
            f"Error over estimate, {bits} bit{'s' if bits > 1 else ''}: median {min(middles):.2f} "
            f"to {max(middles):.2f}, 95th percentile {min(tails):.2f} to {max(tails):.2f}."
        )


def _bound(bounds: Rows, exceeded: int) -> Iterator[str]:
    tightest = min(bounds, key=lambda row: row["median"])
    yield (
        f"{exceeded} of {sum(row['rows'] for row in bounds):,} bounds at confidence {CONFIDENCE} "
        f"are exceeded; the tightest, {tightest['bits']} bits and {tightest['tokens']} tokens, is "
        f"{tightest['median']:.2g} of the output at the median."
    )

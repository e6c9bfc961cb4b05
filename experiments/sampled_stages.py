r"""Do two stages of drawing pay: error and bytes beside scoring every token, as contexts grow?

Scoring the sketch of every token is linear in the context. `Policy.sampled(superpages=...)` opens
some superpages of 256 tokens, drawn by their means, and scores the tokens of those alone. Both are
read by the mechanism itself, many draws of each query, and held against dense attention in float64;
the error is relative to the length of the output, root mean square over draws. Beside the first
stage's usual size stands one that reads at most the bytes that one stage reads.

Keys are those of real heads, whole superpages of captured text, thinned with the length as measured
on text up to 8,192 tokens (an extrapolation beyond), and normal keys, which no mean tells apart.

Examples:
  python -m experiments sampled_stages
  python -m experiments sampled_stages --lengths 32768 131072 --draws 16
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.framework.outcome import Measured, Outcome, Rows
from experiments.shared import decode_data as data
from vashista_theory import runs
from vashista_theory.attention import PagedKV, Policy, SummarySpec, vashista_attention
from vashista_theory.attention.bounds.summaries import DRAWING

SPAN = 16 * data.PAGE
TOLERANCE = 0.05  # of the certificate whose share read the thinning of the keys follows
_COLUMNS = {
    "keys": "of real heads, thinned with the length, or normal",
    "tokens": "of the context",
    "read": "every token scored, or superpages drawn first",
    "drawn": "tokens asked for, by kv head",
    "superpages": "drawn first, by kv head; 0 where every token is scored",
    "error": "relative, root mean square over draws, median over heads and queries",
    "error_p90": "the same, 90th percentile over heads and queries",
    "estimate": "of the error by the sample itself, root mean square, over the error; median",
    "megabytes": "read a step by one kv head, summaries included, 10⁶ bytes",
    "of_dense": "bytes of dense attention over these",
}


@dataclass(frozen=True)
class Config:
    """What to read.

    Attributes:
        lengths: Of the context, multiples of 256.
        drawn: Tokens of a read.
        superpages: Drawn first.
        heads: Real heads, each a kv head of its own.
        queries: At each length.
        draws: Of each query.
        seed: Of keys, queries and draws.
        quick: Two short contexts, for tests.
    """

    lengths: tuple[int, ...] = (32768, 131072, 524288, 1048576)
    drawn: int = 256
    superpages: int = 16
    heads: int = 4
    queries: int = 4
    draws: int = 24
    seed: int = 0
    quick: bool = False

    def __post_init__(self) -> None:
        if self.queries < 1 or self.draws < 2 or not 1 <= self.heads <= 8:
            raise ValueError(
                f"queries is {self.queries}, draws {self.draws}, heads {self.heads}; expected 1, "
                "2 or more, and 1 to 8"
            )
        if len(self.lengths) < 2 or any(n % SPAN or n < 16 * SPAN for n in self.lengths):
            raise ValueError(
                f"lengths is {self.lengths}; expected two or more multiples of {SPAN} from "
                f"{16 * SPAN} on"
            )

    def reduced(self) -> "Config":
        """The configuration of a quick run."""
        return Config((4096, 8192), 64, 1, 2, 1, 8, self.seed, True)

    def reads(self, length: int) -> Iterator[tuple[str, int, int]]:
        """Name, tokens drawn and superpages of each read at a length."""
        yield "every token scored", self.drawn, 0
        yield "two stages", self.drawn, self.superpages
        yield "two stages, four times as many", 4 * self.drawn, 4 * self.superpages
        # The bytes of one stage buy a quarter of the superpages, and as many more tokens as fit.
        spec, d = SummarySpec(sketch_bits=2), 64
        fields = spec.bytes_by_field(data.PAGE, d)
        scored = 16 * sum(fields[name] for name in ("box", "codes", *DRAWING))  # of a superpage
        part = max(self.superpages, length // SPAN // 4)
        spared = (length // SPAN - part) * scored - length // SPAN * 2 * (d + 1)
        tokens = self.drawn + max(0, spared // (2 * d * 4))
        yield "two stages, bytes of one", min(tokens, part * SPAN // 2), part


def measure(config: Config) -> Measured:
    """Read every length."""
    with jax.enable_x64(False):
        return _measured(config)


def _measured(config: Config) -> Measured:
    source = data.real_heads(config.heads, max(8, config.queries), config.seed)
    rows: list[dict[str, Any]] = []
    with runs.Progress(
        2 * len(config.lengths),
        description="Contexts",
        mode="none" if config.quick else "bar",
        unit="contexts",
    ) as bar:
        for length in sorted(config.lengths):
            for kind in ("real heads", "normal"):
                rows += [{"keys": kind, **row} for row in _rows(kind, length, config, source)]
                bar.advance()
    return Measured({"reads": rows}, {"heads": config.heads})


def _rows(kind: str, length: int, config: Config, source: data.Source) -> Iterator[dict[str, Any]]:
    keys, values, queries = _context(kind, length, config, source)
    dense = _dense(keys, values, queries)
    cache = data.cache_of(keys, values, SummarySpec(sketch_bits=2))
    dense_bytes = 2 * keys[0].nbytes
    for read, tokens, superpages in config.reads(length):
        policy = Policy.sampled(tokens, superpages=superpages or None, dense_below=0)
        errors, estimates, used = _errors(cache, policy, queries, dense, config)
        size = np.sqrt(np.mean(errors**2, axis=0))
        told = np.sqrt(np.mean(estimates**2, axis=0))
        yield {
            "tokens": length,
            "read": read,
            "drawn": tokens,
            "superpages": superpages,
            "error": float(np.median(size)),
            "error_p90": float(np.quantile(size, 0.9)),
            "estimate": float(np.median(told / size)),
            "megabytes": used / 1e6,
            "of_dense": dense_bytes / used,
        }


def _context(
    kind: str, length: int, config: Config, source: data.Source
) -> tuple[jax.Array, jax.Array, np.ndarray]:
    """Pools (H, N, PAGE, D), and queries (H, Q, D)."""
    d = source.keys.shape[-1]
    if kind == "normal":
        return data.gaussian(config.heads, d, length, config.queries, config.seed)
    nats = data.thinning(source, length, tolerance=TOLERANCE)
    pools = data.like_real_heads(source, length, nats, config.seed, run=16)
    return *pools, source.queries[:, : config.queries]


def _dense(keys: jax.Array, values: jax.Array, queries: np.ndarray) -> np.ndarray:
    """Dense outputs (Q, H, D), in float64."""
    outputs = []
    for key, value, query in zip(keys, values, queries, strict=True):
        flat = np.asarray(key, float).reshape(-1, key.shape[-1])
        logits = query.astype(float) @ flat.T / np.sqrt(flat.shape[1])
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        outputs.append(shares @ np.asarray(value, float).reshape(flat.shape))
    return np.stack(outputs, axis=1)


def _errors(
    cache: PagedKV, policy: Policy, queries: np.ndarray, dense: np.ndarray, config: Config
) -> tuple[np.ndarray, np.ndarray, float]:
    """Errors and their estimates, relative, (draws, Q, H), and bytes a step and kv head."""
    arrays, structure = jax.tree.flatten(cache)

    @jax.jit
    def step(query: jax.Array, key: jax.Array, arrays: list[jax.Array]) -> Any:
        held = jax.tree.unflatten(structure, arrays)
        return vashista_attention(query, held, policy, key=key)

    errors, estimates, used = [], [], []
    for number in range(queries.shape[1]):
        query = jnp.asarray(queries[:, number])[None]
        start = jax.random.fold_in(jax.random.key(config.seed), number)
        length = np.linalg.norm(dense[number], axis=1)
        for draw in range(config.draws):
            output, info = step(query, jax.random.fold_in(start, draw), arrays)
            away = np.asarray(output, float)[0] - dense[number]
            errors.append(np.linalg.norm(away, axis=1) / length)
            estimates.append(np.asarray(info.error_estimate, float)[0] / length)
            used.append(np.mean(info.bytes_read))
    shape = (queries.shape[1], config.draws, -1)
    by_draw = [np.moveaxis(np.reshape(a, shape), 1, 0) for a in (errors, estimates)]
    return by_draw[0], by_draw[1], float(np.mean(used))


def report(found: Measured) -> Outcome:
    """Error and bytes of two stages beside one."""
    rows = found.tables["reads"]
    return Outcome(
        tables=found.described({"reads": _COLUMNS}),
        values={f"{row['read']}, {row['keys']}, {row['tokens']}": row["error"] for row in rows},
        findings=list(_said(rows)),
        notes=[
            (
                "float32, one query head a kv head, which share what they draw; a 2-bit sketch; "
                "the first page and the last are always read. Keys of real heads beyond 8,192 "
                "tokens are an extrapolation: copies of captured superpages, lowered. The output "
                "of normal keys nearly vanishes, so errors relative to it are large: compare reads."
            )
        ],
    )


def _said(rows: Rows) -> Iterator[str]:
    for kind in dict.fromkeys(row["keys"] for row in rows):
        for read in dict.fromkeys(row["read"] for row in rows):
            if read == "every token scored":
                continue
            parts = []
            for row in rows:
                if (row["keys"], row["read"]) != (kind, read):
                    continue
                one = next(
                    r
                    for r in rows
                    if (r["keys"], r["tokens"], r["superpages"]) == (kind, row["tokens"], 0)
                )
                parts.append(
                    f"{row['error'] / one['error']:.2f} times the error for "
                    f"{row['megabytes'] / one['megabytes']:.2f} of the bytes at {row['tokens']:,}"
                )
            keys = "keys of real heads" if kind == "real heads" else "normal keys"
            yield f"{read.capitalize()} on {keys}, beside every token scored: {'; '.join(parts)}."

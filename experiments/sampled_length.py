r"""Does the error of so many drawn tokens stay as it is when the context grows (T8)?

Diffuse keys are the hard case, where no selection is small: normal keys, logits of standard
deviation 1, and values half of their keys, so that what is read matters. Contexts from 8k to a
million tokens are read by the mechanism itself with a fixed number of tokens, a fresh key for every
draw, and held against dense attention in float64. T8 says how large the root of the mean squared
error is at most: the part of Σ share × distance that the tail has, times √(ρ/m), with the distance
of each value from the output, m drawn tokens, and ρ how far what they are drawn by is from share ×
distance. It is computed in NumPy, from a sketch and the lengths of the values; errors and T8 are in
units of the values' spread. Beside it stand as many of the best pages and tokens, chosen by the
true mass.

Examples:
  python -m experiments sampled_length
  python -m experiments sampled_length --lengths 8192 65536 --draws 32
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.framework.outcome import Measured, Outcome, Rows
from vashista_theory import runs
from vashista_theory.attention import PagedKV, Policy, SummarySpec, vashista_attention

PAGE = 16
BITS = 2
_CHANCE = 1.2
FLAT = 0.05
"""An exponent of the error in the length of at most this is called flat."""
_COLUMNS = {
    "tokens": "of the context",
    "error": "of drawn tokens: root mean square over draws, in units of the values' spread",
    "low": "the same, lower end of a 95 % interval over queries and draws",
    "high": "upper end",
    "bound": "T8: the tail's Σ share × distance times √(ρ/m), in the same unit, the greatest",
    "of_bound": "error over bound of each query, the greatest",
    "rho": "ρ, mean over queries",
    "best_tokens": "error of the best tokens, mean over queries",
    "best_pages": "of the best pages",
}


@dataclass(frozen=True)
class Config:
    """What to read.

    Attributes:
        lengths: Of the context, multiples of 16.
        tokens: That each read has.
        queries: At each length.
        draws: Of each query.
        head_size: Of keys and values.
        seed: Of keys, values, queries and draws.
        quick: Two short contexts, for tests.
    """

    lengths: tuple[int, ...] = (8192, 32768, 131072, 524288, 1048576)
    tokens: int = 256
    queries: int = 8
    draws: int = 64
    head_size: int = 64
    seed: int = 0
    quick: bool = False

    def __post_init__(self) -> None:
        if self.queries < 1 or self.draws < 2:
            raise ValueError(
                f"queries is {self.queries}, draws {self.draws}; expected 1, 2 or more"
            )
        if len(self.lengths) < 2 or any(n % PAGE or n <= self.tokens for n in self.lengths):
            raise ValueError(
                f"lengths is {self.lengths}; expected two or more multiples of {PAGE} above "
                f"tokens={self.tokens}"
            )

    def reduced(self) -> "Config":
        """The configuration of a quick run."""
        return Config((2048, 4096), 128, 2, 16, 16, self.seed, True)


@dataclass(frozen=True)
class Context:
    """One kv head in float32, and queries of unit logits.

    Attributes:
        queries: (Q, D).
        keys: (T, D).
        values: (T, D).
    """

    queries: np.ndarray
    keys: np.ndarray
    values: np.ndarray


def context(length: int, config: Config) -> Context:
    """Normal keys and queries; the scale 1/√D makes logits of standard deviation 1.

    Half of the variance of a value is its key's: which tokens are read matters, as on real heads.
    """
    rng = np.random.default_rng((config.seed, length))
    keys, values = rng.standard_normal((2, length, config.head_size), dtype=np.float32)
    values = np.sqrt(np.float32(0.5)) * (keys + values)
    return Context(
        rng.standard_normal((config.queries, config.head_size), np.float32), keys, values
    )


@dataclass(frozen=True)
class Truth:
    """What one query sees, in float64.

    Attributes:
        shares: Softmax mass of each token.
        output: Dense output.
        away: ‖v − o‖ of each value.
        spread: √(Σ share ‖v − o‖²).
    """

    shares: np.ndarray
    output: np.ndarray
    away: np.ndarray
    spread: float


def truth(one: Context, query: np.ndarray) -> Truth:
    """Dense attention of one query."""
    logits = one.keys.astype(float) @ query.astype(float) / np.sqrt(query.size)
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    values = one.values.astype(float)
    output = shares @ values
    away = np.linalg.norm(values - output, axis=1)
    return Truth(shares, output, away, float(np.sqrt(shares @ away**2)))


def drawn_by(one: Context, query: np.ndarray) -> np.ndarray:
    """What tokens are drawn by: sketched mass times length.

    Keys have two bits a dimension, between the corners of their page's box, and
    no value counts as shorter than a sixteenth of the longest.
    """
    pages = one.keys.astype(float).reshape(-1, PAGE, query.size)
    lower, upper = pages.min(axis=1, keepdims=True), pages.max(axis=1, keepdims=True)
    step = (upper - lower) / (2**BITS - 1)
    kept = lower + np.round((pages - lower) / np.where(step > 0, step, 1)) * step
    logits = kept.reshape(-1, query.size) @ query.astype(float) / np.sqrt(query.size)
    lengths = np.linalg.norm(one.values.astype(float), axis=1)
    proxies = np.exp(logits - logits.max()) * np.maximum(lengths, lengths.max() / 16)
    return proxies / proxies.sum()


def t8(found: Truth, proxies: np.ndarray, tokens: int) -> tuple[float, float]:
    """√(ρ/m) times the tail's Σ share × distance, in units of the spread, and ρ.

    The first page and the last are always read.
    """
    free = slice(PAGE, -PAGE)
    drawn, proxy = tokens - 2 * PAGE, proxies[free]
    order = np.sort(proxy)[::-1]
    rest = np.cumsum(order[::-1])[::-1]  # of those from place k on
    place = np.arange(min(drawn, order.size))
    # k tokens are sure if the others, in proportion, are not: π of the next one is below 1.
    fits = (drawn - place) * order[: place.size] < rest[: place.size]
    sure = int(np.argmax(fits))
    tail = proxy <= order[sure]
    mass = (found.shares * found.away / found.spread)[free][tail]
    rho = float(np.sum(mass**2 / proxy[tail]) * proxy[tail].sum() / mass.sum() ** 2)
    return float(mass.sum() * np.sqrt(rho / (drawn - sure))), rho


def selection(one: Context, found: Truth, tokens: int, *, pages: bool) -> float:
    """Error of the best tokens, or pages, beside the first page and the last."""
    always = np.zeros(found.shares.size, bool)
    always[:PAGE] = always[-PAGE:] = True
    if pages:
        mass = np.where(always, 2.0, found.shares).reshape(-1, PAGE).sum(axis=1)
        kept = np.zeros(mass.size, bool)
        kept[np.argsort(-mass, kind="stable")[: tokens // PAGE]] = True
        kept = np.repeat(kept, PAGE)
    else:
        order = np.argsort(-np.where(always, 2.0, found.shares), kind="stable")
        kept = np.zeros(always.size, bool)
        kept[order[:tokens]] = True
    weights = found.shares * kept
    output = weights @ one.values.astype(float) / weights.sum()
    return float(np.linalg.norm(output - found.output) / found.spread)


def measure(config: Config) -> Measured:
    """Read every length."""
    with jax.enable_x64(False):
        return _measured(config)


def _measured(config: Config) -> Measured:
    policy = Policy.sampled(config.tokens, dense_below=0)
    rows: list[dict[str, Any]] = []
    with runs.Progress(
        len(config.lengths),
        description="Contexts",
        mode="none" if config.quick else "bar",
        unit="contexts",
    ) as bar:
        for length in config.lengths:
            rows.append(_row(length, config, policy))
            bar.advance()
    return Measured({"lengths": rows})


def _row(length: int, config: Config, policy: Policy) -> dict[str, Any]:
    one = context(length, config)
    spec = SummarySpec(ball=False, sketch_bits=BITS)
    cache = PagedKV.from_tokens(one.keys[None, None], one.values[None, None], spec=spec)
    squares, bounds, rhos, ratios = [], [], [], []
    selected: dict[bool, list[float]] = {False: [], True: []}
    for number, query in enumerate(one.queries):
        found = truth(one, query)
        start = jax.random.fold_in(jax.random.key(config.seed), number)
        errors = [
            _error(query, cache, policy, jax.random.fold_in(start, draw), found)
            for draw in range(config.draws)
        ]
        bound, rho = t8(found, drawn_by(one, query), config.tokens)
        squares.append(np.square(errors))
        bounds.append(bound)
        rhos.append(rho)
        ratios.append(np.sqrt(np.mean(squares[-1])) / bound)
        for pages, into in selected.items():
            into.append(selection(one, found, config.tokens, pages=pages))
    every = np.concatenate(squares)
    drawn = np.random.default_rng(0).choice(every, (1000, every.size)).mean(axis=1)
    low, high = np.sqrt(np.quantile(drawn, [0.025, 0.975]))
    return {
        "tokens": length,
        "error": float(np.sqrt(every.mean())),
        "low": float(low),
        "high": float(high),
        "bound": float(max(bounds)),
        "of_bound": float(max(ratios)),
        "rho": float(np.mean(rhos)),
        "best_tokens": float(np.mean(selected[False])),
        "best_pages": float(np.mean(selected[True])),
    }


def _error(
    query: np.ndarray, cache: PagedKV, policy: Policy, key: jax.Array, found: Truth
) -> float:
    output, _ = vashista_attention(jnp.asarray(query)[None, None], cache, policy, key=key)
    off = np.asarray(output, float)[0, 0] - found.output
    return float(np.linalg.norm(off)) / found.spread


def exponent(rows: Rows, name: str) -> float:
    """Slope of the logarithm of an error in the logarithm of the length, by least squares."""
    n = np.log([row["tokens"] for row in rows])
    return float(np.polyfit(n, np.log([row[name] for row in rows]), 1)[0])


def report(found: Measured) -> Outcome:
    """How the error grows."""
    rows = found.tables["lengths"]
    slopes = {name: exponent(rows, name) for name in ("error", "best_tokens", "best_pages")}
    worst = max(float(row["of_bound"]) for row in rows)
    return Outcome(
        tables=found.described({"lengths": _COLUMNS}),
        values={
            "exponent of the error of drawn tokens": slopes["error"],
            "exponent of the error of the best tokens": slopes["best_tokens"],
            "exponent of the error of the best pages": slopes["best_pages"],
            "greatest error over T8's bound": worst,
        },
        findings=list(_said(rows, slopes, worst)),
        notes=[
            "Normal keys: an upper end of what real heads ask for, and the same at every length.",
            (
                "float32, one kv head, one query head; a 2-bit sketch; the first page and the last "
                "are always read."
            ),
        ],
        # Of 64 draws the root mean square of a norm in 64 dimensions is known to 3 %, of 16 to 6 %.
        failures=[f"an error is {worst:.2f} times T8's bound"] if worst > _CHANCE else [],
    )


def _said(rows: Rows, slopes: Mapping[str, float], worst: float) -> Iterator[str]:
    first, last = rows[0], rows[-1]
    flat = "flat" if abs(slopes["error"]) <= FLAT else "not flat"
    yield (
        f"From {first['tokens']:,} to {last['tokens']:,} tokens the error of drawn tokens goes "
        f"from {first['error']:.3g} to {last['error']:.3g} of the values' spread: like the length "
        f"to the power {slopes['error']:.3f}, {flat}."
    )
    yield (
        f"Best tokens go from {first['best_tokens']:.3g} to {last['best_tokens']:.3g}, best pages "
        f"from {first['best_pages']:.3g} to {last['best_pages']:.3g}."
    )
    yield f"No query's error is above {worst:.2f} times its bound by T8."

r"""At which length does each certificate become vacuous: page boxes, balls, key sketches, T1′, T3?

A page certificate (T7) is vacuous where it proves under 5 % of dropped mass only by reading every
page. A bound on the leakage (T1′, T3) is vacuous where it is 1 or more at the temperature of a
model, ε = √d = 8. Both are followed over the length T.

Keys are synthetic: independent normal ones, and clusters in which the 16 keys of a page lie around
a common centre; queries are normal, and so many times as wide. Each length is a prefix of one
sequence, so that lengths are compared on the same keys. Real heads are the packaged sample: 1,024
tokens, or its first page with the latest others. To tile them would prove nothing (every mass is
multiplied alike), so lengths up to 8,192 come from the committed result of `certified_text`, which
reads real text by a 4-bit sketch; there three query heads of a kv head choose their pages
together, and a page counts as read for all of them.

Bounds of pages are the library's own; pages are counted in the order of the bounds, none is forced.

Examples:
  python -m experiments certificate_vacuity
  python -m experiments certificate_vacuity --longest 16384 --instances 2
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.framework import results
from experiments.framework.outcome import Measured
from experiments.shared import hulls
from experiments.shared.hulls import DECADE
from experiments.shared.page_masses import PAGE, pages_needed
from experiments.shared.readings import KINDS
from vashista_theory import runs
from vashista_theory.attention.bounds.page_bounds import as_query, page_bounds
from vashista_theory.attention.bounds.summaries import summarise_pages
from vashista_theory.hull.heads import load_heads
from vashista_theory.hull.instances import Instance

D = 64
SCALE = 1.0 / D**0.5
EPSILON = D**0.5
SHORTEST = 256
_BEST = "best possible"
_CERTIFICATES = ("box", "ball", "box + mean", "2 bits", "4 bits", "6 bits", "8 bits")
_CHUNK = SHORTEST // PAGE
_TOLERANCE = 0.05
# Spread of the keys of a page around its centre (None: no centre), and the width of the queries.
_SOURCES: dict[str, tuple[float | None, float]] = {
    "i.i.d., query × 1.5": (None, 1.5),
    "i.i.d., query × 4": (None, 4.0),
    "clusters of spread 0.3": (0.3, 4.0),
    "clusters of spread 0.1": (0.1, 4.0),
}
_WIDTHS = (1.5, 4.0, 16.0, 64.0)
_ELSEWHERE = "certified_text"
READS = (_ELSEWHERE,)


@dataclass(frozen=True)
class Config:
    """What to follow.

    Attributes:
        longest: Tokens of the longest context; 256 times a power of 2.
        instances: Sequences of each synthetic source.
        queries: Queries of each sequence.
        hulls: Hulls of each width and length, for T1′ and T3.
        seed: First seed.
        quick: Two short lengths of one source, for tests.
    """

    longest: int = 65536
    instances: int = 3
    queries: int = 8
    hulls: int = 15
    seed: int = 0
    quick: bool = False

    def __post_init__(self) -> None:
        doublings = np.log2(self.longest / SHORTEST)
        if doublings < 0 or doublings != int(doublings):
            raise ValueError(
                f"longest is {self.longest}; expected {SHORTEST} times a power of 2, such as 65536"
            )
        if min(self.instances, self.queries, self.hulls) < 1:
            raise ValueError(f"counts must be at least 1; got {self}")

    def reduced(self) -> "Config":
        """The configuration of a quick run."""
        return Config(2 * SHORTEST, 1, 2, 1, self.seed, quick=True)

    def lengths(self) -> list[int]:
        """256, 512, … up to the longest."""
        return [int(SHORTEST * 2**k) for k in range(int(np.log2(self.longest // SHORTEST)) + 1)]


def measure(config: Config) -> Measured:
    """Follow every certificate over the length."""
    sources = list(_SOURCES)[:1] if config.quick else list(_SOURCES)
    kinds = ("box", "4 bits") if config.quick else _CERTIFICATES
    pages: list[dict[str, Any]] = []
    with runs.Progress(
        len(sources) * config.instances + len(_WIDTHS),
        description="Lengths",
        mode="none" if config.quick else "bar",
        unit="sequences",
    ) as bar:
        for source in sources:
            found: dict[tuple[int, str], list[np.ndarray]] = {}
            for k in range(config.instances):
                keys, queries = _draw(source, config, config.seed + k)
                _judge(keys, queries, SCALE, kinds, config.lengths(), found)
                bar.advance()
            pages += _page_rows(source, found)
        of_hulls: list[dict[str, Any]] = []
        for width in _WIDTHS[:1] if config.quick else _WIDTHS:
            of_hulls += _hull_rows(width, config)
            bar.advance()
    if not config.quick:
        pages += _real(kinds)
    text = [] if config.quick else _text()
    return Measured({"pages": pages, "hulls": of_hulls, "real text": text})


def _draw(source: str, config: Config, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Keys (page, token, D) and queries (query, D) of one sequence."""
    spread, width = _SOURCES[source]
    rng = np.random.default_rng([seed, len(source)])
    pages = config.longest // PAGE
    queries = width * rng.normal(size=(config.queries, D))
    keys = rng.normal(size=(pages, PAGE, D))
    if spread is not None:
        keys = rng.normal(size=(pages, 1, D)) + spread * keys
    return keys, queries


@functools.cache
def _compiled(name: str) -> Callable[[jax.Array, jax.Array, jax.Array], jax.Array]:
    kind = KINDS[name]
    spec = kind.spec(D)

    @jax.jit
    def judge(keys: jax.Array, queries: jax.Array, scale: jax.Array) -> jax.Array:
        summaries = summarise_pages(keys[None], keys[None], spec)
        query = as_query(queries[None], scale)
        return page_bounds(query, summaries, spec, kind.judged_by, PAGE).upper[0]

    return judge


def bounded(keys: np.ndarray, queries: np.ndarray, scale: float, name: str) -> np.ndarray:
    """The library's bounds on the log-masses of pages, (query, page), by chunks of one shape.

    Args:
        keys: (page, token, D).
        queries: (query, D).
        scale: Factor on the scores.
        name: Of the certificate.
    """
    judge = _compiled(name)
    filled = np.pad(keys, ((0, -keys.shape[0] % _CHUNK), (0, 0), (0, 0)))
    vectors, factor = jnp.asarray(queries), jnp.asarray(scale)
    parts = [
        np.asarray(judge(jnp.asarray(filled[at : at + _CHUNK]), vectors, factor))
        for at in range(0, filled.shape[0], _CHUNK)
    ]
    return np.concatenate(parts, axis=1)[:, : keys.shape[0]]


def _judge(
    keys: np.ndarray,
    queries: np.ndarray,
    scale: float,
    kinds: tuple[str, ...],
    lengths: list[int],
    into: dict[tuple[int, str], list[np.ndarray]],
) -> None:
    """Shares of pages (row 0) and slacks of the median page (row 1), by length and certificate."""
    logits = scale * np.einsum("qd,psd->qps", queries, keys)
    truth = np.logaddexp.reduce(logits, axis=-1)
    uppers = {name: bounded(keys, queries, scale, name) for name in kinds}
    for tokens in lengths:
        pages = tokens // PAGE
        total = np.logaddexp.reduce(truth[:, :pages], axis=-1)[:, None]
        mass = np.exp(truth[:, :pages] - total)
        for name, upper in {_BEST: truth, **uppers}.items():
            bound = np.exp(upper[:, :pages] - total)
            needed = pages_needed(bound[:, None], mass[:, None], _TOLERANCE)
            slack = np.median(upper[:, :pages] - truth[:, :pages], axis=1)
            into.setdefault((tokens, name), []).append(np.stack([needed / pages, slack]))


def _page_rows(
    source: str, found: Mapping[tuple[int, str], list[np.ndarray]]
) -> Iterable[dict[str, Any]]:
    for (tokens, name), parts in found.items():
        share, slack = np.concatenate(parts, axis=1)
        yield {
            "source": source,
            "tokens": tokens,
            "certificate": name,
            "share": float(np.median(share)),
            "low": float(np.percentile(share, 10)),
            "high": float(np.percentile(share, 90)),
            "vacuous": float(np.mean(share >= 1)),
            "slack": float(np.median(slack)),
        }


def _real(kinds: tuple[str, ...]) -> list[dict[str, Any]]:
    heads = load_heads()
    found: dict[tuple[int, str], list[np.ndarray]] = {}
    layers, kv_heads, tokens, d = heads.keys.shape
    group = heads.queries.shape[1] // kv_heads
    pages = heads.keys.astype(float).reshape(layers, kv_heads, tokens // PAGE, PAGE, d)
    for length in (256, 512, 1024):
        chosen = np.r_[0, np.arange(tokens // PAGE - length // PAGE + 1, tokens // PAGE)]
        for layer in range(layers):
            for head in range(kv_heads):
                those = slice(head * group, (head + 1) * group)
                queries = heads.queries[layer, those, -1].astype(float)
                keys = pages[layer, head, chosen]
                _judge(keys, queries, heads.scale, kinds, [length], found)
    return list(_page_rows("real heads", found))


def _text() -> list[dict[str, Any]]:
    """Certified reading of real text, from the committed result."""
    if not results.path_of(_ELSEWHERE).is_file():
        return []
    rows = results.outcome(_ELSEWHERE).tables["certificates"].rows
    return [
        {
            "tokens": row["context"],
            "queries": row["queries"],
            "share": float(row["pages_median"]) / float(row["pages"]),
            "high": float(row["pages_high"]) / float(row["pages"]),
            "read_all": row["read_all"],
        }
        for row in rows
        if row["tolerance"] == _TOLERANCE
    ]


def _hull_rows(width: float, config: Config) -> Iterable[dict[str, Any]]:
    # A shape is compiled anew: every second length is enough to see the trend.
    for tokens in config.lengths()[::2]:
        measured = [
            _hull(width, tokens, config.longest, config.seed + k) for k in range(config.hulls)
        ]
        columns = {name: np.array([m[name] for m in measured]) for name in measured[0]}
        yield {
            "width": width,
            "tokens": tokens,
            **{
                name: float(np.median(columns[name]))
                for name in (
                    "face", "gap_ratio", "log10_mass", "log10_t3", "log10_published", "safe"
                )
            },
            "vacuous_t3": float(np.mean(columns["log10_t3"] >= 0)),
            "vacuous_published": float(
                np.mean((columns["log10_published"] >= 0) | (columns["range"] < EPSILON))
            ),
        }  # fmt: skip


def _hull(width: float, tokens: int, longest: int, seed: int) -> dict[str, float]:
    rng = np.random.default_rng([seed, longest])
    query = width * rng.normal(size=D)
    keys = rng.normal(size=(longest, D))[:tokens]
    given = hulls.problem(Instance(keys, query, "i.i.d.", seed))
    followed = hulls.follow(given, np.array([EPSILON]))
    return {
        "face": float(given.projection.face.sum()),
        "gap_ratio": given.gap / EPSILON,
        "log10_mass": float(followed.log_mass[0]) / DECADE,
        "log10_t3": float(followed.t3[0]) / DECADE,
        "log10_published": float(followed.published[0]) / DECADE,
        "range": float(given.stability.published_range()),
        "safe": float(given.stability.largest_safe_epsilon(float(np.log(0.01)))),
    }

"""Caches of any length that behave like real attention heads, and the worst case.

A head's cache begins with the 1,024 tokens that were captured, and goes on with copies of their
pages drawn at random. Copies alone would keep the share of pages that must be read constant, while
measured on text it falls with the length; so the keys of the copies are moved against the mean
query, which lowers all their scores by about the same amount. That amount is found by bisection,
such that the mean share follows the measured law.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from vashista_theory.attention import PagedKV, SummarySpec
from vashista_theory.hull.heads import load_heads

PAGE = 16
# Mean share of pages that a 4-bit certificate must read at 5 % dropped mass, one 1981 speech, 90
# heads: measured up to 8,192 tokens.
MEASURED_SHARE = {1024: 0.37, 2048: 0.33, 4096: 0.27, 8192: 0.20}
MEASURED_UP_TO = max(MEASURED_SHARE)
_HEADS = ((0, 0), (1, 4), (2, 8), (3, 1), (4, 5), (5, 7), (6, 2), (6, 6))  # layer index, query head


@dataclass(frozen=True)
class Source:
    """Real heads, one kv head each: pages to draw from and queries to start from.

    Attributes:
        keys: (H, 64, PAGE, D) captured pages.
        values: Like the keys.
        queries: (H, Q, D), distinct.
        away: (H, D), what lowers a typical logit by one nat when subtracted from a key.
    """

    keys: np.ndarray
    values: np.ndarray
    queries: np.ndarray
    away: np.ndarray


def real_heads(heads: int, queries: int, seed: int) -> Source:
    """Pages and queries of up to eight real heads, spread over the layers.

    Queries are random mixtures of two recorded ones of the head plus 10 % of noise.
    """
    held = load_heads()
    share = held.queries.shape[1] // held.keys.shape[1]
    rng = np.random.default_rng(seed)
    keys, values, drawn, away = [], [], [], []
    for layer, head in _HEADS[:heads]:
        recorded = np.asarray(held.queries[layer, head], np.float32)
        d = recorded.shape[1]
        pair = rng.integers(recorded.shape[0], size=(2, queries))
        mix = rng.uniform(size=(queries, 1))
        some = mix * recorded[pair[0]] + (1 - mix) * recorded[pair[1]]
        noise = rng.normal(size=some.shape) / d**0.5
        some = some + 0.1 * np.linalg.norm(some, axis=1, keepdims=True) * noise
        mean = recorded.mean(axis=0)
        keys.append(np.asarray(held.keys[layer, head // share], np.float32).reshape(-1, PAGE, d))
        values.append(
            np.asarray(held.values[layer, head // share], np.float32).reshape(-1, PAGE, d)
        )
        drawn.append(some.astype(np.float32))
        away.append(mean * d**0.5 / (mean @ mean))
    return Source(np.stack(keys), np.stack(values), np.stack(drawn), np.stack(away))


def target_share(tokens: int) -> float:
    """The measured law, a straight line in logarithms; beyond 8,192 tokens an extrapolation."""
    n = np.log(np.array(list(MEASURED_SHARE)))
    slope, start = np.polyfit(n, np.log(np.array(list(MEASURED_SHARE.values()))), 1)
    return float(np.exp(start + slope * np.log(tokens)))


def thinning(source: Source, tokens: int, *, tolerance: float, sample: int = 24) -> float:
    """Nats by which the copies must be lowered for the mean share to follow the law."""
    share = target_share(tokens)
    log_upper, log_mass, lowered = _page_masses(source, sample)
    copies = max(0, tokens // PAGE - log_upper.shape[-1]) / log_upper.shape[-1]

    def mean_share(nats: float) -> float:
        shift = nats * lowered[..., None] - np.log(max(copies, 1e-9))
        upper = np.concatenate([log_upper, log_upper - shift], axis=-1)
        mass = np.concatenate([log_mass, log_mass - shift], axis=-1)
        count = np.concatenate([np.ones_like(log_upper), np.full_like(log_upper, copies)], axis=-1)
        order = np.argsort(np.log(count) - upper, axis=-1)
        top = upper.max(axis=-1, keepdims=True)
        pick = lambda a: np.take_along_axis(a, order, axis=-1)  # noqa: E731
        tail = np.cumsum(np.exp(pick(upper) - top)[..., ::-1], axis=-1)[..., ::-1]
        read = np.cumsum(np.exp(pick(mass) - top), axis=-1)
        left = np.concatenate([tail[..., 1:], np.zeros_like(tail[..., :1])], axis=-1)
        enough = left <= tolerance * (left + read)
        first = np.argmax(enough, axis=-1)[..., None]
        return float(np.take_along_axis(np.cumsum(pick(count), -1), first, -1).mean()) * (
            PAGE / tokens
        )

    low, high = 0.0, 60.0
    if copies == 0 or mean_share(low) <= share:
        return low
    for _ in range(40):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if mean_share(middle) <= share else (middle, high)
    return high


def _page_masses(source: Source, sample: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log-masses of the captured pages from above and exact, (H, Q, page), and what thinning does.

    The bound is that of a 4-bit sketch. The third array, (H, Q), says by how many nats one unit of
    thinning lowers a copy.
    """
    keys, queries = source.keys.astype(float), source.queries[:, :sample].astype(float)
    scale = keys.shape[-1] ** -0.5
    lower, upper = keys.min(axis=2, keepdims=True), keys.max(axis=2, keepdims=True)
    step = np.maximum((upper - lower) / 15, 1e-9)
    kept = lower + step * np.round((keys - lower) / step)
    exact = np.einsum("hqd,hpsd->hqps", queries, keys) * scale
    sketched = np.einsum("hqd,hpsd->hqps", queries, kept) * scale
    by_box = 0.5 * np.einsum("hqd,hpsd->hqps", np.abs(queries), step) * scale
    norms = np.linalg.norm(queries, axis=-1)[:, :, None, None]
    by_length = norms * np.linalg.norm(keys - kept, axis=-1)[:, None] * scale
    above = sketched + np.minimum(by_box, by_length)
    lowered = np.einsum("hqd,hd->hq", queries, source.away) * scale
    return np.logaddexp.reduce(above, -1), np.logaddexp.reduce(exact, -1), lowered


def like_real_heads(
    source: Source, tokens: int, nats: float, seed: int, *, run: int = 1
) -> tuple[jax.Array, jax.Array]:
    """Pools of keys and values (H, N, PAGE, D): the captured pages and lowered copies of them.

    The last captured page comes last, so that recent tokens stay recent. So many consecutive pages
    of the text are copied together, as they follow one another.
    """
    held = source.keys.shape[1]
    pages = tokens // PAGE
    rng = np.random.default_rng([seed, tokens])
    first = min(held, pages) - 1
    lead = first % run  # pages before the first copy in the run that it is of
    copies = rng.integers(held // run, size=-(-(pages - first - 1 + lead) // run))
    copies = (copies[:, None] * run + np.arange(run)).reshape(-1)[lead : lead + pages - first - 1]
    chosen = np.concatenate([np.arange(first), copies, [held - 1]]).astype(np.int32)
    lowered = np.zeros(pages, np.float32)
    lowered[first : pages - 1] = nats

    @jax.jit
    def build(keys: jax.Array, values: jax.Array, away: jax.Array) -> tuple[jax.Array, jax.Array]:
        shift = jnp.asarray(lowered)[None, :, None, None] * away[:, None, None, :]
        return keys[:, chosen] - shift, values[:, chosen]

    away = jnp.asarray(source.away, jnp.float32)
    return build(jnp.asarray(source.keys), jnp.asarray(source.values), away)


def gaussian(
    heads: int, d: int, tokens: int, queries: int, seed: int
) -> tuple[jax.Array, jax.Array, np.ndarray]:
    """The worst case: normal keys and values, and normal queries: no key stands out."""
    one, two, three = jax.random.split(jax.random.key(seed), 3)
    shape = (heads, tokens // PAGE, PAGE, d)
    keys = jax.random.normal(one, shape, jnp.float32)
    values = jax.random.normal(two, shape, jnp.float32)
    return keys, values, np.asarray(jax.random.normal(three, (heads, queries, d), jnp.float32))


def cache_of(
    keys: jax.Array, values: jax.Array, spec: SummarySpec, *, tokens: int | None = None
) -> PagedKV:
    """A cache of one sequence that adopts the pools, pages in order, and holds `tokens` of them."""
    pages = keys.shape[1]
    table = np.arange(pages, dtype=np.int32)[None, :]
    length = np.array([pages * PAGE if tokens is None else tokens], np.int32)
    return PagedKV.from_pages(keys, values, table, length, spec=spec)

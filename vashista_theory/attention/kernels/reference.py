"""The stages in float64, written as they are defined: no tiles, no trick, one row at a time.

What every back end is held against. It takes concrete arrays and returns numpy arrays, and refuses
a page outside the pool, which device kernels cannot.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from vashista_theory.attention.bounds.bits import from_bits, pair_from_bits
from vashista_theory.attention.kernels.spec import AttendCall, ScoreCall, SelectCall
from vashista_theory.attention.kernels.token_spec import AttendTokensCall


class Reference(NamedTuple):
    """The results of one stage, by the order of its fields in `spec`."""

    first: np.ndarray
    second: np.ndarray
    third: np.ndarray | None = None


def attend(call: AttendCall) -> Reference:
    """Output, log-mass and greatest logit of `attend_pages`.

    Raises:
        IndexError: for a page in use that is not in the pool.
    """
    shape = call.shape
    query, keys, values = (_float64(a) for a in (call.query, call.keys, call.values))
    pages, tokens, scale = np.asarray(call.pages), np.asarray(call.tokens), float(call.scale)
    output = np.zeros((shape.batch, shape.heads, shape.head_size))
    log_mass = np.full((shape.batch, shape.heads), -np.inf)
    top = np.full_like(log_mass, -np.inf)
    for b in range(shape.batch):
        for h in range(shape.heads):
            kv = h // shape.group
            count = int(tokens[b, kv])
            used = pages[b, kv, : -(-count // shape.page_size)]
            if used.size and not (used.min() >= 0 and used.max() < shape.pool_pages):
                raise IndexError(f"pages[{b}, {kv}] names a page outside the pool: {used}")
            if count:
                k = keys[kv, used].reshape(-1, shape.head_size)[:count]
                v = values[kv, used].reshape(-1, shape.head_size)[:count]
                logits = scale * (k @ query[b, h])
                log_mass[b, h], top[b, h] = _logsumexp(logits), logits.max()
                output[b, h] = np.exp(logits - log_mass[b, h]) @ v
    return Reference(output, log_mass, top)


class TokensReference(NamedTuple):
    """The results of `attend_tokens`; the variance by T8's own formula, about the output."""

    output: np.ndarray
    log_mass: np.ndarray
    top: np.ndarray
    variance: np.ndarray


def attend_tokens(call: AttendTokensCall) -> TokensReference:
    """Output, log-mass, top and estimated variance V̂/Ẑ² of `attend_tokens`.

    Raises:
        IndexError: for a place in use that is not in the pool.
    """
    shape = call.shape
    query, keys, values = (_float64(a) for a in (call.query, call.keys, call.values))
    keys, values = (a.reshape(shape.kv_heads, -1, shape.head_size) for a in (keys, values))
    places, tokens = np.asarray(call.places), np.asarray(call.tokens)
    weights, scale = _float64(call.log_weights), float(call.scale)
    output = np.zeros((shape.batch, shape.heads, shape.head_size))
    log_mass = np.full((shape.batch, shape.heads), -np.inf)
    top, variance = np.full_like(log_mass, -np.inf), np.zeros_like(log_mass)
    for b, h in np.ndindex(shape.batch, shape.heads):
        kv = h // shape.group
        count = int(tokens[b, kv])
        used, log_weight = places[b, kv, :count], weights[b, kv, :count]
        if count and not (used.min() >= 0 and used.max() < keys.shape[1]):
            raise IndexError(f"places[{b}, {kv}] names a token outside the pool: {used}")
        if count:
            logits = scale * (keys[kv, used] @ query[b, h]) + log_weight
            log_mass[b, h], top[b, h] = _logsumexp(logits), logits.max()
            shares = np.exp(logits - log_mass[b, h])
            output[b, h] = shares @ values[kv, used]
            squares = ((values[kv, used] - output[b, h]) ** 2).sum(axis=1)
            variance[b, h] = (shares**2 * -np.expm1(-log_weight) * squares).sum()
    return TokensReference(output, log_mass, top, variance)


def score(call: ScoreCall) -> Reference:
    """Upper bound, estimate and best of `score_pages`, all without any slack for rounding."""
    shape, parts = call.shape, call.parts
    query, scale = _float64(call.query), float(call.scale)
    table, lengths = np.asarray(call.page_table), np.asarray(call.lengths)
    upper = np.full((shape.batch, shape.heads, shape.pages), -np.inf)
    estimate, greatest = np.full_like(upper, -np.inf), np.full_like(upper, -np.inf)
    low, high = _corners(parts.box)
    mean, radius, residual = _numbers(parts.mean), _numbers(parts.radius), _numbers(parts.residual)
    codes = _codes(call)
    for b in range(shape.batch):
        for p in range(min(shape.pages, lengths[b] // shape.page_size)):
            for h in range(shape.heads):
                kv, page, q = h // shape.group, table[b, p], query[b, h]
                if shape.kind == "ball":
                    centre = q @ mean[kv, page]
                    reach = np.linalg.norm(q) * radius[kv, page]
                    best, middle = [scale * (centre + reach)], [scale * centre]
                elif shape.kind == "box":
                    corners = np.stack([q * low[kv, page], q * high[kv, page]])
                    best = [scale * corners.max(axis=0).sum()]
                    middle = [0.5 * (best[0] + scale * corners.min(axis=0).sum())]
                else:
                    step = (high[kv, page] - low[kv, page]) / (2.0 ** (shape.bits or 8) - 1.0)
                    scores = q @ (low[kv, page][:, None] + codes[kv, page] * step[:, None])
                    errors = np.linalg.norm(q) * residual[kv, page]
                    if (shape.bits or 8) > 2:  # fewer are not rounded coordinate by coordinate
                        errors = np.minimum(0.5 * np.abs(q) @ step, errors)
                    middle, best = scale * scores, scale * (scores + errors)
                # A box or a ball speaks for every token of the page alike.
                times = np.log(shape.page_size / len(best))
                upper[b, h, p] = times + _logsumexp(np.asarray(best))
                estimate[b, h, p] = times + _logsumexp(np.asarray(middle))
                greatest[b, h, p] = np.max(best)
    return Reference(upper, estimate, greatest)


def score_tokens(call: ScoreCall) -> np.ndarray:
    """Logits of `score_tokens`."""
    shape = call.shape
    query, scale = _float64(call.query), float(call.scale)
    table, lengths = np.asarray(call.page_table), np.asarray(call.lengths)
    low, high = _corners(call.parts.box)
    codes = _codes(call)
    found = np.full((shape.batch, shape.heads, shape.pages, shape.page_size), -np.inf)
    for b, h, p in np.ndindex(found.shape[:3]):
        if p < lengths[b] // shape.page_size:
            at = h // shape.group, table[b, p]
            step = (high[at] - low[at]) / (2.0 ** (shape.bits or 8) - 1.0)
            found[b, h, p] = scale * (query[b, h] @ (low[at][:, None] + codes[at] * step[:, None]))
    return found


def _corners(box: Any) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper corners; nothing if no box is held."""
    if box is None:
        return np.zeros(0), np.zeros(0)
    low, high = pair_from_bits(box, jnp.float32)
    return _float64(low), _float64(high)


def _codes(call: ScoreCall) -> np.ndarray:
    """The sketch's codes, one a dimension and token; nothing for the other kinds."""
    if call.parts.codes is None:
        return np.zeros(0)
    held, bits = np.asarray(call.parts.codes), call.shape.bits or 8
    if not call.shape.packed or bits == 8:
        return held.astype(np.float64)
    if bits == 6:
        # Three bytes hold a code each in their lower bits, and two bits each of a fourth.
        parts = np.split(held >> 6, 3, axis=-2)
        codes = [held & 63, parts[0] | (parts[1] << 2) | (parts[2] << 4)]
    else:
        codes = [(held >> (bits * i)) % 2**bits for i in range(8 // bits)]
    return np.concatenate(codes, axis=-2).astype(np.float64)


def select(call: SelectCall) -> Reference:
    """Indices and number of `select_pages`, by sorting."""
    batch, heads, count = call.shape.batch, call.shape.kv_heads, call.shape.count
    priority = np.asarray(call.priority)
    pages = np.zeros((batch, heads, count), np.int32)
    number = np.zeros((batch, heads), np.int32)
    for b in range(batch):
        for h in range(heads):
            row = priority[b, h]
            possible = [i for i in range(len(row)) if row[i] > -np.inf]
            best = sorted(sorted(possible, key=lambda i: (-row[i], i))[:count])
            pages[b, h, : len(best)], number[b, h] = best, len(best)
    return Reference(pages, number)


def _float64(array: Any) -> np.ndarray:
    return np.asarray(array).astype(np.float64)


def _numbers(held: Any) -> np.ndarray:
    """The numbers behind bits; nothing for a part that is not held."""
    return np.zeros(0) if held is None else _float64(from_bits(held, jnp.float32))


def _logsumexp(logits: np.ndarray) -> float:
    top = logits.max()
    return float(top + np.log(np.exp(logits - top).sum()))

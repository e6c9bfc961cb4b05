# pyright: basic
"""Attention of the heads of a group over listed tokens, each counted by a weight (T8)."""

import numpy as np

from vashista_theory.attention.kernels.cpu.arithmetic import as_number, finite_or_nan, weigh
from vashista_theory.attention.kernels.cpu.foreign import (
    argument,
    array_of,
    as_part,
    foreign_function,
    result,
)
from vashista_theory.attention.kernels.cpu.native import SOURCES, compiled, fetch_soon

_QUERY, _KEYS, _VALUES, _PLACES, _TOKENS, _WEIGHTS, _SCALE = range(7)
_OUTPUT, _LOG_MASS, _TOP, _MASS, _MEAN, _SCATTER = range(6)
_vectors, _numbers, _scale = array_of("float32", 3), array_of("float32", 2), array_of("float32", 1)
_places, _tokens = array_of("int32", 3), array_of("int32", 2)
_AHEAD = 16  # tokens
_single, _half = array_of("float32", 4), array_of("uint16", 4)


@compiled()
def _fetch_token(keys, values, places, t):
    """Have memory send a key and its value, if there is such a token."""
    if t < places.size:
        page, slot = places[t] // keys.shape[1], places[t] % keys.shape[1]
        fetch_soon(keys[page, slot])
        fetch_soon(values[page, slot])


@compiled()
def _score_listed(query, scale, keys, values, places, log_weights, logits):
    """Weighted logits (G, n) of the listed keys; values are on their way when it is done."""
    size = keys.shape[1]
    for t in range(_AHEAD):
        _fetch_token(keys, values, places, t)
    for t in range(places.size):
        _fetch_token(keys, values, places, t + _AHEAD)
        key = keys[places[t] // size, places[t] % size]
        for g in range(query.shape[0]):
            vector, score = query[g], np.float32(0)
            for i in range(vector.size):
                score += vector[i] * as_number(key[i])
            logits[g, t] = finite_or_nan(scale * score) + log_weights[t]


@compiled()
def attend_listed(query, scale, keys, values, places, log_weights, output, means, numbers):
    """Softmax sums over single tokens, and what their error is estimated by (`sampling.Spread`).

    Args:
        query: (G, D).
        scale: Of the logits.
        keys: (N, S, D), float32, or bfloat16 as uint16.
        values: The same.
        places: (n,) page × S + place in the page.
        log_weights: (n,) log 1/π.
        output: (G, D) result.
        means: (G, D) result, of the spread.
        numbers: (G, 4) result: log-mass, greatest logit, mass and scatter of the spread.
    """
    group, d = query.shape
    size = keys.shape[1]
    logits, doubts = np.empty((group, places.size), np.float32), np.empty(places.size, np.float32)
    _score_listed(query, scale, keys, values, places, log_weights, logits)
    for t in range(places.size):
        doubts[t] = -np.expm1(-log_weights[t])
    masses, spread = np.empty(group, np.float32), np.zeros(group, np.float32)
    output[:, :] = 0
    means[:, :] = 0
    for g in range(group):
        numbers[g, 1], masses[g] = weigh(logits[g])
        no_mass = masses[g] == 0
        numbers[g, 0] = np.float32(-np.inf) if no_mass else numbers[g, 1] + np.log(masses[g])
    for t in range(places.size):
        value = values[places[t] // size, places[t] % size]
        for g in range(group):
            weight, total, mean = logits[g, t], output[g], means[g]
            squared = weight * weight * doubts[t]
            spread[g] += squared
            for i in range(d):
                x = as_number(value[i])
                total[i] += weight * x
                mean[i] += squared * x
    for g in range(group):
        for i in range(d):
            output[g, i] /= masses[g] if masses[g] != 0 else np.float32(1)
            means[g, i] /= spread[g] if spread[g] != 0 else np.float32(1)
        numbers[g, 2], numbers[g, 3] = spread[g], 0
    for t in range(places.size):
        value = values[places[t] // size, places[t] % size]
        for g in range(group):
            mean, away = means[g], np.float32(0)
            for i in range(d):
                difference = as_number(value[i]) - mean[i]
                away += difference * difference
            numbers[g, 3] += logits[g, t] * logits[g, t] * doubts[t] * away


@compiled()
def _read(frame, keys, values, row):
    query, places = _vectors(argument(frame, _QUERY)), _places(argument(frame, _PLACES))
    kv_heads = keys.shape[0]
    batch, head = row // kv_heads, row % kv_heads
    group = query.shape[1] // kv_heads
    heads = slice(head * group, (head + 1) * group)
    listed = min(_tokens(argument(frame, _TOKENS))[batch, head], places.shape[2])
    numbers = np.empty((group, 4), np.float32)
    attend_listed(
        query[batch, heads],
        _scale(argument(frame, _SCALE))[0],
        keys[head],
        values[head],
        places[batch, head, :listed],
        _vectors(argument(frame, _WEIGHTS))[batch, head, :listed],
        _vectors(result(frame, _OUTPUT))[batch, heads],
        _vectors(result(frame, _MEAN))[batch, heads],
        numbers,
    )
    log_mass, top = _numbers(result(frame, _LOG_MASS)), _numbers(result(frame, _TOP))
    mass, scatter = _numbers(result(frame, _MASS)), _numbers(result(frame, _SCATTER))
    for g in range(group):
        h = head * group + g
        log_mass[batch, h], top[batch, h] = numbers[g, 0], numbers[g, 1]
        mass[batch, h], scatter[batch, h] = numbers[g, 2], numbers[g, 3]


def attend_tokens(name: str, stored: str) -> None:
    """Compile attention over single tokens of float32, or of bfloat16 as uint16."""
    sources = SOURCES
    if stored == "float32":

        @as_part()
        def read_row(frame, row):
            _ = sources
            keys, values = argument(frame, _KEYS), argument(frame, _VALUES)
            _read(frame, _single(keys), _single(values), row)

    else:

        @as_part()
        def read_row(frame, row):
            _ = sources
            keys, values = argument(frame, _KEYS), argument(frame, _VALUES)
            _read(frame, _half(keys), _half(values), row)

    foreign_function(name, read_row)

"""Decode steps timed side by side over distinct queries, whole and stage by stage."""

import gc
import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vashista_theory.attention import PagedKV, Policy, dense_attention, vashista_attention
from vashista_theory.attention.bounds.page_bounds import as_query
from vashista_theory.attention.step import drawing, two_stages
from vashista_theory.attention.step.plain_backend import PlainBackend
from vashista_theory.attention.step.routing import Layout, group_priority, select_pages
from vashista_theory.attention.step.sampling import capacity_for
from vashista_theory.attention.step.softmax_sums import as_rows
from vashista_theory.attention.step.two_levels import judge_two_levels
from vashista_theory.attention.step.widening import order_by_bound

Step = Callable[[jax.Array], Any]


def over_queries(
    steps: Mapping[str, Step], queries: np.ndarray, *, budget: float
) -> dict[str, np.ndarray]:
    """Seconds of each step, one entry a query.

    Every round has its own query and its own order of steps: a step that always came right after
    a dense one would always find the processor's caches emptied. A step too slow for all queries
    within `budget` seconds takes part in every second, third, … round: its queries spread over
    the whole run as well.

    Args:
        steps: By name; each takes a query (1, H, D).
        queries: (H, Q, D).
        budget: Seconds for each step, all its queries together.
    """
    given = [jnp.asarray(q)[None] for q in np.moveaxis(queries, 1, 0)]
    stride = {}
    for name, step in steps.items():
        jax.block_until_ready(step(given[0]))
        start = time.perf_counter()
        jax.block_until_ready(step(given[1 % len(given)]))
        expected = (time.perf_counter() - start) * len(given)
        stride[name] = max(1, math.ceil(expected / budget))
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    order = np.random.default_rng(0)
    gc.collect()
    gc.disable()
    try:
        for i, query in enumerate(given):
            for name in order.permutation(list(steps)):
                if i % stride[name]:
                    continue
                start = time.perf_counter()
                jax.block_until_ready(steps[name](query))
                seconds[name].append(time.perf_counter() - start)
    finally:
        gc.enable()
    return {name: np.array(times) for name, times in seconds.items()}


def dense_forms(keys: jax.Array, values: jax.Array) -> dict[str, Step]:
    """Dense attention in three forms over pools (H, N, S, D) whose pages lie in order."""
    token_major = [
        jnp.moveaxis(a.reshape(1, a.shape[0], -1, a.shape[3]), 1, 2) for a in (keys, values)
    ]

    @jax.jit
    def einsum(query: jax.Array, keys: jax.Array, values: jax.Array) -> jax.Array:
        logits = jnp.einsum("bhd,bthd->bht", query, keys) * query.shape[-1] ** -0.5
        return jnp.einsum("bht,bthd->bhd", jax.nn.softmax(logits), values)

    @jax.jit
    def library(query: jax.Array, keys: jax.Array, values: jax.Array) -> jax.Array:
        return jax.nn.dot_product_attention(query[:, None], keys, values)[:, 0]

    return {
        "head-major einsum (dense_attention)": dense(keys, values),
        "token-major einsum": lambda q: einsum(q, *token_major),
        "jax.nn.dot_product_attention": lambda q: library(q, *token_major),
    }


def dense(keys: jax.Array, values: jax.Array) -> Step:
    """`dense_attention` on the pools themselves, which are contiguous by head."""

    @jax.jit
    def attend(query: jax.Array, keys: jax.Array, values: jax.Array) -> jax.Array:
        heads, d = keys.shape[0], keys.shape[3]
        shape = (1, heads, -1, d)
        return dense_attention(query, keys.reshape(shape), values.reshape(shape))

    return lambda query: attend(query, keys, values)


def dense_in_torch(keys: jax.Array, values: jax.Array) -> Step | None:
    """Torch's attention on the same memory, on every core; None where there is no torch."""
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(os.cpu_count() or 1)
    heads, d = keys.shape[0], keys.shape[3]
    pools = [torch.from_dlpack(a).reshape(1, heads, -1, d) for a in (keys, values)]

    def attend(query: jax.Array) -> Any:
        with torch.inference_mode():
            one = torch.from_dlpack(query)[:, :, None]
            return torch.nn.functional.scaled_dot_product_attention(one, *pools)

    return attend


def sparse(cache: PagedKV, policy: Policy, implementation: str | None = None) -> Step:
    """`vashista_attention` under jit, report included.

    The cache goes in as bare arrays, as inside a compiled serving loop: taking a pytree apart in
    Python would add its time to each call, and dense attention has none to take apart.
    """
    arrays, structure = jax.tree.flatten(cache)

    @jax.jit
    def step(query: jax.Array, arrays: list[jax.Array]) -> Any:
        held = jax.tree.unflatten(structure, arrays)
        return vashista_attention(query, held, policy, implementation=implementation)

    return lambda query: step(query, arrays)


def stages(cache: PagedKV, policy: Policy) -> dict[str, Step]:
    """The step in plain JAX, cut short after scoring and after selection, and whole.

    Kernels do several of these at once. The difference of two neighbours is what a stage costs:
    "read" includes the report.
    """
    two_levels = policy.superpages is not None

    def prefix(query: jax.Array, cache: PagedKV, selected: bool) -> Any:
        scale = jnp.asarray(cache.head_size**-0.5, cache.work_dtype)
        rows = as_query(query.reshape(cache.kv_heads, -1, cache.head_size), scale)
        asked = rows, cache, as_rows(cache), policy
        plain = PlainBackend()
        judged = judge_two_levels(plain, *asked) if two_levels else plain.all_pages(*asked)
        if not selected:
            return judged
        if policy.otherwise == "widen":
            return judged.bounds, order_by_bound(judged.bounds, judged.places)
        full = judged.places.full & (judged.pages >= 0)
        places = Layout(full, judged.places.forced)
        priority = group_priority(judged.bounds.priority, full & ~places.forced)
        return judged.bounds, select_pages(priority, places, policy.pages or 0)

    step = jax.jit(prefix, static_argnums=2)
    return {
        "scored": lambda q: step(q, cache, False),
        "selected": lambda q: step(q, cache, True),
        "whole": sparse(cache, policy, "jax"),
    }


def stages_of_a_draw(cache: PagedKV, policy: Policy) -> dict[str, Step]:
    """A step that draws tokens, in plain JAX, cut short after scoring, after drawing, and whole."""

    def prefix(query: jax.Array, cache: PagedKV, selected: bool) -> Any:
        scale = jnp.asarray(cache.head_size**-0.5, cache.work_dtype)
        rows = as_query(query.reshape(cache.kv_heads, -1, cache.head_size), scale)
        pools, plain = as_rows(cache), PlainBackend()
        size, tokens, heads = cache.page_size, policy.tokens or 0, cache.kv_heads
        first = jnp.full(pools.lengths.shape, policy.sink, jnp.int32)
        last = pools.lengths // size - policy.recent
        sure = jnp.zeros(rows.norms.shape, rows.vectors.dtype)
        words = jnp.zeros((pools.lengths.shape[0], 2), jnp.uint32)
        if two_stages.draws_superpages(cache, policy, policy.superpages or 0):
            opened = two_stages.open_superpages(
                rows, cache, pools, policy, (first, last), sure, words,
                superpages=policy.superpages or 0, kv_heads=heads, backend=plain,
            )  # fmt: skip
            pages = opened.pages.reshape(opened.pages.shape[0], -1)
            scores = plain.some_token_scores(rows, cache, pools, policy, pages)
            inside = pages >= 0
            log_unit = jnp.repeat(opened.log_pi, opened.pages.shape[2], axis=1)
            scores = scores._replace(logits=scores.logits - log_unit[:, None, :, None])
        else:
            scores = plain.token_scores(rows, cache, pools, policy)
            pages = scores.pages[None]
            inside = (pages >= first[:, None]) & (pages < last[:, None])
        if not selected:
            return scores.logits, inside
        every = plain.every_device
        proxy = drawing.group_proxies(scores.logits, inside, sure, every, heads)
        proxy = drawing.weighted_by_values(proxy, scores.value_bounds, inside, every)
        tail = drawing.Tail(inside, proxy, jnp.sum(inside, axis=1, dtype=jnp.int32) * size)
        expected = jnp.full(pools.lengths.shape, tokens - policy.always * size, jnp.int32)
        numbers, inverse = drawing.thresholds(tail, expected, every, heads)
        probability = drawing.inclusion(tail, numbers, inverse)
        drawn = drawing.draw(tail, probability, words, scores.pages)
        return drawing.list_drawn(drawn, capacity_for(tokens, heads))

    step = jax.jit(prefix, static_argnums=2)
    return {
        "scored": lambda q: step(q, cache, False),
        "selected": lambda q: step(q, cache, True),
        "whole": sparse(cache, policy, "jax"),
    }


def appending(cache: PagedKV, tokens: int) -> np.ndarray:
    """Seconds of each of `tokens` appended tokens, the first two (compilation) left out.

    The cache and its pools are consumed.
    """
    token = jnp.ones((1, cache.kv_heads, cache.head_size), cache.keys.dtype)
    seconds = []
    for _ in range(tokens):
        start = time.perf_counter()
        cache, _ = cache.append(token, token)
        jax.block_until_ready(cache.lengths)
        jax.block_until_ready(cache.keys)
        seconds.append(time.perf_counter() - start)
    return np.array(seconds[2:])

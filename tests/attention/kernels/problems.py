"""Calls of the stages with random content, hidden traps included, for any shape."""

import jax
import jax.numpy as jnp
import numpy as np

from vashista_theory.attention.bounds.summaries import Summaries, SummarySpec, summarise_pages
from vashista_theory.attention.kernels import spec, token_spec
from vashista_theory.attention.kernels.arg_specs import ArgSpec

NOWHERE = 2**30  # a page that is in no pool: reading it shows


def random_pools(shape, seed: int, *, spread: float = 1.0):
    """Keys and values with a heavy channel and a common offset, as trained models have."""
    rng = np.random.default_rng(seed)
    size = (shape.kv_heads, shape.pool_pages, shape.page_size, shape.head_size)
    keys = spread * rng.standard_normal(size) + 0.5
    keys[..., 0] *= 4.0
    return keys, rng.standard_normal(size)


def attend_call(
    shape: spec.AttendShape, tokens, seed: int = 0, *, traps: bool = True
) -> spec.AttendCall:
    """Each row reads pages of its own in an order of its own.

    With traps entries behind the pages in use lead nowhere, and what no row may see is infinite.
    """
    rng = np.random.default_rng(seed)
    keys, values = random_pools(shape, seed)
    tokens = np.asarray(tokens, np.int32)
    pages = np.zeros((shape.batch, shape.kv_heads, shape.listed), np.int32)
    seen = np.full(keys.shape[:3], not traps)
    for b, h in np.ndindex(shape.batch, shape.kv_heads):
        pages[b, h] = rng.permutation(shape.pool_pages)[: shape.listed]
        full, rest = divmod(int(tokens[b, h]), shape.page_size)
        seen[h, pages[b, h, :full]] = True
        if rest:
            seen[h, pages[b, h, full], :rest] = True
        if traps:
            pages[b, h, full + (rest > 0) :] = NOWHERE
    keys[~seen] = values[~seen] = np.inf
    query = rng.standard_normal((shape.batch, shape.heads, shape.head_size))
    return spec.attend_call(
        jnp.asarray(query, shape.query_dtype),
        jnp.asarray(keys, shape.pool_dtype),
        jnp.asarray(values, shape.pool_dtype),
        jnp.asarray(pages),
        jnp.asarray(tokens),
        None,
    )


def attend_tokens_call(
    shape: token_spec.AttendTokensShape, tokens, seed: int = 0, *, traps: bool = True
) -> token_spec.AttendTokensCall:
    """Each row reads tokens of its own, ascending, some of them sure and some of little chance.

    With traps entries behind those in use lead nowhere, and what no row may see is infinite.
    """
    rng = np.random.default_rng(seed)
    keys, values = random_pools(shape, seed)
    tokens = np.asarray(tokens, np.int32)
    size = (shape.batch, shape.kv_heads, shape.listed)
    places = np.full(size, NOWHERE, np.int32)
    log_weights = np.where(rng.uniform(size=size) < 0.3, 0.0, rng.exponential(2.0, size))
    seen = np.full((shape.kv_heads, shape.pool_pages * shape.page_size), not traps)
    for b, h in np.ndindex(shape.batch, shape.kv_heads):
        own = rng.permutation(seen.shape[1])[: shape.listed]
        places[b, h, : len(own)] = np.sort(own)
        seen[h, places[b, h, : tokens[b, h]]] = True
        if traps:
            places[b, h, tokens[b, h] :] = NOWHERE
            log_weights[b, h, tokens[b, h] :] = np.nan
    seen = seen.reshape(keys.shape[:3])
    keys[~seen] = values[~seen] = np.inf
    query = rng.standard_normal((shape.batch, shape.heads, shape.head_size))
    return token_spec.attend_tokens_call(
        jnp.asarray(query, shape.query_dtype),
        jnp.asarray(keys, shape.pool_dtype),
        jnp.asarray(values, shape.pool_dtype),
        jnp.asarray(places),
        jnp.asarray(tokens),
        jnp.asarray(log_weights, jnp.float32),
        None,
    )


def score_problem(shape: spec.ScoreShape, lengths, seed: int = 0, *, tight: bool = False):
    """A call, and the keys whose summaries it judges.

    Tight: a page holds one key again and again, which bfloat16 can hold, and the greatest products
    cancel. Then all that lies between the bound and the mass is room for rounding.
    """
    rng = np.random.default_rng(seed)
    keys, values = random_pools(shape, seed)
    query = rng.standard_normal((shape.batch, shape.heads, shape.head_size))
    if tight:
        query = query.astype(np.float32)
        keys[..., 0] *= 1e5
        keys = np.asarray(keys, jnp.bfloat16)
        for i in (1, 2):
            so_far = keys[..., :i].astype(np.float64) @ query[0, 0, :i].astype(np.float64)
            keys[..., i] = (-so_far / query[0, 0, i]).astype(jnp.bfloat16)
        keys = np.broadcast_to(keys[:, :, :1], keys.shape)
    keys = jnp.asarray(keys, shape.query_dtype)
    kept = SummarySpec(
        ball=shape.kind == "ball",
        sketch_bits=shape.bits,
        packed=shape.packed,
        dtype=shape.stored,
    )
    held = summaries_of(keys, jnp.asarray(values, shape.query_dtype), kept)
    lengths = np.asarray(lengths, np.int32)
    table = np.full((shape.batch, shape.pages), NOWHERE, np.int32)
    for b in range(shape.batch):
        used = lengths[b] // shape.page_size
        table[b, :used] = rng.permutation(shape.pool_pages)[:used]
    call = spec.score_call(
        jnp.asarray(query, shape.query_dtype),
        held,
        jnp.asarray(table),
        jnp.asarray(lengths),
        kind=shape.kind,
        page_size=shape.page_size,
        bits=shape.bits,
        packed=shape.packed,
        scale=None,
        by_token=shape.by_token,
    )
    return call, keys


_summarise = jax.jit(summarise_pages, static_argnums=2)


def summaries_of(keys, values, kept: SummarySpec) -> Summaries:
    return _summarise(keys, values, kept)


def exact_log_mass(call: spec.ScoreCall, keys) -> np.ndarray:
    """Log-mass of each full page from the keys themselves."""
    shape = call.shape
    keys = np.asarray(keys).astype(np.float64)
    query = np.asarray(call.query).astype(np.float64)
    found = np.full((shape.batch, shape.heads, shape.pages), -np.inf)
    for b, h, p in np.ndindex(found.shape):
        if p < int(call.lengths[b]) // shape.page_size:
            page = keys[h // shape.group, int(call.page_table[b, p])]
            logits = float(call.scale) * (page @ query[b, h])
            top = logits.max()
            found[b, h, p] = top + np.log(np.exp(logits - top).sum())
    return found


def list_tokens(small: ArgSpec) -> np.ndarray:
    """Tokens that each kv head reads of a small step: all there are, fewer in the second head."""
    room = small.attend().listed * small.page_size
    tokens = np.minimum(np.asarray(small.lengths)[:, None], room)
    tokens = np.repeat(tokens, small.kv_heads, axis=1)
    tokens[:, 1:] = np.maximum(tokens[:, 1:] - small.page_size - 3, 0)
    return tokens

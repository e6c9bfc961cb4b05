"""What attention looks like, head by head: support, hull, gaps, and what a fixed budget loses.

For recorded queries of a model, in float64. Everything that a diagnostic could be is measured
beside what it is to predict: the mass and the output that a sparse read really lost.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vashista_theory._results import Result
from vashista_theory.attention import DecodeInfo, PagedKV, Policy, vashista_attention
from vashista_theory.evaluation.language_model import Recorded
from vashista_theory.hull.projection import project_many

SHARES = (0.5, 0.9, 0.99, 0.999)
_PAGE = 16


class Support(NamedTuple):
    """How widely softmax attention is spread, each (head, query).

    Attributes:
        tokens: Fewest tokens that hold each of `SHARES`, (share, head, query).
        perplexity: e to the entropy of the weights.
        first: Mass of the first token.
        score_gap: Best score minus the second, as logits (nats).
        boundary_gap: Logit of the last token inside the best `count`, minus that of the next; +inf
            if there is no next.
    """

    tokens: Int[Array, "S H Q"]
    perplexity: Float[Array, "H Q"]
    first: Float[Array, "H Q"]
    score_gap: Float[Array, "H Q"]
    boundary_gap: Float[Array, "H Q"]


class Hull(NamedTuple):
    """The query against the hull of its keys, each (head, query).

    Attributes:
        face: |F|.
        gap: Δ; NaN inside the hull.
        distance: ‖r*‖.
        inside: Whether the query lies in the hull.
        gap_ratio: Δ/ε at the model's temperature ε = 1/scale.
        failed: Whether the projection did not succeed; the rest is then not to be used.
    """

    face: np.ndarray
    gap: np.ndarray
    distance: np.ndarray
    inside: np.ndarray
    gap_ratio: np.ndarray
    failed: np.ndarray


class SparseRead(NamedTuple):
    """What the mechanism reports of a fixed number of pages, and the truth, each (head, query).

    Attributes:
        dropped: True dropped mass.
        error: Relative error of the output.
        bound: Proven bound on the dropped mass.
        estimate: The mechanism's estimate of it.
        gap: Its gap diagnostic Δ̂: best score read minus the best bound unread, as logits.
    """

    dropped: Float[Array, "H Q"]
    error: Float[Array, "H Q"]
    bound: Float[Array, "H Q"]
    estimate: Float[Array, "H Q"]
    gap: Float[Array, "H Q"]


def support(one: Recorded, lengths: np.ndarray, count: int) -> Support:
    """Measure the spread of one layer's attention.

    Args:
        one: Recorded queries and keys.
        lengths: Tokens that each query sees.
        count: Tokens of the boundary whose gap is measured.
    """
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        queries, keys, _ = _exact(one)
        found = _support(queries, keys, jnp.asarray(lengths), jnp.asarray(one.scale), count)
        return jax.device_get(found)


def hull(one: Recorded, lengths: np.ndarray) -> Hull:
    """Project one layer's queries on the hulls of their keys."""
    heads, steps, _ = one.queries.shape
    group = heads // one.keys.shape[0]
    fields: list[list[np.ndarray]] = []
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        queries, keys, _ = _exact(one)
        for step in range(steps):
            seen = np.repeat(np.asarray(keys)[:, : lengths[step]], group, axis=0)
            found = project_many(seen, np.asarray(queries)[:, step], throw=False)
            inside = np.asarray(found.result == Result.inside_hull)
            fine = inside | np.asarray(found.result == Result.successful)
            distance = np.linalg.norm(np.asarray(found.query - found.point), axis=-1)
            gap = np.asarray(found.gap)
            face = np.asarray(found.face).sum(axis=-1)
            fields.append([face, gap, distance, inside, gap * one.scale, ~fine])
    return Hull(*(np.stack(column, axis=1) for column in zip(*fields, strict=True)))


def sparse_read(one: Recorded, lengths: np.ndarray, pages: int) -> SparseRead:
    """Read one layer's queries by a fixed number of pages, with the mechanism's own report."""
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        found = _sparse_read(
            *_exact(one), jnp.asarray(lengths, jnp.int32), jnp.asarray(one.scale), pages
        )
        return jax.device_get(found)


def _exact(one: Recorded) -> tuple[Array, Array, Array]:
    arrays = (one.queries, one.keys, one.values)
    queries, keys, values = (jnp.asarray(np.asarray(a, np.float64)) for a in arrays)
    return queries, keys, values


def _logits(
    queries: Float[Array, "H Q D"],
    keys: Float[Array, "K T D"],
    lengths: Int[Array, " Q"],
    scale: Float[Array, ""],
) -> Float[Array, "H Q T"]:
    grouped = queries.reshape(keys.shape[0], -1, *queries.shape[1:])
    scores = jnp.einsum("kgqd,ktd->kgqt", grouped, keys).reshape(*queries.shape[:2], -1)
    seen: Bool[Array, "Q T"] = (
        jnp.arange(keys.shape[1], dtype=lengths.dtype)[None, :] < lengths[:, None]
    )
    return jnp.where(seen[None], scale * scores, -jnp.inf)


@eqx.filter_jit
def _support(queries: Array, keys: Array, lengths: Array, scale: Array, count: int) -> Support:
    logits = _logits(queries, keys, lengths, scale)
    weights = jax.nn.softmax(logits, axis=-1)
    ranked = -jnp.sort(-logits, axis=-1)
    held = jnp.cumsum(jax.nn.softmax(ranked, axis=-1), axis=-1)
    tokens = [1 + jnp.sum(held < share, axis=-1) for share in SHARES]
    inside = jnp.where(weights > 0, weights * jnp.log(jnp.where(weights > 0, weights, 1.0)), 0.0)
    last, after = ranked[..., count - 1], ranked[..., min(count, ranked.shape[-1] - 1)]
    boundary = jnp.where(after > -jnp.inf, last - after, jnp.inf)
    return Support(
        jnp.minimum(jnp.stack(tokens), lengths[None, None, :]),
        jnp.exp(-jnp.sum(inside, axis=-1)),
        weights[..., 0],
        ranked[..., 0] - ranked[..., 1],
        boundary if count < ranked.shape[-1] else jnp.full_like(boundary, jnp.inf),
    )


@eqx.filter_jit
def _sparse_read(
    queries: Array, keys: Array, values: Array, lengths: Array, scale: Array, pages: int
) -> SparseRead:
    padding = ((0, 0), (0, -keys.shape[1] % _PAGE), (0, 0))
    held = [jnp.pad(a, padding)[None] for a in (keys, values)]
    total = jnp.full((1,), keys.shape[1], jnp.int32)
    cache = PagedKV.from_tokens(*held, lengths=total, page_size=_PAGE)
    # A tolerance only asks for the report: "keep" reads the same pages whatever it says.
    policy = Policy(pages=pages, tolerance=0.05, summary="sketch")

    def one(step: tuple[Array, Array]) -> tuple[Array, DecodeInfo]:
        query, length = step
        fork = eqx.tree_at(lambda c: c.lengths, cache, length[None])
        output, info = vashista_attention(query[None], fork, policy, scale=scale)
        return output[0], info

    output, info = jax.lax.map(one, (jnp.swapaxes(queries, 0, 1), lengths))
    logits = _logits(queries, keys, lengths, scale)
    log_mass = jnp.swapaxes(info.log_mass[:, 0], 0, 1)
    dropped = jnp.maximum(-jnp.expm1(log_mass - jax.nn.logsumexp(logits, axis=-1)), 0.0)
    grouped = jax.nn.softmax(logits, axis=-1).reshape(keys.shape[0], -1, *logits.shape[1:])
    dense = jnp.einsum("kgqt,ktd->kgqd", grouped, values).reshape(queries.shape)
    away = jnp.linalg.norm(jnp.swapaxes(output, 0, 1) - dense, axis=-1)
    return SparseRead(
        dropped,
        away / jnp.linalg.norm(dense, axis=-1),
        jnp.swapaxes(info.dropped_mass_bound[:, 0], 0, 1),
        jnp.swapaxes(info.dropped_mass_estimate[:, 0], 0, 1),
        scale * jnp.swapaxes(info.gap[:, 0], 0, 1),
    )

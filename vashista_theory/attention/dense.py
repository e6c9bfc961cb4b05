"""Dense attention, in the fastest form found: what a sparse read has to beat."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vashista_theory._checks import as_floats, as_scale
from vashista_theory._numerics import softmax_shares
from vashista_theory._types import ArrayLike
from vashista_theory.attention.bounds.bits import widened
from vashista_theory.attention.bounds.rounding import counted_logits, work_dtype
from vashista_theory.attention.cache.checks import as_counts


def dense_attention(
    query: ArrayLike,
    keys: ArrayLike,
    values: ArrayLike,
    *,
    lengths: ArrayLike | None = None,
    scale: float | None = None,
) -> Float[Array, "B H D"]:
    """Softmax attention of one query a head over contiguous keys, by a head-major contraction.

    Keys lie head by head, so that each head reads one contiguous run. On a CPU a token-major
    layout, or `jax.nn.dot_product_attention`, takes ten times as long.

    Args:
        query: (B, H, D).
        keys: (B, Hkv, T, D), H a multiple of Hkv.
        values: Like the keys.
        lengths: (B,), how many tokens count (all by default); zero tokens give zero output.
        scale: Positive factor on the scores, D^(−1/2) by default.

    Returns:
        The outputs (B, H, D), in the query's type.

    Raises:
        ValueError: if the shapes do not belong together, a dtype is not a floating-point one, or a
            concrete length or scale is out of range. NaN is not looked for: it comes
            out as NaN, and so do scores that overflow.
    """
    query_, keys_, values_ = (
        as_floats(a, name) for a, name in ((query, "query"), (keys, "keys"), (values, "values"))
    )
    if query_.ndim != 3 or keys_.ndim != 4 or keys_.shape != values_.shape:
        raise ValueError(
            f"expected query (B, H, D) and keys and values (B, Hkv, T, D), got {query_.shape}, "
            f"{keys_.shape} and {values_.shape}."
        )
    batch, heads, d = query_.shape
    if 0 in (*query_.shape, *keys_.shape[:2]):
        raise ValueError(
            f"query {query_.shape} and keys {keys_.shape} leave no head to compute: B, H, Hkv and "
            "D must be at least 1."
        )
    if (keys_.shape[0], keys_.shape[3]) != (batch, d) or heads % keys_.shape[1]:
        raise ValueError(
            f"query {query_.shape} and keys {keys_.shape} disagree in B or D, or {heads} query "
            f"heads cannot share {keys_.shape[1]} kv heads equally."
        )
    factor = as_scale(scale, d, work_dtype(query_.dtype, keys_.dtype))
    counts = None if lengths is None else as_counts(lengths, batch, keys_.shape[2], "lengths")
    return _dense(query_, keys_, values_, counts, factor)


@jax.jit
def _dense(
    query: Float[Array, "B H D"],
    keys: Float[Array, "B Hkv T D"],
    values: Float[Array, "B Hkv T D"],
    lengths: Int[Array, " B"] | None,
    scale: Float[Array, ""],
) -> Float[Array, "B H D"]:
    batch, heads, d = query.shape
    work = work_dtype(query.dtype, keys.dtype)
    grouped = (widened(query, work) * scale).reshape(batch, keys.shape[1], -1, d)
    logits = jnp.einsum("bhgd,bhtd->bhgt", grouped, widened(keys, work))
    seen = jnp.ones((batch, keys.shape[2]), bool)
    if lengths is not None:
        tokens = jnp.arange(keys.shape[2], dtype=lengths.dtype)
        seen = tokens[None, :] < lengths[:, None]
    logits = counted_logits(logits, seen[:, None, None, :])
    top = jnp.max(logits, axis=-1, keepdims=True, initial=-jnp.inf)
    weights = softmax_shares(logits, top)
    total = jnp.sum(weights, axis=-1)
    output = jnp.einsum("bhgt,bhtd->bhgd", weights, widened(values, work))
    output = output / jnp.where(total > 0, total, 1.0)[..., None]
    return output.reshape(batch, heads, d).astype(query.dtype)

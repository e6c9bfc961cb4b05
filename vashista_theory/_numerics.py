"""Log-domain helpers and tolerances by dtype: named functions whose docstrings say why."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

ROW_BLOCK = 2048
"""Rows of one block of a pass over the keys: 1 MiB at d = 64 in float64, so that temporaries stay
in the second-level cache and no second copy of the keys is ever made."""


def unit_roundoff(dtype: DTypeLike) -> float:
    """Spacing of floating-point numbers at 1 (2.2e-16 for float64, 1.2e-7 for float32)."""
    return float(jnp.finfo(dtype).eps)


def default_tolerance(dtype: DTypeLike) -> float:
    """Relative accuracy below which a solver's answer counts as solved.

    4096 units of roundoff: 9.1e-13 in float64 and 4.9e-4 in float32. A few thousand roundings
    enter a projection at d = 128; the answers measured are ten to a hundred times better.
    """
    return 4096 * unit_roundoff(dtype)


def power_of_two(length: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The power of two at or below a length: a unit that changes no digit of what it divides.

    Zero and what is not finite give 1. Kept where its reciprocal is a normal number as well.
    """
    usable = jnp.isfinite(length) & (length > 0)
    exponent = jnp.frexp(jnp.where(usable, length, 1.0))[1] - 1
    limit = -int(jnp.finfo(length.dtype).minexp)
    return jnp.ldexp(jnp.ones_like(length), jnp.clip(exponent, -limit, limit))


def masked_logsumexp(
    logits: Float[Array, "*batch n"], mask: Bool[Array, "*#batch n"]
) -> Float[Array, "*batch"]:
    """Logarithm of the sum of exponentials over the rows that `mask` keeps, −inf for none.

    ``jax.nn.logsumexp(..., where=)`` returns the same number; this form also has a finite
    derivative when everything is masked.
    """
    masked = jnp.where(mask, logits, -jnp.inf)
    top = jnp.max(masked, axis=-1, initial=-jnp.inf)
    anchor = finite_or_zero(top)
    total = jnp.sum(jnp.exp(masked - anchor[..., None]), axis=-1)
    return jnp.where(top == jnp.inf, top, jnp.log(total) + anchor)


def finite_or_zero(top: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """What exponents are measured from: their maximum, and 0 where there is none.

    The difference of two infinities is NaN, and e^(−∞ − 0) the 0 that an empty sum should be.
    """
    return jnp.where(jnp.isfinite(top), top, 0.0)


def softmax_shares(
    logits: Float[Array, "*shape"], top: Float[Array, "*#shape"]
) -> Float[Array, "*shape"]:
    """``exp(logits − top)`` for a top that is no less, and 0 for a logit of −inf under any top.

    What sums of exponentials relative to other tops are multiplied by before they are added up.
    Never above 1: a compiler may compute large scores twice, in another order, and the copy that
    the top was taken from may be the smaller one by more than an exponential can hold.
    """
    return jnp.exp(jnp.minimum(logits - finite_or_zero(top), 0.0))


def log_softplus(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """``log(log(1 + exp(x)))`` without underflow: equals ``x`` where ``exp(x)`` is tiny.

    At x = −800 the exponential underflows although its logarithm, −800, is an ordinary number.
    """
    small = x < -30.0
    safe = jnp.where(small, 0.0, x)
    return jnp.where(small, x, jnp.log(jnp.logaddexp(safe, 0.0)))


def log_share(part: Float[Array, "*shape"], rest: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """``log(e^part / (e^part + e^rest))``, accurate in relative terms at both ends.

    Subtracting two log-sum-exps loses every digit once the part is almost everything; the
    softplus of their difference does not. An empty part gives −inf, an empty rest gives 0.
    """
    empty_part, empty_rest = part == -jnp.inf, rest == -jnp.inf
    difference = jnp.where(empty_part | empty_rest, 0.0, rest - part)
    share = -jnp.logaddexp(difference, 0.0)
    return jnp.where(empty_part, -jnp.inf, jnp.where(empty_rest, 0.0, share))


def safe_norm(vector: Float[Array, "... d"]) -> Float[Array, "..."]:
    """Euclidean norm along the last axis that neither underflows nor overflows early.

    The sum of squares of 1e-200 is zero, and displacements at a vertex are that small.
    """
    largest = jnp.max(jnp.abs(vector), axis=-1, initial=0.0)
    usable = jnp.isfinite(largest) & (largest > 0)
    divisor = jnp.where(usable, largest, 1.0)
    norm = divisor * jnp.sqrt(jnp.sum((vector / divisor[..., None]) ** 2, axis=-1))
    return jnp.where(usable | jnp.isnan(largest), norm, largest)


def map_rows(
    function: Callable[[Float[Array, "block d"]], tuple[Array, ...]], rows: Float[Array, "n d"]
) -> tuple[Array, ...]:
    """Apply `function` to blocks of rows and join the results, without copying `rows`.

    The last block starts at ``n − block`` and recomputes a few rows instead of padding.
    """
    n = rows.shape[0]
    if n <= ROW_BLOCK:
        return function(rows)
    shapes = jax.eval_shape(function, jax.ShapeDtypeStruct((ROW_BLOCK, rows.shape[1]), rows.dtype))
    outputs = tuple(jnp.zeros((n, *s.shape[1:]), s.dtype) for s in shapes)

    def body(index: Array, outputs: tuple[Array, ...]) -> tuple[Array, ...]:
        start = jnp.minimum(index * ROW_BLOCK, n - ROW_BLOCK)
        block = jax.lax.dynamic_slice_in_dim(rows, start, ROW_BLOCK)
        return tuple(
            jax.lax.dynamic_update_slice_in_dim(whole, part, start, 0)
            for whole, part in zip(outputs, function(block), strict=True)
        )

    return jax.lax.fori_loop(0, -(-n // ROW_BLOCK), body, outputs)


def weighted_gram(rows: Float[Array, "n d"], weights: Float[Array, " n"]) -> Float[Array, "d d"]:
    """``rows.T @ diag(weights) @ rows`` by blocks: no second copy of the rows."""
    n, d = rows.shape
    if n <= ROW_BLOCK:
        return (rows * weights[:, None]).T @ rows

    def body(index: Array, total: Array) -> Array:
        start = jnp.minimum(index * ROW_BLOCK, n - ROW_BLOCK)
        block = jax.lax.dynamic_slice_in_dim(rows, start, ROW_BLOCK)
        share = jax.lax.dynamic_slice_in_dim(weights, start, ROW_BLOCK)
        # The last block overlaps the one before: rows already counted get no weight.
        share = jnp.where(start + jnp.arange(ROW_BLOCK) >= index * ROW_BLOCK, share, 0.0)
        return total + (block * share[:, None]).T @ block

    zero = jnp.zeros((d, d), rows.dtype)
    return jax.lax.fori_loop(0, -(-n // ROW_BLOCK), body, zero)

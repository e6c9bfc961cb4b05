"""Sums along a short last axis, in the form that is fastest on the device.

XLA's CPU back end adds up a last axis one number at a time, because it may not reorder sums. Adding
halves to halves says in which order to add, and vectorises: 3 to 10 times as fast on short rows.
Elsewhere the compiler's own reduction is the better one.
"""

import functools
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# With more query heads to a group a matrix product is faster: it loads the keys once for all.
FEW_HEADS = 2
_LONGEST = 256


def row_sum(numbers: Float[Array, "*n d"]) -> Float[Array, "*n"]:
    """Sum over the last axis; any order, so its rounding is that of d − 1 additions at most."""
    return jax.lax.platform_dependent(numbers, cpu=_by_halves, default=_direct)


def row_dot(
    first: Sequence[Float[Array, "*#n d"]], second: Sequence[Float[Array, "*#n d"]]
) -> Float[Array, "*n"]:
    """Σ over the parts and the last axis of first × second, without forming the products."""
    products = (a * b for a, b in zip(first, second, strict=True))
    return row_sum(functools.reduce(operator.add, products))


def _direct(numbers: Float[Array, "*n d"]) -> Float[Array, "*n"]:
    return jnp.sum(numbers, axis=-1)


def _by_halves(numbers: Float[Array, "*n d"]) -> Float[Array, "*n"]:
    if not 0 < numbers.shape[-1] <= _LONGEST:
        return _direct(numbers)
    odd = []
    while (width := numbers.shape[-1]) > 1:
        half = width // 2
        if width % 2:
            odd.append(numbers[..., -1:])
        numbers = numbers[..., :half] + numbers[..., half : 2 * half]
    return sum(odd, numbers)[..., 0]


def greatest(numbers: Float[Array, "r t d"]) -> Float[Array, " r"]:
    """Greatest of non-negative numbers over the last two axes, 0 for none."""

    def by_halves(numbers: Float[Array, "r t d"]) -> Float[Array, " r"]:
        while numbers.shape[1] >= 16 and numbers.shape[1] % 2 == 0:
            half = numbers.shape[1] // 2
            numbers = jnp.maximum(numbers[:, :half], numbers[:, half:])
        return direct(numbers)

    def direct(numbers: Float[Array, "r t d"]) -> Float[Array, " r"]:
        return jnp.max(numbers, axis=(1, 2), initial=0.0)

    return jax.lax.platform_dependent(numbers, cpu=by_halves, default=direct)


def weighted_sum(
    weights: Float[Array, "r g t"], vectors: Float[Array, "r t d"]
) -> Float[Array, "r g d"]:
    """Σ weight × vector over t.

    Added by halves, the terms are formed where the vectors are fetched: XLA then reads gathered
    pages once, where a matrix product needs a copy of them, made one number at a time.
    """

    def by_halves(weights: Array, vectors: Array) -> Array:
        if weights.shape[1] > FEW_HEADS:
            return product(weights, vectors)
        terms = weights[..., None] * vectors[:, None]
        while (count := terms.shape[2]) > 1 and count % 2 == 0:
            terms = terms[:, :, : count // 2] + terms[:, :, count // 2 :]
        return jnp.sum(terms, axis=2)

    def product(weights: Array, vectors: Array) -> Array:
        return jnp.einsum("rgt,rtd->rgd", weights, vectors, precision=jax.lax.Precision.HIGHEST)

    return jax.lax.platform_dependent(weights, vectors, cpu=by_halves, default=product)

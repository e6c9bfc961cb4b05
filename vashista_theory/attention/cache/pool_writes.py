"""Writing into pools in place: whole pages, single tokens, summaries.

Page after page, each read just before it is written: XLA then works in place, where a gather and a
scatter would copy the whole pool.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vashista_theory.attention.bounds.summaries import Summaries


class Arriving(NamedTuple):
    """New tokens laid out in the pages that they go to."""

    tokens: Float[Array, "Hkv K S D"]
    new: Bool[Array, "K S"]


def write_tokens(
    pool: Float[Array, "Hkv N S D"],
    arriving: Arriving,
    old: Int[Array, " K"],
    page: Int[Array, " K"],
    written: Bool[Array, " K"],
) -> Float[Array, "Hkv N S D"]:
    """Write new tokens over copies of the pages they go to.

    Pages that two sequences share are never written, so the order does not matter.
    """

    def write(index: Array, pool: Array) -> Array:
        before = jax.lax.dynamic_slice_in_dim(pool, old[index], 1, axis=1)
        tokens = jax.lax.dynamic_slice_in_dim(arriving.tokens, index, 1, axis=1)
        after = jnp.where(arriving.new[index][None, None, :, None], tokens, before)
        place = jnp.where(written[index], page[index], old[index])
        after = jnp.where(written[index], after, before)
        return jax.lax.dynamic_update_slice_in_dim(pool, after, place, axis=1)

    return jax.lax.fori_loop(0, old.shape[0], write, pool)


def copy_pages(
    pool: Float[Array, "Hkv N S D"],
    old: Int[Array, " K"],
    page: Int[Array, " K"],
    shared: Bool[Array, " K"],
) -> Float[Array, "Hkv N S D"]:
    """Give each sequence that leaves a shared page a copy of it, in place."""

    def copy(index: Array, pool: Array) -> Array:
        before = jax.lax.dynamic_slice_in_dim(pool, old[index], 1, axis=1)
        place = jnp.where(shared[index], page[index], old[index])
        return jax.lax.dynamic_update_slice_in_dim(pool, before, place, axis=1)

    count = jnp.where(jnp.any(shared), old.shape[0], 0)
    return jax.lax.fori_loop(0, count, copy, pool)


def write_rows(
    pool: Float[Array, "Hkv N S D"],
    tokens: Float[Array, "B Hkv D"],
    page: Int[Array, " B"],
    slots: Int[Array, " B"],
    written: Bool[Array, " B"],
) -> Float[Array, "Hkv N S D"]:
    """Write one token of each sequence and nothing else, in place."""

    def write(index: Array, pool: Array) -> Array:
        zero = jnp.int32(0)
        place = (zero, page[index], slots[index], zero)
        before = jax.lax.dynamic_slice(pool, place, (pool.shape[0], 1, 1, pool.shape[3]))
        after = jnp.where(written[index], tokens[index][:, None, None, :], before)
        return jax.lax.dynamic_update_slice(pool, after, place)

    return jax.lax.fori_loop(0, page.shape[0], write, pool)


def write_pages(
    held: Summaries, new: Summaries, page: Int[Array, " K"], written: Bool[Array, " K"]
) -> Summaries:
    """Write summaries of pages (axis 1) in place; the others stay as they are."""

    def write(index: Array, held: Summaries) -> Summaries:
        def one(whole: Array, parts: Array) -> Array:
            part = jax.lax.dynamic_slice_in_dim(parts, index, 1, axis=1)
            before = jax.lax.dynamic_slice_in_dim(whole, page[index], 1, axis=1)
            after = jnp.where(written[index], part, before)
            return jax.lax.dynamic_update_slice_in_dim(whole, after, page[index], axis=1)

        return jax.tree.map(one, held, new)

    return jax.lax.fori_loop(0, page.shape[0], write, held)

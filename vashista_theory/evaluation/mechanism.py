"""The mechanism's own policies over a block of decode steps.

A fixed number of pages is chosen for all steps together, which is many times as fast. Everything
else (two levels, proofs, widening) is the mechanism itself, one step after another on a fork of the
sequence: nothing is written twice that a guarantee depends on.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vashista_theory.attention import Policy
from vashista_theory.attention.decode import vashista_attention
from vashista_theory.evaluation.block import DecodeBlock, Reading, best_pages, read_mask


def read_by(block: DecodeBlock, policy: Policy) -> Reading:
    """Read as `vashista_attention` does under a policy."""
    if policy.summary is None:
        return read_mask(block, jnp.ones((1, 1, 1, 1, 1), bool))
    fixed = policy.otherwise == "keep" and policy.superpages is None and policy.tolerance is None
    if fixed and policy.tokens is None:
        scores = block.page_scores(policy.summary)
        return read_mask(block, best_pages(block, scores, policy))
    return step_by_step(block, policy)


def step_by_step(block: DecodeBlock, policy: Policy) -> Reading:
    """One call of `vashista_attention` a step, on a fork that ends at that step."""
    heads, _, group, d = block.queries.shape

    def one(step: tuple[Float[Array, "K G D"], Int[Array, ""]]) -> tuple[Array, ...]:
        query, length = step
        fork = eqx.tree_at(lambda c: c.lengths, block.cache, length[None])
        flat = query.reshape(1, heads * group, d)
        output, info = vashista_attention(flat, fork, policy, scale=block.scale)
        found = (output[0], info.tokens_read[0], info.log_mass[0], info.dropped_mass_bound[0])
        return (*found, info.certified[0])

    steps = (jnp.moveaxis(block.queries, 1, 0), block.lengths.astype(jnp.int32))
    output, tokens, log_mass, bound, certified = jax.lax.map(one, steps)

    def by_head(array: Array) -> Array:
        shape = (array.shape[0], heads, group, *array.shape[2:])
        return jnp.moveaxis(array.reshape(shape), 0, 1)

    proof: Bool[Array, ...] = by_head(certified)
    return Reading(
        by_head(output),
        by_head(tokens).astype(log_mass.dtype),
        by_head(log_mass),
        by_head(bound),
        proof,
        jnp.full(proof.shape, policy.sink > 0),
    )

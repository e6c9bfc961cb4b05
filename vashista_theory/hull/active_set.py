"""Wolfe's minimum-norm-point method with block pricing: the search for the active set.

One *pass* multiplies all keys by the current residual. It proposes not one entering key but the
most violating key of each of 128 interleaved blocks; the problem on those and the corral is then
solved to the end before the next pass. A projection at n = 131,072 takes about 5 passes where one
entering key a pass takes about 30.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vashista_theory._numerics import unit_roundoff
from vashista_theory.hull import corral as corrals
from vashista_theory.hull.corral import Corral, Frame

CANDIDATES = 128
"""Blocks, hence candidates, a pass: 64 to 256 take the same time within the noise."""

PRICING_NOISE = 8.0
"""Units of roundoff, relative to residual times reach, that a violation must exceed to count."""


class ActiveSet(NamedTuple):
    """The corral where the search stopped, and how it got there."""

    corral: Corral
    frame: Frame
    steps: Int[Array, ""]
    passes: Int[Array, ""]


class _Search(NamedTuple):
    corral: Corral
    residual: Float[Array, " d"]
    steps: Int[Array, ""]
    stalled: Bool[Array, ""]


class _Candidates(NamedTuple):
    key_index: Int[Array, " c"]
    shifted: Float[Array, "c d"]
    noise: Float[Array, " c"]


def slots_for(n: int, d: int) -> int:
    """Slots of a corral: at most d + 1 keys are affinely independent."""
    return min(n, d + 1)


def _frame(keys: Float[Array, "n d"], query: Float[Array, " d"]) -> tuple[Frame, Array]:
    """Origin at the sampled key nearest to the query; length of the sample's spread."""
    n = keys.shape[0]
    count = min(CANDIDATES, n)
    sample = jnp.arange(count) * (n // count)
    points = keys[sample]
    nearest = sample[jnp.argmin(jnp.sum((points - query[None]) ** 2, axis=1))]
    origin = keys[nearest]
    length = jnp.sqrt(jnp.max(jnp.sum((points - origin[None]) ** 2, axis=1)))
    return Frame(origin, jnp.where(length > 0, length, 1.0), query - origin), nearest


def _price_blocks(keys: Float[Array, "n d"], residual: Float[Array, " d"]) -> Int[Array, " c"]:
    """The key of largest ⟨residual, k⟩ in each of the interleaved blocks: one pass."""
    n = keys.shape[0]
    count = min(CANDIDATES, n)
    rows = -(-n // count)
    scores = jnp.pad(keys @ residual, (0, count * rows - n), constant_values=-jnp.inf)
    best = jnp.argmax(scores.reshape(rows, count), axis=0)
    return jnp.minimum(best * count + jnp.arange(count), n - 1).astype(jnp.int32)


def search(
    keys: Float[Array, "n d"],
    query: Float[Array, " d"],
    initial_face: Bool[Array, " n"] | None,
    allowance: Float[Array, ""],
    max_steps: Int[Array, ""],
) -> ActiveSet:
    """Find the corral of the projection of `query` on the hull of `keys`.

    Args:
        keys: (n, d).
        query: (d,).
        initial_face: keys to start from, or None. Only as many as are affinely independent count.
        allowance: duality gap (squared length) at which to stop early; 0 for full accuracy.
        max_steps: most keys that may enter.
    """
    n, d = keys.shape
    frame, nearest = _frame(keys, query)
    roundoff = unit_roundoff(keys.dtype)
    magnitude = jnp.linalg.norm(frame.origin) + jnp.linalg.norm(query)

    def candidates(index: Int[Array, " c"], residual: Float[Array, " d"]) -> _Candidates:
        shifted = keys[index] - frame.origin[None]
        reach = jnp.sqrt(jnp.sum(shifted**2, axis=1)) + frame.length + magnitude
        size = jnp.linalg.norm(residual) + frame.length
        noise = PRICING_NOISE * roundoff * size * reach
        return _Candidates(index, shifted, jnp.maximum(noise, allowance))

    def price(state: _Search, pool: _Candidates) -> tuple[Int[Array, ""], Bool[Array, ""]]:
        """The candidate that violates ⟨r, k⟩ ≤ ⟨r, p⟩ most, and whether it does beyond noise."""
        point = frame.target - state.residual
        excess = pool.shifted @ state.residual - point @ state.residual - pool.noise
        best = jnp.argmax(excess)
        return best, excess[best] > 0

    def settle_weights(corral: Corral) -> Corral:
        """Minor cycle: move to the affine optimum, dropping keys whose weight would vanish."""
        floor = 8 * roundoff

        def blocked(state: tuple[Corral, Array]) -> Array:
            corral, wanted = state
            return jnp.any(corral.used & (wanted <= floor))

        def shrink(state: tuple[Corral, Array]) -> tuple[Corral, Array]:
            corral, wanted = state
            falling = corral.used & (wanted <= floor)
            drop_rate = jnp.where(falling, corral.weights - wanted, 1.0)
            share = jnp.where(falling, corral.weights / drop_rate, jnp.inf)
            slot = jnp.argmin(share)
            step = jnp.clip(share[slot], 0.0, 1.0)
            moved = corral.weights + step * (wanted - corral.weights)
            corral = corrals.drop(corral._replace(weights=moved), slot)
            return corral, corrals.affine_weights(corral, frame)

        wanted = corrals.affine_weights(corral, frame)
        corral, wanted = jax.lax.while_loop(blocked, shrink, (corral, wanted))
        return corral._replace(weights=wanted)

    def enter(state: _Search, pool: _Candidates, best: Int[Array, ""]) -> _Search:
        corral, refused = corrals.add(state.corral, frame, pool.key_index[best], pool.shifted[best])
        corral = settle_weights(corral)
        residual = frame.target - corral.shifted_point()
        decrease = (state.residual - residual) @ (state.residual + residual)
        return _Search(corral, residual, state.steps + 1, refused | ~(decrease > 0))

    def exhaust(state: _Search, pool: _Candidates) -> _Search:
        def body(carry: tuple[_Search, Array, Array]) -> tuple[_Search, Array, Array]:
            state = enter(carry[0], pool, carry[1])
            return state, *price(state, pool)

        def unfinished(carry: tuple[_Search, Array, Array]) -> Array:
            return carry[2] & ~carry[0].stalled & (carry[0].steps < max_steps)

        return jax.lax.while_loop(unfinished, body, (state, *price(state, pool)))[0]

    def renew(state: _Search) -> _Search:
        """After rounding has stopped progress: fresh dual basis, weights and residual."""
        corral = settle_weights(corrals.rebuild(state.corral, frame))
        return _Search(
            corral, frame.target - corral.shifted_point(), state.steps, jnp.asarray(False)
        )

    def one_pass(carry: tuple[_Search, Array, Array, Array]) -> tuple[_Search, Array, Array, Array]:
        state, passes, _, renewed = carry
        before = state.steps
        pool = candidates(_price_blocks(keys, state.residual), state.residual)
        state = exhaust(state, pool)
        # A stall right after a renewal cannot be mended by another one.
        renew_now = state.stalled & ~renewed
        state = jax.lax.cond(renew_now, renew, lambda s: s, state)
        exhausted = (state.steps == before) | (state.steps >= max_steps) | state.stalled
        return state, passes + 1, exhausted & ~renew_now, renew_now

    first = corrals.start(nearest, frame, slots_for(n, d))
    state = _Search(first, frame.target, jnp.int32(0), jnp.asarray(False))
    if initial_face is not None:
        chosen = jnp.nonzero(initial_face, size=slots_for(n, d), fill_value=-1)[0]
        count = jnp.maximum(jnp.sum(chosen >= 0), 1).astype(keys.dtype)
        shifted = jnp.where(chosen[:, None] >= 0, keys[chosen] - frame.origin[None], 0.0)
        seed = first._replace(
            key_index=chosen.astype(jnp.int32),
            rows=jnp.where(chosen[:, None] >= 0, frame.homogeneous(shifted), 0.0),
            weights=jnp.where(chosen >= 0, 1 / count, 0.0),
        )
        warm = renew(state._replace(corral=seed))
        state = jax.tree.map(lambda w, s: jnp.where(jnp.any(initial_face), w, s), warm, state)
    state, passes, _, _ = jax.lax.while_loop(
        lambda carry: ~carry[2],
        one_pass,
        (state, jnp.int32(0), jnp.asarray(False), jnp.asarray(False)),
    )
    return ActiveSet(state.corral, frame, state.steps, passes)

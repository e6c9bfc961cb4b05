"""Wolfe's minimum-norm-point method with block pricing: the search for the active set.

One *pass* multiplies all keys by the current residual. It proposes not one entering key but the
most violating key of each of 128 interleaved blocks; the problem on those and the corral is then
solved to the end before the next pass. A projection at n = 131,072 takes about 5 passes where one
entering key a pass takes about 30.

The search is quick, not careful: `hull.refinement` judges its answer and goes on from there.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vashista_theory.hull import corral as corrals
from vashista_theory.hull import kkt
from vashista_theory.hull.corral import Corral
from vashista_theory.hull.frame import Frame, frame_at

CANDIDATES = 128
"""Blocks, hence candidates, a pass: 64 to 256 take the same time within the noise."""

PRICING_SHARE = 0.5
"""Share of its tolerance that a violation must exceed to count: eight roundings."""


class Problem(NamedTuple):
    """What stays fixed during a search.

    Attributes:
        keys: (n, d).
        query: (d,).
        frame: origin and unit.
        start: index of the key at the origin.
        allowance: duality gap, in squared units of the frame, at which to stop early.
        max_steps: most keys that may enter.
    """

    keys: Float[Array, "n d"]
    query: Float[Array, " d"]
    frame: Frame
    start: Int[Array, ""]
    allowance: Float[Array, ""]
    max_steps: Int[Array, ""]


class Search(NamedTuple):
    """The corral so far, its point from the origin and the residual, and how the search goes."""

    corral: Corral
    offset: Float[Array, " d"]
    residual: Float[Array, " d"]
    steps: Int[Array, ""]
    passes: Int[Array, ""]
    stalled: Bool[Array, ""]
    renewed: Bool[Array, ""]
    finished: Bool[Array, ""]


class _Candidates(NamedTuple):
    key_index: Int[Array, " c"]
    shifted: Float[Array, "c d"]
    noise: Float[Array, " c"]


def slots_for(n: int, d: int) -> int:
    """Slots of a corral: at most d + 1 keys are affinely independent."""
    return min(n, d + 1)


def pose(
    keys: Float[Array, "n d"],
    query: Float[Array, " d"],
    allowance: Float[Array, ""],
    max_steps: Int[Array, ""],
) -> Problem:
    """Choose origin and unit.

    Args:
        keys: (n, d).
        query: (d,).
        allowance: duality gap (squared length of the caller) at which to stop early; 0 for full
            accuracy.
        max_steps: most keys that may enter.
    """
    frame, nearest = frame_at(keys, query)
    inverse = 1 / frame.unit
    return Problem(keys, query, frame, nearest, allowance * inverse * inverse, max_steps)


def search(problem: Problem, initial_face: Bool[Array, " n"] | None) -> Search:
    """Find the corral of the projection, starting from one key or from those of `initial_face`.

    Only as many keys of `initial_face` count as are affinely independent.
    """
    state = _init(problem)
    if initial_face is not None:
        warm = _warm_start(problem, state, initial_face)
        state = jax.tree.map(lambda w, s: jnp.where(jnp.any(initial_face), w, s), warm, state)
    return jax.lax.while_loop(lambda s: ~s.finished, lambda s: _pass(problem, s), state)


def _init(problem: Problem) -> Search:
    no = jnp.asarray(False)
    corral = corrals.start(problem.start, problem.frame, slots_for(*problem.keys.shape))
    zero = jnp.int32(0)
    target = problem.frame.target
    return Search(corral, jnp.zeros_like(target), target, zero, zero, no, no, no)


def _warm_start(problem: Problem, state: Search, initial_face: Bool[Array, " n"]) -> Search:
    keys, slots = problem.keys, state.corral.key_index.shape[0]
    chosen = jnp.nonzero(initial_face, size=slots, fill_value=-1)[0]
    used = chosen >= 0
    shifted = jnp.where(used[:, None], problem.frame.shifted(keys[chosen]), 0.0)
    seed = state.corral._replace(
        key_index=chosen.astype(jnp.int32),
        rows=jnp.where(used[:, None], corrals.homogeneous(shifted), 0.0),
        reach=jnp.max(jnp.abs(shifted), axis=1),
        weights=jnp.where(used, 1 / jnp.maximum(jnp.sum(used), 1).astype(keys.dtype), 0.0),
    )
    return _renew(problem, state._replace(corral=seed))


def _pass(problem: Problem, state: Search) -> Search:
    """One multiplication by all the keys, and the problem on its candidates solved to the end."""
    before = state.steps
    pool = _candidates(problem, state)
    state = _exhaust(problem, state, pool)
    # A stall right after a renewal cannot be mended by another one.
    renew = state.stalled & ~state.renewed
    state = jax.lax.cond(renew, lambda s: _renew(problem, s), lambda s: s, state)
    exhausted = (state.steps == before) | (state.steps >= problem.max_steps) | state.stalled
    return state._replace(passes=state.passes + 1, renewed=renew, finished=exhausted & ~renew)


def _candidates(problem: Problem, state: Search) -> _Candidates:
    frame, residual, offset = problem.frame, state.residual, state.offset
    index = _price_blocks(problem, residual)
    shifted = frame.shifted(problem.keys[index])
    spread = state.corral.weights @ jnp.abs(state.corral.rows[:, :-1])
    slope, level, _ = kkt.tolerance(kkt.Place(frame, offset, residual, spread))
    noise = PRICING_SHARE * (jnp.abs(shifted - offset[None]) @ slope + level)
    return _Candidates(index, shifted, jnp.maximum(noise, problem.allowance))


def _price_blocks(problem: Problem, residual: Float[Array, " d"]) -> Int[Array, " c"]:
    """The key of largest ⟨residual, k⟩ in each of the interleaved blocks: one pass."""
    keys = problem.keys
    n = keys.shape[0]
    count = min(CANDIDATES, n)
    rows = -(-n // count)
    # Only the order counts: a direction of length about one unit keeps the products in range.
    largest = jnp.max(jnp.abs(residual))
    direction = residual * (1 / jnp.where(largest > 0, largest, 1.0)) * (1 / problem.frame.unit)
    scores = jnp.pad(keys @ direction, (0, count * rows - n), constant_values=-jnp.inf)
    best = jnp.argmax(scores.reshape(rows, count), axis=0)
    return jnp.minimum(best * count + jnp.arange(count), n - 1).astype(jnp.int32)


def _exhaust(problem: Problem, state: Search, pool: _Candidates) -> Search:
    """Let candidates enter until none violates."""

    def price(state: Search) -> tuple[Int[Array, ""], Bool[Array, ""]]:
        """The candidate that violates ⟨r, k⟩ ≤ ⟨r, p⟩ most, and whether it does beyond noise."""
        excess = pool.shifted @ state.residual - state.offset @ state.residual - pool.noise
        best = jnp.argmax(excess)
        return best, excess[best] > 0

    def body(carry: tuple[Search, Array, Array]) -> tuple[Search, Array, Array]:
        state = _enter(problem, carry[0], pool.key_index[carry[1]], pool.shifted[carry[1]])
        return state, *price(state)

    def unfinished(carry: tuple[Search, Array, Array]) -> Array:
        return carry[2] & ~carry[0].stalled & (carry[0].steps < problem.max_steps)

    return jax.lax.while_loop(unfinished, body, (state, *price(state)))[0]


def _enter(
    problem: Problem, state: Search, index: Int[Array, ""], shifted: Float[Array, " d"]
) -> Search:
    corral, refused = corrals.add(state.corral, index, shifted)
    corral = _settle_weights(corral, problem.frame)
    offset = corral.shifted_point()
    residual = problem.frame.target - offset
    # From the way the point went: residuals of a distant query agree in all their digits.
    decrease = (offset - state.offset) @ (state.residual + residual)
    return state._replace(
        corral=corral,
        offset=offset,
        residual=residual,
        steps=state.steps + 1,
        stalled=refused | ~(decrease > 0),
    )


def _settle_weights(corral: Corral, frame: Frame) -> Corral:
    """Minor cycle: move to the affine optimum, dropping keys whose weight would vanish."""
    floor = corrals.weight_floor(corral.weights, corral.reach)

    def falling(state: tuple[Corral, Array]) -> Array:
        return state[0].used & (state[1] <= floor)

    def shrink(state: tuple[Corral, Array]) -> tuple[Corral, Array]:
        corral, wanted = state
        weights, slot = corrals.step_towards(corral.weights, wanted, falling(state))
        corral = corrals.drop(corral._replace(weights=weights), slot)
        return corral, corrals.affine_weights(corral, frame)

    wanted = corrals.affine_weights(corral, frame)
    corral, wanted = jax.lax.while_loop(lambda s: jnp.any(falling(s)), shrink, (corral, wanted))
    return corral._replace(weights=wanted)


def _renew(problem: Problem, state: Search) -> Search:
    """After rounding has stopped progress: fresh dual basis, weights and residual."""
    corral = _settle_weights(corrals.rebuild(state.corral), problem.frame)
    offset = corral.shifted_point()
    residual = problem.frame.target - offset
    return state._replace(
        corral=corral, offset=offset, residual=residual, stalled=jnp.asarray(False)
    )

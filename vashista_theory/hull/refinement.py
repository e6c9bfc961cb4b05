r"""The active set judged by all keys, and mended where rounding misled the search.

The search (`hull.active_set`) updates one basis in one frame. That is quick, and careless where
keys are nearly dependent, of very unlike lengths, or far from the origin. Here its answer is held
against every key from differences, each key by its own tolerance. As a rule that is all: one pass.
Otherwise Wolfe's method goes on, slowly and with every step from scratch: the origin is the key of
largest weight, and the affine optimum comes from a QR factorisation of the differences to it, each
of them scaled by its own length, with two steps of iterative refinement. A Householder
factorisation leaves :math:`\langle r, k_j - p\rangle` at some roundings of
:math:`\|r\|\,\|k_j - p\|` for each key, however badly the keys are conditioned.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vashista_theory._numerics import unit_roundoff
from vashista_theory.hull import kkt
from vashista_theory.hull.active_set import Problem, Search
from vashista_theory.hull.corral import polish, step_towards, weight_floor
from vashista_theory.hull.kkt import Place, Prices

SOLVED_SHARE = 0.5
"""Share of its tolerance that a multiplier may be off without a further step."""

_STALLS = 8
"""Steps without progress, each from scratch, after which rounding has the last word."""

_DEPENDENT = 4.0
"""Units of roundoff, relative to its own length, below which a key adds no direction."""


class Support(NamedTuple):
    """Keys that carry the point (`key_index` −1 for a free slot) and their weights."""

    key_index: Int[Array, " slots"]
    weights: Float[Array, " slots"]

    @property
    def used(self) -> Bool[Array, " slots"]:
        """Slots that hold a key."""
        return self.key_index >= 0


class Optimum(NamedTuple):
    """A point of the hull as it stands, and what all keys say about it.

    Attributes:
        support: keys and weights.
        place: the point.
        prices: multipliers of all keys, with their tolerances.
        violation: how far the worst key is from its condition, over what is allowed for it:
            above 1 the point is not the projection.
        steps: keys that entered.
        passes: multiplications by all the keys.
        stalls: steps without progress.
    """

    support: Support
    place: Place
    prices: Prices
    violation: Float[Array, ""]
    steps: Int[Array, ""]
    passes: Int[Array, ""]
    stalls: Int[Array, ""]


class _Differences(NamedTuple):
    """The support seen from its heaviest key: rows, their largest coordinates, the query."""

    frame: kkt.Frame
    rows: Float[Array, "slots d"]
    reach: Float[Array, " slots"]
    pivot: Int[Array, ""]


def refine(problem: Problem, found: Search) -> Optimum:
    """Judge the answer of a search, and go on from it until every key agrees or rounding stops."""
    corral = polish(found.corral, problem.frame)
    support = _normalised(Support(corral.key_index, corral.weights))
    # Where rounding has spoilt the basis altogether, from one key again.
    spoilt = ~jnp.all(jnp.isfinite(support.weights))
    alone = jnp.arange(support.weights.shape[0]) == 0
    support = Support(
        jnp.where(spoilt, jnp.where(alone, problem.start, -1), support.key_index),
        jnp.where(spoilt, jnp.where(alone, 1.0, 0.0), support.weights),
    )
    first = _judged(
        problem, support, locate(problem, support), found.steps, found.passes + 1, jnp.int32(0)
    )
    return jax.lax.while_loop(
        lambda state: _unsettled(problem, state), lambda state: _step(problem, state), first
    )


def locate(problem: Problem, support: Support) -> Place:
    """The point of given weights, seen from the heaviest key."""
    seen = _differences(problem, support)
    offset = support.weights @ seen.rows
    spread = support.weights @ jnp.abs(seen.rows)
    return Place(seen.frame, offset, seen.frame.target - offset, spread)


def _judged(
    problem: Problem,
    support: Support,
    place: Place,
    steps: Int[Array, ""],
    passes: Int[Array, ""],
    stalls: Int[Array, ""],
) -> Optimum:
    prices = kkt.price(problem.keys, place, support.key_index)
    worst = jnp.max(kkt.violation(prices, problem.allowance))
    # A key that carries weight has a multiplier of zero, not only one that is not negative.
    index = jnp.maximum(support.key_index, 0)
    allowed = jnp.maximum(prices.tolerances[index], problem.allowance)
    ratio = jnp.abs(prices.multipliers[index]) / jnp.where(allowed > 0, allowed, 1.0)
    worst = jnp.maximum(worst, jnp.max(jnp.where(support.used & (allowed > 0), ratio, 0.0)))
    return Optimum(support, place, prices, worst, steps, passes, stalls)


def _unsettled(problem: Problem, state: Optimum) -> Bool[Array, ""]:
    off = state.violation > SOLVED_SHARE
    return off & (state.stalls < _STALLS) & (state.steps < problem.max_steps)


def _step(problem: Problem, state: Optimum) -> Optimum:
    """Let the key enter that violates most by its own measure, and settle the weights."""
    ratio = kkt.violation(state.prices, problem.allowance)
    entering = jnp.argmax(ratio).astype(jnp.int32)
    support = state.support
    known = jnp.any(support.used & (support.key_index == entering))
    enters = (ratio[entering] > SOLVED_SHARE) & ~known & ~jnp.all(support.used)
    slot = (jnp.arange(support.key_index.shape[0]) == jnp.argmin(support.used)) & enters
    grown = Support(jnp.where(slot, entering, support.key_index), support.weights)
    settled = _normalised(_settle(problem, grown))
    place = locate(problem, settled)
    progress = _way(problem, state.place, place) @ (state.place.residual + place.residual) > 0
    stalls = state.stalls + (~progress).astype(jnp.int32)
    return _judged(problem, settled, place, state.steps + 1, state.passes + 1, stalls)


def _way(problem: Problem, old: Place, new: Place) -> Float[Array, " d"]:
    """From one point to the next, by offsets: positions may agree in all their digits."""
    between = (new.frame.origin - old.frame.origin) * (1 / problem.frame.unit)
    return between + (new.offset - old.offset)


def _settle(problem: Problem, support: Support) -> Support:
    """Minor cycle: move to the affine optimum, dropping keys whose weight would vanish."""

    def cycle(state: tuple[Support, Array]) -> tuple[Support, Array]:
        support, _ = state
        wanted, reach = _affine_optimum(problem, support)
        falling = support.used & (wanted <= weight_floor(support.weights, reach))
        done = ~jnp.any(falling)
        weights, slot = step_towards(support.weights, wanted, falling)
        leaving = (jnp.arange(weights.shape[0]) == slot) & ~done
        index = jnp.where(leaving, -1, support.key_index)
        weights = jnp.where(done, wanted, weights)
        return Support(index, jnp.where(index >= 0, weights, 0.0)), done

    return jax.lax.while_loop(lambda s: ~s[1], cycle, (support, jnp.asarray(False)))[0]


def _differences(problem: Problem, support: Support) -> _Differences:
    pivot = jnp.argmax(jnp.where(support.used, support.weights, -jnp.inf))
    keys = problem.keys[jnp.maximum(support.key_index, 0)]
    frame = problem.frame.moved_to(keys[pivot], problem.query)
    rows = jnp.where(support.used[:, None], frame.shifted(keys), 0.0)
    return _Differences(frame, rows, jnp.max(jnp.abs(rows), axis=1), pivot)


def _affine_optimum(
    problem: Problem, support: Support
) -> tuple[Float[Array, " slots"], Float[Array, " slots"]]:
    """Barycentric coordinates of the query's projection on the affine hull, and the keys' reach."""
    seen = _differences(problem, support)
    slots = support.key_index.shape[0]
    others = support.used & (jnp.arange(slots) != seen.pivot) & (seen.reach > 0)
    # At most slots − 1 keys beside the pivot, those in use first.
    order = jnp.argsort(~others, stable=True)[: slots - 1]
    lengths = jnp.where(others, seen.reach, 1.0)[order]
    columns = jnp.where(others[order, None], seen.rows[order] / lengths[:, None], 0.0).T
    solution = solve_columns(columns, seen.frame.target) / lengths
    wanted = (
        jnp.zeros((slots,), solution.dtype).at[order].set(jnp.where(others[order], solution, 0.0))
    )
    return wanted.at[seen.pivot].set(1.0 - jnp.sum(wanted)), seen.reach


def solve_columns(columns: Float[Array, "d m"], target: Float[Array, " d"]) -> Float[Array, " m"]:
    """Least squares by Householder QR with iterative refinement; zero for a dependent column.

    Args:
        columns: of lengths about 1, or zero where there is none; m ≤ d.
        target: what to come near to.
    """
    if not columns.shape[1]:
        return jnp.zeros((0,), target.dtype)
    orthogonal, triangle = jnp.linalg.qr(columns)
    diagonal = jnp.diagonal(triangle)
    noise = _DEPENDENT * unit_roundoff(columns.dtype)
    missing = jnp.abs(diagonal) <= noise * jnp.linalg.norm(triangle, axis=0)
    triangle = jnp.where(jnp.diag(missing), 1.0, jnp.where(missing[:, None], 0.0, triangle))

    def solve(rest: Array) -> Array:
        image = jnp.where(missing, 0.0, orthogonal.T @ rest)
        return jax.scipy.linalg.solve_triangular(triangle, image)

    solution = solve(target)
    for _ in range(2):
        solution = solution + solve(target - columns @ solution)
    return solution


def _normalised(support: Support) -> Support:
    """Weights that sum to 1 to rounding."""
    weights = jnp.maximum(support.weights, 0.0)
    return Support(support.key_index, weights / jnp.sum(weights))

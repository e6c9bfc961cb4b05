r"""Attention with coupled keys: the entropic projection of T6 on the keys at hand.

.. math:: \min_{\alpha} \tfrac{\gamma}{2} \|K^\top\alpha\|^2 - \langle q, K^\top\alpha\rangle
          + \tfrac1s \sum_i \alpha_i \log \alpha_i

γ = 1 is the relaxation of the hull projection at ε = 1/s, γ → 0 softmax attention.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vashista_theory._numerics import safe_norm, unit_roundoff
from vashista_theory.attention.bounds.page_bounds import Query
from vashista_theory.attention.step.softmax_sums import Gathered
from vashista_theory.hull.dual_newton import Tilt, solve_tilt

# Newton's method from zero was seen to fail from a stiffness of 10³ on (n = 1000, d = 64).
_STIFFNESS_FROM_ZERO = 16.0
_COOLING = 4.0


class Coupled(NamedTuple):
    """Output Σ α_i v_i of every query head, and whether its α was cooled."""

    output: Float[Array, "R G D"]
    solved: Bool[Array, "R G"]


def attend_coupled(query: Query, gathered: Gathered, coupling: float | Float[Array, ""]) -> Coupled:
    """Coupled attention of every query head; zero for a row without keys."""

    def one(
        vector: Float[Array, " D"],
        keys: Float[Array, "T D"],
        values: Float[Array, "T D"],
        counted: Bool[Array, " T"],
    ) -> tuple[Array, Array]:
        weights, solved = coupled_weights(vector, keys, counted, query.scale, coupling)
        return jnp.where(jnp.any(counted), weights @ values, 0.0), solved

    heads = jax.vmap(one, in_axes=(0, None, None, None))
    return Coupled(*jax.vmap(heads)(query.vectors, *gathered))


def coupled_weights(
    vector: Float[Array, " D"],
    keys: Float[Array, "T D"],
    counted: Bool[Array, " T"],
    scale: Float[Array, ""],
    coupling: float | Float[Array, ""],
) -> tuple[Float[Array, " T"], Bool[Array, ""]]:
    r"""Weights :math:`\alpha \propto e^{s\langle q - \gamma K^\top\alpha,\, k_i\rangle}`.

    With :math:`z_i = (k_i - c)/L` and :math:`w = -s\gamma L (K^\top\alpha - c)` the condition is
    the one that `solve_tilt` solves, at strong convexity :math:`1/(s\gamma L^2)`. Measured from a
    centre c and in units of the keys' spread L, no digits are lost to a common offset. Logits are
    good to about :math:`s\gamma L^2` roundings.

    Returns:
        The weights, and whether :math:`K^\top\alpha` has at least half of the digits of its type:
        by strong convexity it is within twice the residual of the exact one, in units of L.
    """
    mask = counted[:, None]
    number = jnp.maximum(jnp.sum(counted, dtype=jnp.int32), 1).astype(keys.dtype)
    centre = jnp.sum(jnp.where(mask, keys, 0.0), axis=0) / number
    away = jnp.where(mask, keys - centre[None, :], 0.0)
    spread = jnp.max(safe_norm(away), initial=0.0)
    spread = jnp.where(spread > 0, spread, 1.0)
    offsets = scale * (away @ (vector - coupling * centre))
    # A row without keys is solved as if it had all, so that nothing in the solver is NaN.
    offsets = jnp.where(counted | ~jnp.any(counted), offsets, -jnp.inf)
    stiffness = scale * coupling * spread * spread
    cooled = _cool(away / spread, offsets, stiffness)
    solved = (cooled.residual <= unit_roundoff(keys.dtype) ** 0.5) | ~jnp.any(counted)
    return jnp.where(counted, jnp.exp(cooled.log_weights), 0.0), solved


def _cool(
    coordinates: Float[Array, "T D"], offsets: Float[Array, " T"], stiffness: Float[Array, ""]
) -> Tilt:
    """Solve at a high temperature first and follow the solution down to the one asked for.

    Almost piecewise linear at a low temperature, the objective sends Newton's method from zero
    back and forth until its steps are used up.
    """
    u = unit_roundoff(offsets.dtype)

    def colder(state: tuple[Array, Tilt]) -> tuple[Array, Tilt]:
        fraction, last = state
        further = jnp.minimum(_COOLING * fraction, 1.0)
        # Beyond 1/u² the tilt is zero to rounding, but its square would overflow.
        strength = jnp.minimum(1.0 / (further * stiffness), u**-2)
        start = last.tilt * (further / fraction)
        return further, solve_tilt(coordinates, further * offsets, strength, start)

    # Below one rounding of the first temperature there is nothing left to solve accurately.
    first = jnp.clip(_STIFFNESS_FROM_ZERO / stiffness, u, 1.0)
    unsolved = jnp.full_like(stiffness, jnp.nan)
    nothing = Tilt(
        jnp.zeros_like(coordinates[0]),
        jnp.full_like(offsets, jnp.nan),
        unsolved,
        jnp.int32(0),
        jnp.asarray(False),
    )
    return jax.lax.while_loop(lambda s: s[0] < 1.0, colder, (first / _COOLING, nothing))[1]

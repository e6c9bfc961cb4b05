r"""Attention with coupled keys: the entropic projection of T6 on the keys at hand.

.. math:: \min_{\alpha} \tfrac{\gamma}{2} \|K^\top\alpha\|^2 - \langle q, K^\top\alpha\rangle
          + \tfrac1s \sum_i \alpha_i \log \alpha_i

γ = 1 is the relaxation of the hull projection at ε = 1/s, γ → 0 softmax attention.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vashista_theory._numerics import safe_norm
from vashista_theory.attention.certificate import Query
from vashista_theory.attention.read import Gathered
from vashista_theory.hull.tilt import solve_tilt


def attend_coupled(query: Query, gathered: Gathered, coupling: float) -> Float[Array, "R G D"]:
    """Output Σ α_i v_i of every query head; zero for a row without keys."""

    def one(
        vector: Float[Array, " D"],
        keys: Float[Array, "T D"],
        values: Float[Array, "T D"],
        counted: Bool[Array, " T"],
    ) -> Float[Array, " D"]:
        weights = coupled_weights(vector, keys, counted, query.scale, coupling)
        return jnp.where(jnp.any(counted), weights @ values, 0.0)

    heads = jax.vmap(one, in_axes=(0, None, None, None))
    return jax.vmap(heads)(query.vectors, *gathered)


def coupled_weights(
    vector: Float[Array, " D"],
    keys: Float[Array, "T D"],
    counted: Bool[Array, " T"],
    scale: Float[Array, ""],
    coupling: float,
) -> Float[Array, " T"]:
    r"""Weights :math:`\alpha \propto e^{s\langle q - \gamma K^\top\alpha,\, k_i\rangle}`.

    With :math:`z_i = (k_i - c)/L` and :math:`w = -s\gamma L (K^\top\alpha - c)` the condition is
    the one that `solve_tilt` solves, at strong convexity :math:`1/(s\gamma L^2)`. Measured from a
    centre c and in units of the keys' spread L, no digits are lost to a common offset.
    """
    mask = counted[:, None]
    number = jnp.maximum(jnp.sum(counted, dtype=jnp.int32), 1).astype(keys.dtype)
    centre = jnp.sum(jnp.where(mask, keys, 0.0), axis=0) / number
    away = jnp.where(mask, keys - centre[None, :], 0.0)
    spread = jnp.max(safe_norm(away), initial=0.0)
    spread = jnp.where(spread > 0, spread, 1.0)
    coordinates = away / spread
    offsets = scale * (away @ (vector - coupling * centre))
    # A row without keys is solved as if it had all, so that nothing in the solver is NaN.
    offsets = jnp.where(counted | ~jnp.any(counted), offsets, -jnp.inf)
    strength = 1.0 / (scale * coupling * spread * spread)
    solved = solve_tilt(coordinates, offsets, strength, jnp.zeros_like(vector))
    return jnp.where(counted, jnp.exp(solved.log_weights), 0.0)

"""The largest temperature below which a leakage bound keeps a promise."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vashista_theory._checks import is_traced
from vashista_theory.hull.bounds import Geometry, leakage_bounds

_GRID = 400
_BISECTIONS = 60
_DECADES = 16.0


def largest_safe_epsilon(geometry: Geometry, log_mass: float) -> Float[Array, ""]:
    """Largest ε such that min(T1, T3) ≤ log_mass at every temperature up to it.

    Scanned upwards from where −Δ/ε alone decides, in steps of a fifth of an e-fold, then
    bisected in log ε; the lower end of the bracket is returned, where the bound was evaluated.

    Raises:
        ValueError: `log_mass` is above 0 or NaN.
    """
    if not is_traced(log_mass):
        check_log_mass(log_mass)
    return _scan(geometry, jnp.asarray(log_mass, geometry.gap.dtype))


def check_log_mass(log_mass: float) -> None:
    """Refuse what is no logarithm of a share: NaN, and a mass passed by mistake for its logarithm.

    Raises:
        ValueError: with the value.
    """
    if not log_mass <= 0:
        instead = f" Did you mean math.log({log_mass})?" if 0 < log_mass < 1 else ""
        raise ValueError(
            "`log_mass` must be the logarithm of a mass between 0 and 1, so at most 0, such as "
            f"math.log(0.01), got {log_mass}.{instead}"
        )


@jax.jit
def _scan(geometry: Geometry, log_mass: Array) -> Array:
    def exceeds(log_epsilon: Array) -> Array:
        bound = leakage_bounds(geometry, jnp.exp(log_epsilon))
        return ~(jnp.minimum(jnp.minimum(bound.t1, bound.t3), 0.0) <= log_mass)

    gap = geometry.gap
    finite = jnp.isfinite(gap)
    anchor = jnp.log(jnp.where(finite, gap, 1.0)) - jnp.log1p(jnp.abs(log_mass))
    grid = anchor + math.log(10.0) * _DECADES * jnp.linspace(-1.0, 1.0, _GRID, dtype=gap.dtype)
    over = jax.lax.map(exceeds, grid)
    first = jnp.argmax(over)
    low, high = grid[jnp.maximum(first - 1, 0)], grid[first]

    def halve(_: Array, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = 0.5 * (low + high)
        bad = exceeds(middle)
        return jnp.where(bad, low, middle), jnp.where(bad, middle, high)

    low, _ = jax.lax.fori_loop(0, _BISECTIONS, halve, (low, high))
    found = jnp.where(jnp.any(over), jnp.where(first == 0, 0.0, jnp.exp(low)), jnp.inf)
    always = jnp.isposinf(gap) | (log_mass == 0)
    undefined = jnp.isnan(gap) | ~(log_mass <= 0)
    return jnp.where(undefined, jnp.nan, jnp.where(always, jnp.inf, found))

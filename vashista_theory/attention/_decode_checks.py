"""What a user may pass to `vashista_attention`."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from vashista_theory._types import ArrayLike
from vashista_theory.attention.cache import PagedKV
from vashista_theory.attention.policy import Policy
from vashista_theory.attention.sharded import ShardedKV
from vashista_theory.hull.problem import check_finite, is_traced

IMPLEMENTATIONS = ("xla",)


def check_call(
    query: ArrayLike,
    cache: PagedKV | ShardedKV,
    policy: Policy,
    coupling: float,
    implementation: str | None,
) -> Array:
    """Return the query as an array, or raise what is wrong with the call."""
    if implementation is not None and implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"implementation is {implementation!r}; there is {IMPLEMENTATIONS}, or None for the "
            "best on this device."
        )
    if not isinstance(cache, PagedKV | ShardedKV):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(
            f"`cache` is a {type(cache).__name__}; a PagedKV or a ShardedKV is expected."
        )
    if not isinstance(policy, Policy):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"`policy` is {policy!r}; a Policy is expected, such as Policy.dense().")
    if is_traced(coupling) or not (0.0 <= float(coupling) < math.inf):
        raise ValueError(f"coupling is {coupling!r}; a number ≥ 0 known before tracing is needed.")
    if coupling > 0 and policy.otherwise == "widen":
        raise ValueError(
            f"coupling {coupling} > 0 has no certificate, so nothing could end the widening. Use "
            "coupling=0, or a policy that keeps a fixed number of pages or reads densely."
        )
    array = _as_query(query, cache)
    _check_summary(cache, policy)
    return array


def _as_query(query: ArrayLike, cache: PagedKV | ShardedKV) -> Array:
    if (
        isinstance(query, np.ndarray)
        and query.dtype == np.float64
        and jnp.result_type(float) != jnp.float64
    ):
        raise ValueError(
            "`query` is float64 but JAX's 64-bit mode is off. Call "
            "`jax.config.update('jax_enable_x64', True)` first, or pass `query.astype('float32')`."
        )
    array = jnp.asarray(query)
    batch, d = cache.batch, cache.head_size
    if array.ndim != 3 or array.shape[0] != batch or array.shape[2] != d or array.shape[1] == 0:
        raise ValueError(f"`query` has shape {array.shape}; this cache expects ({batch}, H, {d}).")
    if array.shape[1] % cache.kv_heads:
        raise ValueError(
            f"{array.shape[1]} query heads cannot share {cache.kv_heads} kv heads equally: H must "
            "be a multiple of Hkv."
        )
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"`query` is {array.dtype}; floating-point numbers are expected.")
    if not is_traced(array) and not bool(jnp.all(jnp.isfinite(array))):
        check_finite(array, "query")
    return array


def _check_summary(cache: PagedKV | ShardedKV, policy: Policy) -> None:
    kept = {
        "mean": (cache.spec.ball, "ball=True"),
        "ball": (cache.spec.ball, "ball=True"),
        "box": (cache.spec.box, "box=True"),
        "sketch": (cache.spec.sketch_bits is not None, "sketch_bits=4"),
    }
    if policy.summary is not None and not kept[policy.summary][0]:
        raise ValueError(
            f"the policy judges pages by {policy.summary!r}, which this cache does not keep. Build "
            f"it with SummarySpec({kept[policy.summary][1]})."
        )


def check_scale(scale: ArrayLike) -> Array:
    """Return a scale that is one positive number."""
    array = jnp.asarray(scale)
    if array.shape != () or not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"scale is {scale!r}; one positive floating-point number is expected.")
    if not is_traced(array) and not 0.0 < float(array) < math.inf:
        raise ValueError(f"scale is {float(array)!r}; a positive, finite number is expected.")
    return array

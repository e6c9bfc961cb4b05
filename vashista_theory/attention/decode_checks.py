"""What a user may pass to `vashista_attention`."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from vashista_theory._checks import as_floats, as_scale, check_finite, is_traced
from vashista_theory._types import ArrayLike
from vashista_theory.attention.bounds.summaries import KINDS
from vashista_theory.attention.cache.paged import PagedKV
from vashista_theory.attention.cache.sharded import ShardedKV
from vashista_theory.attention.kernels.api import STEP_IMPLEMENTATIONS
from vashista_theory.attention.policy import Policy


def check_call(
    query: ArrayLike,
    cache: PagedKV | ShardedKV,
    policy: Policy,
    coupling: float,
    implementation: str | None,
) -> Array:
    """Return the query as an array, or raise what is wrong with the call."""
    if implementation is not None and implementation not in STEP_IMPLEMENTATIONS:
        raise ValueError(
            f"implementation is {implementation!r}; there is {STEP_IMPLEMENTATIONS}, or None for "
            "the best on this device."
        )
    if not isinstance(cache, PagedKV | ShardedKV):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(
            f"`cache` is a {type(cache).__name__}; a PagedKV or a ShardedKV is expected."
        )
    if not isinstance(policy, Policy):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"`policy` is {policy!r}; a Policy is expected, such as Policy.dense().")
    _check_coupling(coupling, policy)
    array = _as_query(query, cache)
    _check_summary(cache, policy)
    _check_tokens(cache, policy)
    return array


def _check_coupling(coupling: float, policy: Policy) -> None:
    if is_traced(coupling):
        raise ValueError(
            f"coupling is traced ({coupling!r}); a number known before tracing is needed. Close "
            "over it, or name it in `static_argnums`."
        )
    number = np.asarray(coupling)
    if number.shape != () or number.dtype.kind not in "fiu" or not 0.0 <= float(number) < math.inf:
        raise ValueError(
            f"coupling is {coupling!r}; a finite number of at least 0 is expected: 0 for softmax, "
            "1 for the projection on the keys read."
        )
    if coupling > 0 and policy.tokens is not None:
        raise ValueError(
            f"coupling={coupling} has no weights to correct a draw by, and this policy draws "
            f"tokens={policy.tokens}. Use coupling=0, or a policy that reads pages."
        )
    if coupling > 0 and policy.otherwise != "keep":
        raise ValueError(
            f"coupling={coupling} has no certificate, so nothing can decide when to "
            f"{'end the widening' if policy.otherwise == 'widen' else 'read densely'}. Use "
            "coupling=0, otherwise='keep' (a fixed number of pages), or Policy.dense()."
        )


def _as_query(query: ArrayLike, cache: PagedKV | ShardedKV) -> Array:
    array = as_floats(query, "query")
    batch, d = cache.batch, cache.head_size
    if array.ndim != 3 or array.shape[0] != batch or array.shape[2] != d or array.shape[1] == 0:
        raise ValueError(f"`query` has shape {array.shape}; this cache expects ({batch}, H, {d}).")
    if array.shape[1] % cache.kv_heads:
        raise ValueError(
            f"`query` has shape {array.shape}: {array.shape[1]} query heads cannot share "
            f"{cache.kv_heads} kv heads equally. H must be a multiple of Hkv."
        )
    check_finite(array, "query")
    return array


def _check_summary(cache: PagedKV | ShardedKV, policy: Policy) -> None:
    if policy.summary is not None and not KINDS[policy.summary].kept_by(cache.spec):
        raise ValueError(
            f"the policy judges pages by {policy.summary!r}, which this cache does not keep. Build "
            f"it with SummarySpec({KINDS[policy.summary].needs})."
        )
    if policy.tokens and policy.superpages and not KINDS["mean"].kept_by(cache.spec):
        raise ValueError(
            f"the policy draws superpages={policy.superpages} by their means, which this cache "
            f"does not keep. Build it with SummarySpec({KINDS['mean'].needs}), or use "
            "superpages=None."
        )


def _check_tokens(cache: PagedKV | ShardedKV, policy: Policy) -> None:
    sure = policy.always * cache.page_size
    if policy.tokens is not None and policy.tokens <= sure:
        raise ValueError(
            f"tokens is {policy.tokens}, but {policy.sink} sink and {max(1, policy.recent)} recent "
            f"pages (the last always counts) of {cache.page_size} tokens are always read, and some "
            f"must be drawn. Use tokens={sure + 1} or more, or lower sink and recent."
        )


def as_sinks(sinks: ArrayLike | None, heads: int, coupling: float, dtype: np.dtype) -> Array | None:
    """Return one logit a query head, none of them NaN or +inf, or None.

    Raises:
        ValueError: for anything else, and with coupling, which has no softmax to share.
    """
    if sinks is None:
        return None
    _check_softmax("sinks", coupling)
    array = as_floats(sinks, "sinks")
    if array.shape != (heads,):
        raise ValueError(f"`sinks` has shape {array.shape}; one logit a query head, ({heads},).")
    if not is_traced(array) and not np.all(np.asarray(array) < np.inf):
        raise ValueError("`sinks` has a NaN or +inf; logits below +inf are expected.")
    return array.astype(dtype)


def as_softcap(
    softcap: ArrayLike | None, coupling: float, implementation: str | None, dtype: np.dtype
) -> Array | None:
    """Return the cap of the logits as one positive number, or None.

    Raises:
        ValueError: for anything else, and with coupling, which has no logits.
        NotImplementedError: if kernels were named, none of which caps logits.
    """
    if softcap is None:
        return None
    _check_softmax("softcap", coupling)
    if implementation not in (None, "jax"):
        raise NotImplementedError(
            f"{implementation!r} cannot cap logits (softcap={softcap}). Use implementation=None, "
            "or 'jax' for plain JAX."
        )
    try:
        return as_scale(softcap, 1, dtype)
    except ValueError as error:
        raise ValueError(
            f"softcap is {softcap!r}; one positive, finite number is expected, or None for "
            "logits without a cap."
        ) from error


def _check_softmax(name: str, coupling: float) -> None:
    if coupling > 0:
        raise ValueError(
            f"`{name}` was given, but coupling={coupling} > 0 is no softmax. Use coupling=0."
        )


def check_key(key: ArrayLike | None, policy: Policy) -> Array | None:
    """Return the words of a random key, two or four of 32 bits.

    Raises:
        ValueError: for anything else, and for a key where nothing is drawn.
    """
    if key is None:
        return None
    if policy.tokens is None:
        raise ValueError(
            "a key was given, but this policy draws nothing. Use Policy.sampled(), or key=None."
        )
    words = key
    if isinstance(key, Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        words = jax.random.key_data(key)
    kind, shape = getattr(words, "dtype", None), getattr(words, "shape", None)
    if kind != jnp.uint32 or shape not in ((2,), (4,)):
        raise ValueError(
            f"key is {key!r}; one JAX random key is expected, such as jax.random.key(0), or None "
            "for one made from the policy's seed. Of several keys give one a call, by jax.vmap or "
            "a loop."
        )
    return jnp.asarray(words)

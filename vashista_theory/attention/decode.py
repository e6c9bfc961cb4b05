"""Sparse attention of one query a head over a paged cache, with a report on itself."""

import functools
from typing import Any, Literal, overload

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32

from vashista_theory._checks import as_scale
from vashista_theory._results import Result
from vashista_theory._types import ArrayLike
from vashista_theory.attention import decode_checks as checks
from vashista_theory.attention.bounds.bits import widened
from vashista_theory.attention.bounds.page_bounds import as_query
from vashista_theory.attention.bounds.random_bits import keys_from_content, sequence_keys
from vashista_theory.attention.bounds.rounding import work_dtype
from vashista_theory.attention.cache.paged import PagedKV
from vashista_theory.attention.cache.sharded import ShardedKV
from vashista_theory.attention.info import DecodeInfo
from vashista_theory.attention.kernels.api import Choice, choose
from vashista_theory.attention.policy import Policy
from vashista_theory.attention.step.backend import Backend
from vashista_theory.attention.step.kernel_backend import KernelBackend
from vashista_theory.attention.step.plain_backend import PlainBackend
from vashista_theory.attention.step.report import report_of, result_of
from vashista_theory.attention.step.sampling import read_sampled
from vashista_theory.attention.step.sharded_backend import ShardedBackend, whole_context
from vashista_theory.attention.step.softmax_sums import as_rows
from vashista_theory.attention.step.strategies import (
    read_all,
    read_fixed_number,
    read_until_proved,
    reads_everything,
)


@overload
def vashista_attention(
    query: ArrayLike,
    cache: PagedKV | ShardedKV,
    policy: Policy,
    *,
    scale: ArrayLike | None = None,
    coupling: float = 0.0,
    implementation: str | None = None,
    key: ArrayLike | None = None,
    sinks: ArrayLike | None = None,
    softcap: ArrayLike | None = None,
    report: Literal[True] = True,
) -> tuple[Float[Array, "B H D"], DecodeInfo]: ...


@overload
def vashista_attention(
    query: ArrayLike,
    cache: PagedKV | ShardedKV,
    policy: Policy,
    *,
    scale: ArrayLike | None = None,
    coupling: float = 0.0,
    implementation: str | None = None,
    key: ArrayLike | None = None,
    sinks: ArrayLike | None = None,
    softcap: ArrayLike | None = None,
    report: Literal[False],
) -> tuple[Float[Array, "B H D"], Result]: ...


def vashista_attention(
    query: ArrayLike,
    cache: PagedKV | ShardedKV,
    policy: Policy,
    *,
    scale: ArrayLike | None = None,
    coupling: float = 0.0,
    implementation: str | None = None,
    key: ArrayLike | None = None,
    sinks: ArrayLike | None = None,
    softcap: ArrayLike | None = None,
    report: bool = True,
) -> tuple[Float[Array, "B H D"], DecodeInfo | Result]:
    """Attend to the pages or tokens that the policy asks for, and say what that left out.

    A `ShardedKV` gives the numbers of a `PagedKV` of the same tokens, to rounding. Each device
    judges and reads its own pages; everything else is done by all. For R = B Hkv rows, G query
    heads a row, P pages a sequence, n devices and scores of b bytes, each device receives

    - b R (5G + 1) P bytes of bounds of all pages; on two levels, b R (5G + 1) P/16 of all
      superpages and b R (5G + 1) 32 for each one opened;
    - b n R G (D + 4) bytes of softmax sums for each read. A fixed number of pages is one read;
      where a proof decides it is two, and one more for each step of widening; of drawn tokens it
      is two, and some numbers a row, in two stages also b R (5G + 1) P/16 bytes of superpages;
    - with coupling, 4 b R D bytes for each token of the pages read.

    Args:
        query: (B, H, D); query heads share kv heads in equal consecutive groups.
        cache: Keys and values, on one device or on several.
        policy: What to read, what to prove, what to do otherwise.
        scale: Positive factor on the scores, D^(−1/2) by default; the temperature is 1/scale.
        coupling: γ ≥ 0 of T6: 0 is softmax attention, γ > 0 the entropic projection on the keys
            read. Bounds are then NaN and nothing is certified.
        implementation: None for the best there is on this device: the kernels
            (`attention.kernels`) for GPUs, TPUs, or with the extra `cpu` CPUs, that can do this
            shape, else plain JAX. "jax" is plain JAX anywhere; "mosaic_gpu", "mosaic_tpu", "numba"
            or "xla" the kernels of that back end. What is read and proved is the same, to rounding.
            Kernels compute in float32; with float64 anywhere None is plain JAX.
        key: With `Policy.sampled`, one JAX random key, by which tokens are drawn: give a new one at
            every step. None makes a key for each sequence from the policy's seed, the length and
            the bits of the query, so that equal steps read the same whatever else is in the batch.
            A confidence is a probability over keys.
        sinks: (H,) One logit a head beside those of the keys, of a key whose value is 0 (attention
            sinks, as of gpt-oss). It takes its share of every softmax, so the dropped mass and all
            errors are those of attention with it; `log_mass` stays that of the keys read.
        softcap: Positive c: logits are c · tanh(scale × score / c), and the gap is that of capped
            scores. Plain JAX alone.
        report: False computes nothing that only the report needs, for loops that do not read it.

    Returns:
        Output (B, H, D) in the query's type, zero for an empty sequence, and a `DecodeInfo`; of
        that only its `result` with ``report=False``.

    Raises:
        ValueError: for shapes that do not fit the cache, a summary that the cache does not keep,
            a concrete NaN in the query, or arguments that exclude each other.
        NotImplementedError: if a named `implementation` cannot do this (kernels cannot cap logits).
            For coupling > 0 with a policy that reads everything from a `ShardedKV`, which would
            bring all keys to every device. For a derivative by query, cache or scale.
    """
    query_ = checks.check_call(query, cache, policy, coupling, implementation)
    words = checks.check_key(key, policy)
    if isinstance(cache, ShardedKV):
        if coupling > 0 and reads_everything(cache, policy):
            raise NotImplementedError(
                f"coupling {coupling} > 0 needs the keys that are read on every device, and this "
                f"policy reads all {cache.pages_per_sequence} pages. Read fewer pages, use "
                "coupling=0, or keep the cache on one device (PagedKV)."
            )
        query_ = cache.on_devices(query_)
        words = None if words is None else cache.on_devices(words)
    work = work_dtype(query_.dtype, cache.work_dtype)
    factor = as_scale(scale, cache.head_size, work)
    keys = cache.keys if isinstance(cache, PagedKV) else cache.parts.keys
    beside = checks.as_sinks(sinks, query_.shape[1], coupling, work)
    cap = checks.as_softcap(softcap, coupling, implementation, work)
    if beside is not None and isinstance(cache, ShardedKV):
        beside = cache.on_devices(beside)
    choice = choose("jax" if cap is not None else implementation, work, query_, keys)
    asked = query_, cache, factor, words, beside, cap
    return _decode(*asked, policy, float(coupling), choice, report)


@functools.partial(jax.jit, static_argnames=("policy", "coupling", "choice", "report"))
def _decode(
    query: Float[Array, "B H D"],
    cache: PagedKV | ShardedKV,
    scale: Float[Array, ""],
    key: UInt32[Array, " W"] | None,
    sinks: Float[Array, " H"] | None,
    cap: Float[Array, ""] | None,
    policy: Policy,
    coupling: float,
    choice: Choice,
    report: bool,
) -> tuple[Float[Array, "B H D"], DecodeInfo | Result]:
    cache = _undifferentiated(cache)
    query, scale = _constant(query), _constant(scale)
    sinks, cap = (None if a is None else _constant(a) for a in (sinks, cap))
    by = functools.partial(_decode_by, policy=policy, coupling=coupling, report=report)
    keys = None
    if policy.tokens is not None and key is not None:
        keys = sequence_keys(key, cache.batch)
    elif policy.tokens is not None:
        keys = keys_from_content(policy.seed, cache.lengths, query)
    asked = query, cache, scale, keys, sinks, cap
    return choice.run(lambda chosen: functools.partial(by, choice=chosen), *asked)


@jax.custom_jvp
def _constant(value: Any) -> Any:
    return value


@_constant.defjvp
def _refuse_to_differentiate(*_: object) -> tuple[Any, Any]:
    raise NotImplementedError(
        "vashista_attention has no derivative: which pages or tokens are read jumps with its "
        "arguments. Train with `attention.dense_attention`, which can be differentiated, or keep "
        "this call out of the gradient with `jax.lax.stop_gradient` on query, keys and values."
    )


def _undifferentiated(cache: PagedKV | ShardedKV) -> PagedKV | ShardedKV:
    """The same, refused by name where somebody differentiates by its keys or values."""

    def pools(held: Any) -> tuple[Any, Any]:
        part = held.parts if isinstance(held, ShardedKV) else held
        return part.keys, part.values

    return eqx.tree_at(pools, cache, tuple(_constant(pool) for pool in pools(cache)))


def _decode_by(
    query: Float[Array, "B H D"],
    cache: PagedKV | ShardedKV,
    scale: Float[Array, ""],
    keys: UInt32[Array, "B 2"] | None,
    sinks: Float[Array, " H"] | None,
    cap: Float[Array, ""] | None,
    *,
    policy: Policy,
    coupling: float,
    report: bool,
    choice: Choice,
) -> tuple[Float[Array, "B H D"], DecodeInfo | Result]:
    def one_device(part: PagedKV) -> Backend:
        return KernelBackend(part, query.dtype, policy, choice) if choice.names else PlainBackend()

    if isinstance(cache, PagedKV):
        backend = one_device(cache)
        return _attend(query, cache, scale, keys, sinks, cap, policy, coupling, report, backend)
    pages, dealing = cache.pages_per_sequence, cache.dealing

    def attend(part: PagedKV, lengths: Array, query: Array, scale: Array, *asked: Any) -> Any:
        keys, sinks, cap = asked
        whole = whole_context(part, lengths, pages, dealing)
        backend = ShardedBackend(part, dealing, one_device(part))
        return (), _attend(query, whole, scale, keys, sinks, cap, policy, coupling, report, backend)

    asked = scale, keys, sinks, cap
    return dealing.on_each(attend, cache.parts, cache.lengths, query, *asked)[1]


def _attend(
    query: Float[Array, "B H D"],
    cache: PagedKV,
    scale: Float[Array, ""],
    keys: UInt32[Array, "B 2"] | None,
    sinks: Float[Array, " H"] | None,
    cap: Float[Array, ""] | None,
    policy: Policy,
    coupling: float,
    report: bool,
    backend: Backend,
) -> tuple[Float[Array, "B H D"], DecodeInfo | Result]:
    batch, heads, d = query.shape
    rows = widened(query, scale.dtype).reshape(batch * cache.kv_heads, -1, d)
    if sinks is not None:
        sinks = jnp.tile(sinks.reshape(cache.kv_heads, -1), (batch, 1))
    query_ = as_query(rows, scale, cap, sinks)
    pools = as_rows(cache)
    if reads_everything(cache, policy):
        outcome = read_all(query_, pools, coupling, backend)
    elif keys is not None:
        outcome = read_sampled(query_, cache, pools, policy, keys, backend)
    elif policy.otherwise == "keep" or coupling > 0:
        outcome = read_fixed_number(query_, cache, pools, policy, coupling, backend)
    else:
        outcome = read_until_proved(query_, cache, pools, policy, backend)
    output = outcome.output.reshape(batch, heads, d).astype(query.dtype)
    result = result_of(query_, cache, outcome, output, backend)
    if not report:
        return output, result
    return output, report_of(query_, cache, policy, outcome, output, result)

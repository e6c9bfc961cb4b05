"""What is compiled: appending tokens to pages, and reading them for one or several queries."""

import functools
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from vashista_theory._results import Result
from vashista_theory.attention import DecodeInfo, PagedKV, Policy, vashista_attention


@functools.partial(jax.jit, donate_argnums=0)
def append(
    pages: PagedKV,
    keys: Float[Array, "B T Hkv D"],
    values: Float[Array, "B T Hkv D"],
    counts: Int[Array, " B"],
) -> tuple[PagedKV, Result]:
    """Append the first `counts` tokens of each sequence."""
    return pages.append(keys.swapaxes(1, 2), values.swapaxes(1, 2), counts=counts, throw=False)


@functools.partial(jax.jit, donate_argnums=0, static_argnames=("policy", "report"))
def decode(
    pages: PagedKV,
    query: Float[Array, "B 1 H D"],
    keys: Float[Array, "B 1 Hkv D"],
    values: Float[Array, "B 1 Hkv D"],
    counts: Int[Array, " B"],
    scale: float | Float[Array, ""],
    sinks: Float[Array, " H"] | Float[np.ndarray, " H"] | None,
    cap: float | Float[Array, ""] | None,
    policy: Policy,
    report: bool,
) -> tuple[PagedKV, Float[Array, "B 1 H D"], DecodeInfo | None, Result]:
    """Append one token to each sequence, then read what the policy asks for.

    The report is None unless it is asked for: it costs as much as reading a few pages.
    """
    pages, appended = pages.append(keys[:, 0], values[:, 0], counts=counts, throw=False)
    asked: dict[str, Any] = {"scale": scale, "sinks": sinks, "softcap": cap}
    info = None
    if report:
        output, info = vashista_attention(query[:, 0], pages, policy, **asked)
        read = info.result
    else:
        output, read = vashista_attention(query[:, 0], pages, policy, **asked, report=False)
    result = Result.where(appended == Result.successful, read, appended)
    return pages, output[:, None], info, result


@jax.jit
def read_all(
    pages: PagedKV,
    query: Float[Array, "B T H D"],
    scale: float | Float[Array, ""],
    cap: float | Float[Array, ""] | None,
) -> tuple[Float[Array, "B T H D"], Float[Array, "B T H"], Result]:
    """Every page for T queries a sequence: output, and log of the softmax sum in nats."""
    batch, tokens, heads, d = query.shape
    # T queries of one head are T heads that share its keys.
    as_heads = query.swapaxes(1, 2).reshape(batch, heads * tokens, d)
    output, info = vashista_attention(as_heads, pages, Policy.dense(), scale=scale, softcap=cap)
    output = output.reshape(batch, heads, tokens, d).swapaxes(1, 2)
    return output, info.log_mass.reshape(batch, heads, tokens).swapaxes(1, 2), info.result


@jax.jit
def truncate(pages: PagedKV, lengths: Int[Array, " B"]) -> PagedKV:
    """Keep the first `lengths` tokens."""
    return pages.truncate(lengths)


@jax.jit
def select(pages: PagedKV, sequences: Int[Array, " C"]) -> PagedKV:
    """Other rows of the batch."""
    return pages.select(sequences)


def rounded_up(number: int, least: int) -> int:
    """The next multiple of a quarter of the power of two below, and of `least`: few shapes."""
    step = max(least, 1 << max(0, number.bit_length() - 3))
    return -(-number // step) * step

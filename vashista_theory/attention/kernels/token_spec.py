"""What the stages of a read of single tokens (T8) take and return, and checks of their arguments.

Tokens have been drawn, each with a probability π, and are weighted by 1/π.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt8, UInt32

from vashista_theory._checks import as_scale
from vashista_theory.attention.bounds.sampling import Spread
from vashista_theory.attention.kernels import spec
from vashista_theory.attention.kernels.arguments import Sizes, check_groups, fit


class AttendedTokens(NamedTuple):
    """What reading some tokens by their weights gave.

    Attributes:
        output: Average of the values by weighted softmax, zero if no token was read.
        log_mass: Log of the sum of weighted exponentials of the logits, −inf if no token was read.
        top: Greatest logit with the log of its weight, −inf if no token was read.
        spread: What the error is estimated by; its masses in units of e^(2 top), zero if no token
            was read.
    """

    output: Float[Array, "B H D"]
    log_mass: Float[Array, "B H"]
    top: Float[Array, "B H"]
    spread: Spread


@dataclass(frozen=True)
class AttendTokensShape(spec.QueryShape):
    """Everything static about a call of `attend_tokens`.

    Attributes:
        listed: Tokens that each row's list has room for.
    """

    listed: int
    pool_dtype: str


class AttendTokensCall(NamedTuple):
    """A checked call of `attend_tokens`."""

    shape: AttendTokensShape
    query: Float[Array, "B H D"]
    keys: Float[Array, "Hkv N S D"]
    values: Float[Array, "Hkv N S D"]
    places: Int[Array, "B Hkv C"]
    tokens: Int[Array, "B Hkv"]
    log_weights: Float[Array, "B Hkv C"]
    scale: Float[Array, ""]


@dataclass(frozen=True)
class DrawShape(spec.QueryShape):
    """Everything static about a call of `draw_tokens`.

    Attributes:
        pages: That each sequence's table has room for.
        listed: Drawn tokens of each row that there is room for.
        code_bytes: Bytes of codes a token.
        levels: Steps of the grid of the codes, 2^bits − 1.
        stored: Type the numbers beside the codes are stored in.
    """

    pages: int
    listed: int
    code_bytes: int
    levels: int
    stored: str


class DrawCall(NamedTuple):
    """A draw of tokens of the full pages `ends[:, 0]` to `ends[:, 1]` of each sequence.

    They are drawn by the sketch of their keys and the length of their values. `sure` is the
    log-mass of what is read anyway; a kv head draws `expected` tokens, on average over those of a
    sequence.
    """

    shape: DrawShape
    query: Float[Array, "B H D"]
    box: Shaped[Array, "Hkv N D"]
    codes: UInt8[Array, "Hkv N c S"]
    value_bound: Shaped[Array, "Hkv N"]
    value_codes: UInt8[Array, "Hkv N S"]
    page_table: Int[Array, "B P"]
    ends: Int[Array, "B 2"]
    sure: Float[Array, "B Hkv G"]
    expected: Float[Array, " B"]
    keys: UInt32[Array, "B Hkv 2"]
    scale: Float[Array, ""]


class DrawnTokens(NamedTuple):
    """What was drawn.

    Attributes:
        places: By number in their sequence.
        log_weights: Log 1/π of each.
        number: Tokens drawn, those without room included.
        expected: How many were to be drawn on average.
        pages: Pages with a token that was drawn.
        whole: Whether every token was to be drawn.
        undrawable: Whether a logit or a threshold is no number; then nothing is listed.
    """

    places: Int[Array, "B Hkv C"]
    log_weights: Float[Array, "B Hkv C"]
    number: Int[Array, "B Hkv"]
    expected: Float[Array, "B Hkv"]
    pages: Int[Array, "B Hkv"]
    whole: Bool[Array, "B Hkv"]
    undrawable: Bool[Array, "B Hkv"]


def attend_tokens_call(
    query: Any, keys: Any, values: Any, places: Any, tokens: Any, log_weights: Any, scale: Any
) -> AttendTokensCall:
    """Check the arguments of `attend_tokens`.

    Raises:
        ValueError: naming the argument, what it was, what is expected and what to do.
    """
    sizes: Sizes = {}
    query = fit(sizes, "query", query, ("B", "H", "D"), spec.DTYPES)
    keys = fit(sizes, "keys", keys, ("Hkv", "N", "S", "D"), spec.DTYPES)
    values = fit(sizes, "values", values, ("Hkv", "N", "S", "D"), (str(keys.dtype),))
    places = fit(sizes, "places", places, ("B", "Hkv", "C"), ("int32",))
    tokens = fit(sizes, "tokens", tokens, ("B", "Hkv"), ("int32",))
    log_weights = fit(sizes, "log_weights", log_weights, ("B", "Hkv", "C"), ("float32",))
    check_groups(sizes)
    listed, pool_dtype = sizes["C"][0], str(keys.dtype)
    static = spec.query_shape(sizes, query)
    shape = AttendTokensShape(**static, listed=listed, pool_dtype=pool_dtype)
    factor = as_scale(scale, shape.head_size, jnp.dtype("float32"))
    return AttendTokensCall(shape, query, keys, values, places, tokens, log_weights, factor)


def doubt(log_weights: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """1 − π of each token, from log 1/π: what makes its weight uncertain, 0 for a sure one."""
    return -jnp.expm1(-log_weights)

"""The stages of a sampled decode step by the best back end: score tokens, attend to some."""

from typing import Any

from jaxtyping import Array

from vashista_theory._types import ArrayLike
from vashista_theory.attention.bounds.summaries import Summaries
from vashista_theory.attention.kernels import spec, token_spec
from vashista_theory.attention.kernels.api import run_stage
from vashista_theory.attention.kernels.spec import SummaryParts
from vashista_theory.attention.kernels.token_spec import AttendedTokens


def attend_tokens(
    query: ArrayLike,
    keys: ArrayLike,
    values: ArrayLike,
    places: ArrayLike,
    tokens: ArrayLike,
    log_weights: ArrayLike,
    *,
    scale: ArrayLike | None = None,
    implementation: str | None = None,
    config: Any = None,
) -> AttendedTokens:
    """Softmax attention of one query a head over listed tokens, each counted by a weight.

    What reads a sample (T8): with weights 1/π the sums are unbiased, and `spread` tells their
    error.

    Args:
        query: (B, H, D); query heads share kv heads, and what is read of them, in equal consecutive
            groups.
        keys: (Hkv, N, S, D), a pool of N pages of S keys; bfloat16, float16 or float32, accumulated
            in float32.
        values: A pool of the same shape and type.
        places: (B, Hkv, C) int32, the tokens that each kv head reads: page × S + place in the page.
            Entries behind those in use may hold anything. An entry in use must lie in the pool:
            that depends on numbers, so it is not checked here.
        tokens: (B, Hkv) int32, how many of the places are in use, at most C; 0 reads nothing.
        log_weights: (B, Hkv, C) float32, log 1/π of each, at least 0; it is added to its logit.
        scale: Positive factor on the scores, D^(−1/2) by default.
        implementation: One of `IMPLEMENTATIONS`, or None for the best there is on this device.
        config: Tiles for that implementation; None chooses them by the shape.

    Returns:
        The output, zero where nothing was read, the log of the weighted softmax mass, in nats, and
        what the variance of the output is estimated by.

    Raises:
        ValueError: for arguments that no back end can take.
        NotImplementedError: if `implementation` cannot do this; None never raises it.
    """
    call = token_spec.attend_tokens_call(query, keys, values, places, tokens, log_weights, scale)
    return run_stage("attend_tokens", call, implementation, config)


def score_tokens(
    query: ArrayLike,
    summaries: Summaries | SummaryParts,
    page_table: ArrayLike,
    lengths: ArrayLike,
    *,
    page_size: int,
    bits: int,
    packed: bool = True,
    scale: ArrayLike | None = None,
    implementation: str | None = None,
    config: Any = None,
) -> Array:
    """Logits of every token of the full pages of each sequence, by its sketch.

    What tokens are drawn by (T8). The arguments are those of `score_pages` by sketch.

    Returns:
        (B, H, P, S) float32, −inf for a page that is not full. Nothing is bounded.

    Raises:
        ValueError: for arguments that no back end can take.
        NotImplementedError: if `implementation` cannot do this; None never raises it.
    """
    call = spec.score_call(
        query,
        summaries,
        page_table,
        lengths,
        kind="sketch",
        page_size=page_size,
        bits=bits,
        packed=packed,
        scale=scale,
        by_token=True,
    )
    return run_stage("score_tokens", call, implementation, config)

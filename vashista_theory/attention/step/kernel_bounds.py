"""What the score stage of the kernels judges by, and the bounds that follow from what it says."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vashista_theory._numerics import unit_roundoff
from vashista_theory.attention.bounds.bits import from_bits
from vashista_theory.attention.bounds.page_bounds import PageBounds, lower_by_convexity, sound
from vashista_theory.attention.bounds.rounding import log_sum_slack, norm_from_above
from vashista_theory.attention.bounds.summaries import Summaries, Summary, corners
from vashista_theory.attention.kernels import spec
from vashista_theory.attention.policy import Policy


def kind_for(summaries: Summaries, policy: Policy) -> spec.Kind | None:
    """What the score stage judges by in place of `page_bounds`; None where it cannot say enough.

    A proof by box or ball takes the chord of the exponential at the page mean, which is sharper
    than what the stage knows of either.
    """
    summary, proof = policy.summary or "box", policy.proves
    if summary == "mean":
        return "ball"  # whose estimate is the mean's
    if summary == "sketch" and summaries.codes is not None:
        return "sketch"
    if proof and summaries.mean is not None:
        return None
    known: dict[str, spec.Kind] = {"ball": "ball", "box": "box", "sketch": "box"}
    return known.get(summary)


def bounds_from(
    scores: spec.PageScores, kind: spec.Kind, summary: Summary, tokens: int
) -> PageBounds:
    """Bounds of pages of `tokens` keys from what the score stage says of them."""
    upper, estimate = scores.upper, scores.estimate
    if summary == "mean":
        nothing = jnp.full_like(estimate, jnp.inf)
        return sound(PageBounds(estimate, estimate, -nothing, nothing, nothing))
    u = unit_roundoff(upper.dtype)
    lower = lower_by_convexity(estimate, upper, log_sum_slack(tokens, estimate, upper))
    if kind == "sketch":
        # The greatest term is no more than the sum.
        best = upper if scores.best is None else scores.best
        return sound(PageBounds(estimate, estimate, lower, upper, best))
    best = upper - math.log(tokens)
    best = best + 8 * u * (jnp.abs(upper) + 8)
    return sound(PageBounds(upper, estimate, lower, upper, best))


def longest_key(
    summaries: Summaries, heads: Int[Array, "R 1"], pages: Int[Array, "R K"]
) -> Float[Array, "R K"]:
    """Bound on the length of any key of full pages, from the box or the ball."""
    if summaries.box is not None:
        lower, upper = corners(summaries.box[heads, pages], jnp.float32)
        return norm_from_above(jnp.maximum(jnp.abs(lower), jnp.abs(upper)))
    assert summaries.mean is not None, "a proof needs a box or a ball"
    assert summaries.radius is not None, "a ball has a radius"
    mean, radius = (
        from_bits(summaries[heads, pages], jnp.float32)
        for summaries in (summaries.mean, summaries.radius)
    )
    return (norm_from_above(mean) + radius) * (1.0 + 2.0**-20)

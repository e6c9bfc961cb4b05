"""What the summary of a page proves of its keys: bounds of the page's softmax mass for a query.

Everything is in logarithms of masses and in logits, that is scores times the scale. Each bound
carries the rounding of its own evaluation, so it bounds exact arithmetic, not just its like.
"""

import functools
import operator
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped, UInt8

from vashista_theory._numerics import unit_roundoff
from vashista_theory.attention.bounds import sketch
from vashista_theory.attention.bounds.bits import from_bits
from vashista_theory.attention.bounds.rounding import (
    log_sum_slack,
    norm_from_above,
    raising,
    score_slack,
)
from vashista_theory.attention.bounds.row_sums import FEW_HEADS, row_dot
from vashista_theory.attention.bounds.summaries import Summaries, Summary, SummarySpec, corners


class PageBounds(NamedTuple):
    """What a summary says of each page, for each query head of a row.

    Attributes:
        priority: What routing orders by: the log-mass of the sketch, the greatest logit of a box
            or ball, the logit of the mean, each plus the log of the number of keys.
        estimate: Log-mass, as good as the summary can tell.
        lower: Log-mass, from below.
        upper: Log-mass, from above; +inf where the summary bounds nothing.
        best: Greatest logit of the page, from above.
    """

    priority: Float[Array, "R G P"]
    estimate: Float[Array, "R G P"]
    lower: Float[Array, "R G P"]
    upper: Float[Array, "R G P"]
    best: Float[Array, "R G P"]


class Query(NamedTuple):
    """Queries of the rows, and how scores become logits.

    Attributes:
        vectors: The queries.
        norms: Their lengths, from above.
        scale: Factor on the scores.
        cap: Logits are cap · tanh(scale · score / cap); None leaves them as they are.
        sinks: Logit of one more key of each head, whose value is 0; None for no such key.
    """

    vectors: Float[Array, "R G D"]
    norms: Float[Array, "R G"]
    scale: Float[Array, ""]
    cap: Float[Array, ""] | None = None
    sinks: Float[Array, "R G"] | None = None

    def capped(self, logits: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """Logits as attention takes them. It is monotone, and never widens a range."""
        if self.cap is None:
            return logits
        # Left infinite where a score overflowed, so that it shows.
        return jnp.where(jnp.isfinite(logits), self.cap * jnp.tanh(logits / self.cap), logits)

    def cap_slack(self, like: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """How far computed capped logits may be from those of exact arithmetic.

        The division, the tanh and the product err by some ulps of the result, which is no more
        than the cap; 32 of them are several times what XLA's tanh is off by in float32.
        """
        if self.cap is None:
            return jnp.zeros_like(like)
        return jnp.broadcast_to(32 * unit_roundoff(like.dtype) * self.cap, like.shape)


def as_query(
    vectors: Float[Array, "R G D"],
    scale: Float[Array, ""],
    cap: Float[Array, ""] | None = None,
    sinks: Float[Array, "R G"] | None = None,
) -> Query:
    """Bundle the queries with their lengths from above."""
    return Query(vectors, norm_from_above(vectors), scale, cap, sinks)


def page_bounds(
    query: Query,
    pages: Summaries,
    spec: SummarySpec,
    summary: Summary,
    tokens: int,
    *,
    proof: bool = True,
) -> PageBounds:
    """Bounds of full pages of `tokens` keys from one kind of summary.

    Superpages keep no sketch; their box stands in for it. Without `proof` a box is judged alone,
    its middle for an estimate; with it the page mean, where there is one, makes the bounds sharper.
    A sketch without `proof` only estimates, and needs no errors of its keys.
    """
    return sound(_page_bounds(query, pages, spec, summary, tokens, proof=proof))


def sound(bounds: PageBounds) -> PageBounds:
    """The same bounds, none at all where they are NaN: scores, lengths or squares overflowed there.

    Such a page may hold anything, so it comes first.
    """
    most = float(jnp.finfo(bounds.upper.dtype).max)
    boundless = jnp.isnan(bounds.upper) | jnp.isnan(bounds.best)
    return PageBounds(
        priority=jnp.nan_to_num(bounds.priority, nan=most, posinf=most, neginf=-most),
        estimate=bounds.estimate,
        lower=jnp.where(jnp.isnan(bounds.lower), -jnp.inf, bounds.lower),
        upper=jnp.where(boundless, jnp.inf, bounds.upper),
        best=jnp.where(boundless, jnp.inf, bounds.best),
    )


def _page_bounds(
    query: Query, pages: Summaries, spec: SummarySpec, summary: Summary, tokens: int, *, proof: bool
) -> PageBounds:
    if summary == "sketch" and pages.codes is not None:
        return _sketch_bounds(query, pages, spec, proof)
    count = jnp.log(jnp.asarray(tokens, query.vectors.dtype))
    if summary == "mean":
        low, centre, _ = _mean_logits(query, pages)
        nothing = jnp.full_like(centre, jnp.inf)
        if query.cap is not None:  # a capped exponential is not convex: no bound from below either
            centre = query.capped(centre)
            return PageBounds(count + centre, count + centre, -nothing, nothing, nothing)
        lower = count + low - 8 * unit_roundoff(count.dtype) * (count + jnp.abs(low))
        return PageBounds(count + centre, count + centre, lower, nothing, nothing)
    if summary == "ball":
        mean, radius = _required(pages.mean, "ball"), _required(pages.radius, "ball")
        least, greatest = ball_range(query, mean, radius)
    else:
        least, greatest = box_range(query, _required(pages.box, "box"))
    if query.cap is not None:
        room = query.cap_slack(least)
        least, greatest = query.capped(least) - room, query.capped(greatest) + room
    if pages.mean is None or query.cap is not None or (summary != "ball" and not proof):
        lower, middle, upper = keys_in_range(least, greatest, tokens)
        return PageBounds(count + greatest, middle, lower, upper, greatest)
    low, centre, high = _mean_logits(query, pages)
    room = _range_slack(count, least, greatest)
    lower = count + jnp.maximum(least, low) - room
    upper = count + _chord(least, greatest, high) + room
    return PageBounds(count + greatest, count + centre, lower, upper, greatest)


def keys_in_range(
    least: Float[Array, "R G P"], greatest: Float[Array, "R G P"], tokens: int
) -> tuple[Array, Array, Array]:
    """Log-mass of so many keys with logits in a range: from below, by its middle, from above."""
    count = jnp.log(jnp.asarray(tokens, least.dtype))
    room = _range_slack(count, least, greatest)
    return count + least - room, count + 0.5 * (least + greatest), count + greatest + room


def _range_slack(count: Array, least: Array, greatest: Array) -> Array:
    """Sums of these round too, which the ends of a range do not allow for where they are near 0."""
    return 8 * unit_roundoff(count.dtype) * (count + jnp.abs(least) + jnp.abs(greatest))


def _required(array: Array | None, part: str) -> Array:
    if array is None:
        raise ValueError(f"this cache keeps no {part}: build it with SummarySpec({part}=...).")
    return array


def dot(*pairs: tuple[Float[Array, "R G D"], Float[Array, "R P D"]]) -> Float[Array, "R G P"]:
    """Sum of the products of queries with pages over all pairs, in one pass over the pages."""
    if pairs[0][0].shape[1] <= FEW_HEADS:
        vectors, pages = zip(*pairs, strict=True)
        return row_dot([v[:, :, None, :] for v in vectors], [p[:, None, :, :] for p in pages])
    exact = jax.lax.Precision.HIGHEST
    products = (jnp.einsum("rgd,rpd->rgp", *pair, precision=exact) for pair in pairs)
    return functools.reduce(operator.add, products)


def _mean_logits(query: Query, pages: Summaries) -> tuple[Array, Array, Array]:
    """Mean logit of each page: from below, as stored, from above."""
    mean = from_bits(_required(pages.mean, "ball"), query.vectors.dtype)
    error = from_bits(_required(pages.mean_error, "ball"), query.vectors.dtype)
    centre = dot((query.vectors, mean))
    norms = query.norms[..., None]
    slack = score_slack(norm_from_above(mean)[:, None, :], norms, mean.shape[-1])
    spread = norms * error[:, None, :] * raising(0, error.dtype) + slack
    return (query.scale * (centre - spread), query.scale * centre, query.scale * (centre + spread))


def box_range(query: Query, box: Shaped[Array, "R P ..."]) -> tuple[Array, Array]:
    """Least and greatest logit in the box: Σ_d min and max of (q_d lower_d, q_d upper_d)."""
    lower, upper = corners(box, query.vectors.dtype)
    positive, negative = jnp.maximum(query.vectors, 0.0), jnp.minimum(query.vectors, 0.0)
    greatest = dot((positive, upper), (negative, lower))
    least = dot((positive, lower), (negative, upper))
    slack = _box_slack(query, lower, upper)
    return query.scale * (least - slack), query.scale * (greatest + slack)


def _box_slack(
    query: Query, lower: Float[Array, "R P D"], upper: Float[Array, "R P D"]
) -> Float[Array, "R G P"]:
    """How far a computed score of a key in the box may be from the exact one."""
    reach = norm_from_above(jnp.maximum(jnp.abs(lower), jnp.abs(upper)))
    return score_slack(reach[:, None, :], query.norms[..., None], lower.shape[-1])


def ball_range(
    query: Query, mean: Shaped[Array, "R P D"], radius: Shaped[Array, "R P"]
) -> tuple[Array, Array]:
    """Least and greatest logit in the ball: ⟨q, c⟩ ∓ ‖q‖ρ."""
    mean, radius = (from_bits(part, query.vectors.dtype) for part in (mean, radius))
    centre = dot((query.vectors, mean))
    norms = query.norms[..., None]
    reach = (norm_from_above(mean) + radius)[:, None, :]
    half = norms * radius[:, None, :] * raising(0, radius.dtype)
    half = half + score_slack(reach, norms, mean.shape[-1])
    return query.scale * (centre - half), query.scale * (centre + half)


def _chord(least: Array, greatest: Array, mean: Array) -> Array:
    r"""Log of the largest mean of :math:`e^x` over keys with x in a range and a given mean x.

    By convexity the exponential lies below its chord, so the bound is
    :math:`(1 - t) e^{least} + t e^{greatest}` at t = (mean − least)/(greatest − least).
    """
    width = greatest - least
    safe = jnp.where(width > 0, width, 1.0)
    u = unit_roundoff(width.dtype)
    t = jnp.where(width > 0, (mean - least) / safe + 8 * u, 1.0)
    t = jnp.clip(t, 0.0, 1.0)
    return jnp.minimum(
        greatest, jnp.logaddexp(jnp.log1p(-t) + least, jnp.log(t) + greatest) + 16 * u
    )


def _sketch_bounds(query: Query, pages: Summaries, spec: SummarySpec, proof: bool) -> PageBounds:
    """Score every sketched key, plus or minus what its rounding can have changed."""
    logits, errors = sketched_tokens(query, pages, spec, proof=proof)
    if errors is not None:
        return sketched_keys(logits, errors)
    sketched, _ = _log_sum(logits)
    nothing = jnp.full_like(sketched, jnp.inf)
    return PageBounds(sketched, sketched, -nothing, nothing, nothing)


def sketched_tokens(
    query: Query, pages: Summaries, spec: SummarySpec, *, proof: bool
) -> tuple[Float[Array, "R G P S"], Float[Array, "R G P S"] | None]:
    """Logits of all sketched keys, and with `proof` how far those of the keys may be from them."""
    box = _required(pages.box, "box")
    packed_codes = _required(pages.codes, "sketch_bits")
    work = query.vectors.dtype
    bits = spec.sketch_bits or 8

    def scores() -> Float[Array, "R G P S"]:
        lower, upper = corners(box, work)
        codes = sketch.rows(packed_codes, bits, packed=spec.packed)
        grid = sketch.grid_step(lower, upper, bits)
        return query.capped(sketch_logits(query, lower, grid, codes))

    def errors() -> Float[Array, "R G P S"]:
        found = sketch_errors(
            query, *corners(box, work), bits, _required(pages.residual, "residual")
        )
        return found + query.cap_slack(found)  # a cap brings logits closer to one another

    # Each in a branch of its own, or XLA's CPU back end would melt the two into the sums below and
    # score a key anew, without vectors, for every loop that reads its score: three times as slow.
    return _apart(query, scores), _apart(query, errors) if proof else None


def sketched_keys(logits: Float[Array, "R G P S"], errors: Float[Array, "R G P S"]) -> PageBounds:
    """Bounds of pages whose keys have logits known up to an error each."""
    sketched, _ = _log_sum(logits)
    return of_sketched_sums(sketched, *_log_sum(logits + errors), logits.shape[-1])


def of_sketched_sums(
    sketched: Float[Array, "*n"], raised: Float[Array, "*n"], best: Float[Array, "*n"], tokens: int
) -> PageBounds:
    """Bounds from computed log-masses of so many keys, with errors and without, and best logits."""
    slack = log_sum_slack(tokens, sketched, raised)
    return PageBounds(
        priority=sketched,
        estimate=sketched,
        lower=lower_by_convexity(sketched, raised, slack),
        upper=raised + slack,
        best=best + 4 * unit_roundoff(best.dtype) * jnp.abs(best),
    )


def lower_by_convexity(
    estimate: Float[Array, "*n"], upper: Float[Array, "*n"], slack: Float[Array, "*n"]
) -> Float[Array, "*n"]:
    """Log-mass from below, of what the same errors would raise from the estimate to `upper`.

    log Σ e^(x + t·error) is convex in t: its value at −1 is at least 2 f(0) − f(1).
    """
    return estimate - (upper - estimate) - 3 * slack


def _log_sum(logits: Float[Array, "R G P S"]) -> tuple[Array, Array]:
    """Log of the summed exponentials of each page's keys, and the greatest logit."""
    top = jnp.max(logits, axis=-1)
    return top + jnp.log(jnp.sum(jnp.exp(logits - top[..., None]), axis=-1)), top


def sketch_errors(
    query: Query,
    lower: Float[Array, "R P D"],
    upper: Float[Array, "R P D"],
    bits: int,
    residual: Shaped[Array, "R P S"],
) -> Float[Array, "R G P S"]:
    """How far the logit of each sketched key may be from that of the key itself.

    No key lies further from its sketch than the residual, and with more than two bits no coordinate
    further from its grid point than half a step.
    """
    dtype = lower.dtype
    away = (query.norms * raising(0, dtype))[..., None, None]
    away = away * from_bits(residual, dtype)[:, None]
    if not sketch.aimed(bits):
        step = sketch.grid_step(lower, upper, bits)
        by_dimension = 0.5 * dot((jnp.abs(query.vectors), step)) * raising(lower.shape[-1], dtype)
        away = jnp.minimum(by_dimension[..., None], away)
    slack = _box_slack(query, lower, upper)
    return query.scale * (away + slack[..., None])


def sketch_logits(
    query: Query,
    lower: Float[Array, "R P D"],
    step: Float[Array, "R P D"],
    codes: list[UInt8[Array, "R P S"]],
) -> Float[Array, "R G P S"]:
    """Logits of sketched keys: ⟨q, lower⟩ + Σ_d (q_d step_d) code_d, codes given by dimensions.

    Written out dimension by dimension, so that XLA adds whole rows of tokens in one loop. As a
    matrix product it would first write the codes to memory as floats, at four times their bytes.
    """
    heads = []
    for vector in jnp.moveaxis(query.vectors, 1, 0):
        folded = vector[:, None, :] * step
        total = jnp.zeros((*folded.shape[:2], codes[0].shape[-1]), folded.dtype)
        for i, row in enumerate(codes):
            total = total + folded[..., i, None] * row.astype(folded.dtype)
        heads.append(total)
    inner = jnp.stack(heads, axis=1)
    return query.scale * (dot((query.vectors, lower))[..., None] + inner)


def _apart(query: Query, compute: Callable[[], Float[Array, "R G P S"]]) -> Float[Array, "R G P S"]:
    """Compute in a conditional, over whose edge XLA fuses nothing; a NaN query bounds nothing."""
    shape = jax.eval_shape(compute)
    return jax.lax.cond(
        jnp.all(query.norms >= 0), compute, lambda: jnp.full(shape.shape, jnp.nan, shape.dtype)
    )

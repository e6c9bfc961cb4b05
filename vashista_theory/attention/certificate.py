r"""The page certificate (T7): how much softmax mass a sparse read can have dropped.

If the unread pages' masses are at most :math:`U_P` and the read keys hold :math:`Z`, then

.. math:: m \le \frac{\sum_P U_P}{\sum_P U_P + Z}.

Everything is in logarithms of masses and in logits, that is scores times the scale. Each bound
carries the rounding of its own evaluation, so it bounds exact arithmetic, not just its like.
"""

import functools
import operator
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt8

from vashista_theory._numerics import log_share, masked_logsumexp, unit_roundoff
from vashista_theory.attention import sketch
from vashista_theory.attention._bits import from_bits
from vashista_theory.attention.policy import Summary
from vashista_theory.attention.rounding import norm_from_above, score_slack
from vashista_theory.attention.row_sums import FEW_HEADS, row_dot
from vashista_theory.attention.summaries import Summaries, SummarySpec, corners

_NEWTON_STEPS = 5


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
    """Queries of the rows, their lengths, and the scale of the scores."""

    vectors: Float[Array, "R G D"]
    norms: Float[Array, "R G"]
    scale: Float[Array, ""]


def as_query(vectors: Float[Array, "R G D"], scale: Float[Array, ""]) -> Query:
    """Bundle the queries with their lengths from above."""
    return Query(vectors, norm_from_above(vectors), scale)


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
    query: Query,
    pages: Summaries,
    spec: SummarySpec,
    summary: Summary,
    tokens: int,
    *,
    proof: bool,
) -> PageBounds:
    if summary == "sketch" and pages.codes is not None:
        return _sketch_bounds(query, pages, spec, tokens, proof)
    count = jnp.log(jnp.asarray(tokens, query.vectors.dtype))
    if summary == "mean":
        low, centre, _ = _mean_logits(query, pages)
        nothing = jnp.full_like(centre, jnp.inf)
        lower = count + low - 8 * unit_roundoff(count.dtype) * (count + jnp.abs(low))
        return PageBounds(count + centre, count + centre, lower, nothing, nothing)
    least, greatest = _ball_range(query, pages) if summary == "ball" else _box_range(query, pages)
    # The sums below round too, which the ends of the range do not allow for where they are near 0.
    room = 8 * unit_roundoff(count.dtype) * (count + jnp.abs(least) + jnp.abs(greatest))
    if pages.mean is None or (summary != "ball" and not proof):
        middle = 0.5 * (least + greatest)
        lower, upper = count + least - room, count + greatest + room
        return PageBounds(count + greatest, count + middle, lower, upper, greatest)
    low, centre, high = _mean_logits(query, pages)
    lower = count + jnp.maximum(least, low) - room
    upper = count + _chord(least, greatest, high) + room
    return PageBounds(count + greatest, count + centre, lower, upper, greatest)


def _work(array: Array, like: Array) -> Array:
    return from_bits(array, like.dtype)


def _required(array: Array | None, part: str) -> Array:
    if array is None:
        raise ValueError(f"this cache keeps no {part}: build it with SummarySpec({part}=...).")
    return array


def _dot(*pairs: tuple[Float[Array, "R G D"], Float[Array, "R P D"]]) -> Float[Array, "R G P"]:
    """Sum of the products of queries with pages over all pairs, in one pass over the pages."""
    if pairs[0][0].shape[1] <= FEW_HEADS:
        vectors, pages = zip(*pairs, strict=True)
        return row_dot([v[:, :, None, :] for v in vectors], [p[:, None, :, :] for p in pages])
    exact = jax.lax.Precision.HIGHEST
    products = (jnp.einsum("rgd,rpd->rgp", *pair, precision=exact) for pair in pairs)
    return functools.reduce(operator.add, products)


def _mean_logits(query: Query, pages: Summaries) -> tuple[Array, Array, Array]:
    """Mean logit of each page: from below, as stored, from above."""
    mean = _work(_required(pages.mean, "ball"), query.vectors)
    error = _work(_required(pages.mean_error, "ball"), query.vectors)
    centre = _dot((query.vectors, mean))
    norms = query.norms[..., None]
    slack = score_slack(norm_from_above(mean)[:, None, :], norms, mean.shape[-1])
    spread = norms * error[:, None, :] * _one_up(error) + slack
    return (
        query.scale * (centre - spread),
        query.scale * centre,
        query.scale * (centre + spread),
    )


def _one_up(like: Array) -> float:
    """A factor that covers a handful of roundings."""
    return 1.0 + 8 * unit_roundoff(like.dtype)


def _box_range(query: Query, pages: Summaries) -> tuple[Array, Array]:
    """Least and greatest logit in the box: Σ_d min and max of (q_d lower_d, q_d upper_d)."""
    lower, upper = corners(_required(pages.box, "box"), query.vectors.dtype)
    positive, negative = jnp.maximum(query.vectors, 0.0), jnp.minimum(query.vectors, 0.0)
    greatest = _dot((positive, upper), (negative, lower))
    least = _dot((positive, lower), (negative, upper))
    reach = norm_from_above(jnp.maximum(jnp.abs(lower), jnp.abs(upper)))
    slack = score_slack(reach[:, None, :], query.norms[..., None], lower.shape[-1])
    return query.scale * (least - slack), query.scale * (greatest + slack)


def _ball_range(query: Query, pages: Summaries) -> tuple[Array, Array]:
    """Least and greatest logit in the ball: ⟨q, c⟩ ∓ ‖q‖ρ."""
    mean = _work(_required(pages.mean, "ball"), query.vectors)
    radius = _work(_required(pages.radius, "ball"), query.vectors)
    centre = _dot((query.vectors, mean))
    norms = query.norms[..., None]
    reach = (norm_from_above(mean) + radius)[:, None, :]
    half = norms * radius[:, None, :] * _one_up(radius)
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


def _sketch_bounds(
    query: Query, pages: Summaries, spec: SummarySpec, tokens: int, proof: bool
) -> PageBounds:
    """Score every sketched key, plus or minus what its rounding can have changed."""
    box, held = _required(pages.box, "box"), _required(pages.codes, "sketch_bits")
    work = query.vectors.dtype
    bits = spec.sketch_bits or 8
    u = unit_roundoff(work)

    def scores() -> Float[Array, "R G P S"]:
        lower, upper = corners(box, work)
        codes = sketch.rows(held, bits, packed=spec.packed)
        return sketch_logits(query, lower, sketch.grid_step(lower, upper, bits), codes)

    def errors() -> Float[Array, "R G P S"]:
        lower, upper = corners(box, work)
        step, d, norms = sketch.grid_step(lower, upper, bits), lower.shape[-1], query.norms
        by_dimension = 0.5 * _dot((jnp.abs(query.vectors), step)) * (1.0 + (d + 8) * u)
        residual = _work(_required(pages.residual, "residual"), step)
        by_length = (norms * _one_up(step))[..., None, None] * residual[:, None]
        reach = norm_from_above(jnp.maximum(jnp.abs(lower), jnp.abs(upper)))
        slack = score_slack(reach[:, None, :], norms[..., None], d)
        return query.scale * (jnp.minimum(by_dimension[..., None], by_length) + slack[..., None])

    # Each in a branch of its own, or XLA's CPU back end would melt the two into the sums below and
    # score a key anew, without vectors, for every loop that reads its score: three times as slow.
    logits = _apart(query, scores)
    top = jnp.max(logits, axis=-1)
    sketched = top + jnp.log(jnp.sum(jnp.exp(logits - top[..., None]), axis=-1))
    if not proof:
        nothing = jnp.full_like(sketched, jnp.inf)
        return PageBounds(sketched, sketched, -nothing, nothing, nothing)
    above = logits + _apart(query, errors)
    best = jnp.max(above, axis=-1)
    upper_ = best + jnp.log(jnp.sum(jnp.exp(above - best[..., None]), axis=-1))
    rounding = 4 * (tokens + 16) * u + 8 * u * (jnp.abs(sketched) + jnp.abs(upper_))
    return PageBounds(
        priority=sketched,
        estimate=sketched,
        # log Σ e^(x + t·error) is convex in t: its value at −1 is at least 2 f(0) − f(1).
        lower=sketched - (upper_ - sketched) - 3 * rounding,
        upper=upper_ + rounding,
        best=best + 4 * u * jnp.abs(best),
    )


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
    return query.scale * (_dot((query.vectors, lower))[..., None] + inner)


def _apart(query: Query, compute: Callable[[], Float[Array, "R G P S"]]) -> Float[Array, "R G P S"]:
    """Compute in a conditional, over whose edge XLA fuses nothing; a NaN query bounds nothing."""
    shape = jax.eval_shape(compute)
    return jax.lax.cond(
        jnp.all(query.norms >= 0), compute, lambda: jnp.full(shape.shape, jnp.nan, shape.dtype)
    )


def dropped_mass(unread: Float[Array, "*n"], read: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Share e^unread / (e^unread + e^read) of the mass, 0 where nothing is unread."""
    return jnp.exp(log_share(unread, read))


def dropped_mass_bound(
    unread: Float[Array, "*n"], read: Float[Array, "*n"], slack: Float[Array, "*n"]
) -> Float[Array, "*n"]:
    """T7, where `read` may exceed the exact log-mass by up to `slack`.

    0 only if nothing is unread, and never NaN: what overflowed may be everything.
    """
    log = log_share(unread, read - slack)
    # The exponential of a rounded logarithm is off by as much as that, and may underflow.
    room = 1.0 + 8 * unit_roundoff(read.dtype) * (2.0 + jnp.abs(log))
    share = jnp.minimum(jnp.exp(log) * room + float(jnp.finfo(read.dtype).tiny), 1.0)
    return jnp.where(unread == -jnp.inf, 0.0, jnp.where(jnp.isnan(share), 1.0, share))


def dropped_mass_lower(
    log_lower: Float[Array, "*n P"],
    unread: Bool[Array, "*#n P"],
    read: Float[Array, "*n"],
    slack: Float[Array, "*n"],
) -> Float[Array, "*n"]:
    """The same mass from below, by lower bounds of the unread pages; `slack` is that of `read`."""
    u = unit_roundoff(read.dtype)
    total = masked_logsumexp(log_lower, unread) - slack - 4 * (log_lower.shape[-1] + 8) * u
    log = log_share(total, read + slack)
    share = jnp.exp(log) * (1.0 - 8 * u * (2.0 + jnp.abs(log)))
    return jnp.where(share > 0, share, 0.0)


def score_gap(
    read: Float[Array, "*n"], unread: Float[Array, "*n"], scale: Float[Array, ""]
) -> Float[Array, "*n"]:
    """Greatest score read less the greatest unread, from below, by logits from below and above."""
    info = jnp.finfo(read.dtype)
    room = 4 * float(info.eps) * (jnp.abs(read) + jnp.abs(unread))
    gap = (read - unread - room) / scale
    gap = jnp.minimum(gap - 4 * float(info.eps) * jnp.abs(gap), float(info.max))
    return jnp.where(jnp.isnan(gap), -jnp.inf, gap)


def unread_log_mass(
    log_mass: Float[Array, "*n P"], unread: Bool[Array, "*#n P"]
) -> Float[Array, "*n"]:
    """Total log-mass of the unread pages, rounded up by the error of the sum."""
    total = masked_logsumexp(log_mass, unread)
    return total + 4 * (log_mass.shape[-1] + 8) * unit_roundoff(total.dtype)


def output_error_bound(
    log_upper: Float[Array, "*n P"],
    log_read: Float[Array, "*n"],
    value_bounds: Float[Array, "*#n P"],
    output_norm: Float[Array, "*n"],
) -> Float[Array, "*n"]:
    r"""Bound on ‖output − dense output‖ from the mass and the longest value of each unread page.

    The error is :math:`\|\sum_P z_P (\bar v_P - y)\| / (Z + \sum_P z_P)` with unknown page masses
    :math:`0 \le z_P \le U_P` and page means no longer than :math:`\nu_P`, so at most the maximum
    f* of :math:`\sum z_P d_P / (Z + \sum z_P)` with :math:`d_P = \nu_P + \|y\|`. Newton's method
    climbs to f* from below; every f ≤ f* gives the upper bound :math:`\sum U_P (d_P - f)_+ / Z`.
    Pages that were read have `log_upper` −inf; one that nothing bounds, +inf, may be as far away
    as its values allow.
    """
    info, count = jnp.finfo(log_upper.dtype), log_upper.shape[-1]
    u, tiny = float(info.eps), float(info.tiny)
    shown = ~(log_upper == -jnp.inf)
    bounded = log_upper < jnp.inf
    distance = (value_bounds + output_norm[..., None]) * (1.0 + 64 * u)
    farthest = jnp.max(jnp.where(shown, distance, 0.0), axis=-1, initial=0.0)
    # In units of the farthest page, so that nothing overflows. Each sum, and each factor that
    # underflows, errs towards a greater bound: their errors are those of `count` terms.
    unit = jnp.where(jnp.isfinite(farthest) & (farthest > 0), farthest, 1.0)[..., None]
    relative = jnp.where(shown & jnp.isfinite(distance), distance / unit, 0.0)
    finite = jnp.where(shown & bounded, log_upper, -jnp.inf)
    anchor = jnp.maximum(jnp.max(finite, axis=-1, initial=-jnp.inf), log_read)
    anchor = jnp.where(jnp.isfinite(anchor), anchor, 0.0)
    mass = jnp.where(finite > -jnp.inf, jnp.exp(finite - anchor[..., None]) + tiny, 0.0)
    read = jnp.exp(log_read - anchor)
    least = jnp.zeros_like(read)
    for _ in range(_NEWTON_STEPS):
        counted = jnp.where(relative > least[..., None], mass, 0.0)
        total = read + jnp.sum(counted, axis=-1)
        ratio = jnp.sum(counted * relative, axis=-1) / jnp.where(total > 0, total, 1.0)
        least = jnp.maximum(least, ratio * (1.0 - (count + 64) * u))
    excess = jnp.maximum(relative - least[..., None], 0.0)
    by_newton = jnp.sum(mass * excess, axis=-1) + 2 * count * tiny
    by_newton = jnp.where(read > 0, by_newton / jnp.where(read > 0, read, 1.0), jnp.inf)
    share = dropped_mass_bound(unread_log_mass(log_upper, shown), log_read, jnp.zeros_like(read))
    bound = jnp.minimum(by_newton, share) * (1.0 + 4 * (count + 64) * u)
    boundless = jnp.any(shown & ~bounded, axis=-1) | jnp.isnan(bound) | ~jnp.isfinite(farthest)
    bound = jnp.where(boundless, farthest, farthest * bound + tiny)
    return jnp.where(jnp.any(shown, axis=-1), bound, 0.0)

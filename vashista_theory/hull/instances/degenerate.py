r"""Instances without strict complementarity: p* on the relative boundary of its exposed face.

The setting of T5: a minimal face G that contains p* in its relative interior, and boundary keys N
on the same supporting hyperplane that carry no weight. Their parts orthogonal to span G have the
distance ρ from 0, and the linear law becomes :math:`\|δ\| \sim ε\log(1/ε)/ρ`.
"""

import math

import numpy as np

from vashista_theory.hull.instances.planted import (
    below_the_face,
    centred_simplex,
    distances_below,
    orthonormal_frame,
    random_weights,
)
from vashista_theory.hull.instances.registry import Draw, Drawn, Known, family, require

_EXAMPLES = ("positive_power", "negative_power", "half_margin")


@family("degenerate")
def degenerate(
    draw: Draw,
    *,
    variant: str = "random",
    minimal_face_size: int = 3,
    boundary_size: int = 4,
    margin: float = 1.0,
    gap: float = 0.5,
    residual_norm: float = 1.0,
) -> Drawn:
    """Random instances with prescribed ρ, and the three worked examples of T5.

    Known to rounding: everything but `tangent`, which does not exist; `weights`, `min_weight` and
    `entropy` are those of the minimal face, `margin` and `exponents` are T5's ρ and powers. The
    examples ("positive_power", "negative_power", "half_margin") have n = 5 and d = 3: ask for that
    shape or for none; they are the same at every seed and use no other parameter.
    """
    if variant in _EXAMPLES:
        return _example(variant)
    require(
        variant == "random",
        "degenerate",
        f"variant = {variant!r}",
        f"give one of 'random', {', '.join(map(repr, _EXAMPLES))}",
    )
    return _random(
        draw,
        interior=minimal_face_size,
        boundary=boundary_size,
        margin=margin,
        gap=gap,
        residual_norm=residual_norm,
    )


def _example(variant: str) -> Drawn:
    third = (0.3, 0.5, 0.0) if variant == "half_margin" else (0.3, 1.0, 0.0)
    fourth = (0.5, -0.2 if variant == "negative_power" else 0.2, -0.4)
    keys = np.array([(0.0, 0.0, 0.0), (1.0, 0.0, 0.0), third, fourth, (0.2, 0.5, -0.7)])
    # The minimal face is the first edge, so v_3's orthogonal part is its second coordinate ρ and
    # y = (0, 1/ρ, 0); r* = (0, 0, 1), so the multipliers are minus the third coordinates.
    margin = third[1]
    known = Known(
        point=np.array([0.4, 0.0, 0.0]),
        multipliers=np.array([0.0, 0.0, 0.0, 0.4, 0.7]),
        face=np.array([True, True, True, False, False]),
        gap=0.4,
        weights=np.array([0.6, 0.4, 0.0, 0.0, 0.0]),
        min_weight=0.4,
        entropy=-(0.6 * math.log(0.6) + 0.4 * math.log(0.4)),
        strict_complementarity=False,
        margin=margin,
        exponents=keys[:, 1] / margin,
    )
    return Drawn(keys, np.array([0.4, 0.0, 1.0]), known)


def _random(
    draw: Draw, *, interior: int, boundary: int, margin: float, gap: float, residual_norm: float
) -> Drawn:
    rng, n, d = draw.rng, draw.n, draw.d
    name, face_size = "degenerate", interior + boundary
    require(
        interior >= 1 and boundary >= 1,
        name,
        f"minimal_face_size = {interior!r}, boundary_size = {boundary!r}",
        "both count keys: give at least 1",
    )
    require(
        n >= face_size,
        name,
        f"the face has {face_size} keys of n = {n}",
        "raise n or lower boundary_size",
    )
    require(
        d >= interior + 1,
        name,
        f"a minimal face of {interior} keys, a margin and a residual need d >= "
        f"{interior + 1}, not {d}",
        "raise d or lower minimal_face_size",
    )
    sizes = np.array([margin, gap, residual_norm], np.float64)
    require(
        bool(np.all((sizes > 0.0) & np.isfinite(sizes))),
        name,
        f"margin = {margin!r}, gap = {gap!r}, residual_norm = {residual_norm!r}",
        "all three must be positive and finite",
    )

    frame = orthonormal_frame(rng, d, d)
    residual_axis, margin_axis = frame[:, 0], frame[:, 1]
    inside_axes, free_axes = frame[:, 2 : interior + 1], frame[:, interior + 1 :]
    weights = random_weights(rng, interior)
    vertices, _ = centred_simplex(rng, weights)

    # Keys that attain ρ: a simplex around ρ·(margin axis), so that this is their hull's point
    # nearest to 0; any further boundary key lies beyond.
    attaining = min(boundary, free_axes.shape[1] + 1)
    around, _ = centred_simplex(rng, random_weights(rng, attaining))
    sideways = rng.normal(size=(boundary, free_axes.shape[1]))
    sideways[:attaining] = 0.0
    sideways[:attaining, : attaining - 1] = around
    heights = margin * (1.1 + rng.exponential(size=boundary))
    heights[:attaining] = margin
    border = (
        rng.normal(size=(boundary, interior - 1)) @ inside_axes.T
        + np.outer(heights, margin_axis)
        + sideways @ free_axes.T
    )

    off = distances_below(rng, n - face_size, gap=gap, ties=1, residual_norm=residual_norm)
    below = below_the_face(rng, residual_axis, off, residual_norm)
    relative = np.concatenate([vertices @ inside_axes.T, border, below])
    exponents = np.concatenate([np.zeros(interior), heights / margin, below @ margin_axis / margin])
    point = rng.normal(size=d)

    rows = rng.permutation(n)
    known = Known(
        point=point,
        multipliers=np.concatenate([np.zeros(face_size), off])[rows],
        face=rows < face_size,
        gap=gap if n > face_size else math.inf,
        weights=np.concatenate([weights, np.zeros(n - interior)])[rows],
        min_weight=float(weights.min()),
        entropy=-float(weights @ np.log(weights)),
        strict_complementarity=False,
        margin=margin,
        exponents=exponents[rows],
    )
    query = point + residual_norm * residual_axis
    return Drawn((point + relative)[rows], query, known)

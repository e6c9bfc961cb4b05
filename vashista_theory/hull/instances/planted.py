r"""Families built backwards from their answer: face, gap and weights are prescribed.

Choose p*, an orthonormal frame whose first axis is the direction of r*, and weights w > 0. Face
keys are p* + V with :math:`\sum_j w_j v_j = 0` and V orthogonal to r*; every other key lies below
the supporting hyperplane by :math:`\mu_i/\|r^*\|`. Then p* is the projection of p* + r*, w its
weights and the prescribed μ its multipliers, because those are the KKT conditions.
"""

from collections.abc import Sequence

import numpy as np

from vashista_theory.hull.instances.registry import Draw, Drawn, Known, family, require


def orthonormal_frame(rng: np.random.Generator, d: int, size: int) -> np.ndarray:
    """`size` random orthonormal columns in d dimensions."""
    return np.linalg.qr(rng.normal(size=(d, size)))[0]


def centred_simplex(rng: np.random.Generator, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (f, f − 1) of a simplex whose barycentre under `weights` is 0, and their inverse.

    The inverse (f − 1, f) solves ``vertices @ x = b`` for every b with ``weights @ b = 0``. The
    vertices' singular values lie in [½, 2], so neither costs more than a digit.
    """
    size = weights.size
    start = np.column_stack([weights, rng.normal(size=(size, size - 1))])
    complement = np.linalg.qr(start)[0][:, 1:]
    stretch = np.exp2(rng.uniform(-1.0, 1.0, size=size - 1))
    return complement * stretch, complement.T / stretch[:, None]


def random_weights(rng: np.random.Generator, size: int) -> np.ndarray:
    """Positive weights of sum 1 with no two further apart than a factor e²."""
    weights = np.exp(rng.uniform(-1.0, 1.0, size=size))
    return weights / weights.sum()


def distances_below(
    rng: np.random.Generator, size: int, *, gap: float, ties: int, residual_norm: float
) -> np.ndarray:
    """Multipliers of off-face keys: `ties` of them equal the gap, the rest are clearly above."""
    excess = residual_norm * (0.1 + rng.exponential(size=size))
    excess[:ties] = 0.0
    return gap + excess


def below_the_face(
    rng: np.random.Generator, axis: np.ndarray, multipliers: np.ndarray, residual_norm: float
) -> np.ndarray:
    """Off-face keys relative to p*: Gaussian along the face's hyperplane, μ_i/‖r*‖ below it."""
    spread = rng.normal(size=(multipliers.size, axis.size))
    along = spread - np.outer(spread @ axis, axis)
    return along - np.outer(multipliers / residual_norm, axis)


def _plant(
    draw: Draw,
    name: str,
    *,
    distinct: int,
    weights: np.ndarray,
    gap: float,
    ties: int,
    residual_norm: float,
) -> Drawn:
    """Plant a face under `distinct` keys and repeat them in turn until there are n of them."""
    rng, d, size = draw.rng, draw.d, weights.size
    require(
        size <= d,
        name,
        f"{size} affinely independent face keys and a residual need d >= {size}, not {d}",
        "raise d or lower face_size",
    )
    require(
        size <= distinct,
        name,
        f"the face has {size} keys of {distinct} distinct ones",
        "raise n or lower face_size",
    )
    positive = gap > 0.0 and residual_norm > 0.0 and np.isfinite([gap, residual_norm]).all()
    require(
        bool(positive),
        name,
        f"gap = {gap!r} and residual_norm = {residual_norm!r} must be positive and finite",
        "give positive ones",
    )
    require(
        1 <= ties <= max(distinct - size, 1),
        name,
        f"ties = {ties!r} of {distinct - size} keys off the face",
        "it counts the keys at exactly the gap, at least 1",
    )

    frame = orthonormal_frame(rng, d, size)
    vertices, inverse = centred_simplex(rng, weights)
    off = distances_below(rng, distinct - size, gap=gap, ties=ties, residual_norm=residual_norm)
    point = rng.normal(size=d)
    relative = np.concatenate(
        [vertices @ frame[:, 1:].T, below_the_face(rng, frame[:, 0], off, residual_norm)]
    )
    multipliers = np.concatenate([np.zeros(size), off])

    # Copies share their key's weight equally at maximum entropy.
    rows = rng.permutation(np.arange(draw.n) % distinct)
    shared = weights / np.bincount(rows, minlength=distinct)[:size]
    entropy = -float(weights @ np.log(shared))
    known = Known(
        point=point,
        multipliers=multipliers[rows],
        face=rows < size,
        gap=gap if distinct > size else np.inf,
        weights=np.concatenate([shared, np.zeros(distinct - size)])[rows],
        min_weight=float(shared.min()),
        entropy=entropy,
        tangent=frame[:, 1:] @ (inverse @ (np.log(shared) + entropy)),
        strict_complementarity=True,
    )
    query = point + residual_norm * frame[:, 0]
    return Drawn((point + relative)[rows], query, known)


@family("planted")
def planted(
    draw: Draw,
    *,
    face_size: int = 8,
    gap: float = 0.5,
    weights: Sequence[float] | None = None,
    ties: int = 1,
    residual_norm: float = 1.0,
) -> Drawn:
    """A simplex face of prescribed size, gap and weights under a Gaussian cloud.

    Everything in `Known` but T5's entries is known to rounding. `ties` keys lie at exactly the
    gap (their multipliers agree to rounding), the others at least 0.1 ‖r*‖ beyond. Without
    `weights` they are random, within a factor e² of each other.
    """
    require(face_size >= 1, "planted", f"face_size = {face_size!r}", "a face has 1 key or more")
    chosen = _checked("planted", weights, face_size)
    return _plant(
        draw,
        "planted",
        distinct=draw.n,
        weights=random_weights(draw.rng, face_size) if chosen is None else chosen,
        gap=gap,
        ties=ties,
        residual_norm=residual_norm,
    )


@family("duplicates")
def duplicates(
    draw: Draw, *, copies: int = 4, face_size: int = 6, gap: float = 0.5, residual_norm: float = 1.0
) -> Drawn:
    """A planted face, every key repeated `copies` times exactly (the last ones once less).

    Known as for `planted`. The optimal weights are not unique; `weights` are those of maximum
    entropy, equal among the copies of a key, and every copy of the nearest key is at the gap.
    """
    require(copies >= 1, "duplicates", f"copies = {copies!r}", "give at least 1")
    require(face_size >= 1, "duplicates", f"face_size = {face_size!r}", "a face has 1 key or more")
    return _plant(
        draw,
        "duplicates",
        distinct=-(-draw.n // copies),
        weights=random_weights(draw.rng, face_size),
        gap=gap,
        ties=1,
        residual_norm=residual_norm,
    )


@family("near_degenerate")
def near_degenerate(
    draw: Draw,
    *,
    face_size: int = 4,
    min_weight: float = 1e-4,
    gap: float = 1e-3,
    residual_norm: float = 1.0,
) -> Drawn:
    """A planted face whose smallest weight, and whose gap, may be as small as one likes.

    Known as for `planted`; strict complementarity holds for every positive `min_weight`, by that
    much. One key only is at the gap.
    """
    require(
        face_size >= 2,
        "near_degenerate",
        f"face_size = {face_size!r}",
        "a weight can only vanish beside another: give at least 2",
    )
    require(
        0.0 < min_weight <= 1.0 / face_size,
        "near_degenerate",
        f"min_weight = {min_weight!r}",
        f"give one in (0, 1/face_size] = (0, {1.0 / face_size:g}]",
    )
    # The others start equal and may not fall below the least, so that min_weight is the minimum.
    rest = np.full(face_size - 1, (1.0 - min_weight) / (face_size - 1))
    return _plant(
        draw,
        "near_degenerate",
        distinct=draw.n,
        weights=np.concatenate([[min_weight], rest]),
        gap=gap,
        ties=1,
        residual_norm=residual_norm,
    )


def _checked(name: str, weights: Sequence[float] | None, size: int) -> np.ndarray | None:
    if weights is None:
        return None
    values = np.asarray(weights, np.float64)
    good = values.shape == (size,) and bool(np.all(values > 0.0))
    require(
        good and abs(float(values.sum()) - 1.0) < 1e-12,
        name,
        f"weights = {weights!r}",
        f"give {size} positive numbers (face_size) of sum 1",
    )
    return values

"""Hulls whose projection is known by construction, and their relaxation in 50 digits.

Nothing here imports the package: v, μ and the face are chosen first, keys and query follow from
them, and the entropic weights come from a Newton iteration in mpmath. The face lies in the first
axes, the residual along the last one, so that spans and orthogonal parts can be read off.
"""

import dataclasses
import functools
import random
from collections.abc import Sequence

from mpmath import mp, mpf

mp.dps = 50

Vector = list[mpf]


def dot(a: Sequence[mpf], b: Sequence[mpf]) -> mpf:
    return mp.fsum(x * y for x, y in zip(a, b, strict=True))


def norm(a: Sequence[mpf]) -> mpf:
    return mp.sqrt(dot(a, a))


def combine(weights: Sequence[mpf], rows: Sequence[Vector]) -> Vector:
    return [
        mp.fsum(w * r[k] for w, r in zip(weights, rows, strict=True)) for k in range(len(rows[0]))
    ]


def axpy(a: mpf, x: Vector, y: Vector) -> Vector:
    return [a * s + t for s, t in zip(x, y, strict=True)]


def logsumexp(values: Sequence[mpf]) -> mpf:
    top = max(values)
    return top + mp.log(mp.fsum(mp.exp(v - top) for v in values))


def softmax(logits: Sequence[mpf]) -> Vector:
    total = logsumexp(logits)
    return [mp.exp(v - total) for v in logits]


def entropy(weights: Sequence[mpf]) -> mpf:
    return -mp.fsum(w * mp.log(w) for w in weights if w > 0)


def divergence(a: Sequence[mpf], b: Sequence[mpf]) -> mpf:
    return mp.fsum(x * mp.log(x / y) for x, y in zip(a, b, strict=True) if x > 0)


def minimise(
    rows: Sequence[Vector], offsets: Sequence[mpf], epsilon: mpf, axes: Sequence[int], start: Vector
) -> Vector:
    """The w (zero off `axes`) that minimises ½ε‖w‖² + log Σ exp(⟨w, z_i⟩ + o_i), by Newton."""

    def value(w: Vector) -> mpf:
        logits = [o + dot(w, z) for o, z in zip(offsets, rows, strict=True)]
        return epsilon * dot(w, w) / 2 + logsumexp(logits)

    w = list(start)
    if not axes:
        return w
    for _ in range(400):
        alpha = softmax([o + dot(w, z) for o, z in zip(offsets, rows, strict=True)])
        mean = combine(alpha, rows)
        slope = mp.matrix([epsilon * w[k] + mean[k] for k in axes])
        hessian = mp.matrix(len(axes), len(axes))
        for a, i in enumerate(axes):
            for b, j in enumerate(axes):
                moment = mp.fsum(p * z[i] * z[j] for p, z in zip(alpha, rows, strict=True))
                hessian[a, b] = moment - mean[i] * mean[j] + (epsilon if a == b else 0)
        step = mp.lu_solve(hessian, -slope)
        if mp.norm(step) <= mpf(10) ** (-mp.dps // 3) * (1 + norm(w)):
            # So near, steps square, and values no longer tell them apart.
            for a, k in enumerate(axes):
                w[k] += step[a]
            if mp.norm(step) <= mpf(10) ** (-(mp.dps * 6 // 10)) * (1 + norm(w)):
                return w
            continue
        length, before = mpf(1), value(w)
        decrease = mp.fsum(slope[a] * step[a] for a in range(len(axes)))
        while length > mpf(2) ** -60:
            trial = list(w)
            for a, k in enumerate(axes):
                trial[k] += length * step[a]
            if value(trial) <= before + length * decrease / 1000:
                break
            length /= 2
        w = trial
    raise AssertionError("Newton did not settle")


@dataclasses.dataclass(frozen=True)
class Hull:
    """A planted problem: everything about its projection is known.

    `axes` are those of L_G; `face` is F, `inner` is G. `tangent` is w_G, w₀ under SC. `margin` is
    y, None under SC.
    """

    name: str
    v: list[Vector]
    mu: Vector
    face: list[int]
    inner: list[int]
    axes: list[int]
    residual: Vector
    point: Vector
    margin: Vector | None = None

    @property
    def off(self) -> list[int]:
        return [i for i in range(len(self.v)) if i not in self.face]

    @property
    def strict(self) -> bool:
        return self.face == self.inner

    @property
    def gap(self) -> mpf:
        return min((self.mu[i] for i in self.off), default=mp.inf)

    @property
    def keys(self) -> list[Vector]:
        return [axpy(mpf(1), self.point, v) for v in self.v]

    @property
    def query(self) -> Vector:
        return axpy(mpf(1), self.point, self.residual)

    @functools.cached_property
    def tangent(self) -> Vector:
        rows = [self.v[j] for j in self.inner]
        zero = [mpf(0)] * len(self.residual)
        return minimise(rows, [mpf(0)] * len(rows), mpf(0), self.axes, zero)

    @functools.cached_property
    def entropy(self) -> mpf:
        return logsumexp([dot(self.tangent, self.v[j]) for j in self.inner])

    @functools.cached_property
    def optimal(self) -> Vector:
        weights = [mpf(0)] * len(self.v)
        for j in self.inner:
            weights[j] = mp.exp(dot(self.tangent, self.v[j]) - self.entropy)
        return weights


@dataclasses.dataclass(frozen=True)
class Case:
    """A hull with its entropic weights at one temperature; fields can be falsified one by one."""

    hull: Hull
    epsilon: mpf
    alpha: Vector
    delta: Vector
    h: mpf
    tangent: Vector
    optimal: Vector
    mu: Vector

    @property
    def v(self) -> list[Vector]:
        return self.hull.v

    @property
    def mass(self) -> mpf:
        return mp.fsum(self.alpha[i] for i in self.hull.off)

    def logits(self, w: Vector) -> Vector:
        return [dot(w, v) - m / self.epsilon for v, m in zip(self.v, self.mu, strict=True)]


def relax(hull: Hull, epsilon: mpf, start: Vector | None = None) -> Case:
    """Solve the relaxation at one temperature."""
    offsets = [-m / epsilon for m in hull.mu]
    everything = range(len(hull.residual))
    w = minimise(hull.v, offsets, epsilon, everything, start or hull.tangent)
    alpha = softmax([o + dot(w, v) for o, v in zip(offsets, hull.v, strict=True)])
    delta = combine(alpha, hull.v)
    return Case(
        hull, epsilon, alpha, delta, hull.entropy, hull.tangent, hull.optimal, list(hull.mu)
    )


def _hull(seed: int, name: str, *, face: int, rank: int, off: int, reach: float = 1.0) -> Hull:
    """Keys of a face of the given rank around p*, others below; the first of each are doubled."""
    draw = random.Random(seed)
    height = mpf(draw.uniform(0.3, 2.0))
    weights = [mpf(draw.uniform(0.05, 1.0)) for _ in range(face)]
    weights = [w / mp.fsum(weights) for w in weights]
    free = [[mpf(draw.gauss(0, 1)) if k < rank else mpf(0) for k in range(2)] for _ in range(face)]
    middle = combine(weights, free)
    v = [[*axpy(mpf(-1), middle, row), mpf(0)] for row in free]
    mu = [mpf(0)] * face
    for _ in range(off):
        m = mpf(draw.uniform(0.05, 1.5))
        v.append([mpf(reach * draw.gauss(0, 1)), mpf(reach * draw.gauss(0, 1)), -m / height])
        mu.append(m)
    if face > 1 and off:
        v += [list(v[0]), list(v[face])]
        mu += [mpf(0), mu[face]]
    members = [i for i, m in enumerate(mu) if m == 0]
    point = [mpf(draw.uniform(-1, 1)) for _ in range(3)]
    residual = [mpf(0), mpf(0), height]
    return Hull(name, v, mu, members, members, list(range(rank)), residual, point)


def strict_hulls() -> list[Hull]:
    """Strict complementarity: vertices, edges, two-dimensional faces, doubles, far keys."""
    return [
        made
        for seed in (0, 10)
        for made in (
            _hull(seed + 1, "vertex", face=1, rank=0, off=4),
            _hull(seed + 2, "edge", face=2, rank=1, off=3),
            _hull(seed + 3, "edge with a dependent key", face=3, rank=1, off=2),
            _hull(seed + 4, "triangle", face=3, rank=2, off=3),
            _hull(seed + 5, "five on a plane", face=5, rank=2, off=2),
            _hull(seed + 6, "far keys", face=2, rank=1, off=3, reach=6.0),
            _hull(seed + 7, "everything exposed", face=4, rank=2, off=0),
        )
    ]


def degenerate_hull(*, height: str = "1", sideways: str = "0.2") -> Hull:
    """The example of T5: p* inside an edge, a third key beside it on the face."""
    v = [["-0.4", "0", "0"], ["0.6", "0", "0"], ["-0.1", height, "0"]]
    v += [["0.1", sideways, "-0.4"], ["-0.2", "0.5", "-0.7"]]
    rows = [[mpf(x) for x in row] for row in v]
    mu = [mpf(x) for x in ("0", "0", "0", "0.4", "0.7")]
    residual, point = [mpf(0), mpf(0), mpf(1)], [mpf("0.4"), mpf(0), mpf(0)]
    margin = [mpf(0), 1 / mpf(height), mpf(0)]
    name = f"degenerate, {height}, {sideways}"
    return Hull(name, rows, mu, [0, 1, 2], [0, 1], [0], residual, point, margin)


def wide_hull(reach: mpf) -> Hull:
    """The example of T1′: keys (−1, 0), (1, 0), (X, −1), query (0.9, 1)."""
    start = mpf("0.9")
    v = [[-1 - start, mpf(0)], [1 - start, mpf(0)], [reach - start, mpf(-1)]]
    mu = [mpf(0), mpf(0), mpf(1)]
    return Hull("wide", v, mu, [0, 1], [0, 1], [0], [mpf(0), mpf(1)], [start, mpf(0)])


def _one_key(name: str, off: list[Vector], mu: str, height: str) -> Hull:
    """A face that is one key, at p*, and the keys off it."""
    v = [[mpf(0)] * 3, *off]
    mus = [mpf(0)] + [mpf(mu)] * len(off)
    residual, point = [mpf(0), mpf(0), mpf(height)], [mpf(0)] * 3
    return Hull(name, v, mus, [0], [0], [], residual, point)


def crowd(sideways: str, keys: int = 300) -> Hull:
    """All keys but one in one place off the face, so that log n and Σ are large."""
    place = [mpf(sideways), mpf(0), mpf("-0.1")]
    return _one_key(f"crowd at {sideways}", [list(place) for _ in range(keys - 1)], "1", "10")


def pulled(epsilon: mpf, far: bool) -> Hull:
    """One key off the face; if far, such that the mass on it is nearly Σ/e, as large as can be."""
    mass = mp.exp(-1 / epsilon - 1)
    sideways = mp.sqrt(epsilon / mass) if far else mpf(0)
    return _one_key(f"pulled, far: {far}", [[sideways, mpf(0), mpf("-0.1")]], "1", "10")


def shallow_hull() -> Hull:
    """A square that is the face, and a key just below its middle, with weights nearly as theirs."""
    v = [[mpf(x), mpf(y), mpf(0)] for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1))]
    v.append([mpf(0), mpf(0), mpf("-0.001")])
    mu = [mpf(0)] * 4 + [mpf("0.001")]
    residual, point = [mpf(0), mpf(0), mpf(1)], [mpf(0)] * 3
    return Hull("shallow", v, mu, [0, 1, 2, 3], [0, 1, 2, 3], [0, 1], residual, point)


EPSILONS = tuple(mpf(e) for e in ("30", "1", "0.2", "0.03", "0.004"))


@functools.cache
def cases() -> tuple[Case, ...]:
    """Strict hulls at every temperature, high to low."""
    return tuple(relax(hull, e) for hull in strict_hulls() for e in EPSILONS)


@functools.cache
def extreme_cases() -> tuple[Case, ...]:
    """Hulls on which bounds are nearly reached, so that smaller constants would be seen to fail."""
    cold = 1 / mp.log(100)
    made = [(crowd("2"), "1"), (crowd("0"), "0.2"), (shallow_hull(), "0.3")]
    return (
        *(relax(hull, mpf(epsilon)) for hull, epsilon in made),
        *(relax(pulled(cold, far), cold) for far in (True, False)),
    )


@functools.cache
def degenerate_cases() -> tuple[Case, ...]:
    """Degenerate hulls at the same temperatures."""
    hulls = [degenerate_hull(), degenerate_hull(height="0.5"), degenerate_hull(sideways="-0.2")]
    return tuple(relax(hull, e) for hull in hulls for e in EPSILONS)

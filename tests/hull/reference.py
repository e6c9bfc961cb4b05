"""Answers to trust: exact rational projection, and the entropic relaxation at 50 digits.

No solver and no float64 arithmetic is involved. Every float64 input is a rational number, so the
projection of a few keys is found exactly by trying every support; everything with an exponential
is computed by mpmath. Import the functions; mpmath's precision is set inside them.
"""

from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from typing import Any

import mpmath as mp
import numpy as np

DIGITS = 50
WORKING = DIGITS + 30  # scores reach 1e14 where epsilon is small, and their digits are lost
MAX_KEYS = 8  # 255 supports; each costs one small rational linear system


@dataclass(frozen=True)
class ReferenceProjection:
    """The exact projection: every number is a `Fraction`, no tolerance anywhere."""

    keys: list[list[Fraction]]
    query: list[Fraction]
    point: list[Fraction]
    multipliers: list[Fraction]
    face: np.ndarray  # (n,) bool, μ_i = 0 exactly
    minimal_face: np.ndarray  # (n,) bool, the keys some optimal weights use
    gap: float  # NaN inside the hull, +inf if the face is everything

    @property
    def inside(self) -> bool:
        return self.point == self.query

    @property
    def strict(self) -> bool:
        """Strict complementarity."""
        return bool(np.array_equal(self.face, self.minimal_face))


@dataclass(frozen=True)
class ReferenceFace:
    """Entropy h of the maximum-entropy weights, and w₀ (None without strict complementarity)."""

    entropy: mp.mpf
    log_weights: list[mp.mpf]  # of all keys, −inf off the minimal face
    tangent: list[mp.mpf] | None


@dataclass(frozen=True)
class ReferenceRelaxation:
    log_weights: list[mp.mpf]
    point: list[mp.mpf]
    displacement: mp.mpf
    log_displacement: mp.mpf
    log_off_face_mass: mp.mpf  # −inf if no key is off the face
    residual: mp.mpf  # ‖gradient of the dual‖, at most 1e-45 × its terms


def project(keys: Any, query: Any) -> ReferenceProjection:
    """Project by trying every affinely independent support of up to `MAX_KEYS` keys."""
    rows = [[Fraction(float(x)) for x in row] for row in np.asarray(keys)]
    target = [Fraction(float(x)) for x in np.asarray(query)]
    n = len(rows)
    if n > MAX_KEYS:
        raise ValueError(f"{n} keys mean {2**n - 1} supports; the reference takes {MAX_KEYS}")
    point: list[Fraction] | None = None
    used: set[int] = set()
    for size in range(1, min(n, len(target) + 1) + 1):
        for support in combinations(range(n), size):
            found = _affine_projection([rows[i] for i in support], target)
            if found is None:
                continue
            weights, candidate = found
            if min(weights) <= 0 or min(_multipliers(rows, target, candidate)) < 0:
                continue
            # KKT holds exactly, so this is the projection: two supports must agree.
            assert point is None or point == candidate
            point = candidate
            used.update(support)
    assert point is not None  # Carathéodory: some affinely independent support is optimal
    return _assemble(rows, target, point, used)


def project_on_face(keys: Any, query: Any, face: Any) -> ReferenceProjection:
    """Verify a proposed support exactly, for any n: KKT solved on it, every sign checked.

    Raises:
        AssertionError: If the proposed keys are not the support of an optimal solution.
    """
    rows = [[Fraction(float(x)) for x in row] for row in np.asarray(keys)]
    target = [Fraction(float(x)) for x in np.asarray(query)]
    support = [int(i) for i in np.flatnonzero(np.asarray(face))]
    found = _affine_projection([rows[i] for i in support], target)
    assert found is not None, "the proposed keys are affinely dependent"
    weights, point = found
    assert min(weights) > 0, "a weight on the proposed face is not positive"
    assert min(_multipliers(rows, target, point)) >= 0, "a key is beyond the proposed face"
    return _assemble(rows, target, point, set(support))


def face_entropy(projection: ReferenceProjection) -> ReferenceFace:
    """The maximum-entropy weights by Newton's method on log Σ_G exp⟨w, v_j⟩ over the span."""
    with mp.workdps(WORKING):
        members = [int(i) for i in np.flatnonzero(projection.minimal_face)]
        around = _around(projection)
        basis = _orthonormal([around[j] for j in members])
        coordinates = [[_dot(axis, around[j]) for axis in basis] for j in members]
        w, log_weights, entropy = _minimise(
            coordinates, [mp.mpf(0)] * len(members), mp.mpf(0), [mp.mpf(0)] * len(basis)
        )
        placed = [mp.mpf("-inf")] * len(projection.keys)
        for j, value in zip(members, log_weights, strict=True):
            placed[j] = value
        d = len(projection.query)
        tangent = [_sum(c * axis[k] for c, axis in zip(w, basis, strict=True)) for k in range(d)]
        return ReferenceFace(entropy, placed, tangent if projection.strict else None)


def relax(projection: ReferenceProjection, epsilon: Any) -> ReferenceRelaxation:
    """Newton's method on ½ε‖w‖² + log Σ_i exp(⟨w, v_i⟩ − μ_i/ε), warm-started down to ε."""
    with mp.workdps(WORKING):
        target = mp.mpf(epsilon)
        around = _around(projection)
        multipliers = [_mpf(m) for m in projection.multipliers]
        basis = _orthonormal(around)
        coordinates = [[_dot(axis, row) for axis in basis] for row in around]
        scale = max((_dot(row, row) for row in around), default=mp.mpf(0)) + max(multipliers)
        w = [mp.mpf(0)] * len(basis)
        current = max(target, scale)
        while True:
            shifts = [-m / current for m in multipliers]
            w, log_weights, _ = _minimise(coordinates, shifts, current, w)
            if current == target:
                break
            current = max(target, current / 10)
        # δ = Σ α v. It equals −εw, but is summed from the weights to stay independent of it.
        weights = [mp.exp(value) for value in log_weights]
        delta = [
            _sum(a * row[k] for a, row in zip(weights, around, strict=True))
            for k in range(len(projection.query))
        ]
        local = [_dot(axis, delta) for axis in basis]
        residual = mp.sqrt(_sum((target * x + y) ** 2 for x, y in zip(w, local, strict=True)))
        displacement = target * mp.sqrt(_dot(w, w))
        off = _sum(weights[i] for i in np.flatnonzero(~projection.face))
        return ReferenceRelaxation(
            log_weights=log_weights,
            point=[_mpf(p) + x for p, x in zip(projection.point, delta, strict=True)],
            displacement=displacement,
            log_displacement=mp.log(displacement) if displacement else mp.mpf("-inf"),
            log_off_face_mass=mp.log(off) if off else mp.mpf("-inf"),
            residual=residual,
        )


def floats(values: Any) -> np.ndarray:
    """Fractions or mpmath numbers, correctly rounded to float64."""
    return np.array([float(value) for value in values])


def _assemble(
    rows: list[list[Fraction]], target: list[Fraction], point: list[Fraction], used: set[int]
) -> ReferenceProjection:
    multipliers = _multipliers(rows, target, point)
    face = np.array([m == 0 for m in multipliers])
    gap = float(min((m for m in multipliers if m > 0), default=np.inf))
    return ReferenceProjection(
        keys=rows,
        query=target,
        point=point,
        multipliers=multipliers,
        face=face,
        minimal_face=np.array([i in used for i in range(len(rows))]),
        gap=float("nan") if point == target else gap,
    )


def _multipliers(
    rows: list[list[Fraction]], query: list[Fraction], point: list[Fraction]
) -> list[Fraction]:
    residual = [q - p for q, p in zip(query, point, strict=True)]
    level = _dot(residual, point)
    return [level - _dot(residual, row) for row in rows]


def _affine_projection(
    rows: list[list[Fraction]], query: list[Fraction]
) -> tuple[list[Fraction], list[Fraction]] | None:
    """Weights and point of the projection on the affine hull; None if affinely dependent."""
    base = rows[0]
    edges = [[x - b for x, b in zip(row, base, strict=True)] for row in rows[1:]]
    start = [q - b for q, b in zip(query, base, strict=True)]
    gram = [[_dot(a, b) for b in edges] for a in edges]
    steps = _solve(gram, [_dot(edge, start) for edge in edges])
    if steps is None:
        return None
    point = [
        b + sum((s * edge[k] for s, edge in zip(steps, edges, strict=True)), Fraction(0))
        for k, b in enumerate(base)
    ]
    return [1 - sum(steps, Fraction(0)), *steps], point


def _solve(matrix: list[list[Fraction]], rhs: list[Fraction]) -> list[Fraction] | None:
    """Gauss–Jordan elimination in exact arithmetic; None if singular."""
    size = len(rhs)
    table = [[*row, b] for row, b in zip(matrix, rhs, strict=True)]
    for column in range(size):
        pivot = next((r for r in range(column, size) if table[r][column] != 0), None)
        if pivot is None:
            return None
        table[column], table[pivot] = table[pivot], table[column]
        head = table[column]
        for r in range(size):
            if r != column and table[r][column] != 0:
                factor = table[r][column] / head[column]
                table[r] = [x - factor * y for x, y in zip(table[r], head, strict=True)]
    return [table[r][size] / table[r][r] for r in range(size)]


def _around(projection: ReferenceProjection) -> list[list[mp.mpf]]:
    """v_i = k_i − p*, subtracted exactly before the rounding to mpmath."""
    return [
        [_mpf(x - p) for x, p in zip(row, projection.point, strict=True)] for row in projection.keys
    ]


def _orthonormal(vectors: list[list[mp.mpf]]) -> list[list[mp.mpf]]:
    """Gram–Schmidt, twice; directions below 1e-40 of the longest vector are rounding."""
    longest = max((mp.sqrt(_dot(v, v)) for v in vectors), default=mp.mpf(0))
    basis: list[list[mp.mpf]] = []
    for vector in vectors:
        rest = vector
        for _ in range(2):
            for axis in basis:
                along = _dot(axis, rest)
                rest = [x - along * a for x, a in zip(rest, axis, strict=True)]
        length = mp.sqrt(_dot(rest, rest))
        if length > longest * mp.mpf(10) ** -40:
            basis.append([x / length for x in rest])
    return basis


def _minimise(
    rows: list[list[mp.mpf]], shifts: list[mp.mpf], ridge: mp.mpf, start: list[mp.mpf]
) -> tuple[list[mp.mpf], list[mp.mpf], mp.mpf]:
    """Damped Newton on f(w) = ½ ridge ‖w‖² + log Σ exp(⟨w, row_i⟩ + shift_i), a convex function.

    Returns the minimiser, the log softmax there and the log-sum-exp.
    """
    w = start
    value, log_weights = _objective(rows, shifts, ridge, w)
    for _ in range(500):
        weights = [mp.exp(x) for x in log_weights]
        size = len(w)
        mean = [_sum(a * r[k] for a, r in zip(weights, rows, strict=True)) for k in range(size)]
        gradient = [ridge * x + m for x, m in zip(w, mean, strict=True)]
        if not size or max(map(abs, gradient)) <= mp.mpf(10) ** (-DIGITS - 5) * _unit(rows):
            return w, log_weights, value - ridge * _dot(w, w) / 2
        hessian = mp.matrix(size)
        for a, row in zip(weights, rows, strict=True):
            centred = [x - m for x, m in zip(row, mean, strict=True)]
            for i in range(size):
                for j in range(size):
                    hessian[i, j] += a * centred[i] * centred[j]
        for i in range(size):
            hessian[i, i] += ridge
        step = mp.lu_solve(hessian, mp.matrix(gradient))
        slope = _sum(step[k] * gradient[k] for k in range(size))
        # Once the promised decrease is below the rounding of the scores, comparing values means
        # nothing: the iteration is in its quadratic phase, and takes whole steps.
        rounding = (1 + max(map(abs, shifts))) * mp.mpf(10) ** (5 - WORKING)
        length = mp.mpf(1)
        while True:
            trial = [x - length * step[k] for k, x in enumerate(w)]
            next_value, next_log_weights = _objective(rows, shifts, ridge, trial)
            if next_value <= value - length * slope / 4 + rounding:
                break
            length /= 2
        w, value, log_weights = trial, next_value, next_log_weights
    raise ArithmeticError("the reference did not converge in 500 steps")


def _objective(
    rows: list[list[mp.mpf]], shifts: list[mp.mpf], ridge: mp.mpf, w: list[mp.mpf]
) -> tuple[mp.mpf, list[mp.mpf]]:
    scores = [_dot(w, row) + shift for row, shift in zip(rows, shifts, strict=True)]
    top = max(scores)
    total = top + mp.log(_sum(mp.exp(s - top) for s in scores))
    return ridge * _dot(w, w) / 2 + total, [s - total for s in scores]


def _unit(rows: list[list[mp.mpf]]) -> mp.mpf:
    return max(max(map(abs, row)) for row in rows)


def _mpf(value: Fraction) -> mp.mpf:
    return mp.mpf(value.numerator) / mp.mpf(value.denominator)


def _sum(values: Any) -> mp.mpf:
    return mp.fsum(values)


def _dot(a: Any, b: Any) -> Any:
    return sum((x * y for x, y in zip(a, b, strict=True)), type(a[0])(0) if len(a) else 0)

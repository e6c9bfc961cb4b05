r"""Right, refused or wrong: an answer of the package held against the exact projection.

Notation: u the spacing of the answer's type at 1, C = 256, p* and μ* exact, r* = q − p*,
v_i = k_i − p*, R the largest ‖v_i‖ of the keys that carry weight (exactly or by the answer), never
of any other key. Primes mean the answer's point in place of p*. Everything is compared in rational
numbers; what an answer may be off is this and no more:

`successful` is WRONG where

* *inside*: the query is a point of the hull, exactly;
* *point*: p' is not the projection for keys moved by C·u of their own distance from it. That is,
  some ⟨q − p', k_i − p'⟩ exceeds τ_i, or is below −τ_i for a key that carries weight, with
  τ_i = C u (‖r'‖‖v'_i‖ + (‖p'‖ + R')(‖r'‖ + ‖v'_i‖)): the first term is a key moved by its own
  rounding, the second p' moved by its own, as an absolute number and as a sum over its support. Or
  p' differs from Kᵀα by more than C u (‖p'‖ + R'). A backward criterion: it asks the same of an
  ill-conditioned face as of any other, and it needs no condition number;
* *weights*: one is negative, or they sum to 1 with an error above 4 u n;
* *face*: a key is on it whose μ*_i exceeds t_i, or off it though μ*_i = 0, where
  t_i = C u (‖r*‖‖v_i‖(1 + κ) + R(‖r*‖ + ‖v_i‖)) is what rounding makes of that key's multiplier;
  κ is the condition number of the support's edges at their own lengths, by which its plane tilts
  when keys move by u of their lengths (0 for a vertex). ‖p‖ is not in it: differences of keys are
  exact where it is large;
* *gap*: it is further from the least μ*_i off the answer's face than that key's t_i, or is not
  +inf though every key is on the face;
* *multipliers*: one is further than its t_i from μ*_i;
* *promise*: ‖p' − p*‖² > `duality_gap`, strictly, with nothing added for rounding.

`inside_hull` is WRONG where the exact distance ‖r*‖ exceeds C u times the largest distance of a
key that carries weight from the query.

Numbers below the smallest normal one are 0 on some devices: it is added to every length, and its
products with the lengths at hand to every squared length. A square above the largest number may be
+inf. Every other result is a refusal, *undecided*.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

import vashista_theory as vt
from experiments.projection_attack.exact import Exact, dot

UNITS = 256
"""C. Verdicts of the package rest on 64 units of its own estimates, which may be 2 to 3 times off;
a few roundings for each of up to 6 coordinates and 12 keys enter each."""

_WEIGHT_UNITS = 4


@dataclass(frozen=True)
class Answer:
    """What `project` and `project_blocks` have in common.

    Attributes:
        result: Name of the `Result`.
        point: (d,).
        weights: (n,).
        face: (n,) bool.
        gap: A squared length, NaN inside.
        duality_gap: A squared length.
        multipliers: (n,).
        roundoff: Spacing at 1 of the type it was computed in.
        least: Smallest normal number of that type.
        most: Largest number of that type.
    """

    result: str
    point: np.ndarray
    weights: np.ndarray
    face: np.ndarray
    gap: float
    duality_gap: float
    multipliers: np.ndarray
    roundoff: float
    least: float
    most: float

    @classmethod
    def of(cls, projection: vt.Projection) -> "Answer":
        """Of `project`, or one of `project_many` once indexed."""
        info = np.finfo(np.asarray(projection.point).dtype)
        return cls(
            _name(projection.result),
            *(
                np.asarray(getattr(projection, name))
                for name in ("point", "weights", "face", "gap", "duality_gap", "multipliers")
            ),
            *(float(x) for x in (info.eps, info.smallest_normal, info.max)),
        )

    @classmethod
    def of_blocks(cls, answer: Any, multipliers: np.ndarray) -> "Answer":
        """Of `project_blocks`, which works in float64, and the multipliers it wrote."""
        n = answer.shape[0]
        weights, face = np.zeros(n), np.zeros(n, bool)
        weights[answer.support] = answer.weights
        face[slice(None) if answer.face is None else answer.face] = True
        info = np.finfo(np.float64)
        return cls(
            _name(answer.result),
            np.asarray(answer.point),
            weights,
            face,
            float(answer.gap),
            float(answer.duality_gap),
            multipliers,
            *(float(x) for x in (info.eps, info.smallest_normal, info.max)),
        )


def _name(result: vt.Result) -> str:
    return next(name for name in _RESULTS if bool(result == getattr(vt.Result, name)))


_RESULTS = (
    "successful",
    "inside_hull",
    "ambiguous_face",
    "stagnated",
    "max_steps_reached",
    "max_passes_reached",
    "nonfinite_input",
    "degenerate_face",
)


@dataclass
class Verdict:
    """What the judge found.

    Attributes:
        result: The answer's own word.
        wrong: The criteria that it fails, by the names of the module's docstring.
        point_error: ‖p' − p*‖ over u (‖p*‖ + R + κ‖r*‖): the forward error in roundings.
        backward: Largest excess of *point* in units of its tolerance at C = 1.
        promise: (‖p' − p*‖ − √duality_gap) over u (‖p*‖ + R); what the promise lacks, if positive.
        gap_error: The error of the gap in units of its t_i at C = 1.
        distance: For `inside_hull`, ‖r*‖ over u times the reach of the support.
    """

    result: str
    wrong: list[str] = field(default_factory=list)
    point_error: float = 0.0
    backward: float = 0.0
    promise: float = -math.inf
    gap_error: float = 0.0
    distance: float = 0.0

    @property
    def decided(self) -> bool:
        """The answer claims to be one."""
        return self.result in {"successful", "inside_hull"}


def judge(exact: Exact, answer: Answer) -> Verdict:
    """Hold an answer against the exact projection of the same numbers."""
    verdict = Verdict(answer.result)
    if not verdict.decided:
        return verdict
    told = _in_units(exact, answer)
    if told is None:
        verdict.wrong.append("point")
        return verdict
    if answer.result == "inside_hull":
        reach = max((norm(exact.keys[i]) for i in told.support), default=Fraction(0))
        unit = told.roundoff * reach + told.least
        verdict.distance = ratio(norm(exact.offset), unit)
        if verdict.distance > UNITS:
            verdict.wrong.append("distance")
        return verdict
    if exact.inside:
        verdict.wrong.append("inside")
    _judge_point(exact, told, verdict)
    total = sum(told.weights)
    n = len(exact.keys)
    if min(told.weights) < 0 or abs(total - 1) > _WEIGHT_UNITS * n * told.roundoff:
        verdict.wrong.append("weights")
    _judge_multipliers(exact, answer, told, verdict)
    return verdict


@dataclass(frozen=True)
class _Told:
    """The answer as exact numbers in the units of the exact projection; `point` is p' − q."""

    point: list[Fraction]
    weights: list[Fraction]
    support: list[int]
    size: Fraction
    roundoff: Fraction
    least: Fraction
    squared_unit: Fraction


def _in_units(exact: Exact, answer: Answer) -> _Told | None:
    if not (np.isfinite(answer.point).all() and np.isfinite(answer.weights).all()):
        return None
    unit = Fraction(2) ** exact.exponent
    absolute = [Fraction(float(x)) / unit for x in answer.point]
    return _Told(
        [p - q for p, q in zip(absolute, exact.query, strict=True)],
        [Fraction(float(w)) for w in answer.weights],
        [int(i) for i in np.flatnonzero(answer.weights)],
        norm(absolute),
        Fraction(answer.roundoff),
        Fraction(answer.least) / unit,
        unit**2,
    )


def _judge_point(exact: Exact, told: _Told, verdict: Verdict) -> None:
    """The backward criterion, and the forward error beside it."""
    residual = norm(told.point)
    away = [[k - p for k, p in zip(key, told.point, strict=True)] for key in exact.keys]
    lengths = [norm(v) for v in away]
    reach = max((lengths[i] for i in told.support), default=Fraction(0))
    own = told.roundoff * (told.size + reach) + told.least
    for i, (v, length) in enumerate(zip(away, lengths, strict=True)):
        height = -dot(told.point, v)
        unit = (told.roundoff * residual * length) + own * (residual + length)
        excess = abs(height) if told.weights[i] > 0 else max(height, Fraction(0))
        verdict.backward = max(verdict.backward, ratio(excess, unit))
    summed = [
        sum(w * v[c] for w, v in zip(told.weights, away, strict=True))
        for c in range(len(told.point))
    ]
    # Σα ≠ 1 by roundings moves the sum by as many of ‖p'‖, which `own` contains.
    total = sum(told.weights)
    absolute = [p + q for p, q in zip(told.point, exact.query, strict=True)]
    summed = [s + (total - 1) * p for s, p in zip(summed, absolute, strict=True)]
    verdict.backward = max(verdict.backward, ratio(norm(summed), own))
    if verdict.backward > UNITS:
        verdict.wrong.append("point")


def _judge_multipliers(exact: Exact, answer: Answer, told: _Told, verdict: Verdict) -> None:
    """Forward errors: of the point and its promise, the face, the multipliers, the gap."""
    away = [[k - p for k, p in zip(key, exact.offset, strict=True)] for key in exact.keys]
    lengths = [norm(v) for v in away]
    support = sorted({*told.support, *exact.support})
    reach = max(lengths[i] for i in support)
    residual = norm(exact.offset)
    tilt = max(condition(exact.keys, s, lengths) for s in (told.support, exact.support))
    error_squared = dot(*[[a - b for a, b in zip(told.point, exact.offset, strict=True)]] * 2)
    error = root(error_squared)
    at = norm([x + q for x, q in zip(exact.offset, exact.query, strict=True)])
    own = told.roundoff * (at + reach) + told.least
    verdict.point_error = ratio(error, own + told.roundoff * tilt * residual)
    if math.isnan(answer.duality_gap):
        verdict.wrong.append("promise")
    elif not math.isinf(answer.duality_gap):
        promised = Fraction(float(answer.duality_gap)) / told.squared_unit
        verdict.promise = ratio(error - root(max(promised, Fraction(0))), own)
        if error_squared > promised:
            verdict.wrong.append("promise")
    ends = told.least * (1 + residual) if told.squared_unit >= 1 else told.least * residual
    unit = [
        told.roundoff * (residual * length * (1 + tilt) + reach * (residual + length))
        + ends
        + told.least * length
        + Fraction(answer.least) / told.squared_unit
        for length in lengths
    ]
    wide = [UNITS * t for t in unit]
    mu = exact.multipliers
    if any(
        (on and m > t) or (not on and m == 0 and not exact.inside)
        for on, m, t in zip(answer.face, mu, wide, strict=True)
    ):
        verdict.wrong.append("face")
    for value, m, t in zip(answer.multipliers, mu, wide, strict=True):
        if not _close(float(value), m, t, told, answer):
            verdict.wrong.append("multipliers")
            break
    off = [i for i, on in enumerate(answer.face) if not on]
    if not off:
        right = math.isinf(answer.gap)
    else:
        least = min(off, key=lambda i: mu[i])
        right = _close(float(answer.gap), mu[least], max(wide[least], Fraction(0)), told, answer)
        if math.isfinite(answer.gap):
            off_by = abs(Fraction(float(answer.gap)) / told.squared_unit - mu[least])
            verdict.gap_error = ratio(off_by, unit[least])
    if not right:
        verdict.wrong.append("gap")


def _close(value: float, right: Fraction, slack: Fraction, told: _Told, answer: Answer) -> bool:
    if math.isnan(value):
        return False
    if math.isinf(value):
        return value > 0 and (right + slack) * told.squared_unit > answer.most
    return abs(Fraction(value) / told.squared_unit - right) <= slack


def condition(keys: Sequence[Sequence[int]], support: Sequence[int], lengths: list) -> Fraction:
    """Condition number of a support's edges, each at its own length; 0 for a vertex.

    Edges start at the support's key nearest to p*. One far key of the support is one long edge,
    which its own length divides out.
    """
    if len(support) < 2:
        return Fraction(0)
    first = min(support, key=lambda i: lengths[i])
    edges = []
    for i in support:
        if i != first:
            edge = [a - b for a, b in zip(keys[i], keys[first], strict=True)]
            length = norm(edge)
            edges.append([float(x / length) if length else 0.0 for x in edge])
    values = np.linalg.svd(np.array(edges), compute_uv=False)
    least = float(values[-1]) if len(edges) <= len(edges[0]) else 0.0
    return 1 / Fraction(max(least, 1e-17))


def norm(vector: Sequence) -> Fraction:
    """‖vector‖ of integers or fractions, to a relative 2^−60: only ever part of a tolerance."""
    return root(Fraction(dot(vector, vector)))


def root(value: Fraction) -> Fraction:
    """√value to a relative 2^−60, whatever its exponent."""
    if not value:
        return Fraction(0)
    a, b = value.numerator, value.denominator
    shift = 128 - a.bit_length() + b.bit_length()
    shift += shift % 2
    scaled = (a << shift) // b if shift >= 0 else a // (b << -shift)
    whole = math.isqrt(scaled)
    half = shift // 2
    return Fraction(whole, 1 << half) if half >= 0 else Fraction(whole << -half)


def ratio(value: Fraction, unit: Fraction) -> float:
    """value/unit as a float; infinite over nothing, 0/0 is 0."""
    if not unit:
        return math.copysign(math.inf, value) if value else 0.0
    try:
        return float(value / unit)
    except OverflowError:
        return math.copysign(math.inf, value)

r"""T1 to T3 with outward rounding: upper ends that are theorems about one instance.

Written from the statements, not from the floating-point code, so that each can check the other.
Notation: :math:`v_i = k_i - p^*`, :math:`t_i = \langle w_0, v_i\rangle`, h the face entropy; a key
off the face with c copies counts c times.
"""

import math
from dataclasses import dataclass

from vashista_theory.hull.rigorous.balls import Ball, ceil_float, flint, total

PRECISION = 128


@dataclass(frozen=True)
class OffFace:
    """A distinct key off the face, in real units, in balls.

    Attributes:
        multiplier: μ_i > 0.
        length: ‖v_i‖.
        tilt: ⟨w₀, v_i⟩, None without a tangent.
        copies: how many keys are equal to it.
    """

    multiplier: Ball
    length: Ball
    tilt: Ball | None
    copies: int


@dataclass(frozen=True)
class Constants:
    """What the statements are about.

    Attributes:
        keys: n, copies counted.
        face: |F|, copies counted.
        entropy: h in nats, or a ball that is not above it: the bounds use its lower end.
        tangent_norm: ‖w₀‖, None without strict complementarity.
        off_face: the other keys.
        gap: Δ, None if every key is on the face.
        inside: r* = 0, where T1's displacement is all there is.
    """

    keys: int
    face: int
    entropy: Ball
    tangent_norm: Ball | None
    off_face: list[OffFace]
    gap: Ball | None
    inside: bool


def displacement_bound(c: Constants, epsilon: float) -> float:
    """Upper end of the least of T1, T2 and its bootstrap that apply."""
    with flint.ctx.workprec(PRECISION):
        eps = flint.arb(epsilon)
        reach = _t1_reach(c, eps)
        best = ceil_float(reach)
        if c.tangent_norm is None:
            return best
        linear, r = eps * c.tangent_norm, _off_face_factor(c, eps)
        t2 = (linear + (linear**2 + 4 * eps * r).sqrt()) / 2
        leaked = total(o.copies * o.length * b.exp() for o, b in _weight_bounds(c, eps, reach))
        bootstrap = (linear**2 + leaked**2).sqrt()
        return min(best, ceil_float(t2), ceil_float(bootstrap))


def log_leakage_bound(c: Constants, epsilon: float) -> float:
    """Upper end of min(0, T1, T3) in nats; −inf with every key on the face, NaN inside."""
    if c.inside:
        return math.nan
    if c.gap is None:
        return -math.inf
    with flint.ctx.workprec(PRECISION):
        eps = flint.arb(epsilon)
        bounds = _weight_bounds(c, eps, _t1_reach(c, eps))
        summed = _log_sum([(o.copies, b) for o, b in bounds])
        return min(0.0, ceil_float(_t1_mass(c, eps)), ceil_float(summed))


def is_safe(c: Constants, epsilon: float, log_mass: float) -> bool:
    """Whether the leakage is proved at most `log_mass` at this temperature and every lower one.

    T1's mass form rises with ε. So does T3 with r = S/e on ε ≤ Δ, where each e^{−μ_i/ε}/ε does.
    Without strict complementarity T1's sum with B's constant frozen at its largest rises up to
    ε = min_i (2μ_i/(‖v_i‖c))². One value then speaks for all temperatures below.
    """
    if c.inside:
        return False
    if c.gap is None or log_mass >= 0:
        return True
    with flint.ctx.workprec(PRECISION):
        eps, allowed = flint.arb(epsilon), flint.arb(log_mass)
        if _t1_mass(c, eps) <= allowed:
            return True
        if c.tangent_norm is None:
            slope = _upper(_t1_excess(c, eps)).sqrt()
            rising = all(eps <= (2 * o.multiplier / (o.length * slope)) ** 2 for o in c.off_face)
            reach = slope * eps.sqrt()
            terms = [(o.copies, _t1_weight(c, o, eps, reach)) for o in c.off_face]
        else:
            rising = bool(eps <= c.gap)
            root = _root(c, eps, _scaled_sum(c, eps) / flint.arb(1).exp())
            terms = [(o.copies, _t3_weight(c, o, eps, root)) for o in c.off_face]
        return rising and bool(_log_sum(terms) <= allowed)


def _log_sum(terms: list[tuple[int, Ball]]) -> Ball:
    """Log Σ c e^b around the largest, so that nothing underflows even outside balls."""
    top = max((b.upper() for _, b in terms), key=lambda value: value)
    return total(copies * (b - top).exp() for copies, b in terms).log() + top


def _t1_excess(c: Constants, eps: Ball) -> Ball:
    """log(|F| + Σ e^{−μ_i/ε}) − h, which is not negative."""
    off = total(o.copies * (-o.multiplier / eps).exp() for o in c.off_face)
    excess = (c.face + off).log() - c.entropy
    return flint.arb(0).max(excess)


def _t1_reach(c: Constants, eps: Ball) -> Ball:
    return _upper(eps * _t1_excess(c, eps)).sqrt()


def _upper(value: Ball) -> Ball:
    # Only the upper end enters a bound, and a ball that touches zero has no square root.
    return flint.arb(value.upper())


def _t1_mass(c: Constants, eps: Ball) -> Ball:
    excess = _upper(flint.arb(0).max(flint.arb(c.keys).log() - c.entropy))
    if excess <= 0:
        return flint.arb.neg_inf()
    return (eps * excess / c.gap).log()


def _t1_weight(c: Constants, o: OffFace, eps: Ball, reach: Ball) -> Ball:
    return (o.length * reach - o.multiplier) / eps - c.entropy


def _t3_weight(c: Constants, o: OffFace, eps: Ball, root: Ball) -> Ball:
    assert o.tilt is not None
    return o.tilt / 2 + o.length * root - o.multiplier / eps - c.entropy


def _scaled_sum(c: Constants, eps: Ball) -> Ball:
    """S = Σ e^{t_i − h − μ_i/ε}."""
    return total(o.copies * (o.tilt - c.entropy - o.multiplier / eps).exp() for o in c.off_face)


def _off_face_factor(c: Constants, eps: Ball) -> Ball:
    scaled = _scaled_sum(c, eps)
    return (scaled / flint.arb(1).exp()).min((1 + scaled).log())


def _root(c: Constants, eps: Ball, r: Ball) -> Ball:
    assert c.tangent_norm is not None
    half = c.tangent_norm / 2
    return _upper(half * half + r / eps).sqrt()


def _weight_bounds(c: Constants, eps: Ball, reach: Ball) -> list[tuple[OffFace, Ball]]:
    """The least bound on log α_i by key off the face: T1, T3, zero."""
    zero = flint.arb(0)
    bounds = [(o, zero.min(_t1_weight(c, o, eps, reach))) for o in c.off_face]
    if c.tangent_norm is None:
        return bounds
    root = _root(c, eps, _off_face_factor(c, eps))
    return [(o, b.min(_t3_weight(c, o, eps, root))) for o, b in bounds]

"""The conclusion of a diagnosis, in words."""

import math

from vashista_theory._diagnose.number_format import mass, number
from vashista_theory._diagnose.record import Findings
from vashista_theory._words import count

TOLERATED_LOG_MASS = math.log(0.01)
"""Leakage that counts as tolerable on the page: 1 %, in nats."""


def judge(found: Findings) -> tuple[str, tuple[str, ...]]:
    """Whether the model's own temperature is inside the theorem's regime, and why.

    Returns:
        "inside" (leakage ≤ 1 % is proved), "unproved" (true but not proved), "outside", or
        "no gap"; and sentences that say so.
    """
    if math.isnan(found.gap):
        return "no gap", (_inside_hull(found), _ordinary(found))
    if math.isinf(found.gap):
        return "inside", (_everything_exposed(found), _degenerate(found), _ordinary(found))
    if found.log_leakage_bound <= TOLERATED_LOG_MASS:
        regime, said = "inside", _inside(found)
    elif found.log_leakage <= TOLERATED_LOG_MASS:
        regime, said = "unproved", _unproved(found)
    else:
        regime, said = "outside", _outside(found)
    return regime, tuple(s for s in (said, _degenerate(found), _ordinary(found)) if s)


def _inside_hull(found: Findings) -> str:
    return (
        "No. The query lies in the hull of its keys, so exact attention has no exposed face, there "
        f"is no gap, and the theorem says nothing about leakage at ε = {number(found.epsilon)} or "
        "at any other temperature."
    )


def _everything_exposed(found: Findings) -> str:
    if found.n == 1:
        return "Trivially: the only key is the whole face, and takes all the mass at any ε."
    return (
        f"Trivially: all {found.n:,} keys lie on one supporting hyperplane, so nothing can leak "
        "off the face at any ε. Only the displacement on the face depends on the temperature."
    )


def _inside(found: Findings) -> str:
    return (
        f"Yes. At the model's temperature ε = {number(found.epsilon)} the bound proves a leakage "
        f"of at most {mass(found.log_leakage_bound)} (true: {mass(found.log_leakage)}): reading "
        f"the face alone ({count(len(found.face.index), 'key')}) is safe for entropic attention."
    )


def _unproved(found: Findings) -> str:
    return (
        f"Nearly. At ε = {number(found.epsilon)} the leakage is {mass(found.log_leakage)}, below "
        f"1 %, but the bound proves only {mass(found.log_leakage_bound)}. "
        + _needed(found.epsilon, found.safe_epsilon, "a proof of 1 %")
    )


def _outside(found: Findings) -> str:
    ratio = found.gap / found.epsilon
    vacuous = (
        "is vacuous (100 %)"
        if found.log_leakage_bound == 0
        else (f"says {mass(found.log_leakage_bound)}")
    )
    return (
        f"No. At the model's temperature ε = {number(found.epsilon)}, Δ/ε = {number(ratio)}: "
        f"{mass(found.log_leakage)} of the mass of entropic attention is off the exposed face, and "
        f"the bound {vacuous}. "
        + _needed(found.epsilon, found.one_percent_epsilon, "1 % leakage")
        + " "
        + _needed(found.epsilon, found.safe_epsilon, "a proof of it")
    )


def _needed(epsilon: float, wanted: float, purpose: str) -> str:
    if not wanted > 0:
        return f"No temperature gives {purpose}."
    return (
        f"For {purpose} ε would have to be {number(epsilon / wanted)} times smaller "
        f"(ε = {number(wanted)})."
    )


def _degenerate(found: Findings) -> str:
    if found.strict:
        return ""
    return (
        "The face is degenerate: T2, T3 and T4 do not apply, and the point approaches p* like "
        f"ε log(1/ε)/ρ with ρ = {number(found.degeneracy_distance)} (T5), slower than linearly."
    )


def _ordinary(found: Findings) -> str:
    soft = found.softmax
    on_face = f", and puts {100 * soft.mass_on_face:.3g} % on F" if math.isfinite(found.gap) else ""
    return (
        f"Ordinary attention (softmax) is another problem (T6), {100 * soft.distance:.3g} % away "
        f"in total variation: it needs {count(soft.support.for_90_percent, 'key')} of {found.n:,} "
        f"for 90 % of its mass and {count(soft.support.for_99_percent, 'key')} for 99 %"
        f"{on_face}."
    )

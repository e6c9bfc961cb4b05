"""Where sparse attention and its theory fail, and which diagnostic says so.

Nine instances of 1,024 tokens: a control with a clear face, duplicate keys, a key a millionth off
the face, a degenerate face, a query in the hull, normal keys, uniform attention by a tiny query and
by equal keys, and a sink with an empty value. For each: what the projection and the theorem's
bounds say at the model's temperature and below it; what policies read, prove and lose; and whether
each diagnostic would have warned of a read of 16 of 64 pages.

A bound that is exceeded is a failure of the experiment; a diagnostic that is wrong is a finding.

Example: python -m experiments failure_gallery --force
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import logsumexp

import vashista_theory as vt
from experiments.failure_gallery.cases import CASES, DIAGNOSTICS, TOKENS, Case, D
from experiments.framework.outcome import Measured
from vashista_theory.attention import PagedKV, Policy, SummarySpec, vashista_attention

_SCALE = D**-0.5
# Sums of 1,024 terms in float64, and logarithms of masses near 1.
_ROUNDING = 1e-11


@dataclass(frozen=True)
class Config:
    """What to compute.

    Attributes:
        temperatures: ε of the relaxation, squared length; the first is the model's, √d.
        pages: Of 64, for policies of a fixed number.
        tolerance: Dropped mass above which a read is unsafe.
        seed: Of the instances.
        quick: Two cases, for tests.
    """

    temperatures: tuple[float, ...] = (8.0, 1.0, 0.01)
    pages: int = 16
    tolerance: float = 0.05
    seed: int = 0
    quick: bool = False

    def __post_init__(self) -> None:
        if not self.temperatures or min(self.temperatures) <= 0:
            raise ValueError(f"temperatures are {self.temperatures}; each must be above 0")
        if not 2 <= self.pages < TOKENS // 16 or not 0 < self.tolerance < 1:
            raise ValueError(
                f"pages is {self.pages} and tolerance {self.tolerance}; 2 to 63 pages and a "
                "tolerance between 0 and 1 are expected"
            )


def measure(config: Config) -> Measured:
    """Ask theory, mechanism and diagnostics about each case."""
    names = list(CASES)[:2] if config.quick else list(CASES)
    cases: list[dict[str, Any]] = []
    leakage: list[dict[str, Any]] = []
    reads: list[dict[str, Any]] = []
    warnings: list[dict[str, Any]] = []
    failures: list[str] = []
    for name in names:
        # Each case has random numbers of its own, whichever others are run.
        case = CASES[name](np.random.default_rng([config.seed, list(CASES).index(name)]))
        about, at, wrong = _theory(name, case, config)
        found, more = _reads(name, case, config)
        cases.append(about)
        leakage += at
        reads += found
        warnings += _warnings(config, about, at[0], found)
        failures += [*wrong, *more]
    return Measured(
        {"cases": cases, "leakage": leakage, "reads": reads, "diagnostics": warnings},
        failures=failures,
    )


def _theory(
    name: str, case: Case, config: Config
) -> tuple[dict[str, Any], list[dict[str, Any]], list[str]]:
    """The case, one row a temperature, and what differs from the construction or its bound."""
    projection = vt.project(case.keys, case.query, throw=False)
    stability = vt.face_stability(projection)
    relaxation = vt.relax(projection, config.temperatures, throw=False)
    outcome = _name(stability.result)
    face, gap = int(projection.face.sum()), float(projection.gap)
    bounds = np.atleast_1d(stability.log_leakage_bound(np.array(config.temperatures)))
    wrong = []
    if outcome != case.outcome:
        wrong.append(f"{name}: face_stability reports {outcome}, {case.outcome} was expected")
    if case.face is not None and face != case.face:
        wrong.append(f"{name}: {face} keys on the face, {case.face} were expected")
    # Relative to the scale of the problem, as everywhere: max ‖k − q‖² in float64.
    allowed = 1e-12 * float(projection.scale)
    if case.gap is not None and not np.isclose(gap, case.gap, rtol=0, atol=allowed):
        wrong.append(f"{name}: a gap of {gap}, {case.gap} was expected")
    rows = []
    for epsilon, log_mass, log_bound in zip(
        config.temperatures, np.asarray(relaxation.log_off_face_mass), bounds, strict=True
    ):
        slack = _ROUNDING * max(1.0, abs(log_bound)) if math.isfinite(log_bound) else 0.0
        if log_mass > log_bound + slack:
            wrong.append(f"{name}: leakage e^{log_mass:.6g} above its bound e^{log_bound:.6g}")
        rows.append(
            {
                "case": name,
                "epsilon": epsilon,
                "gap_ratio": _finite(gap / epsilon),
                "log_leakage": _finite(log_mass),
                "log_bound": _finite(log_bound),
            }
        )
    about = {
        "case": name,
        "why": case.why,
        "outcome": outcome,
        "face": face,
        "gap": _finite(gap),
        "gap_kind": "none" if math.isnan(gap) else "infinite" if math.isinf(gap) else "finite",
        "residual": float(np.linalg.norm(projection.query - projection.point)),
    }
    return about, rows, wrong


def _name(result: Any) -> str:
    known = ("successful", "inside_hull", "degenerate_face", "ambiguous_face", "stagnated")
    return next((name for name in known if result == getattr(vt.Result, name)), "another failure")


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def policies(config: Config) -> dict[str, Policy]:
    """By the name that the tables use."""
    budget = Policy.budget(config.pages, summary="box", dense_below=0)
    return {
        "certified": Policy.certified(config.tolerance, dense_below=0),
        "budget": budget,
        "published routing": Policy.published(config.pages),
        "fixed, with proof": Policy(config.pages, config.tolerance),
    }


def _reads(name: str, case: Case, config: Config) -> tuple[list[dict[str, Any]], list[str]]:
    """What each policy reads, proves and loses."""
    spec = SummarySpec(sketch_bits=4)
    cache = PagedKV.from_tokens(case.keys[None, None], case.values[None, None], spec=spec)
    logits = _SCALE * case.keys @ case.query
    total = logsumexp(logits)
    output = np.exp(logits - total) @ case.values
    length = float(np.linalg.norm(output))
    rows, wrong = [], []
    for policy_name, policy in policies(config).items():
        answer, info = vashista_attention(case.query[None, None], cache, policy)
        dropped = max(0.0, float(-np.expm1(info.log_mass[0, 0] - total)))
        error = float(np.linalg.norm(np.asarray(answer[0, 0]) - output))
        bound, error_bound = float(info.dropped_mass_bound[0, 0]), float(info.error_bound[0, 0])
        certified = bool(info.certified[0, 0])
        rows.append(
            {
                "case": name,
                "policy": policy_name,
                "share_read": float(info.pages_read[0, 0]) / cache.pages_per_sequence,
                "dropped": dropped,
                "bound": _finite(bound),
                "estimate": _finite(float(info.dropped_mass_estimate[0, 0])),
                "mechanism_gap": _finite(float(info.gap[0, 0])),
                "certified": certified,
                "error": error / length,
                "error_bound": _finite(error_bound / length),
            }
        )
        where = f"{name}, {policy_name}"
        if math.isfinite(bound) and dropped > bound + _ROUNDING:
            wrong.append(f"{where}: dropped {dropped:.6g}, above its bound {bound:.6g}")
        if certified and dropped > config.tolerance + _ROUNDING:
            wrong.append(f"{where}: certified, and dropped {dropped:.6g}")
        if math.isfinite(error_bound) and error > error_bound + _ROUNDING * length:
            wrong.append(f"{where}: error {error:.6g}, above its bound {error_bound:.6g}")
        if policy_name == "certified" and not certified:
            wrong.append(f"{where}: nothing was certified although everything may be read")
    return rows, wrong


def _warnings(
    config: Config, about: dict[str, Any], at: dict[str, Any], reads: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Whether each diagnostic trusts the read of a fixed number of pages, and is right.

    Args:
        config: For the tolerance.
        about: The case.
        at: What the theory says of it at the model's temperature.
        reads: All reads of it.
    """
    read = next(row for row in reads if row["policy"] == "fixed, with proof")
    limit = config.tolerance
    # With an infinite gap no key is off the face, and nothing can leak.
    ratio = {"none": -math.inf, "infinite": math.inf}.get(about["gap_kind"], at["gap_ratio"])
    bound = {"none": 0.0, "infinite": -math.inf}.get(about["gap_kind"], at["log_bound"])
    trusts = {
        "Δ/ε of the hull": ratio > math.log(TOKENS),
        "leakage bound": bound <= math.log(limit),
        "Δ̂ of the mechanism": read["mechanism_gap"] is None or read["mechanism_gap"] > 0,
        "estimate": read["estimate"] <= limit,
        "proven bound": read["bound"] <= limit,
    }
    safe = read["dropped"] <= limit
    words = {
        (True, True): "rightly trusted",
        (False, False): "rightly warned",
        (False, True): "false alarm",
        (True, False): "missed",
    }
    return [
        {
            "case": about["case"],
            "diagnostic": diagnostic,
            "dropped": read["dropped"],
            "error": read["error"],
            "safe": safe,
            "trusts": bool(trusts[diagnostic]),
            "verdict": words[bool(trusts[diagnostic]), safe],
        }
        for diagnostic in DIAGNOSTICS
    ]

"""Certificates prove the face and gap of every family, and a stranger's checker accepts them.

Aims: 500 instances of all families with the outcome expected of each, every certificate accepted by
`vashista_theory/check.py`; 200 tampered ones refused; of 2,000 forgeries none accepted that is not
true, each refusal one line, no answer later than 2 s; (1024, 64) in under 2 s and (16384, 64) in
under 30 s, each, the compilation of the float solver aside (it is reported); no float result
outside the enclosures by more than its own stated residual.

The float solver proposes; ball and rational arithmetic prove. A family that is degenerate in real
numbers is as a rule not degenerate in the binary numbers it is rounded to: then the certificate
proves a gap, or a weight, at the rounding level and says so.

Example: python -m experiments certified_instances --instances 100 --force
"""

import contextlib
import io
import json
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import vashista_theory as vt
from experiments.framework.outcome import Measured, NotMeasured, Outcome, Table, sentences
from experiments.shared import forgery_judge, tampering
from vashista_theory import check, instances

_UNIT = 2.0**-52
_PROVED = ("successful",)
_EITHER = ("successful", "inside_hull")
_TIMES_AIM = {1024: 2.0, 16384: 30.0}

# Label, family, parameters, outcomes that are expected, share of the instances.
_NAMED: tuple[tuple[str, str, dict[str, Any], tuple[str, ...], int], ...] = (
    ("gaussian", "gaussian", {"n": 256, "d": 16}, _EITHER, 10),
    ("sphere", "sphere", {}, _PROVED, 9),
    ("low_rank", "low_rank", {}, _PROVED, 9),
    ("inside", "inside", {}, ("inside_hull",), 9),
    ("far_query", "far_query", {}, _PROVED, 8),
    ("planted", "planted", {}, _PROVED, 8),
    ("planted, ties", "planted", {"ties": 3, "gap": 1e-3}, _PROVED, 5),
    ("duplicates", "duplicates", {}, _PROVED, 8),
    ("near_degenerate", "near_degenerate", {}, _PROVED, 5),
    ("near_degenerate, 1e-6", "near_degenerate", {"min_weight": 1e-6, "gap": 1e-6}, _PROVED, 5),
    ("degenerate, rounded", "degenerate", {}, (*_PROVED, "degenerate_face"), 8),
    ("simplex", "simplex", {"n": 16, "d": 16}, _PROVED, 5),
    ("cross_polytope", "cross_polytope", {"n": 32, "d": 16}, _EITHER, 5),
    ("heads", "heads", {}, _EITHER, 5),
)
_REST = set(instances.families()) - {case[1] for case in _NAMED}
_CASES = (*_NAMED, *((name, name, {}, (*_EITHER, "degenerate_face"), 5) for name in sorted(_REST)))
_EXACT = ("positive_power", "negative_power", "half_margin")

_INSTANCES = {
    "family": "family and what is special about it",
    "instances": "how many",
    "expected": "outcomes that are expected",
    "proved": "successful: face, gap and strict complementarity proved",
    "inside": "inside_hull, proved",
    "degenerate": "degenerate_face, proved",
    "open": "ambiguous_face: not proved",
    "rounding_level": "gap or a weight proved positive but at the input's rounding level",
    "corrected": "supports of the float solver that had to be corrected",
    "accepted": "certificates the checker accepted",
    "tangent_checked": "of those, with the tangent covered by the checker",
}
_ACCURACY = {
    "family": "family and what is special about it",
    "certify_ms": "median time to certify, compiled, milliseconds",
    "check_ms": "median time to check, milliseconds",
    "point_outside": "float p* outside its enclosure, worst, in roundings of the scale's root",
    "gap_outside": "float gap outside its enclosure where faces agree, worst, roundings of scale",
    "over_stated": "worst distance of p* outside, over the residual that the float solver states",
}
_TAMPERED = {"changed": "what was changed", "tried": "how many", "refused": "how many were refused"}
_LARGE = {
    "n": "keys",
    "d": "dimensions",
    "instance": "its seed",
    "first_s": "certify, the float solver's compilation included, seconds",
    "certify_s": "certify again, seconds",
    "save_s": "save, seconds",
    "check_s": "check, seconds",
    "kib": "size of the certificate, KiB",
    "bound_ms": "both bounds at one temperature, milliseconds",
    "safe_s": "largest_safe_epsilon, seconds",
    "safe_ratio": "largest_safe_epsilon over that of the floating-point bounds",
    "accepted": "by the checker",
}


@dataclass(frozen=True)
class Config:
    """What to certify.

    Attributes:
        instances: Random instances over all families.
        tampered: Changed certificates and inputs.
        forged: Forged or damaged files of small instances, whose truth is known otherwise.
        sizes: Keys of the large instances, at d = 64.
        repetitions: Large instances of each size.
        seed: First seed of every family.
        quick: Few and small instances, for tests.
    """

    instances: int = 500
    tampered: int = 200
    forged: int = 2000
    sizes: tuple[int, ...] = (1024, 16384)
    repetitions: int = 3
    seed: int = 0
    quick: bool = False

    def __post_init__(self) -> None:
        if min(self.instances, self.tampered, self.forged, self.repetitions, *self.sizes) < 1:
            raise ValueError(f"counts and sizes must be at least 1; got {self}")

    def reduced(self) -> "Config":
        """The configuration of a quick run."""
        return Config(30, 24, 60, (256,), 1, self.seed, quick=True)


def measure(config: Config) -> Measured:
    """Certify, check, tamper, time."""
    try:
        vt.certify([[0.0]], [1.0])
    except ImportError as error:
        raise NotMeasured(str(error)) from None
    with tempfile.TemporaryDirectory() as folder:
        bench = _Bench(Path(folder))
        # First, so that the first of each size is seen to compile.
        large = [
            _large(n, config.seed + instance, bench)
            for n in config.sizes
            for instance in range(config.repetitions)
        ]
        rows, failures = _families(config, bench)
        tampered, passed = _tamper(config, bench)
        trials = forgery_judge.trials(config.forged, config.seed, Path(folder))
        forged, deceived = forgery_judge.summary(trials)
    failures += passed + deceived
    failures += [f"({r['n']}, 64) was not accepted" for r in large if not r["accepted"]]
    return Measured(
        {"instances": rows, "tampered": tampered, "forged": forged, "large": large},
        values={"forged_faults": len(deceived)},
        failures=failures,
    )


def report(found: Measured) -> Outcome:
    """What is proved, what is refused, and in what time."""
    rows, tampered, forged, large = (
        found.tables[name] for name in ("instances", "tampered", "forged", "large")
    )
    sizes = list(dict.fromkeys(row["n"] for row in large))
    total = {k: sum(int(r[k]) for r in rows) for k in ("instances", "proved", "inside", "accepted")}
    values = {
        **total,
        "degenerate": sum(int(r["degenerate"]) for r in rows),
        "open": sum(int(r["open"]) for r in rows),
        "tampered": sum(int(r["tried"]) for r in tampered),
        "refused": sum(int(r["refused"]) for r in tampered),
        "forged": sum(int(r["tried"]) for r in forged),
        "forged_refused": sum(int(r["refused"]) for r in forged),
        "forged_true": sum(int(r["still_true"]) for r in forged),
        "forged_faults": int(found.values["forged_faults"]),
        "forged_slowest_s": max(r["slowest_s"] for r in forged),
        **{f"certify_s_{n}": max(r["certify_s"] for r in large if r["n"] == n) for n in sizes},
        **{f"first_s_{n}": max(r["first_s"] for r in large if r["n"] == n) for n in sizes},
        **{f"check_s_{n}": max(r["check_s"] for r in large if r["n"] == n) for n in sizes},
        "over_stated": max(r["over_stated"] for r in rows),
    }
    return Outcome(
        tables={
            "instances": Table(_INSTANCES, _picked(rows, _INSTANCES)),
            "times and floats": Table(_ACCURACY, _picked(rows, _ACCURACY)),
            "tampered": Table(_TAMPERED, tampered),
            "forged": Table(forgery_judge.COLUMNS, forged),
            "large": Table(_LARGE, large),
        },
        values=values,
        findings=_findings(values, sizes),
        notes=[
            "The checker runs in the same process, by its command line's entry, from files.",
            "A tampered interval is moved by one unit in the last place; a tampered input too.",
            "Whether an accepted forgery is true is found by trying every simplex of its keys.",
        ],
        failures=found.failures,
    )


def _picked(rows: Any, columns: dict[str, str]) -> list[dict[str, Any]]:
    return [{name: row[name] for name in columns} for row in rows]


class _Bench:
    """A folder in which certificates are saved and checked, and some kept to be tampered with."""

    def __init__(self, folder: Path) -> None:
        self.paths = [folder / name for name in ("certificate.json", "keys.npy", "query.npy")]
        self.kept: list[tuple[dict[str, Any], np.ndarray, np.ndarray]] = []

    def save(self, certificate: vt.Certificate, made: instances.Instance) -> None:
        certificate.save(self.paths[0])
        np.save(self.paths[1], made.keys)
        np.save(self.paths[2], made.query)

    def keep(self, made: instances.Instance) -> None:
        content = json.loads(self.paths[0].read_text(encoding="utf-8"))
        self.kept.append((content, made.keys, made.query))

    def check(self) -> tuple[bool, str]:
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = check.main([str(path) for path in self.paths])
        return code == 0, said.getvalue()


def _families(config: Config, bench: _Bench) -> tuple[list[dict[str, Any]], list[str]]:
    shares = sum(case[-1] for case in _CASES)
    left = config.instances - len(_EXACT)
    rows, failures = [], []
    for position, (label, family, parameters, expected, share) in enumerate(_CASES):
        before = sum(case[-1] for case in _CASES[:position])
        count = left * (before + share) // shares - left * before // shares
        made = [
            instances.make(family, seed=config.seed + k, **parameters) for k in range(max(count, 1))
        ]
        rows.append(_case(label, made, expected, bench, failures))
    exact = [instances.make("degenerate", variant=variant) for variant in _EXACT]
    rows.append(_case("degenerate, exact", exact, ("degenerate_face",), bench, failures))
    return rows, failures


def _case(
    label: str,
    made: list[instances.Instance],
    expected: tuple[str, ...],
    bench: _Bench,
    failures: list[str],
) -> dict[str, Any]:
    outcomes: Counter[str] = Counter()
    measured: list[dict[str, float]] = []
    vt.certify(made[0].keys, made[0].query)
    for instance in made:
        start = time.perf_counter()
        certificate = vt.certify(instance.keys, instance.query)
        certified = time.perf_counter() - start
        outcomes[certificate.outcome] += 1
        where = f"{label}, seed {instance.seed}"
        if certificate.outcome not in expected:
            failures.append(f"{where}: {certificate.outcome}, not expected: {certificate.reason}")
        accepted, said = False, ""
        if certificate.proved:
            bench.save(certificate, instance)
            start = time.perf_counter()
            accepted, said = bench.check()
            if len(measured) < 3:
                bench.keep(instance)
        checked = time.perf_counter() - start
        if not accepted:
            failures.append(f"{where}: not accepted. {said}")
        distances = _float_distances(certificate)
        if distances["over_stated"] > 1:
            failures.append(f"{where}: the float p* is further out than its residual says")
        measured.append(
            {
                "rounding_level": "rounding level" in certificate.reason,
                "corrected": certificate.steps > 0,
                "accepted": accepted,
                "tangent_checked": "tangent too" in said,
                "certify_ms": certified * 1e3,
                "check_ms": checked * 1e3,
                **distances,
            }
        )
    columns = {name: [row[name] for row in measured] for name in measured[0]}
    counts = ("rounding_level", "corrected", "accepted", "tangent_checked")
    names = {
        "proved": "successful",
        "inside": "inside_hull",
        "degenerate": "degenerate_face",
        "open": "ambiguous_face",
    }
    return {
        "family": label,
        "instances": len(made),
        "expected": " or ".join(expected),
        **{name: outcomes[outcome] for name, outcome in names.items()},
        **{name: int(sum(columns[name])) for name in counts},
        **{name: float(np.median(columns[name])) for name in ("certify_ms", "check_ms")},
        **{n: float(max(columns[n])) for n in ("point_outside", "gap_outside", "over_stated")},
    }


def _float_distances(certificate: vt.Certificate) -> dict[str, float]:
    """How far the float solver's answer lies outside what is proved."""
    projection = vt.project(certificate.keys, certificate.query, throw=False)
    scale = float(projection.scale) or 1.0
    outside = np.linalg.norm(certificate.point.distance(np.asarray(projection.point)))
    # ‖p − p*‖ <= √(duality gap) for p = Kᵀα; the stationarity is the distance to that.
    stated = np.sqrt(max(float(projection.duality_gap), 0.0))
    stated += float(projection.residuals.stationarity) + _UNIT * np.sqrt(scale)
    gap = 0.0
    if np.array_equal(np.asarray(projection.face), certificate.face):
        value, low, high = float(projection.gap), certificate.gap_lower, certificate.gap_upper
        gap = 0.0 if not np.isfinite(low) else max(low - value, value - high, 0.0)
    return {
        "point_outside": float(outside / (np.sqrt(scale) * _UNIT)),
        "gap_outside": float(gap / (scale * _UNIT)),
        "over_stated": float(outside / stated),
    }


def _tamper(config: Config, bench: _Bench) -> tuple[list[dict[str, Any]], list[str]]:
    rng = np.random.default_rng(config.seed)
    kinds = [*tampering.CHANGES, *tampering.INPUTS]
    tried: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    failures: list[str] = []
    for number in range(config.tampered):
        kind = kinds[number % len(kinds)]
        content, keys, query = bench.kept[int(rng.integers(len(bench.kept)))]
        if kind in tampering.CHANGES:
            content = tampering.tampered(kind, content, rng)
        elif kind == "a key":
            keys = tampering.nudged(keys, rng)
        else:
            query = tampering.nudged(query, rng)
        bench.paths[0].write_text(json.dumps(content), encoding="utf-8")
        np.save(bench.paths[1], keys)
        np.save(bench.paths[2], query)
        accepted, said = bench.check()
        tried[kind] += 1
        refused[kind] += said.startswith("refused: ")
        if accepted or not said.startswith("refused: "):
            failures.append(f"tampered ({kind}) and not refused: {said}")
    rows = [{"changed": k, "tried": tried[k], "refused": refused[k]} for k in kinds if tried[k]]
    return rows, failures


def _large(n: int, seed: int, bench: _Bench) -> dict[str, Any]:
    made = instances.make("gaussian", seed=seed, n=n, d=64)

    def timed(function: Any, *arguments: Any) -> tuple[float, Any]:
        start = time.perf_counter()
        value = function(*arguments)
        return time.perf_counter() - start, value

    first, _ = timed(vt.certify, made.keys, made.query)
    again, certificate = timed(vt.certify, made.keys, made.query)
    saved, _ = timed(bench.save, certificate, made)
    checked, (accepted, _) = timed(bench.check)
    stability = vt.face_stability(vt.project(made.keys, made.query))
    epsilon = 0.03 * certificate.gap_lower
    displaced, _ = timed(certificate.displacement_bound, epsilon)
    leaked, _ = timed(certificate.log_leakage_bound, epsilon)
    safe, largest = timed(certificate.largest_safe_epsilon, float(np.log(0.01)))
    return {
        "n": n,
        "d": 64,
        "instance": seed,
        "first_s": first,
        "certify_s": again,
        "save_s": saved,
        "check_s": checked,
        "kib": bench.paths[0].stat().st_size / 1024,
        "bound_ms": (displaced + leaked) * 1e3,
        "safe_s": safe,
        "safe_ratio": largest / float(stability.largest_safe_epsilon(float(np.log(0.01)))),
        "accepted": accepted,
    }


def _findings(values: dict[str, Any], sizes: list[Any]) -> list[str]:
    said = sentences(
        f"""- {values["instances"]} instances: {values["proved"]} faces proved strict,
          {values["inside"]} queries proved inside, {values["degenerate"]} faces proved degenerate,
          {values["open"]} left open; the checker accepted {values["accepted"]}.
        - {values["refused"]} of {values["tampered"]} tampered certificates or inputs refused.
        - {values["forged"]} forged or damaged files: {values["forged_refused"]} refused in a line
          each, {values["forged_true"]} accepted and true, {values["forged_faults"]} faults; the
          slowest answer took {values["forged_slowest_s"]:.2g} s.
        - The float p* lies outside by at most {values["over_stated"]:.2g} of its stated residual.
        """
    )
    for n in sizes:
        aim, took = _TIMES_AIM.get(n), values[f"certify_s_{n}"]
        judged = "" if aim is None else f" ({'met' if took < aim else 'missed'}: under {aim:g} s)"
        said.append(
            f"({n}, 64): certified in {took:.2g} s{judged}, {values[f'first_s_{n}']:.2g} s with "
            f"the float solver's compilation; checked in {values[f'check_s_{n}']:.2g} s."
        )
    return said

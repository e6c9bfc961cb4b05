r"""Does the face-stability theorem hold with its constants, on synthetic hulls and on real heads?

Over families of hulls and the recorded heads of a language model, at temperatures over nine
decades: every bound (the identity (★), T1, T1′ in its range, T2, T3) is compared with the solved
relaxation, and the two laws are fitted. Leakage: log m = −Δ/ε + T4's constant. Displacement:
‖δ‖/ε → ‖w₀‖. The instances and the measuring are those of ``python -m vashista_theory.sweep``;
the curves are of a few instances followed by themselves.

Examples:
  python -m experiments theorem_constants
  python -m experiments theorem_constants --instances 4 --heads 14
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from experiments.framework.outcome import Measured, Outcome, sentences
from experiments.shared import hulls
from experiments.shared.hulls import Problem
from experiments.shared.sweeping import swept
from vashista_theory.hull import instances
from vashista_theory.sweep import summary, verdicts
from vashista_theory.sweep.measure import OUTCOMES

_BOUNDS = {
    "statement": "of the theory",
    "checks": "pairs of an instance and a temperature that it speaks about",
    "violations": "pairs that exceed it by more than rounding",
    "excess": "largest (value − bound) over what rounding allows; a violation is above 1",
    "tightest_family": "where that is",
}
_FAMILIES = {
    "family": "of instances",
    "instances": "how many",
    "failed": "not solved",
    "inside": "share with the query inside the hull",
    "degenerate": "share without strict complementarity",
    "rate": "slope of −log m against Δ/ε, median; T4 says 1",
    "rate_low": "least",
    "rate_high": "largest",
    "constant_error": "|log m + Δ/ε − T4's constant| at the least usable ε, nats, median",
    "constant_worst": "largest",
    "slope": "‖δ‖/(ε‖w₀‖) at the least ε, median; T2 says 1",
    "slope_error": "largest distance of that from 1",
    "vertices": "instances with ‖w₀‖ = 0, which have no slope",
}
_STATUS = {"status": "outcome of the analysis", "instances": "how many", "share": "of all"}
_REFERENCE = {
    "instance": "which",
    "n": "keys",
    "d": "dimension",
    "face": "|F|",
    "gap": "Δ, squared length",
    "tangent_norm": "‖w₀‖, 1/length",
    "tangent_known": "the same by the instance's construction",
    "epsilon": "least ε followed, squared length",
    "slope": "‖δ‖/ε there",
    "ratio": "that over ‖w₀‖",
    "rate": "slope of −log m against Δ/ε between 10 and 1000",
    "constant": "T4's constant, nats",
    "constant_measured": "log m + Δ/ε at Δ/ε nearest 1000, nats",
}
_LEAKAGE = {
    "instance": "which",
    "ratio": "Δ/ε",
    "log_mass": "log m, nats",
    "t3": "T3, nats",
    "t4": "T4, nats",
    "constant": "T4's constant, nats",
}
_DISPLACEMENT = {
    "instance": "which",
    "epsilon": "ε over scale",
    "moved": "‖δ‖/‖w₀‖ over scale",
    "t2": "T2 likewise",
    "share": "‖δ‖/(ε‖w₀‖)",
    "share_t2": "T2/(ε‖w₀‖)",
}
_NAMES = {"identity": "(★)", "t1": "T1", "t1_published": "T1′ in its range", "t2": "T2", "t3": "T3"}
_RATE = (10.0, 1000.0)
_QUICK_FAMILIES = ("gaussian", "planted", "degenerate")


@dataclass(frozen=True)
class Config:
    """What to check.

    Attributes:
        instances: Of each synthetic family.
        heads: Recorded heads of the packaged sample, of 63 at its last position.
        seed: First seed of every family.
        quick: Small instances of one shape, for tests.
    """

    instances: int = 8
    heads: int = 63
    seed: int = 0
    quick: bool = False

    def __post_init__(self) -> None:
        hulls.check_counts(self.heads, instances=self.instances, least=1)


def measure(config: Config) -> Measured:
    """Check every bound on the sweep's instances, then follow a few of them."""
    dataset = swept(
        silent=config.quick,
        quick=config.quick,
        instances=config.instances,
        head_instances=config.heads,
        seed=config.seed,
        families=_QUICK_FAMILIES if config.quick else (),
    )
    families = summary.by_family(dataset)
    bounds = [_bound(dataset, statement, name) for statement, name in _NAMES.items()]
    status = _status(dataset)
    followed = [(label, hulls.problem(made)) for label, made in _shown(config)]
    reference, leakage, moved = [], [], []
    for label, given in followed:
        row, mass_rows, moved_rows = _follow(label, given)
        reference.append(row)
        leakage += mass_rows
        moved += moved_rows
    return Measured(
        {
            "bounds": bounds,
            "families": [_family(f) for f in families],
            "status": status,
            "reference values": reference,
            "leakage": leakage,
            "displacement": moved,
            "verdicts of the sweep": [{"says": v.text} for v in verdicts.verdicts(dataset)],
        },
        _values(dataset, bounds, status, reference),
        failures=verdicts.problems(dataset, families),
    )


def report(found: Measured) -> Outcome:
    """Which bounds hold, and what the two laws measure."""
    columns = {
        "bounds": _BOUNDS,
        "families": _FAMILIES,
        "status": _STATUS,
        "reference values": _REFERENCE,
        "leakage": _LEAKAGE,
        "displacement": _DISPLACEMENT,
    }
    return Outcome(
        tables=found.described(columns, hidden=["leakage", "displacement"]),
        values=found.values,
        findings=_findings(found),
        notes=sentences(
            """- Every synthetic family of the sweep at its default shape, and recorded heads with
              all the keys that their query sees. ε runs from 10 to 1e-8 of scale, which is max ‖k_i
              − q‖², at 5 a decade; with it the model's temperature and the end of T1′'s range.
            - A pair violates a bound where it exceeds it by more than 1e-12 of the bound and 64
              roundings of scale. T4 and T5 are limits: they have no violations.
            - The rate is fitted between Δ/ε = 10 and 1000; ‖δ‖/ε is read at the least ε.
            """
        ),
        failures=found.failures,
    )


def _shown(config: Config) -> list[tuple[str, instances.Instance]]:
    """The instances whose curves are kept, by label."""
    if config.quick:
        return [("planted hull", instances.make("planted", seed=config.seed, n=48, d=8, gap=0.5))]
    heads = [hulls.problem(made) for made in hulls.spread_heads(hulls.HEADS_AT_ONE_POSITION)]
    usable = [h for h in heads if h.generic and float(h.stability.tangent_norm) > 0]
    usable.sort(key=lambda head: head.gap)
    picked = (usable[len(usable) // 2], usable[-1])
    return [
        ("Gaussian hull", instances.make("gaussian", seed=0)),
        ("planted hull", instances.make("planted", seed=config.seed, gap=0.5)),
        *((hulls.head_name(head.instance), head.instance) for head in picked),
    ]


def _bound(dataset: xr.Dataset, statement: str, name: str) -> dict[str, Any]:
    excess = summary.excess(dataset, statement)
    says = ~np.isnan(excess)
    worst = np.unravel_index(np.nanargmax(excess), excess.shape)[0] if says.any() else None
    return {
        "statement": name,
        "checks": int(says.sum()),
        "violations": int((excess > 1).sum()),
        "excess": None if worst is None else float(np.nanmax(excess)),
        "tightest_family": "" if worst is None else str(dataset["family"].values[worst]),
    }


def _family(found: summary.FamilySummary) -> dict[str, Any]:
    def said(value: float) -> float | None:
        return None if np.isnan(value) else float(value)

    slope = found.slope_over_tangent
    return {
        "family": found.family,
        "instances": found.instances,
        "failed": found.failed,
        "inside": found.inside,
        "degenerate": found.degenerate,
        "rate": said(found.rate_over_gap[0]),
        "rate_low": said(found.rate_over_gap[1]),
        "rate_high": said(found.rate_over_gap[2]),
        "constant_error": said(found.constant_error[0]),
        "constant_worst": said(found.constant_error[2]),
        "slope": said(slope[0]),
        "slope_error": said(max(abs(slope[1] - 1), abs(slope[2] - 1))),
        "vertices": found.vertices,
    }


def _status(dataset: xr.Dataset) -> list[dict[str, Any]]:
    found = dataset["result"].values
    counts = {name: int((found == name).sum()) for name in OUTCOMES}
    return [
        {"status": name, "instances": count, "share": count / found.size}
        for name, count in counts.items()
    ]


def _follow(
    label: str, given: Problem
) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    """One row of reference values, and the two curves."""
    gap, scale, stability = given.gap, given.scale, given.stability
    tangent = float(stability.tangent_norm)
    ratio = np.geomspace(0.3, 1e3, 71)
    fall = hulls.follow(given, gap / ratio)
    constant = float(stability.log_asymptote_constant)
    leakage = [
        {"instance": label, "ratio": float(x), "log_mass": float(m), "t3": float(t3)}
        | {"t4": float(t4), "constant": constant}
        for x, m, t3, t4 in zip(ratio, fall.log_mass, fall.t3, fall.asymptote, strict=True)
    ]
    relative = np.geomspace(10.0, 1e-8, 71)
    law = hulls.follow(given, relative * scale)
    share = np.exp(law.log_moved - np.log(law.epsilon * tangent))
    share_t2 = np.exp(law.moved_t2 - np.log(law.epsilon * tangent))
    moved = [
        {"instance": label, "epsilon": float(e), "moved": float(e * s), "t2": float(e * t)}
        | {"share": float(s), "share_t2": float(t)}
        for e, s, t in zip(relative, share, share_t2, strict=True)
    ]
    use = ratio >= _RATE[0]
    known = given.instance.known.tangent
    row = {
        "instance": label,
        "n": given.instance.keys.shape[0],
        "d": given.instance.keys.shape[1],
        "face": int(given.projection.face.sum()),
        "gap": gap,
        "tangent_norm": tangent,
        "tangent_known": None if known is None else float(np.linalg.norm(known)),
        "epsilon": float(law.epsilon[-1]),
        "slope": float(share[-1] * tangent),
        "ratio": float(share[-1]),
        "rate": float(-np.polyfit(ratio[use], fall.log_mass[use], 1)[0]),
        "constant": constant,
        "constant_measured": float(fall.log_mass[-1] + ratio[-1]),
    }
    return row, leakage, moved


def _values(
    dataset: xr.Dataset,
    bounds: list[dict[str, Any]],
    status: list[dict[str, Any]],
    reference: list[dict[str, Any]],
) -> dict[str, Any]:
    rates = summary.leakage_rates(dataset)[~dataset["degenerate"].values]
    rates = rates[~np.isnan(rates)]
    constants = summary.constant_errors(dataset)
    constants = constants[~np.isnan(constants)]
    orders = summary.decay_orders(dataset)
    slopes = summary.slopes(dataset)
    off = np.abs(slopes[~np.isnan(slopes)] - 1)
    heads = dataset["family"].values == "heads"
    head_off = np.abs(slopes[heads & ~np.isnan(slopes)] - 1)
    head_rates = summary.leakage_rates(dataset)[heads]
    head_rates = head_rates[~np.isnan(head_rates)]
    defect = dataset["identity_defect"].values
    published = dataset["excess_t1_published"].values
    beyond = np.where(summary.in_published_range(dataset), np.nan, published)
    failed = sorted(set(dataset["family"].values[(beyond > 1).any(axis=1)].tolist()))
    by_name = {row["statement"]: row for row in bounds}
    counted = {name: by_name[text] for name, text in _NAMES.items()}
    return {
        "instances": dataset.sizes["instance"],
        "heads": int(heads.sum()),
        "families": len(set(dataset["family"].values.tolist())),
        "checks": sum(row["checks"] for row in bounds),
        "violations": sum(row["violations"] for row in bounds),
        **{f"checks_{name}": row["checks"] for name, row in counted.items()},
        **{f"violations_{name}": row["violations"] for name, row in counted.items()},
        "beyond_t1_published": int((~np.isnan(beyond)).sum()),
        "beyond_t1_published_failed": int((beyond > 1).sum()),
        "beyond_t1_published_families": ", ".join(failed).replace("_", " ") or "in none",
        "identity_defect": float(np.nanmax(defect)),
        "rate_median": float(np.median(rates)),
        "rate_low": float(rates.min()),
        "rate_high": float(rates.max()),
        "rates_fitted": int(rates.size),
        "rate_heads_low": float(head_rates.min()) if head_rates.size else None,
        "rate_heads_high": float(head_rates.max()) if head_rates.size else None,
        "constant_error_median": float(np.median(constants)),
        "constant_error_worst": float(constants.max()),
        "decay_order": float(np.nanmedian(orders)) if np.isfinite(orders).any() else None,
        "slope_error_median": float(np.median(off)),
        "slope_error_worst": float(off.max()),
        "slope_worst_family": str(dataset["family"].values[np.nanargmax(np.abs(slopes - 1))]),
        "slopes_measured": int(off.size),
        "slope_error_heads_worst": float(head_off.max()) if head_off.size else None,
        "t3_slack_nats": _t3_slack(dataset),
        **{f"share_{row['status']}": row["share"] for row in status if row["instances"]},
        "kkt_residual": float(dataset["kkt_residual"].values.max()),
        "oracle_distance": float(np.nanmax(dataset["oracle_distance"].values)),
        "reference_gap": reference[0]["gap"],
        "reference_tangent_norm": reference[0]["tangent_norm"],
        "reference_ratio": reference[0]["ratio"],
        "reference_rate": reference[0]["rate"],
    }


def _t3_slack(dataset: xr.Dataset) -> float | None:
    """T3 above log m at Δ/ε from 10 to 100, median, nats."""
    ratio = dataset["gap"].values[:, None] / dataset["epsilon"].values
    with np.errstate(invalid="ignore"):  # −inf − −inf where every key is exposed
        slack = dataset["log_leakage_t3"].values - dataset["log_off_face_mass"].values
        near = (ratio >= 10) & (ratio <= 100) & np.isfinite(slack)
    return float(np.median(slack[near])) if near.any() else None


def _findings(found: Measured) -> list[Any]:
    values = found.values
    return [
        (
            f"{values['violations']} violations in {values['checks']:,} checks of five statements "
            f"on {values['instances']} instances of {values['families']} families, "
            f"{values['heads']} real heads among them."
        ),
        (
            f"Leakage law: the fitted rate is {values['rate_median']:.5f} Δ (median of "
            f"{values['rates_fitted']}; {values['rate_low']:.4f} to {values['rate_high']:.4f}), "
            f"and T4's constant is met to {values['constant_error_median']:.1e} nats (median)."
        ),
        (
            f"Linear law: ‖δ‖/(ε‖w₀‖) differs from 1 by {values['slope_error_median']:.1e} at the "
            f"least ε (median of {values['slopes_measured']}; at most "
            f"{values['slope_error_worst']:.1e}, in {values['slope_worst_family']})."
        ),
        *(row["says"] for row in found.tables["verdicts of the sweep"]),
    ]

"""One sentence a statement: it holds, it holds for ε ≤ x, or it fails, with this run's numbers."""

import dataclasses

import numpy as np
import xarray as xr

from vashista_theory._words import count
from vashista_theory.sweep import summary
from vashista_theory.sweep.summary import FamilySummary

KKT_TOLERANCE = 1e-12
"""Largest residual, relative to scale, of a projection that counts as solved."""

_NAMES = {"identity": "(★)", "t1": "T1", "t1_published": "T1′", "t2": "T2", "t3": "T3"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a run says about one statement.

    Attributes:
        statement: Its number.
        holds: None if the run did not test it.
        verdict: "holds", "holds for ε ≤ x", "fails" or "not tested".
        checks: (instance, ε) pairs, or instances for a limit.
        violations: Pairs among them; always 0 for a limit.
        text: The sentence.
    """

    statement: str
    holds: bool | None
    verdict: str
    checks: int
    violations: int
    text: str


def verdicts(dataset: xr.Dataset) -> tuple[Verdict, ...]:
    """Judge every statement."""
    return (
        _bound(dataset, "identity", _identity_detail(dataset)),
        _bound(dataset, "t1", "for every ε, degenerate faces and queries inside the hull included"),
        _published(dataset),
        _bound(dataset, "t2", "for every ε under strict complementarity" + _t2_detail(dataset)),
        _bound(dataset, "t3", "for every ε under strict complementarity" + _t3_detail(dataset)),
        _asymptote(dataset),
        _degenerate(dataset),
        _factor_one(dataset),
    )


def problems(dataset: xr.Dataset, families: tuple[FamilySummary, ...]) -> list[str]:
    """Why the run does not confirm the theorem; empty if it does. Decides the exit code."""
    found = [
        f"{_NAMES[statement]} violated {count(broken, 'time')} in {family.family}"
        for family in families
        for statement, broken in family.violations.items()
        if broken
    ]
    found += [
        f"{count(family.failed, 'instance')} of {family.family} could not be solved"
        for family in families
        if family.failed
    ]
    residual = dataset["kkt_residual"].values
    bad = np.flatnonzero(~(residual <= KKT_TOLERANCE))
    if bad.size:
        found.append(f"KKT residual {residual[bad].max():.1e} above {KKT_TOLERANCE:g} of scale")
    return found


def _bound(dataset: xr.Dataset, statement: str, detail: str) -> Verdict:
    excess = summary.excess(dataset, statement)
    checks, violations = int((~np.isnan(excess)).sum()), int((excess > 1).sum())
    name = _NAMES[statement]
    if not checks:
        return _untested(name, "no instance of this run meets its conditions")
    if violations:
        return _failure(dataset, name, excess, checks, violations)
    return Verdict(
        statement=name, holds=True, verdict="holds", checks=checks, violations=0,
        text=f"{name} holds {detail}: no violation in {count(checks, 'check')}.",
    )  # fmt: skip


def _untested(name: str, why: str) -> Verdict:
    return Verdict(
        statement=name, holds=None, verdict="not tested", checks=0, violations=0,
        text=f"{name} was not tested: {why}.",
    )  # fmt: skip


def _failure(
    dataset: xr.Dataset, name: str, excess: np.ndarray, checks: int, violations: int
) -> Verdict:
    i, t = np.unravel_index(np.nanargmax(excess), excess.shape)
    family, seed = dataset["family"].values[i], int(dataset["seed"].values[i])
    worst = f"{family}, seed {seed}, ε = {dataset['epsilon'].values[i, t]:.3g}"
    return Verdict(
        statement=name, holds=False, verdict="fails", checks=checks, violations=violations,
        text=f"{name} fails: {count(violations, 'violation')} in {count(checks, 'check')}, the "
        f"worst at {worst}, "
        f"by {excess[i, t]:.3g} times what rounding allows.",
    )  # fmt: skip


def _published(dataset: xr.Dataset) -> Verdict:
    limit = dataset["published_range"].values / dataset["scale"].values
    limit = limit[np.isfinite(limit)]
    everywhere = dataset["excess_t1_published"].values
    outside = np.where(summary.in_published_range(dataset), np.nan, everywhere)
    beyond, broken = int((~np.isnan(outside)).sum()), int((outside > 1).sum())
    verdict = _bound(dataset, "t1_published", "in its range")
    if not verdict.holds:
        return verdict
    fails = f"{broken:,} of {beyond:,} exceed it" if broken else f"none of {beyond:,} exceeds it"
    return dataclasses.replace(
        verdict,
        verdict="holds for ε ≤ x",
        text=f"T1′ (θ = ½, the published e^(−μ/2ε)) holds for ε ≤ κ²/(4(log n − h)), here "
        f"{np.min(limit):.1e} to {np.max(limit):.1e} of scale: no violation in "
        f"{count(verdict.checks, 'check')} there, its end included; beyond it {fails}.",
    )


def _identity_detail(dataset: xr.Dataset) -> str:
    defect = dataset["identity_defect"].values
    worst = np.max(defect[~np.isnan(defect)], initial=0.0)
    return f"to {worst:.1e} of scale + ε, at w̄ = 0 and w̄ = w₀"


def _t2_detail(dataset: xr.Dataset) -> str:
    slopes = summary.slopes(dataset)
    slopes = slopes[~np.isnan(slopes)]
    if not slopes.size:
        return ""
    off = np.abs(slopes - 1)
    return (
        f", and ‖δ‖/ε is within {np.median(off):.0e} of ‖w₀‖ at the least ε (median; "
        f"{off.max():.0e} at most)"
    )


def _t3_detail(dataset: xr.Dataset) -> str:
    ratio = dataset["gap"].values[:, None] / dataset["epsilon"].values
    with np.errstate(invalid="ignore"):  # −inf − −inf where every key is exposed
        slack = dataset["log_leakage_t3"].values - dataset["log_off_face_mass"].values
    near = (ratio >= 10) & (ratio <= 100) & np.isfinite(slack)
    if not near.any():
        return ""
    return (
        f", and lies {np.median(slack[near]):.1f} nats above log m at Δ/ε from 10 to 100 (median)"
    )


def _asymptote(dataset: xr.Dataset) -> Verdict:
    errors, orders = summary.constant_errors(dataset), summary.decay_orders(dataset)
    said = ~np.isnan(errors)
    names, errors = dataset["family"].values[said], errors[said]
    orders = orders[~np.isnan(orders)]
    rates = summary.leakage_rates(dataset)[~dataset["degenerate"].values]
    rates = rates[~np.isnan(rates)]
    if not (errors.size and rates.size):
        return _untested("T4", "no instance with strict complementarity and a finite gap")
    holds = bool(np.median(errors) < 1e-2 and abs(np.median(rates) - 1) < 1e-2)
    holds = holds and not (orders.size and np.median(orders) < 0.5)
    order = (
        f"; |log m − T4| falls like ε^{np.median(orders):.2f} (median of {orders.size})"
        if orders.size
        else ""
    )
    return Verdict(
        statement="T4", holds=holds, verdict="holds" if holds else "fails",
        checks=int(errors.size), violations=0,
        text=f"T4 {'holds' if holds else 'fails'} as a limit on {count(errors.size, 'instance')}: "
        f"the fitted rate is {np.median(rates):.4f} Δ ({rates.min():.3f} to {rates.max():.3f}), "
        f"the constant is off by {np.median(errors):.1e} nats (median; at most "
        f"{errors.max():.1e}, in {names[errors.argmax()]}) at the least ε{order}.",
    )  # fmt: skip


def _degenerate(dataset: xr.Dataset) -> Verdict:
    law, linear, distance = summary.degenerate_laws(dataset)
    if not law.size:
        return _untested("T5", "no degenerate instance in this run")
    holds = bool(abs(np.median(law) - 1) < 0.05 and abs(np.median(law - 1)) < 1 - np.median(linear))
    return Verdict(
        statement="T5", holds=holds, verdict="holds" if holds else "fails",
        checks=int(law.size), violations=0,
        text=f"T5 {'holds' if holds else 'fails'} as a limit on "
        f"{count(law.size, 'degenerate instance')}: "
        f"log ‖δ‖ has slope {np.median(law):.3f} against log(ε log 1/ε) where the linear law sees "
        f"{np.median(linear):.3f} against log ε; ρ times the slope of ‖δ‖/ε in log 1/ε is "
        f"{np.median(distance):.2f}, on its slow way to 1.",
    )  # fmt: skip


def _factor_one(dataset: xr.Dataset) -> Verdict:
    excess = dataset["excess_factor_one"].values
    checks, broken = int((~np.isnan(excess)).sum()), int((excess > 1).sum())
    names = sorted(set(dataset["family"].values[(excess > 1).any(axis=1)].tolist()))
    said = (
        f"fails, as it must: exceeded in {broken:,} of {count(checks, 'check')}, in "
        f"{count(len(names), 'family')}"
        if broken
        else f"was not exceeded in {count(checks, 'check')}, which does not make it true: its "
        "counterexamples need keys far from the face"
    )
    return Verdict(
        statement="factor 1", holds=not broken if checks else None,
        verdict=("fails" if broken else "holds") if checks else "not tested",
        checks=checks, violations=broken,
        text=f"The false form with factor 1, α_i ≤ e^(−μ_i/ε), {said}.",
    )  # fmt: skip

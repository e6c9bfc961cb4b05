"""The end of a sweep: tables for people, JSON for programs."""

import dataclasses
import json
import math

import xarray as xr
from rich import box
from rich.console import Console
from rich.table import Table

from vashista_theory._words import count
from vashista_theory.runs import canonical
from vashista_theory.sweep.summary import FamilySummary, LayerSummary, Spread, by_family, by_layer
from vashista_theory.sweep.verdicts import Verdict, problems, verdicts

_WIDTH = 104


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What a sweep found.

    Attributes:
        families: One summary a family.
        layers: Attention heads at the model's own temperature.
        statements: One verdict a statement.
        problems: Violations and failures; empty if the theorem is confirmed.
    """

    families: tuple[FamilySummary, ...]
    layers: tuple[LayerSummary, ...]
    statements: tuple[Verdict, ...]
    problems: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0, or 1 for a violation."""
        return 1 if self.problems else 0


def summarise(dataset: xr.Dataset) -> Report:
    """Reduce a sweep's dataset to its report."""
    families = by_family(dataset)
    return Report(
        families=families,
        layers=by_layer(dataset),
        statements=verdicts(dataset),
        problems=tuple(problems(dataset, families)),
    )


def as_json(report: Report, dataset: xr.Dataset) -> str:
    """The report with the run's attributes, as indented JSON; NaN and infinities are strings."""
    attributes = {name: _parsed(value) for name, value in dataset.attrs.items() if name != "title"}
    found = canonical(report)
    assert isinstance(found, dict)
    content = {"run": attributes, **found, "exit_code": report.exit_code}
    return json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)


def show(report: Report, console: Console) -> None:
    """Print the verdict, the tables, the sentences and what the symbols mean."""
    console.width = max(console.width, _WIDTH)
    console.print(
        headline(report), markup=False, highlight=False,
        style="bold red" if report.problems else "bold",
    )  # fmt: skip
    console.print()
    console.print(_instances(report.families))
    console.print(_limits(report.families))
    console.print(_bounds(report.families))
    if report.layers:
        console.print(_heads(report.layers))
    for line in _notes(report.families):
        console.print(line, markup=False, highlight=False)
    console.print()
    for verdict in report.statements:
        console.print(verdict.text, markup=False, highlight=False)
    for problem in report.problems:
        console.print(f"VIOLATION: {problem}", markup=False, style="bold red")
    console.print(f"\n{LEGEND}", markup=False, highlight=False, style="dim")


def headline(report: Report) -> str:
    """The verdict in one line."""
    if report.problems:
        more = len(report.problems) - 1
        others = f" and {more} more, at the end" if more else ""
        return f"The theorem was NOT confirmed: {report.problems[0]}{others}."
    checks = sum(sum(family.checks.values()) for family in report.families)
    instances = sum(family.instances for family in report.families)
    return (
        f"The face-stability theorem held: no violation in {count(checks, 'check')} on "
        f"{count(instances, 'instance')} of {count(len(report.families), 'family')}."
    )


LEGEND = """\
Symbols: F exposed face; Δ gap, the least multiplier μ_i off F; ε temperature; α weights;
m mass off F; δ = p^ε − p*, the displacement; h entropy of the weights on F; v_i = k_i − p*;
w₀ tangent, the limit of −δ/ε; κ least μ_i/‖v_i‖ off F; KKT optimality conditions;
ρ distance of p* from the keys of a degenerate F that its optimal weights leave out (T5).
Statements, for every ε > 0 if nothing else is said:
  ★    ‖δ‖² + ε⟨w,δ⟩ + ε KL(α*‖α^ε) + ε KL(α^ε‖π_w) = ε(Λ(w) − h), behind all others
  T1   ‖δ‖² ≤ ε(log n − h) and m ≤ ε(log n − h)/Δ
  T1′  α_i ≤ e^(−h − μ_i/2ε), but only for ε ≤ κ²/(4(log n − h))
  T2   ‖δ‖ ≤ ε‖w₀‖ + √(ε r), with r exponentially small
  T3   log m ≤ −Δ/ε + a constant that is explicit
  T4   log m + Δ/ε tends to an explicit constant as ε → 0
  T5   on a degenerate face ‖δ‖ goes like ε log(1/ε)/ρ
In full, with proofs: the page Statements of the documentation, and the paper (make -C paper)."""
"""What the tables speak of, for somebody who has not read the paper."""


def _table(title: str, columns: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if index else "left", no_wrap=True)
    return table


def _instances(families: tuple[FamilySummary, ...]) -> Table:
    columns = ("family", "instances", "|F|", "gap Δ", "inside", "degenerate")
    title = "Instances: median (least–largest)"
    table = _table(title, columns)
    for family in families:
        table.add_row(
            family.family,
            str(family.instances),
            _range(family.face_size, "{:.0f}"),
            _range(family.gap, "{:.2g}"),
            f"{family.inside:.0%}",
            f"{family.degenerate:.0%}",
        )
    return table


def _limits(families: tuple[FamilySummary, ...]) -> Table:
    columns = ("family", "leakage rate / Δ", "error of T4's constant", "order", "‖δ‖ / ε‖w₀‖")
    title = "Limits: median ± largest distance from 1; error in nats (largest), ~ ε^order"
    table = _table(title, columns)
    for family in families:
        order = family.decay_order[0]
        table.add_row(
            family.family,
            _near_one(family.rate_over_gap),
            _largest(family.constant_error),
            _number(order, "{:.2f}"),
            _near_one(family.slope_over_tangent),
        )
    return table


def _bounds(families: tuple[FamilySummary, ...]) -> Table:
    columns = ("family", "★", "T1", "T1′ in range", "T2", "T3", "factor 1", "KKT", "cvxpy (of)")
    title = (
        "Bounds: violations/checks (factor 1 is false and ought to be violated); worst KKT\n"
        "residual and distance to cvxpy on a sample, both relative to scale"
    )
    table = _table(title, columns)
    for family in families:
        counts = [(family.violations[key], family.checks[key]) for key in family.violations]
        counts.append((family.factor_one, family.factor_one_checks))
        oracle = f"{_number(family.oracle_distance, '{:.0e}')} ({family.oracle_sample})"
        table.add_row(
            family.family,
            *(f"{count}/{checks}" if checks else "–" for count, checks in counts),
            _number(family.kkt_residual, "{:.0e}"),
            oracle if family.oracle_sample else "–",
        )
    return table


def _heads(layers: tuple[LayerSummary, ...]) -> Table:
    temperature = layers[0].temperature
    columns = (
        "layer", "heads", "leakage there", "its bound", "ε of 1 % leakage", "ε proved safe for 1 %"
    )  # fmt: skip
    title = f"Attention heads at the model's own temperature ε = √d = {temperature:.3g} (medians)"
    table = _table(title, columns)
    for layer in layers:
        table.add_row(
            str(layer.layer),
            str(layer.heads),
            f"{layer.leakage:.3f}",
            f"{layer.bound:.3f}",
            _number(layer.leak_epsilon, "{:.3g}"),
            _number(layer.safe_epsilon, "{:.3g}"),
        )
    return table


def _notes(families: tuple[FamilySummary, ...]) -> list[str]:
    notes: list[str] = []
    vertex = [family for family in families if family.vertices]
    if vertex:
        counts = ", ".join(f"{family.family} {family.vertices}" for family in vertex)
        worst = max(family.vertex_log_displacement for family in vertex)
        notes.append(
            f"‖w₀‖ = 0 has no slope (vertices): {counts}; their ‖δ‖/√scale near Δ/ε = 30 is at "
            f"most e^{worst:.1f}."
        )
    return notes


def _range(values: Spread, form: str) -> str:
    middle, low, high = (form.format(value) for value in values)
    if math.isnan(values[0]):
        return "–"
    return middle if low == high else f"{middle} ({low}–{high})"


def _near_one(values: Spread) -> str:
    middle, low, high = values
    return "–" if math.isnan(middle) else f"{middle:.4f} ±{max(1 - low, high - 1):.0e}"


def _largest(values: Spread) -> str:
    return "–" if math.isnan(values[0]) else f"{values[0]:.0e} (≤ {values[2]:.0e})"


def _number(value: float, form: str) -> str:
    return (
        form.format(value) if math.isfinite(value) else ("–" if math.isnan(value) else str(value))
    )


def _parsed(value: object) -> object:
    if not isinstance(value, str) or not value.startswith(("{", "[")):
        return value
    return json.loads(value)

"""A diagnosis as a page of at most 100 columns."""

import dataclasses
import io
import math
from collections.abc import Iterable

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from vashista_theory._diagnose.number_format import length, mass, nats, number
from vashista_theory._diagnose.record import Findings, Support
from vashista_theory._words import count

WIDTH = 100
_SHOWN_FACE_KEYS = 8
_STYLES = {"inside": "bold green", "unproved": "bold yellow", "outside": "bold red"}


def as_text(found: Findings) -> str:
    """The page without colours."""
    stream = io.StringIO()
    Console(file=stream, width=WIDTH, color_system=None).print(as_renderable(found))
    return "\n".join(line.rstrip() for line in stream.getvalue().rstrip().splitlines())


def as_renderable(found: Findings) -> RenderableType:
    """The page for a `rich` console."""
    return Group(
        _heading(
            f"One query and its {count(found.n, 'key')} in {count(found.d, 'dimension')}",
            f"({found.dtype}, computed in float64)",
        ),
        _projection(found),
        _heading("Exposed face F", _face_note(found)),
        _face(found),
        _heading(
            "At the model's temperature",
            f"ε = 1/s = {number(found.epsilon)}, softmax scale s = {number(found.scale)}",
        ),
        _model(found),
        _heading(
            "Over temperatures",
            ("log m = log off-face mass, nats; " if math.isfinite(found.gap) else "")
            + "▸ is the model's own",
        ),
        _temperatures(found),
        _heading(
            "Is this query in the theorem's regime at the model's temperature?",
            "criterion: 1 % leakage",
        ),
        Padding(
            Text(
                " ".join(s for s in found.regime_verdict if s),
                style=_STYLES.get(found.regime, ""),
            ),
            (0, 0, 0, 2),
        ),
    )


def _heading(title: str, note: str = "") -> Text:
    return Text.assemble((f"\n{title}", "bold"), (f"  {note}" if note else "", "dim"))


def _rows(pairs: Iterable[tuple[str, str]]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs:
        table.add_row(name, value)
    return table


def _projection(found: Findings) -> Table:
    s, unit = found.solution, found.largest_squared_distance
    relative = (lambda x: x / unit) if unit > 0 else (lambda x: x)
    outcome = found.result.replace("_", " ") + (f": {found.advice}" if found.advice else "")
    if s.result not in (found.result, "successful"):
        outcome += f" The projection itself: {s.result.replace('_', ' ')}."
    tangent = (
        "undefined on a degenerate face"
        if math.isnan(found.tangent_norm) and not found.strict
        else f"{number(found.tangent_norm)} (‖p^ε − p*‖/ε as ε → 0)"
    )
    rows = [
        ("result", outcome),
        ("support gap Δ", f"{number(found.gap)}    Δ/max‖k − q‖² = {number(relative(found.gap))}"),
        ("distance ‖r*‖", f"{number(found.residual_norm)}    max‖k − q‖² = {number(unit)}"),
        ("slope ‖w₀‖", tangent),
        (
            "entropy h",
            (
                f"{number(found.entropy)} nats, so exp(h) = {number(math.exp(found.entropy))} "
                f"effective face keys of {len(found.face.index):,}"
            ),
        ),
    ]
    if not math.isnan(found.gap):
        held = "holds" if found.strict else f"fails, ρ = {number(found.degeneracy_distance)} (T5)"
        rows.append(("strict complem.", held))
    rows += [
        (
            "residuals",
            (
                f"primal {s.primal:.1e}, dual {relative(s.dual):.1e}, complementarity "
                f"{relative(s.complementarity):.1e}, stationarity {_root(s.stationarity, unit):.1e}"
            ),
        ),
        (
            "evidence",
            (
                f"duality gap {relative(s.duality_gap):.1e}, identity (★) closes to "
                f"{relative(s.identity_defect):.1e}, relative to max‖k − q‖²"
            ),
        ),
        ("work", f"{count(s.steps, 'step')}, {count(s.passes, 'pass')} over the keys"),
    ]
    return _rows(rows)


def _root(length: float, unit: float) -> float:
    return length / math.sqrt(unit) if unit > 0 else length


def _face_note(found: Findings) -> str:
    members = len(found.face.index)
    if math.isnan(found.gap):
        return "inside the hull every multiplier is zero: no key is singled out"
    if members == found.n:
        return f"all {count(members, 'key')}"
    return f"|F| = {members:,} of {found.n:,} keys ({100 * members / found.n:.3g} %)"


def _face(found: Findings) -> RenderableType:
    face, shown = found.face, min(_SHOWN_FACE_KEYS, len(found.face.index))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    for name in ("key", "α* (max entropy)", "α^ε at the model's ε", "softmax", "rank of score"):
        table.add_column(name, justify="right")
    for row in range(shown):
        table.add_row(
            str(face.index[row]),
            f"{face.optimal_weight[row]:.6f}",
            f"{face.entropic_weight[row]:.6f}",
            f"{face.softmax_weight[row]:.6f}",
            f"{face.score_rank[row]:,}",
        )
    hidden = face.index[shown:]
    if not len(hidden):
        return Padding(table, (0, 0, 0, 2))
    listed = ", ".join(str(i) for i in hidden[:24]) + (", …" if len(hidden) > 24 else "")
    note = Text(f"and {len(hidden):,} more of smaller weight: {listed}", style="dim")
    return Padding(Group(table, note), (0, 0, 0, 2))


def _model(found: Findings) -> Table:
    soft, table = found.softmax, found.temperatures
    row = table.at_model
    top = ", ".join(str(i) for i in soft.top[:6]) + (", …" if len(soft.top) > 6 else "")
    within = (
        "the model's ε is inside"
        if found.epsilon <= found.published_range
        else ("the model's ε is outside")
    )
    rows = [
        (
            "off-face mass",
            (
                f"{mass(found.log_leakage)} true, bound {mass(found.log_leakage_bound)}    "
                f"Δ/ε = {number(found.gap / found.epsilon)}"
            ),
        ),
        (
            "displacement",
            (
                f"{length(table.log_displacement[row])} true, bound "
                f"{length(table.log_displacement_bound[row])}"
            ),
        ),
        (
            "1 % leakage at",
            (
                f"ε = {number(found.one_percent_epsilon)} true, ε = {number(found.safe_epsilon)} "
                "proved (largest_safe_epsilon)"
            ),
        ),
        (
            "published form",
            f"e^(−Δ/2ε) is proved for ε ≤ {number(found.published_range)} (T1′): {within}",
        ),
        ("entropic support", _support(found.entropic_support)),
        ("softmax support", _support(soft.support)),
        (
            "softmax (T6)",
            (
                f"top key {top}; score gap {number(soft.score_gap)} = "
                f"{number(soft.score_gap * found.scale)} nats at s; {mass(soft.log_leakage)} off it"
                if math.isfinite(soft.score_gap)
                else "every score is tied: no gap, equal weights"
            ),
        ),
        (
            "softmax and α^ε",
            (
                f"total variation {soft.distance:.4g}, T6 bound {soft.distance_bound:.4g}; "
                f"softmax mass on F {100 * soft.mass_on_face:.4g} %"
            ),
        ),
    ]
    if not math.isfinite(found.gap):
        del rows[2:4]
        nothing = "undefined" if math.isnan(found.gap) else "0"
        rows[0] = ("off-face mass", f"{nothing}: there is no key off the face")
    return _rows(rows)


def _support(support: Support) -> str:
    return (
        f"{count(support.for_90_percent, 'key')} for 90 %, "
        f"{support.for_99_percent:,} for 99 % of the mass; exp(entropy) = "
        f"{number(support.effective)}"
    )


def _temperatures(found: Findings) -> RenderableType:
    t = found.temperatures
    with_gap = math.isfinite(found.gap)
    leakage = ("log m", "bound T3", "T4") if found.strict else ("log m", "bound T1", "T4")
    moved = "bound T2" if found.strict else "bound T1"
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    columns = ["ε", *(("Δ/ε", *leakage) if with_gap else ()), "‖p^ε − p*‖", moved]
    for name in columns:
        table.add_column(name, justify="right")
    for row, epsilon in enumerate(t.epsilon):
        leaks = (
            number(found.gap / epsilon),
            nats(t.log_leakage[row]),
            nats(t.log_leakage_bound[row]),
            nats(t.log_leakage_asymptote[row]),
        )
        table.add_row(
            ("▸ " if row == t.at_model else "") + number(epsilon),
            *(leaks if with_gap else ()),
            length(t.log_displacement[row]),
            length(t.log_displacement_bound[row]),
            style="bold" if row == t.at_model else "",
        )
    return Padding(table, (0, 0, 0, 2))


@dataclasses.dataclass(frozen=True)
class Diagnosis(Findings):
    """One query and its keys, diagnosed. `print` it for a page; `to_json` for programs.

    Its attributes are those of `Findings`.
    """

    def __str__(self) -> str:
        return as_text(self)

"""What the projection benchmark says, in tables and in words."""

import statistics
from collections.abc import Sequence
from typing import Any

from experiments._outcome import Table
from experiments._peers import Peer

Rows = Sequence[dict[str, Any]]

OURS, FLOOR = "project (jit)", "one pass K u"
DAQP = ("DAQP", "DAQP separating")
CVXPY = ("cvxpy dual", "cvxpy primal")
ACCURACY = 1e-12


def median_of(rows: Rows, solver: str, n: int, d: int, column: str) -> float | None:
    """Median over instances; None where the solver has no figure."""
    found = [row[column] for row in _select(rows, solver, n, d) if row.get(column) is not None]
    return statistics.median(found) if found else None


def worst_of(rows: Rows, solver: str, n: int, d: int, column: str) -> float | None:
    """Maximum over instances; None where the solver has no figure."""
    found = [row[column] for row in _select(rows, solver, n, d) if row.get(column) is not None]
    return max(found) if found else None


def _select(rows: Rows, solver: str, n: int, d: int) -> Rows:
    return [r for r in rows if (r["solver"], r["n"], r["d"]) == (solver, n, d)]


def _shapes(rows: Rows) -> list[tuple[int, int]]:
    return sorted({(row["n"], row["d"]) for row in rows}, key=lambda shape: shape[::-1])


def _solvers(rows: Rows) -> list[str]:
    return list(dict.fromkeys(row["solver"] for row in rows))


def tables(rows: Rows) -> dict[str, Table]:
    """Time and accuracy by solver and shape, and ours against the floor."""
    shapes, solvers = _shapes(rows), _solvers(rows)
    headings = {f"{n:,} × {d}": (n, d) for n, d in shapes}

    def grid(column: str, pick: Any, meaning: str, *, leave_out: tuple[str, ...] = ()) -> Table:
        body = [
            {"solver": solver}
            | {name: pick(rows, solver, *shape, column) for name, shape in headings.items()}
            for solver in solvers
            if solver not in leave_out
        ]
        return Table({"solver": "name"} | dict.fromkeys(headings, meaning), body)

    ours = [
        {
            "n": n,
            "d": d,
            "ours ms": median_of(rows, OURS, n, d, "median_ms"),
            "one pass ms": median_of(rows, FLOOR, n, d, "median_ms"),
            "time / pass": median_of(rows, OURS, n, d, "floors"),
            "passes": median_of(rows, OURS, n, d, "passes"),
            "steps": median_of(rows, OURS, n, d, "steps"),
            "DAQP / ours": ratio(rows, DAQP[:1], n, d),
            "DAQP separating / ours": ratio(rows, DAQP[1:], n, d),
            "cvxpy / ours": ratio(rows, CVXPY, n, d),
        }
        for n, d in shapes
    ]
    columns = {
        "n": "keys",
        "d": "dimensions",
        "ours ms": "median time of the jitted projection, milliseconds",
        "one pass ms": "median time of one K u, milliseconds",
        "time / pass": "ratio of the two",
        "passes": "multiplications by all the keys",
        "steps": "keys that entered the active set",
        "DAQP / ours": "ratio of median times, hull dual form",
        "DAQP separating / ours": "ratio of median times, separating form",
        "cvxpy / ours": "ratio of median times, its faster form",
    }
    point, multiplier = "‖p − p*‖ over √scale, worst", "max |μ − μ*| over scale, worst"
    no_answer = (FLOOR,)
    return {
        "median time, milliseconds": grid("median_ms", median_of, "milliseconds"),
        "error of p*": grid("point_error", worst_of, point, leave_out=no_answer),
        "error of the multipliers": grid(
            "multiplier_error", worst_of, multiplier, leave_out=no_answer
        ),
        "ours against the floor": Table(columns, ours),
        "not measured": Table(
            {"solver": "name", "n": "keys", "d": "dimensions", "why": "reason"}, _left_out(rows)
        ),
    }


def _left_out(rows: Rows) -> list[dict[str, Any]]:
    return [
        {"solver": row["solver"], "n": row["n"], "d": row["d"], "why": row["note"]}
        for row in rows
        if row.get("note") and row.get("median_ms") is None and row["instance"] == 0
    ]


def ratio(rows: Rows, solvers: Sequence[str], n: int, d: int) -> float | None:
    """The fastest of some solvers over ours; None if none of them has a time."""
    theirs = [t for s in solvers if (t := median_of(rows, s, n, d, "median_ms")) is not None]
    ours = median_of(rows, OURS, n, d, "median_ms")
    return min(theirs) / ours if theirs and ours else None


def values(rows: Rows) -> dict[str, float | None]:
    """The single numbers that a text quotes."""
    shapes = _shapes(rows)
    against_daqp = [r for shape in shapes if (r := ratio(rows, DAQP, *shape)) is not None]
    points = [e for s in shapes if (e := worst_of(rows, OURS, *s, "point_error")) is not None]
    multipliers = [
        e for s in shapes if (e := worst_of(rows, OURS, *s, "multiplier_error")) is not None
    ]
    return {
        "least_daqp_ratio": min(against_daqp, default=None),
        "greatest_daqp_ratio": max(against_daqp, default=None),
        "worst_point_error": max(points, default=None),
        "worst_multiplier_error": max(multipliers, default=None),
    }


def findings(rows: Rows, throughput: dict[str, float | int]) -> list[str]:
    """Each aim: met, or missed by how much and bounded by what."""
    return [
        _speed(rows, 0, 1.0, "faster than DAQP's faster form at every size"),
        _speed(rows, 4096, 2.0, "at least twice as fast as DAQP's faster form from n = 4,096 on"),
        _own_accuracy(rows),
        *_peer_accuracy(rows),
        *_cvxpy(rows),
        _many(throughput),
    ]


def _speed(rows: Rows, least: int, wanted: float, aim: str) -> str:
    ratios = {
        shape: r
        for shape in _shapes(rows)
        if shape[0] >= least and (r := ratio(rows, DAQP, *shape)) is not None
    }
    if not ratios:
        return f"Aim: {aim}. Not tested: DAQP has no time at these sizes."
    missed = {shape: r for shape, r in ratios.items() if r < wanted}
    spread = f"ratios {min(ratios.values()):.2f} to {max(ratios.values()):.2f}"
    if not missed:
        return f"Aim: {aim}. Met at all {len(ratios)} shapes ({spread})."
    listed = "; ".join(_bound(rows, shape, r) for shape, r in missed.items())
    return (
        f"Aim: {aim}. Missed at {len(missed)} of {len(ratios)} shapes ({spread}). {listed}. "
        "One pass is bound by reading the keys once; time beyond passes × that is the small dense "
        "algebra of the active set and the cost of starting the program."
    )


def _bound(rows: Rows, shape: tuple[int, int], r: float) -> str:
    n, d = shape
    ours, floor = (median_of(rows, s, n, d, "median_ms") for s in (OURS, FLOOR))
    passes = median_of(rows, OURS, n, d, "passes")
    text = f"({n:,}, {d}): {r:.2f} times"
    if ours is None or floor is None or passes is None:
        return text
    share = min(passes * floor / ours, 1.0)
    return (
        f"{text}, {ours:.3g} ms is {ours / floor:.0f} passes' worth for {passes:.0f} passes, "
        f"which alone would be {share:.0%} of it"
    )


def _own_accuracy(rows: Rows) -> str:
    worst = values(rows)
    point, multiplier = worst["worst_point_error"], worst["worst_multiplier_error"]
    if point is None or multiplier is None:
        return f"Aim: accuracy {ACCURACY:g}. Not tested: no reference could be certified."
    verdict = "Met" if max(point, multiplier) <= ACCURACY else "Missed"
    return (
        f"Aim: p* and multipliers to {ACCURACY:g} of scale. {verdict}: worst {point:.1e} for p* "
        f"(over √scale) and {multiplier:.1e} for the multipliers (over scale)."
    )


def _peer_accuracy(rows: Rows) -> list[str]:
    lines: list[str] = []
    for solver in _solvers(rows):
        shapes = _shapes(rows)
        errors = [
            e for s in shapes if (e := worst_of(rows, solver, *s, "multiplier_error")) is not None
        ]
        if solver.startswith("project") or not errors:
            continue
        lines.append(f"{solver} {min(errors):.0e} to {max(errors):.0e}")
    if not lines:
        return []
    return [
        "Error of the peers' multipliers over scale, best to worst shape: "
        + "; ".join(lines)
        + ". Solvers of the separating form reach rounding too, and have no answer for a query "
        "inside the hull."
    ]


def _cvxpy(rows: Rows) -> list[str]:
    lines: list[str] = []
    for n, d in _shapes(rows):
        if n != 16384:
            continue
        faster, slower = (ratio(rows, (form,), n, d) for form in CVXPY)
        if faster is None or slower is None:
            continue
        verdict = "Met" if faster >= 1000 else "Missed"
        lines.append(
            f"Aim: 1,000 times cvxpy at ({n:,}, {d}). {verdict}: {faster:,.0f} times its faster "
            f"(dual) form, {slower:,.0f} times the form in the weights."
        )
    return lines


def _many(throughput: dict[str, float | int]) -> str:
    rate, best = throughput["project_many_per_second"], throughput["project_many_per_second_best"]
    shape = (throughput["project_many_n"], throughput["project_many_d"])
    text = (
        f"{rate:,.0f} projections a second (best {best:,.0f}) at {shape} in batches of "
        f"{throughput['project_many_batch']} on {throughput['project_many_cores']} cores"
    )
    if shape != (1024, 64):
        return f"project_many: {text}."
    verdict = "Met" if rate > 3000 else f"Missed by {3000 / rate:.2f} times"
    return f"Aim: project_many above 3,000 a second. {verdict}: {text}."


def notes(peers: Sequence[Peer], absent: Sequence[str]) -> list[str]:
    """How the solvers were set, and what was not there."""
    lines = [f"{peer.name}: {peer.settings}." for peer in peers]
    lines += [
        "A peer's arrays are prepared outside its timed call, and no warm start is given.",
        "The least time of one pass by JAX or by NumPy is the floor; float64 throughout.",
        "The reference solves the active face at 40 digits and checks every KKT condition.",
        "It takes only the support from a solver, whichever proposes one that passes.",
        "Multipliers of a peer are computed from its p*: μ_i = ⟨q − p, p − k_i⟩.",
    ]
    return lines + ([f"Not installed: {', '.join(absent)}."] if absent else [])

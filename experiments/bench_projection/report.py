"""What the projection benchmark says, in tables and in words."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.bench_projection.names import FLOOR, OURS, START
from experiments.bench_projection.peers import PEERS, Peer
from experiments.framework.outcome import Measured, Outcome, Rows, Table

DAQP = ("DAQP", "DAQP separating")
CVXPY = ("cvxpy dual", "cvxpy primal")
ACCURACY = 1e-12


_COLUMNS = {
    "n": "keys",
    "d": "dimensions",
    "instance": "number of the instance; its seed is [seed, n, d, instance]",
    "solver": "name",
    "median_ms": "median time, milliseconds",
    "best_ms": "least time, milliseconds",
    "repetitions": "timed calls",
    "floors": "median over the time of one pass over the keys in the same run",
    "point_error": "‖p − p*‖ over √scale",
    "multiplier_error": "max |μ − μ*| over scale",
    "passes": "multiplications by all the keys, where the solver counts them",
    "steps": "keys that entered the active set, where the solver counts them",
    "note": "why there is no time, or no more of it",
}


def report(found: Measured) -> Outcome:
    """Every aim beside what was measured."""
    rows = found.tables["measurements"]
    missing = {row["solver"] for row in rows if str(row.get("note")).endswith("is not installed")}
    absent = [peer.name for peer in PEERS if peer.name in missing]
    described = found.described({"measurements": _COLUMNS}, hidden=["measurements"])
    return Outcome(
        tables={**tables(rows), **described},
        values={**found.values, **values(rows)},
        findings=findings(rows, found.values),
        notes=notes(PEERS, absent),
    )


def median_of(rows: Rows, solver: str, n: int, d: int, column: str) -> float | None:
    """Median over instances; None where the solver has no figure."""
    found = [row[column] for row in _select(rows, solver, n, d) if row.get(column) is not None]
    return statistics.median(found) if found else None


def worst_of(rows: Rows, solver: str, n: int, d: int, column: str) -> float | None:
    """Maximum over instances; None where the solver has no figure."""
    found = [row[column] for row in _select(rows, solver, n, d) if row.get(column) is not None]
    return max(found) if found else None


def worst_anywhere(rows: Rows, solver: str, column: str) -> float | None:
    """Maximum over all shapes and instances."""
    return max(
        (e for s in _shapes(rows) if (e := worst_of(rows, solver, *s, column))), default=None
    )


def _select(rows: Rows, solver: str, n: int, d: int) -> Rows:
    return [r for r in rows if (r["solver"], r["n"], r["d"]) == (solver, n, d)]


def _shapes(rows: Rows) -> list[tuple[int, int]]:
    return sorted({(row["n"], row["d"]) for row in rows}, key=lambda shape: shape[::-1])


def _solvers(rows: Rows) -> list[str]:
    return list(dict.fromkeys(row["solver"] for row in rows))


def tables(rows: Rows) -> dict[str, Table]:
    """Time by solver and shape, accuracy by solver, and where our time goes."""
    shapes = _shapes(rows)
    shown: dict[str, Table] = {}
    for d in sorted({d for _, d in shapes}):
        sizes = [n for n, width in shapes if width == d]
        body = [
            {"solver": s} | {f"n = {n:,}": median_of(rows, s, n, d, "median_ms") for n in sizes}
            for s in _solvers(rows)
        ]
        columns = {"solver": "name"} | {f"n = {n:,}": "milliseconds, median" for n in sizes}
        shown[f"time in milliseconds, d = {d}"] = Table(columns, body)
    shown["accuracy"] = _accuracy_table(rows)
    shown["where our time goes"] = _parts_table(rows)
    left_out = [
        {"solver": row["solver"], "n": row["n"], "d": row["d"], "why": row["note"]}
        for row in rows
        if row.get("note") and row.get("median_ms") is None and row["instance"] == 0
    ]
    if left_out:
        columns = {"solver": "name", "n": "keys", "d": "dimensions", "why": "reason"}
        shown["not measured"] = Table(columns, left_out)
    return shown


def _accuracy_table(rows: Rows) -> Table:
    columns = {
        "solver": "name",
        "error of p*": "‖p − p*‖ over √scale, worst of all shapes",
        "error of μ": "max |μ − μ*| over scale, worst of all shapes",
    }
    body = [
        {
            "solver": solver,
            "error of p*": worst_anywhere(rows, solver, "point_error"),
            "error of μ": worst_anywhere(rows, solver, "multiplier_error"),
        }
        for solver in _solvers(rows)
        if solver not in {FLOOR, START}
    ]
    return Table(columns, body)


def _parts_table(rows: Rows) -> Table:
    columns = {
        "n": "keys",
        "d": "dimensions",
        "ours": "median time of the jitted projection, milliseconds",
        "pass": "median time of one K u, milliseconds",
        "ours/pass": "ratio of the two",
        "passes": "multiplications by all the keys",
        "steps": "keys that entered the active set",
        "in passes": "passes × pass over ours",
        "fixed": "time at 8 keys (dispatch, final corrections) over ours",
        "DAQP": "its median time over ours, hull dual form",
        "separating": "DAQP's median time over ours, separating form",
        "cvxpy": "its median time over ours, faster form",
    }
    body: list[dict[str, Any]] = []
    for n, d in _shapes(rows):
        parts = shares(rows, n, d)
        body.append(
            {
                "n": n,
                "d": d,
                "ours": median_of(rows, OURS, n, d, "median_ms"),
                "pass": median_of(rows, FLOOR, n, d, "median_ms"),
                "ours/pass": median_of(rows, OURS, n, d, "floors"),
                "passes": median_of(rows, OURS, n, d, "passes"),
                "steps": median_of(rows, OURS, n, d, "steps"),
                "in passes": parts and parts[0],
                "fixed": parts and parts[1],
                "DAQP": ratio(rows, DAQP[:1], n, d),
                "separating": ratio(rows, DAQP[1:], n, d),
                "cvxpy": ratio(rows, CVXPY, n, d),
            }
        )
    return Table(columns, body)


def shares(rows: Rows, n: int, d: int) -> tuple[float, float] | None:
    """Parts of our time that the passes at the floor's speed, and its fixed cost, explain."""
    ours, floor, start = (median_of(rows, s, n, d, "median_ms") for s in (OURS, FLOOR, START))
    passes = median_of(rows, OURS, n, d, "passes")
    if ours is None or floor is None or start is None or passes is None:
        return None
    return passes * floor / ours, start / ours


def ratio(rows: Rows, solvers: Sequence[str], n: int, d: int) -> float | None:
    """The fastest of some solvers over ours; None if none of them has a time."""
    theirs = [t for s in solvers if (t := median_of(rows, s, n, d, "median_ms")) is not None]
    ours = median_of(rows, OURS, n, d, "median_ms")
    return min(theirs) / ours if theirs and ours else None


def values(rows: Rows) -> dict[str, float | None]:
    """The single numbers that a text quotes."""
    shapes = _shapes(rows)
    against_daqp = [r for shape in shapes if (r := ratio(rows, DAQP, *shape)) is not None]
    return {
        "least_daqp_ratio": min(against_daqp, default=None),
        "greatest_daqp_ratio": max(against_daqp, default=None),
        "worst_point_error": worst_anywhere(rows, OURS, "point_error"),
        "worst_multiplier_error": worst_anywhere(rows, OURS, "multiplier_error"),
    }


def findings(rows: Rows, throughput: Mapping[str, Any]) -> list[str]:
    """Each aim: met, or missed by how much and bounded by what."""
    forms = {
        DAQP[:1]: "DAQP in the hull dual form, which also answers inside the hull",
        DAQP[1:]: "DAQP in the separating form, outside the hull only",
    }
    aims = (
        (0, 1.0, "faster at every size than"),
        (4096, 2.0, "twice as fast from n = 4,096 on as"),
    )
    return [
        *(
            _speed(rows, form, least, wanted, f"{aim} {named}")
            for form, named in forms.items()
            for least, wanted, aim in aims
        ),
        _own_accuracy(rows),
        *_peer_accuracy(rows),
        *_cvxpy(rows),
        _many(throughput),
    ]


def _speed(rows: Rows, solvers: Sequence[str], least: int, wanted: float, aim: str) -> str:
    ratios = {
        shape: r
        for shape in _shapes(rows)
        if shape[0] >= least and (r := ratio(rows, solvers, *shape)) is not None
    }
    if not ratios:
        return f"Aim: {aim}. Not tested: it has no time at these sizes."
    missed = {shape: r for shape, r in ratios.items() if r < wanted}
    spread = f"its time is {min(ratios.values()):.2f} to {max(ratios.values()):.2f} times ours"
    if not missed:
        return f"Aim: {aim}. Met at all {len(ratios)} shapes: {spread}."
    listed = "; ".join(_bound(rows, shape, r) for shape, r in missed.items())
    return f"Aim: {aim}. Missed at {len(missed)} of {len(ratios)} shapes: {spread}. {listed}."


def _bound(rows: Rows, shape: tuple[int, int], r: float) -> str:
    n, d = shape
    text = f"({n:,}, {d}): {r:.2f} times"
    parts = shares(rows, n, d)
    if parts is None:
        return text
    in_passes, fixed = (min(part, 1.0) for part in parts)
    rest = max(0.0, 1 - in_passes - fixed)
    names = {
        "the passes over the keys": in_passes,
        "its fixed cost": fixed,
        "the active set's own algebra and scattered reads": rest,
    }
    bound = max(names, key=lambda name: names[name])
    return (
        f"{text}, bound by {bound} ({in_passes:.0%} in {median_of(rows, OURS, n, d, 'passes'):.0f} "
        f"passes at the floor's speed, {fixed:.0%} fixed, {rest:.0%} the rest)"
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
    """What the aim says of DAQP's accuracy is true of one way to state the problem only."""
    general, separating = (worst_anywhere(rows, form, "multiplier_error") for form in DAQP)
    if general is None or separating is None:
        return []
    return [
        (
            f"DAQP's multipliers are off by {general:.0e} of scale in the hull dual form, the "
            f"price of the square put on s, and by {separating:.0e} in the separating form, which "
            "needs none: stated that way it reaches rounding as well."
        )
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


def _many(throughput: Mapping[str, Any]) -> str:
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

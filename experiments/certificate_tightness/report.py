"""What `certificate_tightness` says of its tables: single values, aims met and missed."""

from collections.abc import Iterable, Mapping
from typing import Any

from experiments.certificate_tightness.alarms import PREDICTORS
from experiments.certificate_tightness.rows import BEST, EARLIER_PAGES
from experiments.certificate_tightness.words import (
    ALARM_COLUMNS,
    AREA_COLUMNS,
    COLUMNS,
    CURVE_COLUMNS,
    PROOF_COLUMNS,
    RANKING_COLUMNS,
    notes,
)
from experiments.framework.outcome import Measured, Outcome, Rows, Table

PAGES_AIM, MASS_AIM = 0.10, 0.01
AIMED = ("4 bits", "6 bits", "8 bits")
_AREA = "area under the ROC curve, "
_HELD = ("certified_answers", "missed_alarms", "bounds_checked", "bounds_violated")
_GEOMETRIC = ("box", "ball", "box + mean")

Part = tuple[dict[str, Any], list[str]]


def report(found: Measured) -> Outcome:
    """What proofs cost, what they miss, and who ranks pages well."""
    pages, groups, alarms, routers, study = (
        found.tables[name]
        for name in ("pages read", "pages read by a group", "alarms", "routers", "grids")
    )
    areas = {
        name.removeprefix(_AREA): rows
        for name, rows in found.tables.items()
        if name.startswith(_AREA)
    }
    earlier = any(row.get("earlier") for row in pages)
    parts = (
        _of_pages(pages),
        _of_errors(study, earlier=earlier),
        _of_groups(groups, found.values),
        _of_proofs(alarms, found.values),
        _of_areas(areas),
        _of_routers(routers),
        _of_grids(study),
    )
    plain = {
        "pages read": COLUMNS["pages"],
        "pages read by a group": COLUMNS["groups"],
        "alarms": ALARM_COLUMNS,
        **{f"{_AREA}{what}": AREA_COLUMNS for what in areas},
        "ROC curves": CURVE_COLUMNS,
    }
    ranking = [row for row in study if row["bits"] <= 4]
    proofs = [row for row in study if row["bits"] >= 2]
    return Outcome(
        tables={
            **found.described(plain, hidden=["ROC curves"]),
            "routers": _table(routers, COLUMNS["routers"]),
            "grids, ranking (numpy study)": _table(ranking, RANKING_COLUMNS),
            "grids, proofs (numpy study)": _table(proofs, PROOF_COLUMNS),
        },
        values={name: value for part in parts for name, value in part[0].items()},
        findings=[sentence for part in parts for sentence in part[1]],
        notes=notes(found.values, earlier=earlier),
    )


def slug(*words: object) -> str:
    """A name for a value."""
    text = "_".join(f"{word:g}" if isinstance(word, float) else str(word) for word in words)
    return text.replace(" + ", "_").replace(", ", "_").replace(" ", "_")


def _percent(tolerance: float) -> str:
    return f"{100 * tolerance:g}"


def _verdict(met: bool) -> str:
    return "met" if met else "missed"


def _of_pages(pages: Rows) -> Part:
    values: dict[str, Any] = {}
    for row in pages:
        name = slug(row["judged_by"], _percent(row["tolerance"]))
        values[f"pages_{name}"] = row["median"]
        values[f"pages_mean_{name}"] = row["mean"]
        values[f"pages_mean_all_{name}"] = row["mean_all"]
        if "ratio" in row:
            values[f"pages_ratio_{name}"] = row["ratio"]
    said = []
    aimed = [row for row in pages if row["judged_by"] in AIMED and "ratio" in row]
    if aimed:
        worst = max((row["ratio"] for row in aimed), key=lambda ratio: abs(ratio - 1))
        values["pages_ratio_farthest"] = worst
        listed = "; ".join(
            f"{row['judged_by']} at {_percent(row['tolerance'])} % {row['median']:g} for "
            f"{row['earlier']} ({row['ratio']:.3f})"
            for row in aimed
        )
        said.append(
            f"Pages that certified reads, for the earlier ones: {listed} (aim within "
            f"{PAGES_AIM:.0%}: {_verdict(abs(worst - 1) <= PAGES_AIM)})."
        )
    moved = [
        f"{row['judged_by']} at {_percent(row['tolerance'])} % from {row['free']:g} to "
        f"{row['median']:g}"
        for row in pages
        if row.get("free", row["median"]) != row["median"]
    ]
    said.append(
        "That the first page and the last are always read changes "
        + ("these medians: " + ", ".join(moved) if moved else "no median")
        + "."
    )
    vacuous = [row["mean_all"] for row in pages if row["judged_by"] in _GEOMETRIC]
    if vacuous:
        said.append(
            f"Boxes and balls prove next to nothing: {min(vacuous):.2f} pages and more are read on "
            "average."
        )
    return values, said


def _of_errors(study: Rows, *, earlier: bool) -> Part:
    """One error a page against one a key, and whether the study finds the earlier numbers."""
    own = [row for row in study if row["grid"] == "page" and row["bits"] > 1]
    tolerances = [float(c.removeprefix("token_")) / 100 for c in own[0] if c.startswith("token_")]
    values: dict[str, Any] = {}
    cost, same = [], []
    for tolerance in tolerances:
        percent = _percent(tolerance)
        for row in own:
            for part in ("token", "mean", "page", "mean_page"):
                values[slug("study", part, row["bits"], "bits", percent)] = row[f"{part}_{percent}"]
            cost.append(row[f"mean_page_{percent}"] / row[f"mean_{percent}"] - 1)
            before = EARLIER_PAGES.get(tolerance, {}).get(f"{row['bits']} bits")
            same.append(before == row[f"token_{percent}"])
    values["one_error_cost_most"] = max(cost)
    said = [
        (
            "One error a page in place of the library's one a key would save 30 bytes a page and "
            f"add up to {max(cost):.1%} to the pages read on average (numpy study)."
        )
    ]
    if earlier:
        said.append(
            f"With an error for each key the study finds the earlier medians in {sum(same)} of "
            f"{len(same)} cases (2, 3, 4, 6 and 8 bits)."
        )
    return values, said


def _of_groups(groups: Rows, of: Mapping[str, Any]) -> Part:
    values: dict[str, Any] = {}
    for row in groups:
        name = slug(row["judged_by"], _percent(row["tolerance"]))
        values[f"pages_group_{name}"] = row["median"]
        values[f"pages_group_mean_all_{name}"] = row["mean_all"]
        values[f"pages_group_over_one_{name}"] = row["over_one"]
    size = of["group"]
    listed = "; ".join(
        f"{row['judged_by']}, {_percent(row['tolerance'])} %: {row['mean_all']:.1f}, "
        f"{row['over_one']:.2f} times one head alone"
        for row in groups
        if row["judged_by"] in (BEST, "4 bits")
    )
    said = [
        (
            f"The {size} heads of a group choose and read together, once for all {size}. Mean "
            f"pages over all positions: {listed}."
        )
    ]
    if "float32_compared" in of:
        values |= {name: of[name] for name in of if name.startswith("float32_")}
        said.append(
            f"In float32 the number of pages read differs in {of['float32_differs']} of "
            f"{of['float32_compared']} cases, by {of['float32_differs_most']} at most (4 bits)."
        )
    return values, said


def _of_proofs(alarms: Rows, of: Mapping[str, Any]) -> Part:
    values: dict[str, Any] = {name: of[name] for name in _HELD}
    said = [
        (
            f"Missed alarms: {values['missed_alarms']} of {values['certified_answers']:,} "
            "certified answers dropped more than the tolerance (aim 0: "
            f"{_verdict(values['missed_alarms'] == 0)}). Bounds violated (dropped mass from above "
            f"and below, output error): {values['bounds_violated']} of "
            f"{values['bounds_checked']:,}."
        )
    ]
    for row in alarms:
        name = slug(row["judged_by"], row["pages"], _percent(row["tolerance"]))
        for column in ("safe", "false_alarms", "fell_back"):
            if row.get(column) is not None:
                values[f"{column}_{name}"] = row[column]
    for pages, tolerance in dict.fromkeys((row["pages"], row["tolerance"]) for row in alarms):
        some = [row for row in alarms if (row["pages"], row["tolerance"]) == (pages, tolerance)]
        listed = ", ".join(
            f"{row['judged_by']} {row['false_alarms']:.0%} and {row['fell_back']:.0%} "
            f"({row['safe']:.0%} are safe)"
            for row in some
            if row.get("false_alarms") is not None and row["judged_by"] in AIMED
        )
        if listed:
            said.append(
                f"{pages} pages, {_percent(tolerance)} %: share of the safe answers that are "
                f"refused (false alarms), and of all that fall back: {listed}."
            )
    geometric = [row.get("false_alarms") for row in alarms if row["judged_by"] in _GEOMETRIC]
    refused = [share for share in geometric if share is not None]
    if refused:
        said.append(f"Of the safe answers boxes and balls refuse at least {min(refused):.2%}.")
    return values, said


def _of_areas(areas: dict[str, Rows]) -> Part:
    values: dict[str, Any] = {}
    said = []
    for what, rows in areas.items():
        for label, names in (("sketches of 4 to 8 bits", AIMED), ("boxes and balls", _GEOMETRIC)):
            parts = []
            for predictor in PREDICTORS:
                found = [
                    row[predictor]
                    for row in rows
                    if row["judged_by"] in names and row.get(predictor) is not None
                ]
                if found:
                    name = slug(predictor, what, label)
                    values |= {f"area_least_{name}": min(found), f"area_most_{name}": max(found)}
                    wrong = ", worse than a coin" if max(found) < 0.5 else ""
                    parts.append(f"{predictor} {min(found):.3f} to {max(found):.3f}{wrong}")
            if parts:
                said.append(
                    f"Area under the ROC curve for {what} above the tolerance, {label}, over "
                    f"budgets and tolerances: {'; '.join(parts)}."
                )
    return values, said


def _of_routers(routers: Rows) -> Part:
    values: dict[str, Any] = {}
    for row in routers:
        for column, cell in row.items():
            if column.startswith(("kept", "tenth", "loss", "bytes")) and cell is not None:
                values[slug("router", column, row["router"])] = cell
    by_name = {row["router"]: row for row in routers}
    said = []
    box = by_name.get("box", {}).get("bytes")
    for name, row in by_name.items():
        if name.startswith(("1 bit", "2 bits")) and box:
            ratio = row["bytes"] / box
            mass = (
                f"at most {row['loss']:.4f} less mass than the best possible (aim {MASS_AIM}: "
                f"{_verdict(row['loss'] <= MASS_AIM)})"
                if name.startswith("2")
                else f"at most {row['loss']:.3f} less mass than the best possible"
            )
            share = 1.0 if name.startswith("2") else 0.5
            said.append(
                f"Router {name}: {mass}, at {row['bytes']:g} bytes a page, {ratio:.2f} times what "
                f"a box router reads (aim about {share:g})."
            )
    others = [name for name in ("mean", "box", "ball") if name in by_name]
    if others:
        listed = ", ".join(f"{name} {by_name[name]['loss']:.3f}" for name in others)
        said.append(f"The most that other routers lose: {listed} (mean: the published routing).")
    farthest = max(
        (
            (abs(row[f"kept_{n}"] - row[f"was_{n}"]), row, n)
            for row in routers
            for n in (4, 8, 16)
            if row.get(f"was_{n}") is not None
        ),
        key=lambda found: found[0],
        default=None,
    )
    if farthest:
        away, row, n = farthest
        values["kept_farthest_from_earlier"] = away
        said.append(
            f"Mass kept is the earlier one within {away:.4f}; farthest is {row['router']} at {n} "
            f"pages, {row[f'kept_{n}']:.3f} for {row[f'was_{n}']:.3f}"
            + (
                f" ({exact[f'kept_{n}']:.3f} with corners in float64)."
                if row["router"] == "box" and (exact := by_name.get("box, float64"))
                else "."
            )
        )
    return values, said


def _of_grids(study: Rows) -> Part:
    values: dict[str, Any] = {}
    by_key = {(row["grid"], row["bits"]): row for row in study}
    proofs = [c.removeprefix("traffic_") for c in study[0] if c.startswith("traffic_")]
    for (grid, bits), row in by_key.items():
        values[slug("grid_bytes", grid, bits)] = row["bytes"]
        if bits <= 2:
            values[slug("grid_loss", grid, bits)] = row["loss"]
        for percent in proofs if bits >= 4 else ():
            values[slug("grid_pages", grid, bits, percent)] = row[f"token_{percent}"]
            values[slug("grid_traffic", grid, bits, percent)] = row[f"traffic_{percent}"]
    said = []
    grids = tuple(dict.fromkeys(grid for grid, _ in by_key))
    for bits in (1, 2):
        listed = [
            f"{grid} {row['bytes']:.4g} and {row['loss']:.3f}"
            + (f" ({_verdict(row['loss'] <= MASS_AIM)})" if bits == 2 else "")
            for grid in grids
            if (row := by_key.get((grid, bits))) is not None
        ]
        if listed:
            aim = f" (aim {MASS_AIM})" if bits == 2 else ""
            said.append(
                f"Study, {bits}-bit sketches by grid, bytes a page (errors of keys not counted) "
                f"and most mass lost in ranking{aim}: {'; '.join(listed)}."
            )
    for bits in (4, 6, 8):
        listed = [
            f"{grid} {by_key[grid, bits]['bytes']:.4g} bytes, {_pages(by_key[grid, bits], proofs)}"
            for grid in grids
            if (grid, bits) in by_key
        ]
        if listed:
            said.append(
                f"Study, {bits}-bit sketches, pages to prove {' and '.join(proofs)} %: "
                f"{'; '.join(listed)}."
            )
    within = [row for row in study if row["loss"] <= MASS_AIM]
    if within:
        least = min(within, key=lambda row: row["bytes"])
        values["grid_least_bytes_to_rank"] = least["bytes"]
        said.append(
            f"Study, fewest bytes that rank within {MASS_AIM} of the best possible: "
            f"{least['bytes']:.4g} ({least['grid']}, {least['bits']} bits, loss "
            f"{least['loss']:.4f})."
        )
    for percent in proofs:
        column = f"traffic_{percent}"
        first = min(study, key=lambda row: row[column])
        own = min((row for row in study if row["grid"] == "page"), key=lambda row: row[column])
        values[slug("least_traffic", percent)] = first[column]
        values[slug("least_traffic_page", percent)] = own[column]
        said.append(
            f"Study, fewest bytes in all to prove {percent} %: {first[column]:.3f} of dense "
            f"({first['grid']}, {first['bits']} bits); on the library's grid {own[column]:.3f} "
            f"({own['bits']} bits)."
        )
    return values, said


def _pages(row: dict[str, Any], proofs: Iterable[str]) -> str:
    return " and ".join(f"{row[f'token_{percent}']:g}" for percent in proofs)


def _table(rows: Rows, described: dict[str, str]) -> Table:
    """The described columns of the rows; those that end in a number share one description."""
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {
        name: described[kind] for name in names if (kind := name.rstrip("0123456789.")) in described
    }
    return Table(columns, [{name: row.get(name) for name in columns} for row in rows])

"""What `published_algorithm` says: columns, arithmetic of the cost, values and sentences."""

from typing import Any

import numpy as np

from experiments.framework.outcome import Measured, Outcome, Table, sentences
from experiments.published_algorithm.algorithm import CANDIDATES, PAGES, SHARPNESS, STEP_SIZE, STEPS
from experiments.shared.page_masses import PAGE
from experiments.shared.published_times import PUBLISHED, PUBLISHED_SOURCE

# The geometry of the recorded times, a sequence and a kv head: head size, bytes a number, page.
_D, _WIDTH, _PAGE = 128, 2, 16
_LENGTHS = (8192, 16384, 32768, 65536, 131072, 524288)
_SUPERPAGE, _OPENED = 16, 32  # pages a superpage, superpages whose children are scored
_ROUNDING = 1e-12  # six steps on logits up to a few hundred, each rounded in float64

_ERRORS = {
    "median": "relative error of the output, median",
    "mean": "mean",
    "p90": "90th percentile",
}
COLUMNS = {
    "solver": {
        "computed_in": "type of the numbers",
        "queries": "number",
        "deviation": "largest difference of a weight from softmax(1.2⟨q, k⟩)",
        "variation": "largest total variation between the two",
    },
    "solver and hull": {
        "layer": "number; medians over its heads",
        "variation": "total variation between the solver's weights and the entropic projection",
        "top_published": "largest weight, published",
        "top_entropic": "largest weight, entropic projection at the same temperature",
        "top_dense": "largest weight, the model's own attention",
        "face": "|F| of the projection on the candidates",
        "moved": "distance of the published point from p*",
        "moved_entropic": "distance of the entropic point from p*",
    },
    "errors": {
        "cause": "what differs from dense attention",
        "pages": "that are read; empty for all",
        "kept": "mean dense mass of the tokens used",
        **_ERRORS,
    },
    "routing": {
        "judged_by": "what pages are ranked by",
        "pages": "that are read, of 64",
        "kept": "mean mass",
        "kept_tenth": "the worst tenth",
        **_ERRORS,
    },
    "cost": {
        "tokens": "length of the context",
        "step": "dense, or how pages are found",
        "scored": "vectors that the query is multiplied by before pages are read",
        "routing_mb": "bytes of those, 10⁶",
        "read_mb": "bytes of keys and values read, 10⁶",
        "times_fewer": "bytes of dense attention over all of these",
    },
    "recorded times": {
        "tokens": "length of the context",
        "dense_ms": "recorded, dense, milliseconds",
        "sparse_ms": "recorded, published algorithm, milliseconds",
        "times_dense": "dense over sparse: below 1 is a slow-down",
    },
}


def cost() -> list[dict[str, Any]]:
    """Bytes of a step at the published geometry, by arithmetic; a sequence and a kv head."""
    rows = []
    key = _D * _WIDTH
    pages_read = 2 * PAGES * _PAGE * key
    for tokens in _LENGTHS:
        pages = tokens // _PAGE
        supers = -(-pages // _SUPERPAGE)
        boxes = min(supers, _OPENED) * _SUPERPAGE + supers
        ways = {
            "dense": (tokens, 0, 2 * tokens * key),
            "published: means of all pages": (
                pages,
                pages * key,
                PAGES * _PAGE * key + CANDIDATES * key,
            ),
            "boxes of all pages": (pages, 2 * pages * key, pages_read),
            "boxes on two levels": (boxes, 2 * boxes * key, pages_read),
            "4-bit keys": (tokens, tokens * _D // 2, pages_read),
        }
        dense = 2 * tokens * key
        rows += [
            {
                "tokens": tokens,
                "step": step,
                "scored": scored,
                "routing_mb": routing / 1e6,
                "read_mb": read / 1e6,
                "times_fewer": dense / (routing + read),
            }
            for step, (scored, routing, read) in ways.items()
        ]
    return rows


def report(found: Measured) -> Outcome:
    """Single values, sentences, and what must not be."""
    solver, hull, errors, routing = (
        [dict(row) for row in found.tables[name]]
        for name in ("solver", "solver and hull", "errors", "routing")
    )
    costs = cost()
    recorded = [
        {"tokens": t, "dense_ms": d, "sparse_ms": s, "times_dense": d / s}
        for t, (d, s) in PUBLISHED.items()
    ]
    values: dict[str, Any] = {
        "sharpness": SHARPNESS,
        "times_colder": SHARPNESS / found.values["scale"],
    }
    said, failures = _of_solver(solver, hull, values)
    said += [*_of_routing(routing, errors, values), _of_errors(errors, values)]
    said += [_of_cost(costs, values), _of_times(recorded, values)]
    of = found.values
    return Outcome(
        tables={
            **found.described({name: COLUMNS[name] for name in found.tables}),
            "cost": Table(COLUMNS["cost"], costs),
            "recorded times": Table(COLUMNS["recorded times"], recorded),
        },
        values=values,
        findings=said,
        notes=sentences(
            f"""- {of["layers"]} layers, {of["heads"]} heads, {of["positions"]} positions of up to
              {of["longest"]:,} tokens, pages of {PAGE}; float64. Every query head reads for itself.
              The table of the hull is about the last position.
            - The algorithm: the best P pages by ⟨q, page mean⟩, of their tokens the K_c =
              {CANDIDATES} of largest ⟨q, k⟩, then {STEPS} steps of {STEP_SIZE} on the raw scores,
              which are not divided by √d. No page is always read. Its default P = {PAGES} is all
              pages of these heads.
            - Routers other than the published step are the library's, with softmax at the model's
              scale over the pages read; its last page is always among them.
            - Recorded times: {PUBLISHED_SOURCE}. Nothing was measured on a GPU here.
            """
        ),
        failures=failures,
    )


def _of_solver(
    solver: list[dict[str, Any]], hull: list[dict[str, Any]], values: dict[str, Any]
) -> tuple[list[str], list[str]]:
    by_type = {row["computed_in"]: row for row in solver}
    for name, row in by_type.items():
        values |= {f"solver_deviation_{name}": row["deviation"], "solver_queries": row["queries"]}
    worst = by_type["float64"]["deviation"]
    for name in ("variation", "top_published", "top_entropic", "top_dense", "face"):
        values[f"hull_{name}"] = float(np.median([row[name] for row in hull]))
    nearer = float(np.median([row["moved"] / row["moved_entropic"] for row in hull]))
    values["hull_times_farther"] = nearer
    said = sentences(
        f"""- The solver's {STEPS} steps give softmax({SHARPNESS:.1f}⟨q, k⟩): over
          {values["solver_queries"]} queries no weight differs by more than {worst:.1e} in float64
          and {by_type["float32"]["deviation"]:.1e} in float32. It minimises a linear function, so
          it is no projection; no gap, multiplier or residual is computed.
        - Raw scores are not divided by √d, so its temperature is {values["times_colder"]:.1f} times
          colder than the model's: the largest weight is {values["hull_top_published"]:.2f} against
          {values["hull_top_dense"]:.2f} dense (median layer). From the entropic projection at its
          temperature it differs by {values["hull_variation"]:.2f} in total variation, and its point
          lies {nearer:.1f} times as far from p*.
        """
    )
    failures = []
    if worst > _ROUNDING:
        failures.append(f"the solver's weights differ from softmax(1.2⟨q, k⟩) by {worst:.1e}")
    return said, failures


def _of_routing(
    routing: list[dict[str, Any]], errors: list[dict[str, Any]], values: dict[str, Any]
) -> list[str]:
    said = []
    for pages in dict.fromkeys(row["pages"] for row in routing):
        kept = {row["judged_by"]: row["kept"] for row in routing if row["pages"] == pages}
        kept["as published"] = next(
            row["kept"] for row in errors if (row["cause"], row["pages"]) == ("as published", pages)
        )
        values |= {f"kept_{name.replace(' ', '_')}_{pages}": mass for name, mass in kept.items()}
        for row in routing:
            if row["pages"] == pages and row["judged_by"] != "best possible":
                name = row["judged_by"].replace(" ", "_")
                values[f"error_{name}_{pages}"] = row["median"]
        listed = ", ".join(f"{name} {mass:.3f}" for name, mass in kept.items())
        said.append(f"Mean mass kept by {pages} of 64 pages: {listed}.")
    return said


def _of_errors(errors: list[dict[str, Any]], values: dict[str, Any]) -> str:
    parts = []
    for row in errors:
        name = row["cause"].replace(" ", "_").replace(".", "_")
        where = "" if row["pages"] is None else f"_{row['pages']}"
        values |= {f"error_{name}{where}": row["median"], f"error_{name}{where}_p90": row["p90"]}
        at = "" if row["pages"] is None else f", {row['pages']} pages"
        parts.append(f"{row['cause']}{at}: {row['median']:.2f}")
    return f"Relative error of the output, median, by cause: {'; '.join(parts)}."


def _of_cost(costs: list[dict[str, Any]], values: dict[str, Any]) -> str:
    def at(step: str, tokens: int) -> dict[str, Any]:
        return next(row for row in costs if (row["step"], row["tokens"]) == (step, tokens))

    short, long = 8192, 131072
    parts = []
    for step, name in (
        ("published: means of all pages", "published"),
        ("boxes on two levels", "two_levels"),
    ):
        growth = at(step, long)["scored"] / at(step, short)["scored"]
        values |= {
            f"scored_{name}_{long}": at(step, long)["scored"],
            f"scored_growth_{name}": growth,
            f"routing_share_{name}": at(step, long)["routing_mb"]
            / (at(step, long)["routing_mb"] + at(step, long)["read_mb"]),
        }
        parts.append(
            f"{step}, {at(step, short)['scored']:,} vectors at {short:,} and "
            f"{at(step, long)['scored']:,} at {long:,} ({growth:.2g} times as many, "
            f"{values[f'routing_share_{name}']:.0%} of the bytes there)"
        )
    return (
        f"Finding pages, for {long // short} times the context: {'; '.join(parts)}. Published "
        "routing is linear in the context; so are two levels, with a slope 16 times smaller."
    )


def _of_times(recorded: list[dict[str, Any]], values: dict[str, Any]) -> str:
    ratios = [row["times_dense"] for row in recorded]
    tokens = [row["tokens"] for row in recorded]
    lines = {
        name: np.polyfit(tokens, [row[f"{name}_ms"] for row in recorded], 1)
        for name in ("dense", "sparse")
    }
    slopes = lines["dense"] - lines["sparse"]
    values |= {
        "recorded_least": min(ratios),
        "recorded_most": max(ratios),
        "recorded_constant_ms": float(lines["sparse"][1]),
        "recorded_meet_tokens": float(-slopes[1] / slopes[0]),
    }
    verdict = "never faster" if max(ratios) < 1 else "faster somewhere"
    return (
        f"Its own recorded times are {min(ratios):.3f} to {max(ratios):.3f} times as fast as dense "
        f"from {min(tokens):,} to {max(tokens):,} tokens: {verdict}. Straight lines through them "
        f"give a constant of {values['recorded_constant_ms']:.1f} ms and meet at about "
        f"{values['recorded_meet_tokens']:,.0f} tokens (an extrapolation)."
    )

"""What `certificate_vacuity` says of its numbers."""

from collections.abc import Iterable
from typing import Any

from experiments.framework.outcome import Measured, Outcome, Rows, Table, sentences
from experiments.shared.page_masses import PAGE

_BEST = "best possible"

_SHORT = {
    "i.i.d., query × 1.5": "iid",
    "i.i.d., query × 4": "iid4",
    "clusters of spread 0.3": "wide",
    "clusters of spread 0.1": "tight",
    "real heads": "heads",
}


_PAGES = {
    "source": "of keys and queries",
    "tokens": "T",
    "certificate": "what bounds the unread pages; best possible: the masses themselves",
    "share": "of the pages that must be read to prove 5 %, median over queries",
    "low": "the same, 10th percentile",
    "high": "the same, 90th percentile",
    "vacuous": "share of the queries that need every page",
    "slack": "log of the bound on a page's mass over the mass, median page, nats",
}
_VACUITY = {
    "source": "of keys and queries",
    "certificate": "what bounds",
    "vacuous_from": "least T from which the median query needs every page; empty if none",
    "share_shortest": "median share of the pages at the shortest T",
    "share_longest": "the same at the longest",
    "best_longest": "the same if the masses were known, at the longest",
}
_HULLS = {
    "width": "of the normal queries",
    "tokens": "T",
    "face": "|F|, median",
    "gap_ratio": "Δ/ε at ε = 8, median",
    "log10_mass": "log₁₀ of the true leakage there, median",
    "log10_t3": "log₁₀ of T3 there, median; above 0 it is vacuous",
    "log10_published": "log₁₀ of T1′ there, median, in its range or not",
    "vacuous_t3": "share of the instances with T3 at 1 or above",
    "vacuous_published": "share with T1′ at 1 or above, or ε beyond its range",
    "safe": "largest ε at which T3 promises 1 %, median",
}
_TEXT = {
    "tokens": "T",
    "queries": "heads and positions",
    "share": "of the pages read by the 4-bit certificate at 5 %, median",
    "high": "the same, 90th percentile",
    "read_all": "share of the queries that read every page",
}


def report(found: Measured) -> Outcome:
    """From which length on each certificate says nothing."""
    pages, hulls, text = (found.tables[name] for name in ("pages", "hulls", "real text"))
    vacuity = list(_vacuity(pages))
    values = values_of(vacuity, hulls, text)
    asked = found.configuration
    described = found.described(
        {"hulls": _HULLS, "real text": _TEXT, "pages": _PAGES}, hidden=["pages"]
    )
    return Outcome(
        tables={"vacuity": Table(_VACUITY, vacuity), **described},
        values=values,
        findings=findings(values, vacuity, hulls),
        notes=sentences(
            f"""- d = 64, pages of {PAGE} keys, logits ⟨q, k⟩/8; {asked["instances"]} sequences of
              each source with {asked["queries"]} queries, and {asked["hulls"]} hulls of each width.
            - Real heads: 63 queries at the last position of the sample; below 1,024 tokens its
              first page and the latest others. The sample is not tiled. Real text beyond it:
              experiments/results/certified_text.json.
            """
        ),
    )


def vacuous_from(found: list[tuple[int, bool]]) -> int | None:
    """The least length from which on all that were measured are vacuous, ascending lengths."""
    least = None
    for tokens, vacuous in reversed(found):
        if not vacuous:
            break
        least = tokens
    return least


def values_of(vacuity: Rows, hulls: Rows, text: Rows) -> dict[str, Any]:
    """Single numbers: from which length on, and the shares at the longest."""
    values: dict[str, Any] = {}
    for row in vacuity:
        name = row["certificate"].replace(" + ", "_").replace(" ", "_")
        source = _SHORT[row["source"]]
        values[f"{source}_{name}_vacuous_from"] = row["vacuous_from"]
        values[f"{source}_{name}_share"] = row["share_longest"]
        values[f"{source}_best_share"] = row["best_longest"]
    for width in dict.fromkeys(row["width"] for row in hulls):
        mine = [row for row in hulls if row["width"] == width]
        for form in ("t3", "published"):
            flags = [(row["tokens"], row[f"vacuous_{form}"] > 0.5) for row in mine]
            values[f"hull_{form}_{width:g}_vacuous_from".replace(".", "p")] = vacuous_from(flags)
        for end, row in (("shortest", mine[0]), ("longest", mine[-1])):
            name = f"hull_safe_{width:g}_{end}".replace(".", "p")
            values[name] = row["safe"]
            values[name.replace("safe", "gap_ratio")] = row["gap_ratio"]
    values["longest"] = hulls[-1]["tokens"] if hulls else None
    for row in text:
        values[f"text_share_{row['tokens']}"] = row["share"]
        values[f"text_read_all_{row['tokens']}"] = row["read_all"]
    return values


def findings(values: dict[str, Any], vacuity: Rows, hulls: Rows) -> list[str]:
    """Sentences with the numbers."""
    said = []
    for source in dict.fromkeys(row["source"] for row in vacuity):
        rows = [row for row in vacuity if row["source"] == source]
        parts = [
            f"{row['certificate']} "
            + (
                f"vacuous from {row['vacuous_from']:,} tokens on"
                if row["vacuous_from"] is not None
                else f"{100 * row['share_longest']:.1f}% of the pages at the longest"
            )
            for row in rows
        ]
        best = 100 * rows[0]["best_longest"]
        said.append(f"{source} (best possible {best:.0f}% of the pages): {'; '.join(parts)}.")
    said += _with_the_length(vacuity)
    for form, name in (("t3", "T3"), ("published", "T1′ (in its range)")):
        parts = []
        for width in dict.fromkeys(row["width"] for row in hulls):
            start = values[f"hull_{form}_{width:g}_vacuous_from".replace(".", "p")]
            parts.append(
                f"query × {width:g}: "
                + ("not vacuous at the longest" if start is None else f"from {start:,} tokens on")
            )
        said.append(f"{name} at ε = 8, i.i.d. keys, vacuous: {'; '.join(parts)}.")
    for width in dict.fromkeys(row["width"] for row in hulls):
        key = f"hull_safe_{width:g}".replace(".", "p")
        said.append(
            f"The ε at which T3 promises 1 % goes from {values[f'{key}_shortest']:.3g} to "
            f"{values[f'{key}_longest']:.3g} over these lengths (query × {width:g}); the model's "
            "is 8."
        )
    if "text_share_8192" in values:
        said.append(
            "On real text a 4-bit certificate gets better with the length: the median share of "
            f"pages falls from {100 * values['text_share_512']:.0f}% at 512 tokens to "
            f"{100 * values['text_share_8192']:.0f}% at 8,192; "
            f"{100 * values['text_read_all_8192']:.1f}% of the queries read everything there."
        )
    return said


def _with_the_length(vacuity: Rows) -> list[str]:
    """Whether a page certificate becomes vacuous as the context grows, or is from the start."""
    became = [r for r in vacuity if r["share_shortest"] < 1 and r["vacuous_from"] is not None]
    always = [r for r in vacuity if r["share_shortest"] >= 1 and r["vacuous_from"] is not None]
    grows = [r for r in vacuity if r["share_longest"] > r["share_shortest"]]
    names = [f"{row['certificate']} on {row['source']}" for row in became]
    return [
        (
            f"Page certificates that become vacuous as the context grows: {len(became)}"
            + (f" ({'; '.join(names)})" if names else "")
            + f". {len(always)} of {len(vacuity)} pairs of keys and certificate are vacuous at "
            f"every length, and in {len(grows)} the share of the pages is larger at the longest "
            "than at the shortest: what decides is how close the keys of a page lie, not how many "
            "pages there are."
        )
    ]


def _vacuity(pages: Rows) -> Iterable[dict[str, Any]]:
    for source in dict.fromkeys(row["source"] for row in pages):
        mine = [row for row in pages if row["source"] == source]
        for name in dict.fromkeys(row["certificate"] for row in mine):
            rows = sorted(
                (r for r in mine if r["certificate"] == name), key=lambda row: row["tokens"]
            )
            last = rows[-1]["tokens"]
            best = next(r for r in mine if r["certificate"] == _BEST and r["tokens"] == last)
            if name != _BEST:
                yield {
                    "source": source,
                    "certificate": name,
                    "vacuous_from": vacuous_from([(r["tokens"], r["share"] >= 1) for r in rows]),
                    "share_shortest": rows[0]["share"],
                    "share_longest": rows[-1]["share"],
                    "best_longest": best["share"],
                }

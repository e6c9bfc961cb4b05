"""The claims about the mechanism: a drop-in, a small candidate set, the published routing."""

from experiments.verdicts.judging import FAILS, HOLDS, Claims, Found, Judged, where

CLAIMS = Claims()


@CLAIMS.add(
    "A drop-in mechanism for existing inference stacks", "—", "models.interface", "generation"
)
def drop_in(generation: Found) -> Judged:
    same, total = generation["same_tokens_all"], generation["new_tokens"]
    said = (
        f"Registered by name in transformers, reading all pages it writes the same {same} of "
        f"{total} tokens as its own attention after {generation['prompt_tokens']:,}. What pages "
        "cannot reproduce (ALiBi, latent keys) is refused by name."
    )
    condition = "a decoder uses the attention interface of transformers"
    return Judged(where(condition) if same == total else FAILS, said)


@CLAIMS.add(
    "A small candidate set per query, by paged selection",
    "T7",
    "attention.decode",
    "certified_text",
    "decode_cpu",
)
def small_set(text: Found, decode: Found, *, small: float = 0.25) -> Judged:
    """Small in the median at the longest text, and there at the ninetieth percentile too."""
    rows = sorted(text.rows("certificates", tolerance=0.05), key=lambda row: row["context"])
    first, last = rows[0], rows[-1]
    normal = decode.rows("reading", keys="normal", step="certified", layout="8 bits")
    worst = max(row["share_read"] for row in normal)
    median, tail = (last[name] / last["pages"] for name in ("pages_median", "pages_high"))
    said = (
        f"To prove 5 % dropped on text, {first['pages_median'] / first['pages']:.0%} of the pages "
        f"are read at {first['context']:,} tokens and {median:.1%} at {last['context']:,} in the "
        f"median, {tail:.0%} at the ninetieth percentile there; {worst:.0%} of independent normal "
        "keys. Longer texts were not measured. A budget reads a fixed number and proves nothing."
    )
    if median > small:
        return Judged(FAILS, said)
    condition = (
        f"5 % may be dropped, the context is {last['context']:,} tokens and the query not diffuse"
    )
    return Judged(HOLDS if max(tail, worst) <= small else where(condition), said)


@CLAIMS.add(
    "… as published: routing on page means at constant cost",
    "T7",
    "attention.step",
    "published_algorithm",
)
def published_routing(
    published: Found, *, growth_of_cost: float = 2.0, mass_lost: float = 0.05
) -> Judged:
    growth = published["scored_growth_published"]
    kept, best = published["kept_page_means_16"], published["kept_best_possible_16"]
    said = (
        f"It scores {published['scored_published_131072']:,} page means at 131,072 tokens, "
        f"{growth:.0f} times as many as at a sixteenth of that; 16 of 64 pages keep {kept:.2f} of "
        f"the mass (best possible {best:.2f}, 2-bit keys "
        f"{published['kept_2-bit_keys_16']:.2f})."
    )
    return Judged(FAILS if growth > growth_of_cost or kept < best - mass_lost else HOLDS, said)

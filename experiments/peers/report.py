"""What `peers` says of its rows."""

from collections.abc import Iterator

from experiments.framework.outcome import Measured, Outcome, Rows, sentences

_ANSWERS = {
    "context": "tokens of the prompt",
    "budget": "tokens to read at a step, or to keep of the prompt, by a kv head; 0 for all",
    "read": "what reads: dense, ours (sampled, budget, oracle-pages), or a press of kvpress",
    "chooses": "at decode time, or by compressing the prompt, with the question seen or not",
    "prompts": "how many it could read",
    "failed": "how many it could not",
    "exact": "share answered exactly",
    "difference": "of that share and dense's on the same prompts",
    "difference_low": "the same, lower end of a paired 95 % interval",
    "difference_high": "upper end",
    "chosen": "share whose right answer beats the wrong ones",
    "divergence": "KL(dense ‖ read), nats a token of the right answer",
    "kept": "tokens of the prompt still held, mean over kv heads",
    "tokens": "read at a step of the answer, distinct ones of a kv head, mean",
    "bytes": "read at such a step by a kv head, what choosing reads included",
    "held": "bytes held for a kv head, summaries included",
}
_BESIDE = {
    "context": "tokens of the prompt",
    "budget": "tokens of both",
    "read": "a press of kvpress",
    "chooses": "whether it sees the question",
    "prompts": "how many it could read",
    "difference": "share answered exactly, less that of drawn tokens",
    "difference_low": "the same, lower end of a paired 95 % interval",
    "difference_high": "upper end",
    "lost": "prompts that drawn tokens answer and the press does not",
    "gained": "prompts that the press answers and drawn tokens do not",
    "divergence": "KL(dense ‖ press), nats a token",
    "drawn_divergence": "KL(dense ‖ drawn tokens)",
    "bytes": "read at a step, over those of drawn tokens",
    "held": "bytes held, over those of drawn tokens",
}


def report(found: Measured) -> Outcome:
    """Who answers how much, where a press wins, and what it costs."""
    answers, beside = found.tables["answers"], found.tables["beside"]
    values = dict(found.values) | {
        f"{_named(row)}, {row['context']} context": row["exact"]
        for row in answers
        if row["prompts"]
    }
    return Outcome(
        tables=found.described({"answers": _ANSWERS, "beside": _BESIDE}),
        values=values,
        findings=[*_shares(answers), *_wins(beside), *_losses(beside), *_costs(beside)],
        notes=_notes(found, answers),
        failures=found.failures,
    )


def _named(row: dict[str, object]) -> str:
    seen = {True: ", question seen", False: ", question not seen"}
    said = str(row["chooses"])
    after = seen["not seen" not in said] if "compresses" in said else ""
    return f"{row['read']}{after}" + (f", {row['budget']} tokens" if row["budget"] else "")


def _shares(answers: Rows) -> Iterator[str]:
    """All that were asked the same, best first."""
    for context, budget in dict.fromkeys((row["context"], row["budget"]) for row in answers):
        rows = [row for row in answers if (row["context"], row["budget"]) == (context, budget)]
        rows = sorted((row for row in rows if row["prompts"]), key=lambda row: -row["exact"])
        if not budget:
            dense = rows[0]
            yield f"Dense at {context:,}: {dense['exact']:.0%} of {dense['prompts']} exactly."
            continue
        said = ", ".join(
            f"{_named(row).removesuffix(f', {budget} tokens')} {row['exact']:.0%}" for row in rows
        )
        yield f"Exact answers by {budget} tokens at {context:,}: {said}."


def _wins(beside: Rows) -> Iterator[str]:
    """Where a press answers more, or is nearer to dense, than drawn tokens."""
    surely = [row for row in beside if row["difference_low"] > 0]
    perhaps = [row for row in beside if row["difference"] > 0 >= row["difference_low"]]
    nearer = [row for row in beside if row["divergence"] < row["drawn_divergence"]]
    if surely:
        yield f"A press answers more than as many drawn tokens: {_cells(surely)}."
    else:
        yield (
            f"In none of {len(beside)} comparisons does a press surely (95 %) answer more than as "
            "many drawn tokens."
        )
    if perhaps:
        yield f"It may be ahead, within the interval: {_cells(perhaps)}."
    if nearer:
        said = "; ".join(
            f"{_named(row)} at {row['context']:,} ({row['divergence']:.2g} where drawn tokens have "
            f"{row['drawn_divergence']:.2g} nats)"
            for row in nearer
        )
        yield f"Nearer to dense by KL than drawn tokens: {said}."


def _losses(beside: Rows) -> Iterator[str]:
    for seen in (True, False):
        rows = [row for row in beside if ("not seen" not in row["chooses"]) == seen]
        if rows:
            behind = [row for row in rows if row["difference_high"] < 0]
            worst = min(rows, key=lambda row: row["difference"])
            yield (
                f"With the question {'seen' if seen else 'not seen'} a press surely (95 %) answers "
                f"less than as many drawn tokens in {len(behind)} of {len(rows)} comparisons; "
                f"furthest behind: {_cells([worst])}."
            )


def _costs(beside: Rows) -> Iterator[str]:
    """A press forgets the rest of the prompt: less to hold, and nothing to judge at each step."""
    for budget in dict.fromkeys(row["budget"] for row in beside):
        rows = [row for row in beside if row["budget"] == budget]
        held, read = ([row[name] for row in rows] for name in ("held", "bytes"))
        yield (
            f"With {budget} tokens a press holds {min(held):.2g} to {max(held):.2g} times the "
            f"bytes of drawn tokens, which keep the whole prompt, and reads {min(read):.2g} to "
            f"{max(read):.2g} times as many at a step."
        )


def _cells(rows: Rows) -> str:
    return "; ".join(
        f"{_named(row)} at {row['context']:,} ({row['difference']:+.0%}, "
        f"{row['difference_low']:+.0%} to {row['difference_high']:+.0%})"
        for row in rows
    )


def _notes(found: Measured, answers: Rows) -> list[str]:
    values = found.values
    failed = sorted({_named(row) for row in answers if row["failed"]})
    left_out = f" Some prompts could not be read by {'; '.join(failed)}." if failed else ""
    return sentences(
        f"""- {found.configuration["model"]} in float32, by kvpress {values["kvpress"]}, which
          supports transformers {values["transformers supported"]}, and transformers
          {values["transformers"]}. Presses with kvpress's defaults.
        - Ours read the context densely, keep all of it and choose at each step, in the question
          too. A press chooses once. With the question seen it chooses after context and question
          were read densely, by which the first token of the answer is decided; with the question
          not seen it keeps so many tokens of the context, and all of the question on top.
          StreamingLLM looks at neither. KVzip gives layers and heads different numbers of tokens,
          the mean of which is held equal, and reads the context a second time.{left_out}
        - Bytes of keys and values in float32. oracle-pages reads all keys to choose. Intervals:
          bootstrap over prompts.
        - With nothing pressed, the way a press's answers are read is at most
          {values["control"]:.0e} nats from dense.
        """
    )

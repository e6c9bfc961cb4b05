"""Inside a language model: text, speed and pages read of greedy decoding, beside dense attention.

A prompt of the standard library's documentation is read densely, then continued by transformers'
own attention and by each policy through `attn_implementation="vashista"`. Needs the extra lm.

Examples:
  python -m experiments generation
  python -m experiments generation --prompt-tokens 2048 --new-tokens 32
"""

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from experiments.framework.outcome import Cell, Measured, NotMeasured, Outcome, sentences
from vashista_theory import models
from vashista_theory.models.commands import Generate, first_tokens, read_text

COMPARED = ("dense", "all", "sampled", "sketch", "boxes", "certified")
"""Short names of what is compared: transformers' own attention, then `Generate.policies`."""
BY_HAND = "needs a language model, and times want an idle machine"

if TYPE_CHECKING:
    from vashista_theory.models.generation import Generated

_COLUMNS = {
    "read_by": "transformers' own attention, or a policy of this mechanism",
    "tokens_per_second": "of the median step after the first",
    "times_dense": "the same, relative to transformers' own attention",
    "step_ms_p50": "a step after the first, milliseconds, median",
    "step_ms_p90": "90th percentile",
    "step_ms_p99": "99th percentile",
    "same_tokens": "before the first that differs from transformers' own",
    "pages_read": "share of the pages, median over steps, layers and kv heads",
    "pages_read_p90": "90th percentile",
    "first_s": "the first step, compiling included, seconds",
}


@dataclass(frozen=True)
class Config:
    """What to measure.

    Attributes:
        model: A packaged name, a GGUF file, a Hugging Face folder or a hub id.
        prompt_tokens: Length of the prompt.
        new_tokens: How many to write.
        pages: Pages of 16 tokens that a fixed budget reads.
        tolerance: Softmax mass that the certified policy may drop.
        quick: A short prompt, few tokens.
    """

    model: str = "smollm2-135m"
    prompt_tokens: int = 4096
    new_tokens: int = 64
    pages: int = 64
    tolerance: float = 0.05
    quick: bool = False


def measure(config: Config) -> Measured:
    """Continue the prompt every way, one after the other."""
    try:
        from vashista_theory.models.generation import compare

        model, tokenizer, _ = models.load(config.model, attn_implementation="sdpa")
    except ImportError as error:
        raise NotMeasured(str(error)) from None
    length, new = (256, 8) if config.quick else (config.prompt_tokens, config.new_tokens)
    prompt = first_tokens(tokenizer, read_text(None, None), length)
    asked = Generate(pages=config.pages, tolerance=config.tolerance)
    rows = compare(model, prompt, asked.policies(), new_tokens=new)
    texts = {row.name: tokenizer.decode(row.tokens) for row in rows}
    return measured(rows, texts, length)


def measured(rows: list["Generated"], texts: dict[str, str], prompt_tokens: int) -> Measured:
    """The runs in numbers; the first one is transformers' own attention."""
    own = rows[0]
    return Measured(
        {
            "generation": [_row(row, own) for row in rows],
            "text": [{"read_by": name, "text": text} for name, text in texts.items()],
        },
        {"prompt_tokens": prompt_tokens, "new_tokens": len(own.tokens)},
    )


def report(found: Measured) -> Outcome:
    """What is faster than transformers' own attention, and what writes the same."""
    cells, values = found.tables["generation"], dict(found.values)
    for name, cell in zip(COMPARED, cells, strict=True):
        values |= {f"{key}_{name}": cell[key] for key in ("times_dense", "same_tokens")}
        values |= {f"{key}_{name}": cell[key] for key in ("tokens_per_second", "pages_read")}
    faster = [c["read_by"] for c in cells[1:] if float(c["times_dense"] or 0) > 1]
    columns = {"generation": _COLUMNS, "text": {"read_by": "as above", "text": "what was written"}}
    return Outcome(
        tables=found.described(columns),
        values=values,
        findings=sentences(
            f"""- After {values["prompt_tokens"]:,} tokens, faster than transformers' own attention:
              {", ".join(map(str, faster)) or "none"}.
            - Reading all pages writes the same {cells[1]["same_tokens"]} of {values["new_tokens"]}
              tokens as transformers' own attention.
            """
        ),
        notes=[
            (
                "float32 on the CPU, greedy, one sequence. A step is the whole model: its linear "
                "layers, which attention leaves as they are, are part of the time."
            )
        ],
    )


def _row(row: "Generated", own: "Generated") -> dict[str, Cell]:
    same = next(
        (i for i, pair in enumerate(zip(row.tokens, own.tokens, strict=True)) if len({*pair}) > 1),
        len(own.tokens),
    )
    cuts = statistics.quantiles(row.step_seconds, n=100, method="inclusive")
    return {
        "read_by": row.name,
        "tokens_per_second": row.tokens_per_second,
        "times_dense": row.tokens_per_second / own.tokens_per_second,
        "step_ms_p50": 1e3 * cuts[49],
        "step_ms_p90": 1e3 * cuts[89],
        "step_ms_p99": 1e3 * cuts[98],
        "same_tokens": same,
        "pages_read": row.pages_read,
        "pages_read_p90": row.pages_read_90,
        "first_s": row.first_seconds,
    }

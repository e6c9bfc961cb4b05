"""From which batch and length on is sparse decoding faster inside a language model?

One decode step of the whole model, batch by length: transformers' own attention (sdpa with a
dynamic and with a static cache, eager) and this mechanism by each policy. A text is read once for
each length; every sequence of a batch then gets a copy of its keys and values of its own, so that
all of them are read from memory. The ways take turns within one run, and each is held against the
fastest of transformers' own. Needs the extra lm.

Examples:
  python -m experiments decode_in_model
  python -m experiments decode_in_model --batches 1 --contexts 8192
"""

import contextlib
import functools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.framework.outcome import Cell, Measured, NotMeasured, Outcome, Rows, sentences
from vashista_theory import models
from vashista_theory.attention import PagedKV, Policy

BY_HAND = "needs a language model, and times want an idle machine"

OWN = ("sdpa, dynamic cache", "sdpa, static cache", "eager")
_COLUMNS = {
    "batch": "sequences",
    "context": "tokens of each",
    "read_by": "transformers' own attention and cache, or a policy of this mechanism",
    "step_ms": "a step of the whole model, milliseconds, median",
    "step_ms_low": "a quarter of the steps take no longer",
    "step_ms_high": "three quarters take no longer",
    "tokens_per_second": "of all sequences together, by the median",
    "times_best": "speed relative to the fastest of transformers' own",
    "tokens_read": "by a kv head, mean over layers and sequences",
    "first_s": "the first step, compiling included, seconds",
}


@dataclass(frozen=True)
class Config:
    """What to time.

    Attributes:
        model: A packaged name, a GGUF file, a Hugging Face folder or a hub id.
        batches: Sequences.
        contexts: Tokens of each at the last step that is timed.
        tokens: That a sampled read takes.
        pages: Pages of 16 tokens that a fixed budget reads.
        tolerance: Softmax mass that the certified policy may drop.
        steps: Timed steps of each way in a round.
        rounds: Turns that each way has.
        quick: One short context, two sequences.
    """

    model: str = "smollm2-135m"
    batches: tuple[int, ...] = (1, 4, 8)
    contexts: tuple[int, ...] = (1024, 4096, 8192)
    tokens: int = 256
    pages: int = 64
    tolerance: float = 0.05
    steps: int = 6
    rounds: int = 3
    quick: bool = False

    def reduced(self) -> "Config":
        """The configuration of a quick run."""
        return Config(self.model, (2,), (96,), 48, 4, self.tolerance, 2, 1, quick=True)

    @property
    def new_tokens(self) -> int:
        """Tokens that a sequence grows by: a static cache is never cut back."""
        return (self.steps + 1) * self.rounds

    def check(self, limit: int) -> None:
        """Raise unless the model was made for such contexts, and they leave room for the steps."""
        for context in self.contexts:
            if not self.new_tokens < context <= limit:
                raise ValueError(
                    f"contexts has {context}: expected more than the {self.new_tokens} tokens that "
                    f"are timed, and at most the {limit} that the model was made for"
                )

    def policies(self) -> dict[str, Policy]:
        """By the name to show."""
        low = 0 if self.quick else 1024
        return {
            "dense": Policy.dense(),
            f"sampled, {self.tokens} tokens": Policy.sampled(self.tokens, dense_below=low),
            f"budget, {self.pages} pages": Policy.budget(self.pages),
            f"certified, {self.tolerance:g}": Policy.certified(self.tolerance, dense_below=low),
        }


def measure(config: Config) -> Measured:
    """Time every cell of the plane."""
    try:
        from vashista_theory.models.commands import first_tokens, read_text

        model, tokenizer, _ = models.load(config.model, attn_implementation="sdpa")
    except ImportError as error:
        raise NotMeasured(str(error)) from None
    config = config.reduced() if config.quick else config
    config.check(int(model.config.max_position_embeddings))
    text = first_tokens(tokenizer, read_text(None, None), max(config.contexts))
    rows: list[dict[str, Cell]] = []
    for context in sorted(config.contexts):
        held = _read(model, text[: context - config.new_tokens])
        for batch in sorted(config.batches):
            rows += _cell(model, held, batch, context, config)
    return Measured({"steps": rows})


def _read(model: Any, tokens: Any) -> list[tuple[Any, Any]]:
    """Keys and values of one sequence by layer, each (1, Hkv, T, D)."""
    import torch
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    ids = torch.as_tensor(np.asarray(tokens))[None]
    with torch.inference_mode():
        model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    layers: list[Any] = list(cache.layers)
    return [(layer.keys, layer.values) for layer in layers]


@dataclass(frozen=True)
class _Way:
    """One way of decoding: its cache, what is switched on around it, and how to go back."""

    cache: Any
    around: Callable[[], Any]
    back: Callable[[], object]


def _cell(
    model: Any, held: list[tuple[Any, Any]], batch: int, context: int, config: Config
) -> list[dict[str, Cell]]:
    """Every way in turn, as many rounds as asked for."""
    import torch

    times: dict[str, list[float]] = {}
    first: dict[str, float] = {}
    read: dict[str, float] = {}
    step = torch.full((batch, 1), 7)
    with torch.inference_mode():
        ways = dict(_ways(model, held, batch, config))
        for _ in range(config.rounds):
            for name, way in ways.items():
                with way.around() as log:
                    taken = [_once(model, step, way.cache) for _ in range(config.steps + 1)]
                    if name not in OWN:
                        read[name] = float(np.mean(log.tokens_read()))
                way.back()
                first.setdefault(name, taken[0])
                times.setdefault(name, []).extend(taken[1:])
    best = min(statistics.median(times[name]) for name in OWN)
    return [
        _row(batch, context, name, taken, best)
        | {"tokens_read": read.get(name, float(context)), "first_s": first[name]}
        for name, taken in times.items()
    ]


def _row(batch: int, context: int, name: str, taken: list[float], best: float) -> dict[str, Cell]:
    low, middle, high = np.percentile(taken, (25, 50, 75))
    return {
        "batch": batch,
        "context": context,
        "read_by": name,
        "step_ms": 1e3 * middle,
        "step_ms_low": 1e3 * low,
        "step_ms_high": 1e3 * high,
        "tokens_per_second": batch / middle,
        "times_best": best / middle,
    }


def _once(model: Any, step: Any, cache: Any) -> float:
    start = time.perf_counter()
    model(input_ids=step, past_key_values=cache, use_cache=True)
    return time.perf_counter() - start


@contextlib.contextmanager
def _using(model: Any, name: str) -> Iterator[None]:
    """Let the model use another attention implementation for a while."""
    before = model.config._attn_implementation
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _ways(
    model: Any, held: list[tuple[Any, Any]], batch: int, config: Config
) -> Iterator[tuple[str, _Way]]:
    from transformers import DynamicCache, StaticCache

    from vashista_theory.models.interface import NAME
    from vashista_theory.models.settings import decoding

    filled = held[0][0].shape[2]
    room = filled + config.new_tokens + 1
    dynamic = DynamicCache(config=model.config)
    static = StaticCache(config=model.config, max_cache_len=room)
    for index, (keys, values) in enumerate(held):
        several = keys.repeat(batch, 1, 1, 1), values.repeat(batch, 1, 1, 1)
        dynamic.update(*several, index)
        static.update(*several, index)

    def cut(cache: Any) -> None:
        cache.crop(filled - cache.get_seq_length())

    plain, eager = (functools.partial(_using, model, own) for own in ("sdpa", "eager"))
    back = functools.partial(cut, dynamic)
    yield OWN[0], _Way(dynamic, plain, back)
    yield OWN[1], _Way(static, plain, str)  # goes on: the room is reserved
    yield OWN[2], _Way(dynamic, eager, back)
    paged = _paged(model, held, batch, room)

    @contextlib.contextmanager
    def by(policy: Policy) -> Iterator[Any]:
        with _using(model, NAME), decoding(policy) as log:
            yield log

    for name, policy in config.policies().items():
        yield name, _Way(paged, functools.partial(by, policy), functools.partial(cut, paged))


def _paged(model: Any, held: list[tuple[Any, Any]], batch: int, room: int) -> Any:
    """A paged cache whose sequences have pages of their own."""
    import torch

    models.register()
    cache = models.PagedCache(model.config, room=room)
    layers: list[Any] = list(cache.layers)
    for layer, (keys, values) in zip(layers, held, strict=True):
        arrays = (np.repeat(one.numpy(), batch, axis=0) for one in (keys, values))
        pages = -(-room // 16)
        layer.lazy_initialization(keys, values)
        layer.pages = PagedKV.from_tokens(*arrays, pages_per_sequence=pages, pages=batch * pages)
        layer.dtype, layer.seen = torch.float32, keys.shape[2]
        layer.held = np.full(batch, keys.shape[2], np.int32)
    return cache


def from_here_on(rows: Rows, name: str) -> list[tuple[int, int]]:
    """Batch and context of the cells where a policy is at least as fast as transformers' own."""
    return [
        (row["batch"], row["context"])
        for row in rows
        if row["read_by"] == name and row["times_best"] >= 1
    ]


def report(found: Measured) -> Outcome:
    """Where each policy is faster, and by how much."""
    rows = found.tables["steps"]
    names = [name for name in dict.fromkeys(row["read_by"] for row in rows) if name not in OWN]
    values = {
        f"{row['read_by']}, {row['batch']} x {row['context']}": row["times_best"] for row in rows
    }
    said = []
    for name in names:
        faster = from_here_on(rows, name)
        where = ", ".join(f"{batch} × {context:,}" for batch, context in faster) or "nowhere"
        own = [row["times_best"] for row in rows if row["read_by"] == name]
        said.append(
            f"- {name}: {min(own):.2f} to {max(own):.2f} times as fast as the fastest of "
            f"transformers' own; at least as fast at (sequences × tokens) {where}."
        )
    return Outcome(
        tables=found.described({"steps": _COLUMNS}),
        values=values,
        findings=sentences("\n".join(said)),
        notes=[
            (
                f"{found.configuration['model']} in float32 on the CPU. A step is the whole model: "
                "its linear layers, which attention leaves as they are, are part of the time."
            )
        ],
    )

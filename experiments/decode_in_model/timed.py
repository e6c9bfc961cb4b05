"""Timing the ways in processes of their own, whose threads wait as suits each best."""

import contextlib
import gc
import multiprocessing
import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from experiments.decode_in_model.ways import OWN, Held, Kind, kinds, read
from vashista_theory import models
from vashista_theory.attention import Policy

WAITING: dict[str, dict[str, str]] = {"own": {}, "policies": {"GOMP_SPINCOUNT": "20000"}}
"""How torch's threads wait for work, as they are told when torch is loaded.

Left alone they spin for milliseconds, and hold the cores that JAX works on. A fraction of one is
long enough for the next operation of torch to find them awake; transformers' own gains nothing.
"""
_ALL = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


@dataclass(frozen=True)
class Turn:
    """A way's turn.

    Attributes:
        seconds: Of each step but the first.
        first: Seconds of the first, compiling included.
        tokens_read: By a kv head, mean over layers and sequences.
    """

    seconds: list[float]
    first: float
    tokens_read: float


@dataclass
class _State:
    """What a process keeps between turns."""

    model: Any = None
    text: Any = None
    held: dict[int, Held] = field(default_factory=dict)


_state = _State()


@contextlib.contextmanager
def processes() -> Iterator[Mapping[str, ProcessPoolExecutor]]:
    """A process for transformers' own and one for the policies."""
    before = {name: os.environ[name] for name in _ALL if name in os.environ}
    with contextlib.ExitStack() as stack:
        workers = {}
        for name, waiting in WAITING.items():
            _set(waiting)
            spawn = multiprocessing.get_context("spawn")
            workers[name] = stack.enter_context(ProcessPoolExecutor(1, mp_context=spawn))
            workers[name].submit(os.getpid).result()  # it is there from now on
        _set(before)
        yield workers


def _set(waiting: Mapping[str, str]) -> None:
    for name in _ALL:
        os.environ.pop(name, None)
    os.environ.update(waiting)


def load(model: str, tokens: int) -> tuple[int, int]:
    """Load a model and a text; its longest context, and bytes of the cache of a token.

    Raises:
        ImportError: without the extra lm.
    """
    from vashista_theory.models.commands import first_tokens, read_text

    _state.model, tokenizer, _ = models.load(model, attn_implementation="sdpa")
    _state.text = first_tokens(tokenizer, read_text(None, None), tokens)
    shape = _state.model.config.get_text_config()
    token = 8 * shape.num_hidden_layers * shape.num_key_value_heads * shape.head_dim
    return int(_state.model.config.max_position_embeddings), token


def turns(policies: Mapping[str, Policy], batch: int, filled: int, steps: int) -> dict[str, Turn]:
    """A turn of each policy, or of each of transformers' own where there is none."""
    import torch

    found = {}
    with torch.inference_mode():
        if filled not in _state.held:
            _state.held.clear()
            _state.held[filled] = read(_state.model, _state.text[:filled])
        for kind in kinds(_state.model, _state.held[filled], policies):
            found |= _turns_of(kind, batch, filled, steps)
            gc.collect()  # the next cache finds the room of this one
    return found


def _turns_of(kind: Kind, batch: int, filled: int, steps: int) -> dict[str, Turn]:
    import torch

    grown = steps + 2  # by a step more than is timed, and by one that is looked at
    cache = kind.build(batch, filled + grown + 1)
    step, found = torch.full((batch, 1), 7), {}
    for name, around in kind.around.items():
        with around():
            first, *taken = [_once(step, cache) for _ in range(steps + 1)]
            tokens = float(filled + grown)
            if name not in OWN:  # not timed: a report costs what it says
                with models.decoding() as log:
                    _once(step, cache)
                tokens = float(np.mean(log.tokens_read()))
        if kind.cut:
            cache.crop(filled - cache.get_seq_length())
        found[name] = Turn(taken, first, tokens)
    return found


def _once(step: Any, cache: Any) -> float:
    start = time.perf_counter()
    _state.model(input_ids=step, past_key_values=cache, use_cache=True)
    return time.perf_counter() - start

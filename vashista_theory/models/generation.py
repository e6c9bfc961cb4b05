# pyright: reportMissingImports=false, reportUnknownParameterType=false
"""Greedy decoding of one prompt by several policies, each measured beside transformers' own."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from vashista_theory._checks import as_array
from vashista_theory.attention import Policy
from vashista_theory.models._switch import cache_argument, decoder_config, using_attention
from vashista_theory.models.interface import NAME, ensure_registered
from vashista_theory.models.paged_cache import PagedCache
from vashista_theory.models.refusals import check_unmixed
from vashista_theory.models.settings import DecodeLog, decoding


@dataclasses.dataclass(frozen=True)
class Generated:
    """What one way of reading wrote, and how fast, over all rounds.

    Attributes:
        name: Of the policy, or of transformers' implementation.
        tokens: Chosen greedily.
        prompt_seconds: For the whole prompt; None where another row's was used again.
        first_seconds: For the first decode step, compiling included.
        step_seconds: For each later one.
        pages_read: Share of the pages there were, median over steps, layers and heads.
        pages_read_90: The 90th percentile of the same.
    """

    name: str
    tokens: list[int]
    prompt_seconds: float | None
    first_seconds: float
    step_seconds: list[float]
    pages_read: float
    pages_read_90: float

    @property
    def tokens_per_second(self) -> float:
        """Of the median step after the first."""
        return 1.0 / statistics.median(self.step_seconds)

    @property
    def spread(self) -> tuple[float, float]:
        """Tokens a second that three quarters and one quarter of these steps reach."""
        slow, fast = np.percentile(self.step_seconds, (75, 25))
        return 1.0 / float(slow), 1.0 / float(fast)


def compare(
    model: Any,
    prompt: Sequence[int],
    policies: Mapping[str, Policy],
    *,
    new_tokens: int = 64,
    rounds: int = 3,
    progress: Callable[[str], object] = str,
) -> list[Generated]:
    """Decode a prompt by transformers' own attention and by each policy, in turn.

    The prompt is read twice, once for each cache; after each decoding the cache is cut back to the
    prompt. Every round decodes by each of them once, so that a machine that is busy for a while
    slows all of them.

    Args:
        model: Of transformers, in evaluation mode; any attention implementation.
        prompt: Token ids.
        policies: By the name to show.
        new_tokens: How many to decode, at least 3.
        rounds: How often, at least once.
        progress: Told what is being done.

    Raises:
        ValueError: for fewer new tokens or rounds, or a prompt that leaves no room for them.
        UnsupportedModelError: for a model that mixes layers or caps scores: caches with windows
            cannot be cut back to the prompt, and sdpa caps nothing.
    """
    if new_tokens < 3:
        raise ValueError(f"new_tokens is {new_tokens}; at least 3 are needed to time a step.")
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; at least 1 is needed.")
    check_unmixed(decoder_config(model.config))
    ids = torch.as_tensor(np.asarray(as_array(prompt, "prompt")), device=model.device)[None]
    length = ids.shape[1]
    ensure_registered()
    paged = PagedCache(model.config, room=length + new_tokens)
    with using_attention(model, "sdpa"):  # or it would be made of pages
        own = DynamicCache(config=model.config)
    done: dict[str, list[Generated]] = {}
    with torch.inference_mode():
        with using_attention(model, "sdpa"):
            progress(f"reading {length} tokens by transformers")
            own_start = _read_prompt(model, ids, own)
        with using_attention(model, NAME):
            progress(f"reading {length} tokens into pages")
            start = _read_prompt(model, ids, paged)
        for number in range(rounds):
            name = "transformers (sdpa)"
            progress(f"round {number + 1} of {rounds}: {name}")
            with using_attention(model, "sdpa"):
                row = _decode(name, model, *own_start, own, new_tokens)
            done.setdefault(name, []).append(row)
            own.crop(length - own.get_seq_length())
            for name, policy in policies.items():
                progress(f"round {number + 1} of {rounds}: {name}")
                with using_attention(model, NAME), decoding(policy) as log:
                    row = _decode(name, model, *start, paged, new_tokens, log)
                start = (start[0], None)
                done.setdefault(name, []).append(row)
                paged.crop(length - paged.get_seq_length())
    return [_together(rows) for rows in done.values()]


def _together(rows: list[Generated]) -> Generated:
    """One row of several rounds: all steps but each first, and the first of all."""
    steps = [seconds for row in rows for seconds in row.step_seconds]
    return dataclasses.replace(rows[0], step_seconds=steps)


def _read_prompt(model: Any, ids: torch.Tensor, cache: Any) -> tuple[int, float]:
    start = time.perf_counter()
    options = {cache_argument(model): cache, "use_cache": True, "logits_to_keep": 1}
    logits = model(input_ids=ids, **options).logits
    return int(logits[0, -1].argmax()), time.perf_counter() - start


def _decode(
    name: str,
    model: Any,
    token: int,
    prompt_seconds: float | None,
    cache: Any,
    count: int,
    log: DecodeLog | None = None,
) -> Generated:
    tokens, times = [token], []
    options = {cache_argument(model): cache, "use_cache": True}
    for _ in range(count - 1):
        start = time.perf_counter()
        step = torch.tensor([[tokens[-1]]], device=model.device)
        tokens.append(int(model(input_ids=step, **options).logits[0, -1].argmax()))
        times.append(time.perf_counter() - start)
    share = np.ones(1) if log is None else log.share_read()
    return Generated(
        name,
        tokens,
        prompt_seconds,
        times[0],
        times[1:],
        float(np.median(share)),
        float(np.percentile(share, 90)),
    )

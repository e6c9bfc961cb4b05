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
from vashista_theory.models._switch import cache_argument, using_attention
from vashista_theory.models.interface import NAME, ensure_registered
from vashista_theory.models.paged_cache import PagedCache
from vashista_theory.models.settings import DecodeLog, decoding


@dataclasses.dataclass(frozen=True)
class Generated:
    """What one way of reading wrote, and how fast.

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


def compare(
    model: Any,
    prompt: Sequence[int],
    policies: Mapping[str, Policy],
    *,
    new_tokens: int = 64,
    progress: Callable[[str], object] = str,
) -> list[Generated]:
    """Decode a prompt by transformers' own attention and by each policy.

    The prompt is read twice, once for each cache; between policies the paged cache is cut back to
    the prompt.

    Args:
        model: Of transformers, in evaluation mode; any attention implementation.
        prompt: Token ids.
        policies: By the name to show.
        new_tokens: How many to decode, at least 3.
        progress: Told what is being done.

    Raises:
        ValueError: for fewer new tokens, or a prompt that leaves no room for them.
    """
    if new_tokens < 3:
        raise ValueError(f"new_tokens is {new_tokens}; at least 3 are needed to time a step.")
    ids = torch.as_tensor(np.asarray(as_array(prompt, "prompt")), device=model.device)[None]
    ensure_registered()
    paged = PagedCache(model.config, room=ids.shape[1] + new_tokens)
    rows: list[Generated] = []
    with torch.inference_mode():
        with using_attention(model, "sdpa"):
            progress(f"reading {ids.shape[1]} tokens, decoding {new_tokens} by transformers")
            own = DynamicCache(config=model.config)
            token, seconds = _read_prompt(model, ids, own)
            rows.append(_decode("transformers (sdpa)", model, token, seconds, own, new_tokens))
        with using_attention(model, NAME):
            progress(f"reading {ids.shape[1]} tokens into pages")
            token, seconds = _read_prompt(model, ids, paged)
            for name, policy in policies.items():
                progress(f"decoding {new_tokens} tokens: {name}")
                with decoding(policy) as log:
                    row = _decode(name, model, token, seconds, paged, new_tokens, log)
                rows.append(row)
                seconds = None
                paged.crop(ids.shape[1] - paged.get_seq_length())
    return rows


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

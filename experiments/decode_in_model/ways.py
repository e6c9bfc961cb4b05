"""The ways in which a language model can decode: whose cache, whose attention."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vashista_theory import models
from vashista_theory.attention import PagedKV, Policy

OWN = ("sdpa, dynamic cache", "sdpa, static cache", "eager")
PAGE = 16
Held = list[tuple[Any, Any]]
"""Keys and values of one sequence by layer, each (1, Hkv, T, D)."""


@dataclass(frozen=True)
class Kind:
    """One kind of cache, and what reads it.

    Attributes:
        build: From sequences and room, in tokens, to a cache that holds the sequences.
        around: What is switched on while the model decodes, by the name to show.
        cut: Whether the cache is cut back between them; else it goes on.
    """

    build: Callable[[int, int], Any]
    around: Mapping[str, Callable[[], Any]]
    cut: bool = True


def kinds(model: Any, held: Held, policies: Mapping[str, Policy]) -> Iterator[Kind]:
    """The kinds of cache that policies read, or transformers' own where there is none.

    One after another: the largest of them is several gigabytes.
    """
    from transformers import DynamicCache, StaticCache

    def dynamic(batch: int, room: int) -> Any:
        del room
        return _filled(DynamicCache(config=model.config), held, batch)

    def static(batch: int, room: int) -> Any:
        return _filled(StaticCache(config=model.config, max_cache_len=room), held, batch)

    if policies:
        around = {name: functools.partial(_by, model, policy) for name, policy in policies.items()}
        yield Kind(functools.partial(_paged, model, held), around)
        return
    plain, eager = (functools.partial(_using, model, own) for own in ("sdpa", "eager"))
    yield Kind(dynamic, {OWN[0]: plain, OWN[2]: eager})
    yield Kind(static, {OWN[1]: plain}, cut=False)


def read(model: Any, tokens: Any) -> Held:
    """Keys and values of a text."""
    import torch
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    ids = torch.as_tensor(np.asarray(tokens))[None]
    with torch.inference_mode():
        model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    layers: list[Any] = list(cache.layers)
    return [(layer.keys, layer.values) for layer in layers]


def _filled(cache: Any, held: Held, batch: int) -> Any:
    for index, (keys, values) in enumerate(held):
        cache.update(keys.repeat(batch, 1, 1, 1), values.repeat(batch, 1, 1, 1), index)
    return cache


@contextlib.contextmanager
def _using(model: Any, name: str) -> Iterator[None]:
    """Let the model use another attention implementation for a while."""
    before = model.config._attn_implementation
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextlib.contextmanager
def _by(model: Any, policy: Policy) -> Iterator[None]:
    from vashista_theory.models.interface import NAME

    models.register(policy=policy)
    with _using(model, NAME):
        yield


def _paged(model: Any, held: Held, batch: int, room: int) -> Any:
    """A paged cache whose sequences have pages of their own."""
    import torch

    models.register()
    cache = models.PagedCache(model.config, room=room)
    layers: list[Any] = list(cache.layers)
    for layer, (keys, values) in zip(layers, held, strict=True):
        arrays = (np.repeat(one.numpy(), batch, axis=0) for one in (keys, values))
        pages = -(-room // PAGE)
        layer.lazy_initialization(keys, values)
        layer.pages = PagedKV.from_tokens(*arrays, pages_per_sequence=pages, pages=batch * pages)
        layer.dtype, layer.seen = torch.float32, keys.shape[2]
        layer.held = np.full(batch, keys.shape[2], np.int32)
    return cache

# pyright: reportMissingImports=false, reportUnknownParameterType=false
# pyright: reportUntypedBaseClass=false, reportMissingParameterType=false
# pyright: reportUntypedFunctionDecorator=false, reportIncompatibleMethodOverride=false
"""Layers of a mixed cache that stay what transformers makes them: windows, chunks, states."""

import functools
import inspect
from collections.abc import Iterable
from typing import Any, no_type_check

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from vashista_theory.models import refusals, watching


def own_layers(config: Any) -> list[Any]:
    """The layers that transformers itself would give a dynamic cache of this decoder.

    Raises:
        UnsupportedModelError: if they are not one for each of the model's.
    """
    cache = DynamicCache.__new__(DynamicCache)
    inspect.unwrap(DynamicCache.__init__)(cache, config=config)
    found = list(cache.layers)
    if len(found) != refusals.layers_of(config):
        raise refusals.unsupported(
            f"a model of {refusals.layers_of(config)} layers whose cache has {len(found)} "
            f"({type(config).__name__})"
        )
    return found


def keep(layer: Any, index: int, siblings: list[Any]) -> Any:
    """Let a layer of transformers tell the call of a model what its attention is to read.

    Layers without keys and values (convolutions, recurrent states) are returned as they are.
    """
    if not isinstance(layer, DynamicLayer):
        return layer
    kind: Any = _kept(type(layer))
    kept = kind.__new__(kind)
    vars(kept).update(vars(layer), index=index, siblings=siblings)
    return kept


class Kept:
    """What a kept layer of keys and values has beside what transformers gives it.

    Attributes:
        index: Of the layer.
        siblings: All layers of the cache.
    """

    _layer_type = None  # not to be made by transformers, which makes layers by such names
    index: int
    siblings: list[Any]

    @property
    def seen(self) -> int:
        """Tokens the model has seen, padding included."""
        return self.get_seq_length()  # pyright: ignore[reportAttributeAccessIssue]

    @no_type_check
    @torch.compiler.disable
    def update(self, *args: Any, **options: Any) -> tuple[Any, Any]:
        """Store new tokens, and announce what attention is to read."""
        keys, values = super().update(*args, **options)
        call = watching.current()
        if call is not None:
            call.announce(self, keys, values)
        return keys, values

    @no_type_check
    def crop(self, *lengths: int, **named: int) -> None:
        """Drop tokens as transformers does, unless some layer of the cache cannot."""
        check_crop(self.siblings)
        super().crop(*lengths, **named)


@functools.cache
def _kept(kind: type) -> type:
    return type(f"Kept{kind.__name__}", (Kept, kind), {})


def has_states(layers: Iterable[Any]) -> bool:
    """Whether some layer remembers tokens by a state, which does not say how many."""
    return any(hasattr(layer, "recurrent_states") for layer in layers)


def check_crop(layers: Iterable[Any]) -> None:
    """Raise before any layer is cut back if one of them has let go of what it would need.

    Raises:
        UnsupportedModelError: naming the layer.
    """
    for place, layer in enumerate(layers):
        recording = getattr(layer, "record_past", False)
        window = getattr(layer, "sliding_window", None)
        full = window is not None and layer.get_seq_length() >= window
        states = has_states([layer]) and not (recording and layer.is_croppable)
        if states or (full and not recording):
            held = "a state" if states else "a window of tokens"
            raise refusals.unsupported(
                f"cutting back a cache whose layer {place} remembers {held} alone",
                "Fill a new cache with the tokens to keep.",
            )

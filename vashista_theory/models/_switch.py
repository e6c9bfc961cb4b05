# pyright: reportMissingImports=false
"""Small differences between versions of transformers, and a model's attention for a while."""

import contextlib
import inspect
from collections.abc import Generator
from typing import Any

from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask


def make_known(name: str, function: Any) -> None:
    """Register an attention function that takes sdpa's masks."""
    AttentionInterface.register(name, function)
    AttentionMaskInterface.register(name, sdpa_mask)


def forget(name: str) -> None:
    """Undo `make_known`, for which transformers has no public way."""
    for interface in (AttentionInterface, AttentionMaskInterface):
        interface._global_mapping.pop(name, None)  # pyright: ignore[reportPrivateUsage]


@contextlib.contextmanager
def using_attention(model: Any, name: str) -> Generator[None]:
    """Let a model use another attention implementation within a ``with`` block."""
    configs = {id(c): c for c in (model.config, model.config.get_text_config(decoder=True))}
    before = [(config, config._attn_implementation) for config in configs.values()]
    try:
        for config, _ in before:
            config._attn_implementation = name
        yield
    finally:
        for config, old in before:
            config._attn_implementation = old


def cache_argument(model: Any) -> str:
    """What this version of transformers calls the cache of a forward pass."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def supports_interface(model: Any) -> bool:
    """Whether a model says that it calls transformers' attention interface."""
    return bool(getattr(model, "_supports_attention_backend", False))

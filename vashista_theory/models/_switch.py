# pyright: reportMissingImports=false
"""Small differences between versions of transformers, and a model's attention for a while."""

import contextlib
import inspect
from collections.abc import Generator, Iterator
from typing import Any

from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "vashista"


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
    with restored(model.config, decoder_config(model.config)):
        for config in (model.config, decoder_config(model.config)):
            config._attn_implementation_internal = name
        yield


@contextlib.contextmanager
def restored(*configs: Any, only: type[BaseException] | None = None) -> Generator[None]:
    """Give configurations back the attention implementation they had, or only after an error."""
    every = {id(one): one for config in configs for one in _with_parts(config)}
    before = [(one, getattr(one, "_attn_implementation", None)) for one in every.values()]
    failed = only is None
    try:
        yield
    except BaseException as error:
        failed = failed or isinstance(error, only or BaseException)
        raise
    finally:
        if failed:
            for one, implementation in before:
                # The property would set the parts of a configuration too.
                one._attn_implementation_internal = implementation
                # What 4.56 notes on parts while it sets them, and forgets after an error.
                vars(one).pop("_attn_was_changed", None)


def implementations(config: Any) -> set[Any]:
    """The attention implementations that a configuration and its parts ask for."""
    return {getattr(one, "_attn_implementation", None) for one in _with_parts(config)}


def _with_parts(config: Any) -> Iterator[Any]:
    yield config
    for name in getattr(config, "sub_configs", None) or ():
        part = getattr(config, name, None)
        if part is not None and not isinstance(part, dict):
            yield from _with_parts(part)


def decoder_config(config: Any) -> Any:
    """The part of a model's configuration that describes its text decoder."""
    try:
        return config.get_text_config(decoder=True)
    except (AttributeError, ValueError):  # no part of the library, or several decoders
        return config


def cache_argument(model: Any) -> str:
    """What this version of transformers calls the cache of a forward pass."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def supports_interface(model: Any) -> bool:
    """Whether a model says that it calls transformers' attention interface."""
    return bool(getattr(model, "_supports_attention_backend", False))

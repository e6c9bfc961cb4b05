# pyright: reportMissingImports=false, reportUntypedFunctionDecorator=false
"""A model's call, watched: all its attention is ours before any logits leave, or it is refused.

Nothing but the call itself shows whether a model's layers go through transformers' attention
interface, so while the implementation is registered every `PreTrainedModel.__call__` passes here.
"""

import functools
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar, no_type_check, runtime_checkable

import torch
import torch._dynamo.exc
from torch._dynamo.eval_frame import skip_code
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedModel

from vashista_theory.models import refusals
from vashista_theory.models._switch import (
    NAME,
    decoder_config,
    implementations,
    restored,
    supports_interface,
)

_thread = threading.local()
_F = TypeVar("_F", bound=Callable[..., Any])


def _untraced(function: _F) -> _F:
    """Kept from torch.compile, which finds nothing worth compiling in checks."""
    return torch.compiler.disable(function)  # pyright: ignore[reportReturnType]


@runtime_checkable
class CacheLayer(Protocol):
    """What a call asks of one layer of a cache that holds keys and values."""

    @property
    def index(self) -> int:
        """Of the layer."""
        ...

    @property
    def seen(self) -> int:
        """Tokens the model has seen."""
        ...

    @property
    def siblings(self) -> Sequence[Any]:
        """All layers of the cache, those with a state instead of keys and values too."""
        ...


class Call:
    """What a model's call has done so far.

    Attributes:
        config: Of the decoder that is called.
        modules: The attention modules that called the attention function.
        announced: Layer, keys and values of tokens that a cache was given and attention not yet.
        given: The layers of each cache among the arguments.
        caches: The layers of each cache that was given tokens.
    """

    def __init__(self, config: Any, arguments: Iterable[Any] = ()) -> None:
        self.config = config
        layers = (getattr(argument, "layers", None) for argument in arguments)
        self.given = [found for found in layers if found and _with_tokens(found)]
        self.modules: set[int] = set()
        self.announced: tuple[CacheLayer, Any, Any] | None = None
        self.caches: dict[int, Sequence[Any]] = {}

    def announce(self, layer: CacheLayer, key: Any, value: Any) -> None:
        """Note tokens that a cache was given.

        Raises:
            UnsupportedModelError: if those before never reached the attention function.
        """
        self._check_taken()
        self.announced = layer, key, value
        self.caches[id(layer.siblings)] = layer.siblings

    def take(self, module: Any, key: Any, value: Any) -> CacheLayer | None:
        """The layer whose tokens these are; None for attention without a cache.

        Raises:
            UnsupportedModelError: if a layer was given others.
        """
        self.modules.add(id(module))
        announced, self.announced = self.announced, None
        if announced is None:
            return None
        layer, keys, values = announced
        if keys is not key or values is not value:
            raise refusals.unsupported(
                f"{type(module).__name__}: it changes keys or values between its cache and the "
                "attention interface"
            )
        return layer

    @_untraced
    def finish(self, model: Any) -> None:
        """Raise unless every layer came by.

        Raises:
            UnsupportedModelError: saying how many did.
            ValueError: naming the first layer whose step failed, and the token.
        """
        failures = self.settle()
        if failures:
            raise ValueError(failures[0])
        self._check_taken()
        layers = refusals.attention_layers(self.config)
        if len(self.modules) < layers:
            raise refusals.unsupported(
                f"{type(model).__name__}: {len(self.modules)} of its modules called transformers' "
                f"attention interface, for {layers} layers; the others compute attention in their "
                "own way, or serve several layers"
            )
        caches = self.caches.values()
        lengths = [{layer.seen for layer in _with_tokens(cache)} for cache in caches]
        untouched = [cache for cache in self.given if id(cache) not in self.caches]
        if untouched or any(len(held) > 1 for held in lengths):
            raise refusals.unsupported(
                f"{type(model).__name__}: layers of it call the attention interface, but leave the "
                "cache alone"
            )

    @_untraced
    def interrupt(self) -> None:
        """Note in mixed caches that the call failed: what is not paged cannot be undone."""
        for cache in (*self.given, *self.caches.values()):
            paged = [layer for layer in cache if hasattr(layer, "interrupted")]
            if len({getattr(layer, "seen", None) for layer in cache}) > 1 and len(paged) < len(
                cache
            ):
                for layer in paged:
                    layer.interrupted = True

    @_untraced
    def settle(self) -> list[str]:
        """What went wrong in the layers; then no layer keeps the token, and all may go on.

        They are asked once a call: the answer of a layer may have to be waited for.
        """
        layers = [
            layer for cache in self.caches.values() for layer in cache if hasattr(layer, "settle")
        ]
        failures = [said for layer in layers if (said := layer.failure()) is not None]
        for layer in layers:
            layer.settle(self.config, keep=not failures)
        return failures

    def _check_taken(self) -> None:
        if self.announced is not None:
            raise refusals.unsupported(
                f"this model: the keys of layer {self.announced[0].index} did not reach the "
                "attention interface, so it computes attention in its own way"
            )


def _with_tokens(cache: Sequence[Any]) -> list[CacheLayer]:
    return [layer for layer in cache if hasattr(layer, "siblings")]


@_untraced
def check_model(model: Any) -> None:
    """Raise for a model that cannot be decoded over pages, as far as one sees without calling it.

    Raises:
        UnsupportedModelError: naming the class, or the field of its configuration.
    """
    if not supports_interface(model):
        raise refusals.unsupported(
            f"{type(model).__name__}: it does not say that it uses transformers' attention "
            "interface"
        )
    refusals.check_config(decoder_config(model.config))


def _check_made(model: Any) -> None:
    """The same for a model that is being made, unless it may be a part that reads no text."""
    if model.can_generate() or type(model.config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        check_model(model)


def current() -> Call | None:
    """The innermost call of a model that uses the implementation, in this thread."""
    return getattr(_thread, "call", None)


@no_type_check  # tests wrap what is checked, and torch.compile would not see through that
def _call(self: Any, *args: Any, **options: Any) -> Any:
    # Seen by torch.compile for every model: nothing here that it could not follow.
    if getattr(getattr(self, "config", None), "_attn_implementation", None) != NAME:
        return torch.nn.Module.__call__(self, *args, **options)
    return _watched(self, args, options)


skip_code(_call.__code__)  # as torch does with its own `Module.__call__`: compile what it calls


@no_type_check
@functools.partial(torch.compiler.disable, recursive=False)
def _watched(model: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    config, outer = decoder_config(model.config), current()
    # The decoder inside its causal language model is one call with it.
    if outer is not None and outer.config is config:
        return torch.nn.Module.__call__(model, *args, **options)
    check_model(model)
    call = _thread.call = Call(config, (*args, *options.values()))
    try:
        output = torch.nn.Module.__call__(model, *args, **options)
        call.finish(model)
    except BaseException as error:
        call.settle()  # which may undo a layer, so that it comes before
        call.interrupt()
        if not isinstance(error, torch._dynamo.exc.Unsupported):
            raise
        raise refusals.unsupported(
            "torch.compile(fullgraph=True): attention leaves torch",
            "Compile without `fullgraph`; what surrounds attention is compiled all the same.",
        ) from error
    finally:
        _thread.call = outer
    return output


def _from_config(original: Any) -> Any:
    @functools.wraps(original.__func__)
    def wrapper(cls: Any, config: Any, **options: Any) -> Any:
        with restored(config, only=refusals.UnsupportedModelError):
            return original.__func__(cls, config, **options)

    return classmethod(wrapper)


def _get_correct_attn_implementation(original: Any) -> Any:
    @functools.wraps(original)
    def wrapper(self: Any, requested_attention: Any, *args: Any, **options: Any) -> Any:
        if requested_attention == NAME:
            _check_made(self)
        return original(self, requested_attention, *args, **options)

    return wrapper


def _set_attn_implementation(original: Any) -> Any:
    @functools.wraps(original)
    def wrapper(self: Any, attn_implementation: Any, *args: Any, **options: Any) -> Any:
        with restored(self.config, only=refusals.UnsupportedModelError):
            if attn_implementation == NAME:
                check_model(self)
            original(self, attn_implementation, *args, **options)
            if _asks(attn_implementation) and NAME not in implementations(self.config):
                raise refusals.unsupported(
                    f"{type(self).__name__}: transformers cannot change its attention afterwards"
                )

    return wrapper


def _asks(attn_implementation: Any) -> bool:
    if isinstance(attn_implementation, dict):
        return any(map(_asks, attn_implementation.values()))
    return attn_implementation == NAME


_REPLACED = {
    "__call__": lambda _: _call,
    "_from_config": _from_config,
    "get_correct_attn_implementation": _get_correct_attn_implementation,
    "set_attn_implementation": _set_attn_implementation,
}
_originals: dict[str, Any] = {}


def start() -> None:
    """Watch the calls of all models, and refuse those that cannot be decoded when they are made."""
    if not _originals:
        for name, make in _REPLACED.items():
            _originals[name] = vars(PreTrainedModel).get(name)
            setattr(PreTrainedModel, name, make(_originals[name]))


def stop() -> None:
    """Undo `start`."""
    for name, original in _originals.items():
        if original is None:
            delattr(PreTrainedModel, name)
        else:
            setattr(PreTrainedModel, name, original)
    _originals.clear()

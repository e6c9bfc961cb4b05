# pyright: reportMissingImports=false, reportUnknownParameterType=false
"""A model's own attention to the keys at hand, and whether it computes nothing but attention.

An attention implementation gets queries, keys, values, a mask and a scale. What a model's eager
function takes from its module instead (a scale by layer, position biases, sinks) would be lost
without a word, so the two are compared once a module, on a few numbers.
"""

import sys
import weakref
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from vashista_theory.models import refusals

_TOKENS = 4
# Outputs are of order 1. Rounding of such scores, TensorFloat-32 included, moves them by less than
# a hundredth; another scale, a bias or a sink by far more.
_TOLERANCE = 0.02


class Given(NamedTuple):
    """What a call of attention says of the logits, beside their scale.

    Attributes:
        cap: Of the logits, by tanh; None for none.
        sinks: (H,) logits beside those of the keys; None for none.
    """

    cap: float | None = None
    sinks: torch.Tensor | None = None

    def named(self) -> dict[str, Any]:
        """As transformers names them, those that there are."""
        every = {"softcap": self.cap, "s_aux": self.sinks}
        return {name: given for name, given in every.items() if given is not None}


PLAIN = Given()
_compared: "weakref.WeakSet[torch.nn.Module]" = weakref.WeakSet()


def check_own_attention(
    module: torch.nn.Module,
    query: Float[torch.Tensor, "B H T D"],
    key: Float[torch.Tensor, "B Hkv S D"],
    scaling: float | None,
    given: Given = PLAIN,
) -> None:
    """Raise unless the eager function of the module's file is softmax attention, for this module.

    With what the call gives it beside the scale: a cap of the logits, and sinks.

    Raises:
        UnsupportedModelError: naming the module, and the difference.
    """
    function = _own(module)
    if function is None or module in _compared:
        return
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    options = ({} if scaling is None else {"scaling": scaling}) | given.named()
    device = query.device
    source = torch.Generator("cpu").manual_seed(0)

    def numbers(heads: int) -> torch.Tensor:
        shape = (1, heads, _TOKENS, query.shape[-1])
        return torch.randn(shape, generator=source, dtype=torch.float32, device="cpu").to(device)

    keys, values = numbers(key.shape[1]), numbers(key.shape[1])
    # Scores of a few nats, whatever the scale.
    queries = numbers(query.shape[1]) * (3 / (scale * query.shape[-1] ** 0.5))
    if given.cap is not None:  # where a cap bends: without it the spread would be twice as large
        keys[..., 0] = 1.0
        queries[..., 0] = 0.8 * given.cap / scale
    hidden = torch.ones(_TOKENS, _TOKENS, dtype=torch.bool, device=device).triu(1)
    mask = torch.zeros(1, 1, _TOKENS, _TOKENS, dtype=torch.float32, device=device)
    mask = mask.masked_fill(hidden, torch.finfo(torch.float32).min)
    groups = query.shape[1] // key.shape[1]
    each = (array.repeat_interleave(groups, dim=1) for array in (keys, values))
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        all_keys, all_values = each
        scores = queries @ all_keys.transpose(2, 3) * scale
        if given.cap is not None:
            scores = given.cap * torch.tanh(scores / given.cap)
        scores = scores + mask
        if given.sinks is not None:
            beside = given.sinks.float().reshape(1, -1, 1, 1).expand(*scores.shape[:3], 1)
            scores = torch.cat([scores, beside], dim=-1)
        weights = scores.softmax(dim=-1)[..., :_TOKENS]
        expected = (weights @ all_values).transpose(1, 2)
        try:
            found = function(module, queries, keys, values, mask, dropout=0.0, **options)[0]
            difference = float((found.float() - expected).abs().max())
        except Exception as error:  # whatever it needs beside these arguments
            raise refusals.unsupported(
                f"{type(module).__name__}: its own attention function needs more than an attention "
                f"implementation is given ({type(error).__name__}: {error})"
            ) from error
    if not difference <= _TOLERANCE:
        raise refusals.unsupported(
            f"{type(module).__name__}: its own attention function is not softmax attention with "
            f"the scale it passes on (they differ by {difference:.2g} on random numbers)"
        )
    _compared.add(module)


def attend_densely(
    module: torch.nn.Module,
    query: Float[torch.Tensor, "B H T D"],
    key: Float[torch.Tensor, "B Hkv S D"],
    value: Float[torch.Tensor, "B Hkv S D"],
    mask: torch.Tensor | None,
    scaling: float | None,
    options: dict[str, Any],
    given: Given = PLAIN,
) -> Float[torch.Tensor, "B T H D"]:
    """Attention to the keys that the mask shows; without one, to those before and at each query.

    By torch's own attention, which is what `check_own_attention` compared the module's with, or by
    the module's where torch's knows no caps and sinks.

    Raises:
        UnsupportedModelError: if there are any, and the module has no function of its own.
    """
    if given.named():
        return _attend_by_own(module, query, key, value, mask, scaling, given)
    # A release that is told that attention is causal believes it, and forgets the mask.
    causal = mask is None and query.shape[2] > 1 and refusals.is_causal(module, options)
    return sdpa_attention_forward(
        module, query, key, value, mask, scaling=scaling, is_causal=causal
    )[0]


def _attend_by_own(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
    given: Given,
) -> torch.Tensor:
    function = _own(module)
    if function is None:
        raise refusals.unsupported(
            f"{' and '.join(given.named())} in {type(module).__name__}, whose file has no eager "
            "attention"
        )
    tokens, keys = query.shape[2], key.shape[2]
    shown = torch.ones(1, 1, tokens, keys, dtype=torch.bool, device=query.device)
    shown = shown.tril(keys - tokens) if mask is None else mask
    if shown.dtype == torch.bool:
        hidden, least = ~shown, torch.finfo(query.dtype).min
        shown = torch.zeros_like(hidden, dtype=query.dtype).masked_fill(hidden, least)
    options = ({} if scaling is None else {"scaling": scaling}) | given.named()
    return function(module, query, key, value, shown, dropout=0.0, **options)[0]


def _own(module: torch.nn.Module) -> Any:
    return getattr(sys.modules.get(type(module).__module__), "eager_attention_forward", None)

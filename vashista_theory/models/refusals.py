# pyright: reportMissingImports=false
"""What decoding over pages cannot do, named in one sentence each."""

from collections.abc import Collection
from typing import Any

_SUPPORTED = (
    "Use attn_implementation='sdpa' or 'eager' for this model; causal self-attention over the "
    "whole context, in some layers at least, is what 'vashista' supports."
)
PAGED = "full_attention"
# What the other layers of a model may be, if transformers has a cache layer of its own for it.
_KEPT: tuple[str, ...] = ("sliding_attention", "chunked_attention", "linear_attention", "conv")
# Of these, the ones that call the attention interface.
_ATTENTION = (PAGED, "sliding_attention", "chunked_attention")
_CONFIG_FLAGS = {
    "num_kv_shared_layers": "layers that share keys and values",
    "alibi": "ALiBi position biases",
    "use_alibi": "ALiBi position biases",
    "kv_lora_rank": "latent (compressed) keys and values",
}
_CALL_FLAGS = {
    "sliding_window": "a window in a layer of full attention",
    "softcap": "soft-capping of the attention scores",
    "s_aux": "attention sinks beside the keys",
    "sinks": "attention sinks beside the keys",
    "position_bias": "position biases added to the scores",
    "alibi": "ALiBi position biases",
    "head_mask": "head masks",
    "layer_head_mask": "head masks",
    "indexer_mask": "index-selected attention",
    "indices": "index-selected attention",
    "block_indices": "block-selected attention",
    "cu_seq_lens_q": "sequences packed into one",
    "cu_seq_lens_k": "sequences packed into one",
    "max_length_q": "sequences packed into one",
    "max_length_k": "sequences packed into one",
    "seq_idx": "sequences packed into one",
}
# What models hand on that says nothing about attention, or was asked of the mask already.
_HARMLESS = {
    "cache_position",
    "deterministic",
    "is_causal",  # checked by itself
    "logits_to_keep",
    "num_items_in_batch",
    "output_hidden_states",
    "output_router_logits",
    "position_ids",
    "return_dict",
    "use_cache",
}


class UnsupportedModelError(ValueError):
    """A model, or a way to call it, that decoding over pages cannot reproduce."""


def unsupported(what: str, remedy: str = _SUPPORTED) -> UnsupportedModelError:
    """The error that says so."""
    return UnsupportedModelError(
        f"attn_implementation='vashista' does not support {what}. {remedy}"
    )


def check_config(config: Any) -> None:
    """Raise for a decoder whose configuration asks for what is not supported.

    Raises:
        UnsupportedModelError: naming the field and its value.
    """
    name = getattr(config, "model_type", type(config).__name__)
    if getattr(config, "is_encoder_decoder", False):
        raise unsupported(f"encoder-decoder models ({name})")
    types = layer_types(config)
    other = sorted({kind for kind in types if kind != PAGED and kind not in _kept_types()})
    if other:
        raise unsupported(f"layers of type {', '.join(other)} ({name})")
    if types and PAGED not in types:
        raise unsupported(f"models without a layer of full attention ({name}: {types[0]} alone)")
    for field, meaning in (
        ("sliding_window", "sliding-window"),
        ("attention_chunk_size", "chunked"),
    ):
        size = getattr(config, field, None)
        if size is not None and not types:
            raise unsupported(f"{meaning} attention in every layer ({name}: {field}={size})")
    for flag, meaning in _CONFIG_FLAGS.items():
        value = getattr(config, flag, None)
        if value:
            raise unsupported(f"{meaning} ({name}: {flag}={value})")


def check_unmixed(config: Any) -> None:
    """Raise unless every layer attends to the whole context, by scores as they are.

    Raises:
        UnsupportedModelError: naming the types of the others, or the field.
    """
    check_config(config)
    other = sorted({kind for kind in layer_types(config) if kind != PAGED})
    if other:
        raise unsupported(f"layers of type {', '.join(other)} here ({config.model_type})")
    cap = getattr(config, "attn_logit_softcapping", None)
    if cap:
        raise unsupported(f"soft-capped attention scores here (attn_logit_softcapping={cap})")


def layer_types(config: Any) -> list[str]:
    """The type of each layer, as transformers names them; empty if all are alike."""
    return list(getattr(config, "layer_types", None) or [])


def kept_layers(config: Any) -> set[int]:
    """The layers that keep the cache and the attention that transformers gives them."""
    return {place for place, kind in enumerate(layer_types(config)) if kind != PAGED}


def attention_layers(config: Any) -> int:
    """How many layers call transformers' attention interface.

    Raises:
        UnsupportedModelError: if the configuration does not say.
    """
    layers = layers_of(config)
    return layers - sum(kind not in _ATTENTION for kind in layer_types(config)[:layers])


def _kept_types() -> set[str]:
    """Types that this release of transformers makes a cache layer for."""
    from transformers import cache_utils

    mapping = getattr(cache_utils, "DYNAMIC_LAYER_TYPE_MAPPING", None)
    # Releases without that mapping mask chunks of padded prompts otherwise than their eager does.
    return set(_KEPT).intersection(["sliding_attention"] if mapping is None else mapping)


def check_call(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    mask: Any,
    dropout: float,
    options: Any,
    *,
    known: Collection[str] = (),
) -> None:
    """Raise for a call of the attention interface that is not plain causal self-attention.

    The arguments that are let through are listed: one that is not known may change attention.

    Args:
        module: That calls.
        query: Its queries.
        key: Its keys.
        value: Its values.
        mask: What it shows of the keys.
        dropout: Of the weights.
        options: All other arguments.
        known: Those of them that the caller takes into account: a window by keys and mask.

    Raises:
        UnsupportedModelError: naming the option and its value.
    """
    name = type(module).__name__
    if module.training:
        raise unsupported("training", "Call `model.eval()`, or train with another implementation.")
    if dropout:
        raise unsupported(f"dropout ({dropout} in {name})", "Call `model.eval()`.")
    if options.get("output_attentions"):
        raise unsupported(
            f"output_attentions=True (the weights of unread keys do not exist, {name})"
        )
    for option, asked in options.items():
        if asked is None or option in _HARMLESS or option == "output_attentions":
            continue
        if option in known and _is_in_mask(option, asked, key, mask):
            continue
        meaning = _CALL_FLAGS.get(option, "an argument of attention that is not known here")
        shown = asked if isinstance(asked, bool | int | float | str) else type(asked).__name__
        raise unsupported(f"{meaning} ({name}: {option}={shown})")
    # A mask says everything, and one query has nothing after itself.
    if mask is None and query.shape[2] > 1 and not is_causal(module, options):
        raise unsupported(f"attention that is not causal ({name})")
    if key.shape != value.shape or key.shape[-1] != query.shape[-1]:
        raise unsupported(
            f"keys and values of different sizes ({name}: query {tuple(query.shape)}, key "
            f"{tuple(key.shape)}, value {tuple(value.shape)})"
        )


def _is_in_mask(option: str, asked: Any, key: Any, mask: Any) -> bool:
    """Whether a window is what the mask shows, or no shorter than the keys; true of the others."""
    if option != "sliding_window" or mask is not None:
        return True
    return isinstance(asked, int) and not isinstance(asked, bool) and asked >= key.shape[2]


def is_causal(module: Any, options: Any) -> bool:
    """Whether a call without a mask means causal attention: it says so, or else its module does."""
    asked = options.get("is_causal")
    return bool(getattr(module, "is_causal", True) if asked is None else asked)


def layers_of(config: Any) -> int:
    """How many layers a decoder has.

    Raises:
        UnsupportedModelError: if its configuration does not say.
    """
    layers = getattr(config, "num_hidden_layers", None)
    if not isinstance(layers, int):
        raise unsupported(
            f"a configuration whose num_hidden_layers is {layers!r} ({type(config).__name__})"
        )
    return layers


def longest_context(config: Any) -> int | None:
    """Tokens that a decoder's positions reach, stretched ones included; None for no limit."""
    most = getattr(config, "max_position_embeddings", None)
    scaling = (
        getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    )
    # Where layers differ, those of full attention are what grows with the context.
    scaling = scaling.get(PAGED, scaling) or {}
    kind = scaling.get("rope_type", scaling.get("type"))
    if most is None or kind == "dynamic":
        return None
    if kind in ("linear", "yarn"):
        # Models stretched afterwards keep the number that they were trained with.
        before = scaling.get("original_max_position_embeddings") or most
        return max(int(most), int(before * scaling.get("factor", 1.0)))
    return int(most)


def check_context(tokens: int, config: Any) -> None:
    """Raise if a sequence would be longer than the model's positions.

    Raises:
        UnsupportedModelError: naming both lengths.
    """
    most = longest_context(config)
    if most is not None and tokens > most:
        raise UnsupportedModelError(
            f"the context would have {tokens} tokens, but this model was made for at most {most} "
            "(max_position_embeddings). Shorten the prompt, ask for fewer new tokens, or use a "
            "model with a longer context."
        )

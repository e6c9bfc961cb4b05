"""Tiny models that mix layers of full attention with others, by family."""

import copy
from typing import Any

import torch
import transformers

from tests.models import tiny

WINDOW = 7
_LAYERS: dict[str, Any] = {"num_hidden_layers": 3, "sliding_window": WINDOW, "head_dim": 8}
_WINDOWS = _LAYERS | {
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
_STATES = _LAYERS | {"layer_types": ["linear_attention", "full_attention", "linear_attention"]}
# By the name of the configuration's class: what makes it mixed, and tiny.
FAMILIES: dict[str, dict[str, Any]] = {
    "Gemma3Text": _WINDOWS,
    "Gemma2": _WINDOWS | {"attn_logit_softcapping": 4.0},
    "GptOss": _WINDOWS | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "Cohere2": _WINDOWS | {"logit_scale": 1.0},
    "Olmo3": _WINDOWS,
    "Exaone4": _WINDOWS,
    "Qwen2": _WINDOWS | {"use_sliding_window": True},
    "Qwen3": _WINDOWS | {"use_sliding_window": True},
    "SmolLM3": _WINDOWS | {"use_sliding_window": True, "no_rope_layers": [1, 0, 1]},
    "Ministral": _WINDOWS,
    "Afmoe": _WINDOWS | {"num_dense_layers": 3},
    "ModernBertDecoder": _WINDOWS
    | {
        "local_attention": 2 * WINDOW,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "sep_token_id": 2,
        "cls_token_id": 1,
    },
    "Llama4Text": _LAYERS
    | {
        "layer_types": ["chunked_attention", "full_attention", "chunked_attention"],
        "attention_chunk_size": WINDOW,
        "no_rope_layers": [1, 0, 1],
        "moe_layers": [],
        "intermediate_size_mlp": 64,
    },
    "Lfm2Moe": _LAYERS
    | {
        "layer_types": ["conv", "full_attention", "conv"],
        "num_dense_layers": 3,
        "moe_intermediate_size": 32,
    },
    "GraniteMoeHybrid": _STATES
    | {
        "mamba_n_heads": 12,
        "mamba_d_head": 8,
        "mamba_d_state": 8,
        "mamba_n_groups": 1,
        "mamba_chunk_size": 8,
        "num_local_experts": 4,
    },
}


_OF_LATER_RELEASES = {"linear_attention", "conv", "chunked_attention"}


def known() -> list[str]:
    """The families that this release of transformers has, each with a cache for all its layers."""
    mapping = getattr(transformers.cache_utils, "DYNAMIC_LAYER_TYPE_MAPPING", {})
    states = "linear_attention" in mapping
    return [
        name
        for name, options in FAMILIES.items()
        if hasattr(transformers, f"{name}Config")
        and (states or not _OF_LATER_RELEASES.intersection(options["layer_types"]))
    ]


def models(family: str, *names: str, **changes: Any) -> list[Any]:
    """One model for each attention implementation named, with the same weights."""
    kind = getattr(transformers, f"{family}Config")
    config = kind(**(tiny.SIZES | FAMILIES[family] | changes))
    torch.manual_seed(0)
    made = [
        transformers.AutoModelForCausalLM.from_config(
            copy.deepcopy(config), attn_implementation=name
        ).eval()
        for name in names
    ]
    for model in made:
        model.load_state_dict(made[0].state_dict())
        model.generation_config.eos_token_id = None
    return made

"""Small models with random weights, alike in everything but the attention implementation."""

import copy
from typing import Any

import numpy as np
import torch
import transformers

VOCABULARY, CONTEXT = 61, 512
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.3,  # scores spread over several nats, as those of trained heads do
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}
ARCHITECTURES = {
    "llama": transformers.LlamaConfig,
    "qwen2": transformers.Qwen2Config,  # biases on queries, keys and values
    "qwen3": transformers.Qwen3Config,  # queries and keys normalised
    "granite": transformers.GraniteConfig,  # a scale of its own
}
OPTIONS: dict[str, dict[str, Any]] = {
    "qwen3": {"head_dim": 16},
    "granite": {"attention_multiplier": 0.2},
}


def models(architecture: str = "llama", *names: str, **changes: Any) -> list[Any]:
    """One model for each attention implementation named, with the same weights."""
    options = SIZES | OPTIONS.get(architecture, {}) | changes
    config = ARCHITECTURES[architecture](**options)
    torch.manual_seed(0)
    made = [
        transformers.AutoModelForCausalLM.from_config(
            copy.deepcopy(config), attn_implementation=name
        ).eval()
        for name in names
    ]
    for model in made[1:]:
        model.load_state_dict(made[0].state_dict())
    return made


def prompts(batch: int, tokens: int, padding: tuple[int, ...] = ()) -> dict[str, torch.Tensor]:
    """Token ids, and with padding a mask: that many tokens on the left of each sequence."""
    rng = np.random.default_rng(batch + tokens)
    ids = torch.tensor(rng.integers(1, VOCABULARY, (batch, tokens)))
    mask = torch.ones_like(ids)
    for row, count in enumerate(padding):
        ids[row, :count] = 0
        mask[row, :count] = 0
    return {"input_ids": ids, "attention_mask": mask}


def continued(model: Any, inputs: dict[str, torch.Tensor], count: int = 20, **options: Any) -> Any:
    """Tokens chosen greedily, and the logits (step, B, V) they were chosen by."""
    done = model.generate(
        **inputs,
        max_new_tokens=count,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
        **options,
    )
    return done.sequences, torch.stack(done.logits)

"""A tiny random language model, for what needs torch; importing this skips without it."""

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

VOCABULARY = 97


class Tokenizer:
    """One token a character."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        return [ord(letter) % VOCABULARY for letter in text]


def model(context: int = 512, seed: int = 0) -> Any:
    """Two layers, six heads on two kv heads, attention sharp enough that pages differ."""
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=context,
        attn_implementation="sdpa",
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )
    made = transformers.LlamaForCausalLM(config).eval().float()
    with torch.no_grad():
        for layer in made.model.layers:
            for part in (layer.self_attn.q_proj, layer.self_attn.k_proj):
                part.weight *= 8.0
            layer.self_attn.v_proj.weight *= 20.0
        made.lm_head.weight *= 20.0
    return made


def save(folder: Path) -> Path:
    """The same as a folder in the Hugging Face layout, one token a character."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    letters = [chr(code) for code in range(32, 127)]
    core = Tokenizer(models.WordLevel({"?": 0} | {c: i + 1 for i, c in enumerate(letters)}, "?"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    transformers.PreTrainedTokenizerFast(tokenizer_object=core).save_pretrained(folder)
    model().save_pretrained(folder)
    return folder

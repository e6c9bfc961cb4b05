"""A small model on disk, in the two forms that are loaded: a folder, and a GGUF file."""

from pathlib import Path
from typing import Any

import numpy as np
import transformers

from tests.models import tiny

LAYERS, HIDDEN, VOCABULARY, FEED_FORWARD, HEADS, KV_HEADS = 2, 32, 40, 48, 4, 2


def write_folder(path: Path) -> Path:
    """A model with a tokenizer of letters, as `save_pretrained` writes them."""
    import tokenizers

    (model,) = tiny.models("llama", "sdpa")
    model.save_pretrained(path)
    letters = {chr(97 + i): i + 1 for i in range(26)} | {"?": 0}
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel(letters, unk_token="?"))
    core.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    transformers.PreTrainedTokenizerFast(tokenizer_object=core, unk_token="?").save_pretrained(path)
    return path


def gguf_tensors() -> dict[str, np.ndarray]:
    """The tensors of a small Llama under llama.cpp's names."""
    rng = np.random.default_rng(0)
    narrow = HIDDEN * KV_HEADS // HEADS
    layer = {
        "attn_norm": (HIDDEN,), "ffn_norm": (HIDDEN,), "attn_q": (HIDDEN, HIDDEN),
        "attn_k": (narrow, HIDDEN), "attn_v": (narrow, HIDDEN), "attn_output": (HIDDEN, HIDDEN),
        "ffn_gate": (FEED_FORWARD, HIDDEN), "ffn_up": (FEED_FORWARD, HIDDEN),
        "ffn_down": (HIDDEN, FEED_FORWARD),
    }  # fmt: skip
    shapes: dict[str, Any] = {
        "token_embd": (VOCABULARY, HIDDEN), "output_norm": (HIDDEN,),
        "output": (VOCABULARY, HIDDEN),
    }  # fmt: skip
    for number in range(LAYERS):
        shapes |= {f"blk.{number}.{name}": shape for name, shape in layer.items()}
    return {
        f"{name}.weight": rng.normal(size=shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def write_gguf(path: Path, tensors: dict[str, np.ndarray], *, layers: int = LAYERS) -> Path:
    """A GGUF file of these tensors, with a tokenizer of letters; `layers` is what it announces."""
    import gguf

    letters = ["<unk>", "<s>", "</s>", *(chr(97 + i) for i in range(26)), "ab", "cd"]
    letters += [f"unused {i}" for i in range(VOCABULARY - len(letters))]
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_rope_freq_base(1e4)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(letters)
    writer.add_token_types([1] * VOCABULARY)
    writer.add_token_merges(["a b", "c d"])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path

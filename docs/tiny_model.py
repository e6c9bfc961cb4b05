"""What pages call `your-model` when they are run: a small model with random weights, on disk.

Written into the current folder with a tokenizer of words, and `prompt.txt`, a text of a few
thousand of them.
"""

import re
from pydoc_data.topics import topics

import tokenizers
import torch
import transformers

FOLDER, WORDS = "your-model", 3000


def main() -> None:
    """Write both."""
    words = re.findall(r"\w+", " ".join(topics[name] for name in sorted(topics)))
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(["?", *words]))}
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="?"))
    core.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="?",
        pad_token="?",
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
    )
    tokenizer.save_pretrained(FOLDER)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        initializer_range=0.3,  # scores spread over several nats, as those of trained heads do
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(FOLDER)
    with open("prompt.txt", "w", encoding="utf-8") as file:  # noqa: PTH123
        file.write(" ".join(words[:WORDS]))


if __name__ == "__main__":
    main()

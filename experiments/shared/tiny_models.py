"""Every decoder that transformers knows, made tiny: one procedure, and its few exceptions."""

import inspect
from typing import Any

VOCABULARY, CONTEXT = 61, 128

# What configurations call their sizes. Heads are alike in all families, so that what is compiled
# for one serves the next.
_NAMES: dict[Any, str] = {
    VOCABULARY: """vocab_size vocab_size_per_layer_input text_vocab_size unpadded_vocab_size
        audio_vocab_size pronunciation_vocab_size shape_vocab_size encoder_hash_byte_group_vocab""",
    CONTEXT: """max_position_embeddings n_positions n_ctx max_seq_len max_sequence_length
        max_target_positions max_source_positions model_max_length rel_extent bias_max_distance""",
    32: """hidden_size n_embd d_model dim embedding_size embed_dim emb_dim hidden_size_global
        intermediate_size ffn_dim n_inner decoder_ffn_dim encoder_ffn_dim ffn_hidden_size dff
        moe_intermediate_size shared_expert_intermediate_size d_ff intermediate_size_mlp dim_ff
        shared_intermediate_size expert_ffn_hidden_size moe_shared_expert_intermediate_size
        router_hidden_size backbone_hidden_size hidden_size_per_layer_input attention_hidden_size
        pronunciation_embed_dim shape_embed_dim mlp_dim output_channels input_size image_size
        adapter_in_dim prompt_types segment_types position_bias_num_buckets ext_pw_out_channel
        depthwise_separable_out_channel nemo_conv_channels crop_size
        ple_embed_dim hc_lowrank vector_quantization_hidden_dimension codebook_dim
        ngram_vocab_size_base num_filters""",
    16: """q_lora_rank kv_lora_rank o_lora_rank qk_head_dim index_head_dim mamba_d_head
        mamba_head_dim ssm_head_dim patch_size laurel_rank model_patch_size adapter_rank
        upsample_groups""",
    6: "sliding_window attention_chunk_size",
    8: """head_dim kv_channels attention_head_dim d_kv qk_nope_head_dim qk_rope_head_dim v_head_dim
        rotary_dim swa_head_dim dim_head linear_key_head_dim linear_value_head_dim linear_head_dim
        mamba_d_state ssm_state_size state_size mamba_chunk_size chunk_size d_rel global_head_dim
        num_mel_bins original_head_dim swa_v_head_dim image_seq_length""",
    4: """num_attention_heads n_head n_heads num_heads decoder_attention_heads zero_expert_num
        encoder_attention_heads num_experts num_local_experts n_routed_experts moe_num_experts
        index_n_heads index_topk swa_num_attention_heads linear_num_value_heads linear_num_heads
        mamba_n_heads mamba_num_heads num_query_groups""",
    2: """num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers num_blocks
        num_key_value_heads num_kv_heads multi_query_group_num kv_n_heads swa_num_key_value_heads
        num_experts_per_tok num_experts_per_token moe_topk moe_k moe_top_k linear_num_key_heads
        split_ngram_parts""",
    1: """n_shared_experts num_shared_experts moe_num_shared_experts n_group topk_group n_groups
        mamba_n_groups mamba_ngroups first_k_dense_replace num_dense_layers bos_token_id
        moe_layer_start_index""",
}
SIZES = {name: size for size, names in _NAMES.items() for name in names.split()}
SIZES |= {"pad_token_id": 0, "eos_token_id": 2}

_MLA = {"num_key_value_heads": 4}  # each head has keys of its own, unpacked from the latent
EXCEPTIONS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        (
            "axk1", "axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "dots3_note",
            "dots3_note_text", "glm4_moe_lite", "glm_moe_dsa", "longcat_flash", "minicpm3",
            "sarvam_mla", "youtu",
        ),
        _MLA,
    ),
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}
    },
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0}},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma4_text": {"hidden_size_per_layer_input": 0},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 4, "head_dim": 16},
    "mllama_text_model": {"num_hidden_layers": 3, "cross_attention_layers": [1]},
    "reformer": {"axial_pos_embds_dim": [16, 16], "axial_pos_shape": [8, 16]},
    "xmod": {"default_language": "en_XX"},
    "zaya": {"num_experts_per_tok": 1},
}  # fmt: skip


def tiny_config(kind: type) -> Any:
    """A configuration of a few thousand parameters, of a class of them.

    It has a layer of each kind that the default has, at least two.

    Raises:
        Exception: whatever the class raises; it cannot be made tiny then.
    """
    return kind(**_options(kind))


def _options(kind: Any) -> dict[str, Any]:
    known = set(inspect.signature(kind.__init__).parameters)
    parts = dict(getattr(kind, "sub_configs", None) or {})
    layers: dict[str, Any] = {}
    try:
        default = kind()
    except Exception:  # noqa: BLE001 - some classes have no default that passes their own checks
        known |= set(getattr(kind, "__dataclass_fields__", {}))
    else:
        known |= set(vars(default))
        layers = _layers(default)
        parts = {name: type(getattr(default, name, None)) for name in parts}
    options = {name: size for name, size in SIZES.items() if name in known}
    if "is_decoder" in known:
        options["is_decoder"] = True
    for name, part in parts.items():
        if getattr(part, "model_type", None):
            options[name] = {**_options(part), "model_type": part.model_type}
    return options | layers | EXCEPTIONS.get(kind.model_type, {})


def _layers(default: Any) -> dict[str, Any]:
    """The lists of a default configuration that describe its layers, one layer of each kind."""
    count = getattr(default, "num_hidden_layers", None)
    lists = {
        name: value
        for name, value in vars(default).items()
        if isinstance(value, list) and len(value) == count and not name.startswith("_")
    }
    words = [value for value in lists.values() if isinstance(value[0], str)]
    if not words:
        return {}
    first: dict[Any, int] = {}
    for index, described in enumerate(zip(*words, strict=True)):
        first.setdefault(described, index)
    chosen = sorted(first.values())
    chosen += [index for index in range(len(words[0])) if index not in chosen][: 2 - len(chosen)]
    return {"num_hidden_layers": len(chosen)} | {
        name: [SIZES.get(name, value[index]) for index in chosen]
        if not name.startswith("num_attention_heads")
        else [SIZES["num_attention_heads"]] * len(chosen)
        for name, value in lists.items()
    }

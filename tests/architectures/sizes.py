"""Sizes of tiny models by the names of a config's fields, which families share."""

from collections.abc import Mapping
from typing import Any

from tiny import STOP

VOCABULARY = 36
CONTEXT = 128

Fields = dict[str, Any]

# Four heads of 8 make a width of 32, whatever they are called; windows are short enough to matter.
SMALL: Fields = {
    "vocab_size": VOCABULARY,
    "bos_token_id": None,
    "eos_token_id": STOP,
    "pad_token_id": None,
    "tie_word_embeddings": False,
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx"), CONTEXT),
    **dict.fromkeys(("max_seq_len", "context_length", "max_target_positions"), CONTEXT),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "emb_dim", "embedding_size"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 2),
    **dict.fromkeys(("decoder_layers", "encoder_layers", "num_decoder_layers"), 2),
    **dict.fromkeys(("num_encoder_layers",), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("num_decoder_attention_heads", "num_encoder_attention_heads"), 4),
    **dict.fromkeys(("attention_heads",), 4),
    "num_key_value_heads": 2,
    **dict.fromkeys(("head_dim", "kv_channels", "attention_head_size", "dim_head"), 8),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim"), 48),
    **dict.fromkeys(("dff", "dim_ff", "d_inner", "ffn_hidden_size", "feed_forward_size"), 48),
    **dict.fromkeys(("intermediate_size_mlp", "dense_intermediate_size"), 48),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 24),
    **dict.fromkeys(("shared_intermediate_size", "expert_ffn_hidden_size"), 24),
    **dict.fromkeys(("moe_shared_expert_intermediate_size",), 24),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    "moe_num_experts": 4,
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "moe_topk"), 2),
    **dict.fromkeys(("n_group", "topk_group"), 1),
    "first_k_dense_replace": 1,
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "o_lora_rank"), 16),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("index_head_dim",), 16),
    "index_n_heads": 4,
    "index_topk": CONTEXT,  # fewer, and ties at zero would be broken by rounding
    **dict.fromkeys(("sliding_window", "window_size", "sliding_window_size"), 6),
    **dict.fromkeys(("attention_window_size", "attention_chunk_size"), 8),
    **dict.fromkeys(("mamba_d_state", "state_size", "ssm_state_size"), 8),
    **dict.fromkeys(("mamba_n_heads", "n_mamba_heads", "mamba_num_heads"), 4),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "linear_head_dim"), 8),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads", "linear_num_heads"), 4),
    **dict.fromkeys(("mamba_chunk_size", "chunk_size"), 8),
    **dict.fromkeys(("image_token_id", "video_token_id", "audio_token_id"), 30),
    **dict.fromkeys(("image_token_index", "boi_token_id", "eoi_token_id"), 31),
    **dict.fromkeys(("boa_token_id", "boi_token_index", "eoi_token_index"), 32),
    **dict.fromkeys(("eoa_token_id", "eoa_token_index"), 33),
    **dict.fromkeys(("vision_start_token_id", "vision_end_token_id"), 34),
}

# Of a config inside of another that says by `model_type` what it is.
INNER: Fields = {
    name: SMALL[name]
    for name in (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "max_position_embeddings",
        "eos_token_id",
    )
}

# What grows with the width of a model, here and in the recipes of families.
_WIDTHS = {
    *("hidden_size", "n_embd", "d_model", "emb_dim", "embed_dim", "embedding_size"),
    *("intermediate_size", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim", "dff", "dim_ff"),
    *("d_inner", "ffn_hidden_size", "feed_forward_size", "intermediate_size_mlp"),
    *("dense_intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size"),
    *("shared_intermediate_size", "expert_ffn_hidden_size"),
    "moe_shared_expert_intermediate_size",
    *("head_dim", "kv_channels", "attention_head_size", "dim_head", "global_head_dim"),
    *("swa_head_dim", "rotary_dim", "query_pre_attn_scalar", "index_head_dim", "indexer_head_dim"),
    *("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "d_rel"),
    *("kv_lora_rank", "q_lora_rank", "o_lora_rank"),
    *("linear_key_head_dim", "linear_value_head_dim", "linear_head_dim"),
    *("mamba_d_head", "mamba_head_dim", "mamba_d_ssm", "lru_width"),
    *("hidden_size_per_layer_input", "backbone_hidden_size", "dim_model_base"),
    *("mm_embed_dim", "output_proj_dims", "vision_output_dim", "projection_dim"),
    *("mrope_section", "short_factor", "long_factor"),
}


def widened(fields: Mapping[str, Any], times: int) -> Fields:
    """Return the fields of a model that is `times` as wide: as many heads, each of more numbers."""
    return {name: _wide(name, value, times) for name, value in fields.items()}


def _wide(name: str, value: Any, times: int) -> Any:
    if isinstance(value, Mapping):
        return widened(value, times)
    if name not in _WIDTHS or value is None:
        return value
    if name == "mrope_section":  # how many frequencies
        return [times * size for size in value]
    if isinstance(value, list):  # a factor a frequency
        return [factor for factor in value for _ in range(times)]
    return times * value

"""What a tiny model needs for vLLM beside its recipe, and what was found out where they differ.

vLLM reads fields that config.json files of published models have and transformers' classes lack;
a folder made by transformers alone goes without. And where a family has never had a head of its
own, vLLM knows none.
"""

from pathlib import Path

from safetensors.torch import load_file, save_file
from sizes import Fields

_TIED: Fields = {"tie_word_embeddings": True}
# the one width of latents and rotated numbers that the kernel of a CPU takes
_LATENT: Fields = {"kv_lora_rank": 512, "qk_rope_head_dim": 64}
_CORRECTED: Fields = {"topk_method": "noaux_tc", "scoring_func": "sigmoid"}
_CHUNKED: Fields = {
    "attention_chunk_size": 128,
    "interleave_moe_layer_step": 2,
    "num_experts_per_tok": 1,
}

PUBLISHED: dict[str, Fields] = {
    "afmoe": {"score_func": "sigmoid", "route_norm": True, "n_group": 1, "topk_group": 1},
    "bloom": _TIED,
    "cohere": _TIED,
    "cohere2": _TIED,
    "cohere2_moe": _TIED,
    "deepseek_v2": _LATENT,
    "deepseek_v3": _LATENT | _CORRECTED,
    "falcon": {"ffn_hidden_size": 512},
    "falcon+alibi": {"ffn_hidden_size": 512},
    "gemma2": _TIED,
    "gemma3n_text": _TIED,
    "gemma4": {"text_config": {"num_experts": None}},
    "gemma4_text": {"num_experts": None},
    "glm4_moe": {"head_dim": 32},
    "glm4_moe_lite": _LATENT | _CORRECTED | {"first_k_dense_replace": 1},
    "hy_v3": {
        "first_k_dense_replace": 1,
        "expert_hidden_dim": 96,
        "route_norm": True,
        "qk_norm": True,
    },
    "kimi_linear": _LATENT,
    "lfm2": _TIED | {"conv_dim": 128, "block_dim": 128},
    "lfm2_moe": _TIED,
    "lfm2_vl": _TIED | {"text_config": _TIED | {"conv_dim": 128, "block_dim": 128}},
    "llama4": {"text_config": _CHUNKED},
    "llama4+whole": {"text_config": _CHUNKED},
    "llama4_text": _CHUNKED,
    "longcat_flash": _LATENT
    | {"head_dim": 64, "mla_scale_q_lora": True, "mla_scale_kv_lora": True},
    "minimax_m2": {"rotary_dim": 16, "scoring_func": "sigmoid", "use_routing_bias": True},
    "mimo_v2_flash": {
        "hybrid_layer_pattern": [0, 1],
        "moe_layer_freq": [0, 1],
        "layernorm_epsilon": 1e-5,
        "sliding_window_size": 6,
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 2,
        "swa_head_dim": 32,
        "swa_v_head_dim": 32,
        "rope_theta": 5000000.0,
        "swa_rope_theta": 10000.0,
        "partial_rotary_factor": 0.334,
        "add_swa_attention_sink_bias": True,
    },
    "qwen3_vl_moe": {"text_config": {"norm_topk_prob": True, "num_experts": 4}},
}

# transformers writes a model that it made under other names than one that it has read
_NAMES = {"qwen2_audio": ("language_model.model.model.", "language_model.model.")}


def as_published(folder: Path, kind: str) -> None:
    """Give the weights of a folder the names that published models of a kind have."""
    made, published = _NAMES.get(kind, ("", ""))
    if made:
        path = folder / "model.safetensors"
        tensors = {k.replace(made, published): v for k, v in load_file(path).items()}
        save_file(tensors, path, metadata={"format": "pt"})


_ROTATION = (
    "vLLM's CPU kernel of rotary embeddings is wrong for queries of three dimensions; with its "
    "plain rotation instead of the kernel they agree"
)
_WINDOW = (
    "vLLM's windows hold one token more, on purpose: with windows beyond the longest sequence they "
    "agree"
)
_GENERIC = "not found out: vLLM runs transformers' own class with an attention of its own"

# What makes a gap that is allowed.
AGREES: dict[str, str] = {
    "apertus": "vLLM keeps the numbers of its activation in bfloat16",
}

# What was found out about kinds whose gap is gross.
GROSS: dict[str, str] = {
    "cohere2": _WINDOW,
    "cohere2_moe": _WINDOW,
    "deepseek_v2": _ROTATION,
    "deepseek_v3": _ROTATION,
    "doge": _GENERIC,
    "ernie4_5_moe": "vLLM's CPU router of experts leaves out their correction bias",
    "falcon+alibi": "its bias by distance; without it they agree, and so does the first token",
    "gemma3n_text": "not found out; one layer of full attention alone is wrong as well",
    "glm4_moe_lite": _ROTATION,
    "hrm_text": "vLLM lets tokens of a prompt read those that follow; transformers does not",
    "jetmoe": _GENERIC,
    "lfm2": _ROTATION,
    "lfm2_moe": _ROTATION,
    "lfm2_vl": _ROTATION,
    "mimo_v2_flash": "not found out",
    "zaya": _GENERIC,
}

_ROUTER = "vLLM's CPU router knows softmax alone where experts are in no groups"

# What stands behind an error of vLLM's that does not say it.
FAILS: dict[str, str] = {
    "laguna": _ROUTER,
    "minimax_m2": _ROUTER,
    "minimax_m3_vl_text": _ROUTER,
    "qwen3_vl_moe": "transformers writes experts transposed to what is published, which is what "
    "vLLM reads",
}

"""Tiny random models of every causal language model class that transformers maps.

Sizes are set by the names of a config's fields (`sizes.py`); a family adds its own below.
"""

import dataclasses
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from multimodal import MULTIMODAL
from sizes import INNER, SMALL, VOCABULARY, Fields, widened
from tiny import STOP, shake
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    GenerationConfig,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
)

_PAIR = Path(str(files("tip.pipeline.demo") / "pair" / "student"))  # its tokenizer serves all
STOPS = range(STOP, 7)  # many, so that responses end at different times
_SPREAD = 0.25
_SPREADS = {"gemma": 0.15}  # whose norms multiply by 1 + weight: logits of hundreds round coarsely

_PADDED = {"pad_token_id": 0}
_LINEAR = {"layer_types": ["linear_attention", "full_attention"]}
_WINDOWED = {"layer_types": ["sliding_attention", "full_attention"]}
_INDEXER = {
    "indexer_n_heads": 4,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 8,
    "indexer_budget": 8,
    "indexer_compress_ratio": 2,
}
_BY_CHANNEL = {"mamba_d_head": 16, "mamba_n_groups": 1, "mamba_expand": 2}
_PER_LAYER = {"vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8}

# What a family needs beside the sizes above. `kind+name` is one more row: a variant of a kind.
OWN: dict[str, Fields] = {
    "afmoe": _WINDOWED | {"num_dense_layers": 1},
    "axk2": {"gated_norm_rank": 8},
    "bamba": _BY_CHANNEL | {"attn_layer_indices": [1]},
    "bert+decoder": {"is_decoder": True},
    "blt": {
        "encoder_hash_byte_group_vocab": 16,
        "encoder_config": {"hidden_size_global": 32, "num_key_value_heads": 4},
        "decoder_config": {"hidden_size_global": 32, "num_key_value_heads": 4},
    },
    "big_bird": {"attention_type": "original_full", "sep_token_id": None},
    "bigbird_pegasus": {"attention_type": "original_full"},
    "camembert": _PADDED,
    "codegen": {"rotary_dim": 8},
    "data2vec-text": _PADDED,
    "gptj": {"rotary_dim": 8},
    "roberta": _PADDED,
    "roberta-prelayernorm": _PADDED,
    "xlm-roberta": _PADDED,
    "xlm-roberta-xl": _PADDED,
    "xmod": _PADDED,
    "cohere2": _WINDOWED | {"logit_scale": 0.5},
    "cohere": {"logit_scale": 0.5},
    "cohere2_moe": _WINDOWED,
    "cohere_compass_text": _WINDOWED
    | {
        "rope_parameters": {
            name: {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
            for name in _WINDOWED["layer_types"]
        }
    },
    "cwm": {"bos_token_id": 2},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"hidden_size": 32, "ffn_hidden_size": 24, "moe_top_k": 2},
    },
    "deepseek_v3": {"n_group": 2},
    "dots1": _WINDOWED | {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "emu3": {
        "text_config": {"pad_token_id": 0, "bos_token_id": 2},
        "vq_config": {"base_channels": 32, "channel_multiplier": [1], "num_res_blocks": 1},
    },
    "exaone4": _WINDOWED,
    "exaone_moe": _WINDOWED,
    "falcon+alibi": {"alibi": True, "multi_query": False, "new_decoder_architecture": False},
    "falcon_h1": _BY_CHANNEL | {"mamba_d_ssm": 64, "lm_head_multiplier": 0.5},
    "gemma2": {"query_pre_attn_scalar": 8},
    "gemma3_text": _WINDOWED | {"query_pre_attn_scalar": 8},
    "gemma3n_text": _PER_LAYER
    | {
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_kv_shared_layers": 2,
        "laurel_rank": 8,
    },
    "gemma4": {
        "text_config": _PADDED | _PER_LAYER | {"global_head_dim": 16},
        "vision_config": {"position_embedding_size": 64},
        "audio_config": {"subsampling_conv_channels": [8, 4], "output_proj_dims": 32},
    },
    "gemma4_assistant": {
        "text_config": INNER
        | {
            "model_type": "gemma4_text",
            "global_head_dim": 16,
            "hidden_size_per_layer_input": 0,
            "vocab_size_per_layer_input": 0,
            "layer_types": _WINDOWED["layer_types"],
        },
        "backbone_hidden_size": 32,
        "num_centroids": 8,
    },
    "gemma4_text": _PER_LAYER | {"global_head_dim": 16},
    "gemma4_text+moe": _PER_LAYER
    | {
        "global_head_dim": 16,
        "enable_moe_block": True,
        "num_experts": 4,
        "top_k_experts": 2,
        "moe_intermediate_size": 24,
    },
    "gemma4_unified": {
        "text_config": _PADDED | {"global_head_dim": 16},
        "vision_config": {
            "patch_size": 4,
            "mm_embed_dim": 32,
            "mm_posemb_size": 16,
            "output_proj_dims": 32,
        },
    },
    "gemma4_unified_assistant": {
        "text_config": INNER
        | {
            "model_type": "gemma4_unified_text",
            "global_head_dim": 16,
            "layer_types": _WINDOWED["layer_types"],
        },
        "backbone_hidden_size": 32,
        "num_centroids": 8,
    },
    "gemma4_unified_text": {"global_head_dim": 16},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "got_ocr2": {
        "text_config": INNER | {"model_type": "qwen2"},
        "vision_config": {"output_channels": 8, "num_pos_feats": 4, "mlp_dim": 32},
    },
    "granite": {"logits_scaling": 8.0},
    "granitemoehybrid": _BY_CHANNEL
    | {"layer_types": ["linear_attention", "full_attention"], "mamba_d_head": 16},
    "inkling_text": {
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 2,
        "swa_head_dim": 8,
        "d_rel": 8,
        "rel_extent": 16,
    },
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2},
    "kimi_linear": _LINEAR,
    "lfm2": {"layer_types": ["conv", "full_attention"], "conv_L_cache": 3},
    "lfm2_moe": {
        "layer_types": ["conv", "full_attention"],
        "conv_L_cache": 3,
        "num_dense_layers": 1,
    },
    "llama+dynamic": {
        "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    },
    "llama+yarn": {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 32,
        }
    },
    "llama+tied": {"tie_word_embeddings": True},
    "llama4_text": {
        "layer_types": ["chunked_attention", "full_attention"],
        "no_rope_layers": [1, 0],
        "moe_layers": [1],
    },
    "longcat_flash": {"zero_expert_num": 2, "num_layers": 1},
    "mamba2": {"num_heads": 8, "n_groups": 1, "expand": 2},
    "minicpm3": {"dim_model_base": 16},
    "minimax": {"block_size": 8},
    "mistral+window": {"sliding_window": 6},
    "mllama": MULTIMODAL["mllama+whole"],
    "modernbert-decoder": _WINDOWED
    | {"pad_token_id": 0, "bos_token_id": 2, "cls_token_id": 2, "sep_token_id": 2},
    "nemotron_h": {"n_groups": 1, "mamba_head_dim": 16},
    "olmo3": _WINDOWED,
    "phi3": {"pad_token_id": 0, "sliding_window": 6},
    "phi3+longrope": {
        "pad_token_id": 0,
        "original_max_position_embeddings": 24,
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0] * 4,
            "long_factor": [4.0, 8.0, 16.0, 32.0],
            "original_max_position_embeddings": 24,
        },
    },
    "qwen3_5": {"text_config": _LINEAR},
    "qwen3_5_moe": {"text_config": _LINEAR},
    "qwen3_5_moe_text": _LINEAR,
    "qwen3_5_text": _LINEAR,
    "qwen3_next": _LINEAR,
    "qwen4_exp": {"text_config": _LINEAR | {"hc_count": 2, "hc_lowrank": 8} | _INDEXER},
    "qwen4_exp_text": {
        "layer_types": ["linear_attention", "full_attention"],
        "hc_count": 2,
        "hc_lowrank": 8,
    }
    | _INDEXER,
    "recurrent_gemma": {
        "block_types": ["recurrent", "attention"],
        "lru_width": 32,
        "num_hidden_layers": 2,
    },
    "reformer": {
        "is_decoder": True,
        "axial_pos_embds": False,
        "attn_layers": ["local", "local"],
        "local_attn_chunk_length": 8,
    },
    "rembert": {"input_embedding_size": 16, "output_embedding_size": 24},
    "roberta+decoder": _PADDED | {"is_decoder": True},
    "roc_bert": {
        "shape_vocab_size": 8,
        "pronunciation_vocab_size": 8,
        "shape_embed_dim": 8,
        "pronunciation_embed_dim": 8,
    },
    "rwkv": {"attention_hidden_size": 32},
    "smollm3": {"no_rope_layers": [1, 0]},
    "zamba": {
        "layers_block_type": ["mamba", "hybrid"],
        "mamba_dt_rank": 4,
        "n_mamba_heads": 2,
    },
    "zamba2": {
        "layers_block_type": ["mamba", "hybrid"],
        "n_mamba_heads": 8,
        "mamba_ngroups": 1,
        "adapter_rank": 8,
    },
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 8},
}

UNBUILDABLE: dict[str, str] = {
    "gemma3n": "its vision tower needs the timm library",
    "musicgen": "it writes audio tokens of several codebooks, not text",
    "musicgen_melody": "it writes audio tokens of several codebooks, not text",
}


def kinds() -> list[str]:
    """Return the model types of the mapping, their variants and what reads more, by name."""
    return sorted({*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *OWN, *MULTIMODAL})


def class_of(kind: str) -> str:
    """Return the name of the class that a model type is mapped to."""
    whole = kind in MULTIMODAL
    names = MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES if whole else MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return names[kind.partition("+")[0]]


def tiny_config(kind: str, times: int = 1, more: Fields | None = None) -> Any:
    """Return the config of a tiny model.

    times: how much wider its heads are than 8. more: fields that come before all others.
    """
    name = kind.partition("+")[0]
    fields = _fields(CONFIG_MAPPING[name], (OWN | MULTIMODAL).get(kind, {}))
    return AutoConfig.for_model(name, **_joined(widened(fields, times), more or {}))


def _joined(fields: Fields, more: Fields) -> Fields:
    inner = {
        name: _joined(fields[name], value)
        for name, value in more.items()
        if isinstance(value, dict) and isinstance(fields.get(name), dict)
    }
    return fields | more | inner


def _fields(config: Any, own: Fields) -> Fields:
    """Return the sizes of a config class; a config inside of another is given its own."""
    names = {field.name for field in dataclasses.fields(config)}
    found = {name: value for name, value in SMALL.items() if name in names}
    if "kv_lora_rank" in names:
        found["num_key_value_heads"] = 4  # keys and values are made of one latent for each head
    found |= own
    for name, inner in config.sub_configs.items():
        if dataclasses.is_dataclass(inner):
            found[name] = _fields(inner, own.get(name, {}))
    return found


def write_tiny(
    folder: Path, kind: str, seed: int, times: int = 1, more: Fields | None = None
) -> None:
    """Write a random model and its tokenizer as a Hugging Face folder; see `tiny_config`."""
    torch.manual_seed(seed)
    auto: Any = AutoModelForMultimodalLM if kind in MULTIMODAL else AutoModelForCausalLM
    model = auto.from_config(tiny_config(kind, times, more), dtype=torch.float32)
    shake(model, seed, _SPREADS.get(kind, _SPREAD) / times**0.5)
    model.generation_config = GenerationConfig(eos_token_id=list(STOPS))
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(_PAIR / name, folder / name)

"""Tiny models that read more than text: the most used of those that transformers maps so.

Their text model is of a family of its own; what reads images or sound is as small as can be, and
gets nothing to read. `kind+whole` is a kind of which there is also the text model alone.
"""

from sizes import INNER, Fields

_EYE: Fields = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
}


def _text(model_type: str, **more: object) -> Fields:
    plain = {"model_type": model_type, "bos_token_id": None, "pad_token_id": None}
    return INNER | plain | more


_LINEAR = {"layer_types": ["linear_attention", "full_attention"]}
_PIXTRAL = _EYE | {"model_type": "pixtral", "head_dim": 8}
_CLIP = _EYE | {"model_type": "clip_vision_model", "projection_dim": 32}
_SIGLIP = _EYE | {"model_type": "siglip_vision_model"}
_ROTATED = {
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
}
_QWEN_EYE = {"depth": 1, "embed_dim": 32, "num_heads": 4}

_EAR = _EYE | {
    "model_type": "qwen2_audio_encoder",
    "d_model": 32,
    "encoder_layers": 1,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "num_mel_bins": 8,
}

MULTIMODAL: dict[str, Fields] = {
    "aya_vision": {"text_config": _text("cohere2"), "vision_config": _SIGLIP},
    "idefics3": {"text_config": _text("llama"), "vision_config": _EYE},
    "internvl": {
        "text_config": _text("qwen2"),
        "vision_config": _EYE | {"model_type": "internvl_vision", "image_size": [28, 28]},
    },
    "lfm2_vl": {
        "text_config": _text("lfm2", layer_types=["conv", "full_attention"], conv_L_cache=3),
        "vision_config": _EYE | {"model_type": "siglip2_vision_model"},
    },
    "llama4+whole": {},
    "llava": {"text_config": _text("llama"), "vision_config": _CLIP},
    "llava_next": {"text_config": _text("mistral"), "vision_config": _CLIP},
    "llava_onevision": {"text_config": _text("qwen2"), "vision_config": _SIGLIP},
    "mistral3": {"text_config": _text("mistral"), "vision_config": _PIXTRAL},
    "mistral4": {},
    "mllama+whole": {
        "text_config": {"bos_token_id": 2, "cross_attention_layers": [1]},
        "vision_config": {
            "num_global_layers": 1,
            "vision_output_dim": 64,
            "image_size": 28,
            "intermediate_layers_indices": [1],
        },
    },
    "paligemma": {"text_config": _text("gemma"), "vision_config": _SIGLIP},
    "paligemma+gemma2": {"text_config": _text("gemma2"), "vision_config": _SIGLIP},
    "qwen2_5_omni_thinker": {"text_config": _ROTATED},
    "qwen2_5_vl": {"text_config": _ROTATED},
    "qwen2_audio": {"text_config": _text("qwen2"), "audio_config": _EAR},
    "qwen2_vl": {"text_config": _ROTATED, "vision_config": _QWEN_EYE},
    "qwen3_5+whole": {"text_config": _LINEAR},
    "qwen3_vl": {"text_config": _ROTATED},
    "qwen3_vl_moe": {"text_config": _ROTATED},
    "smolvlm": {"text_config": _text("llama"), "vision_config": _EYE},
    "voxtral": {
        "text_config": _text("llama"),
        "audio_config": _EAR | {"model_type": "voxtral_encoder"},
    },
}

"""Models of Qwen3's shapes with random weights, made on the spot: nothing is downloaded."""

from pathlib import Path
from typing import Any

import torch
from tip.stages.models.card import ModelCard
from tip.stages.models.language_model import LanguageModel

from .measure import Setting

VOCABULARY = 151_936
# width, of the feed-forward layers, layers, heads, heads of keys
_SHAPES = {
    "0.6B": (1024, 3072, 28, 16, 8),
    "1.7B": (2048, 6144, 28, 16, 8),
    "4B": (2560, 9728, 36, 32, 8),
}
_SMALL, _SMALL_HEAD = (32, 48, 2, 2, 1), 16


def vocabulary(setting: Setting) -> int:
    """Return the ids of a head."""
    return setting.pick(VOCABULARY, 1_000)


def config(name: str, setting: Setting) -> Any:
    """Return the config of a model of one of Qwen3's shapes."""
    from transformers import Qwen3Config

    width, inner, layers, heads, key_heads = setting.pick(_SHAPES[name], _SMALL)
    return Qwen3Config(
        vocab_size=vocabulary(setting),
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        head_dim=setting.pick(128, _SMALL_HEAD),
        max_position_embeddings=40_960,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )


def make(name: str, setting: Setting, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """Return a model of one of Qwen3's shapes."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    with torch.device(setting.device):
        model = AutoModelForCausalLM.from_config(config(name, setting), dtype=dtype)
    model.eval().requires_grad_(False)
    return LanguageModel(model, card(Path(name), setting), setting.device, dtype)


def card(folder: Path, setting: Setting) -> ModelCard:
    """Return what is known of such a model in a folder; it has no tokenizer and no special ids."""
    return ModelCard(folder, "", (), (), vocabulary(setting), 40_960, folder)


def half(setting: Setting) -> torch.dtype:
    """Return the type that models compute in where they are not trained: a GPU's usual one."""
    return torch.bfloat16 if setting.device.type == "cuda" else torch.float32


def trainee(name: str, setting: Setting) -> LanguageModel:
    """Return a model with float32 masters that want gradients."""
    student = make(name, setting)
    student.model.requires_grad_(True)
    return student

"""Tiny random models with tokenizers, and the plain computations that the stages are held against.

A reference here is written the long way: float64, whole vocabulary, one rollout at a time, no
batch, no chunk, no cache.
"""

from pathlib import Path
from typing import Any

import torch
from tip.stages.models import LanguageModel, load_model
from tip.stages.settings import ModelSettings
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

CPU = torch.device("cpu")
STOP = 1  # the id that ends a response in every tiny tokenizer

SHAPES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},  # biases in queries, keys and values
    "qwen3": {"head_dim": 8},  # norms of queries and keys
    "mistral": {"sliding_window": 5},
    "gemma2": {"head_dim": 8, "final_logit_softcapping": 30.0},
}


def write_model(
    folder: Path,
    architecture: str = "llama",
    *,
    seed: int = 0,
    vocabulary: int = 60,
    words: int | None = None,
    tied: bool = False,
    spread: float = 0.3,
    dtype: torch.dtype = torch.float32,
    **config: Any,
) -> Path:
    """Write a random model and its tokenizer as a Hugging Face folder.

    vocabulary: rows of the head. words: ids that the tokenizer names (all rows by default).
    spread: standard deviation of all matrices; 0.3 gives entropies well below ln V.
    """
    shape = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 128,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
        "bos_token_id": None,
        "eos_token_id": STOP,
        "pad_token_id": None,
    }
    settings = AutoConfig.for_model(architecture, **shape | SHAPES[architecture] | config)
    model = AutoModelForCausalLM.from_config(settings, dtype=torch.float32)
    shake(model, seed, spread)
    model.to(dtype).save_pretrained(folder)
    tokenizer(words or vocabulary).save_pretrained(folder)
    return folder


def shake(model: torch.nn.Module, seed: int, spread: float) -> None:
    """Give every parameter seeded random values, biases and norms included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise * spread if parameter.ndim > 1 else 1 + 0.2 * noise)


def tokenizer(words: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer of single words: `<unk>`, `<stop>`, w2, w3, ..."""
    ids = {"<unk>": 0, "<stop>": STOP} | {f"w{i}": i for i in range(2, words)}
    inner = Tokenizer(WordLevel(ids, unk_token="<unk>"))
    inner.pre_tokenizer = WhitespaceSplit()  # type: ignore[assignment]
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", eos_token="<stop>", model_max_length=128
    )


def load(folder: Path, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """Load a model folder for the CPU."""
    return load_model(ModelSettings(model=str(folder)), CPU, dtype)

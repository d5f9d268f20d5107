"""Models of public names without their weights: a hub's cache that holds configs and a tokenizer.

Widths are those of the models' published configs.
"""

import json
import shutil
from pathlib import Path
from typing import Any

PAIR = Path(__file__).parents[2] / "pipeline" / "demo" / "pair"
COMMIT = "c" * 40
_QWEN3 = {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151_936,
    "max_position_embeddings": 40_960,
}
_QWEN25 = {
    "model_type": "qwen2",
    "architectures": ["Qwen2ForCausalLM"],
    "max_position_embeddings": 32_768,
}
_LLAMA3 = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 128_256,
    "max_position_embeddings": 131_072,
}


def _shape(
    family: dict[str, Any], hidden: int, layers: int, heads: int, inner: int, **more: Any
) -> dict[str, Any]:
    return {
        **family,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": inner,
        **more,
    }


SHAPES = {
    "Qwen/Qwen3-1.7B": _shape(_QWEN3, 2048, 28, 16, 6144, tie_word_embeddings=True),
    "Qwen/Qwen3-4B": _shape(_QWEN3, 2560, 36, 32, 9728, tie_word_embeddings=True),
    "Qwen/Qwen3-8B": _shape(_QWEN3, 4096, 36, 32, 12_288, tie_word_embeddings=False),
    "Qwen/Qwen3-14B": _shape(_QWEN3, 5120, 40, 40, 17_408, tie_word_embeddings=False),
    "Qwen/Qwen3-32B": _shape(_QWEN3, 5120, 64, 64, 25_600, tie_word_embeddings=False),
    "Qwen/Qwen2.5-1.5B-Instruct": _shape(
        _QWEN25, 1536, 28, 12, 8960, num_key_value_heads=2, vocab_size=151_936,
        tie_word_embeddings=True,
    ),
    "Qwen/Qwen2.5-14B-Instruct": _shape(
        _QWEN25, 5120, 48, 40, 13_824, num_key_value_heads=8, vocab_size=152_064,
        tie_word_embeddings=False,
    ),
    "meta-llama/Llama-3.1-8B-Instruct": _shape(_LLAMA3, 4096, 32, 32, 14_336),
    "meta-llama/Llama-3.3-70B-Instruct": _shape(_LLAMA3, 8192, 80, 64, 28_672),
}  # fmt: skip


def write_cache(root: Path) -> Path:
    """Write a hub's cache with all shapes below a folder; return what HF_HUB_CACHE is to say."""
    cache = root / "hub"
    for name, config in SHAPES.items():
        model = cache / f"models--{name.replace('/', '--')}"
        snapshot = model / "snapshots" / COMMIT
        snapshot.mkdir(parents=True)
        (model / "refs").mkdir()
        (model / "refs" / "main").write_text(COMMIT, encoding="utf-8")
        shutil.copy(PAIR / "student" / "tokenizer.json", snapshot / "tokenizer.json")
        about = json.loads((PAIR / "student" / "tokenizer_config.json").read_text("utf-8"))
        about["chat_template"] = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
        (snapshot / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")
        (snapshot / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return cache

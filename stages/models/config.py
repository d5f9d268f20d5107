"""A model's config as transformers reads it: sizes and limits have other names in each family."""

from pathlib import Path
from typing import Any, TypeGuard

from ...storage.errors import ModelError
from ..boundary import one_line
from .quiet import quiet

# What families call the longest sequence, where transformers does not map it to the first.
_CONTEXT = ("max_position_embeddings", "max_seq_len", "max_sequence_length", "context_length")

_CHANGING = ("longrope", "dynamic")


def load_config(folder: Path, code: bool) -> Any:
    """Return the config of the model in a folder. code: run Python code that is there.

    Raises `ModelError`.
    """
    from transformers import AutoConfig  # heavy

    path = folder / "config.json"
    with one_line(lambda reason: ModelError(f"{path}: no usable config ({reason})")), quiet():
        return AutoConfig.from_pretrained(folder, trust_remote_code=code)


def text_config(folder: Path, code: bool) -> Any:
    """Return the config of the language model in a folder: of more, the part that reads text."""
    with one_line(lambda reason: ModelError(f"{folder}: no language model ({reason})")):
        return load_config(folder, code).get_text_config()


def context_of(config: Any, path: Path) -> int:
    """Return the longest sequence in tokens; a very large number where nothing limits it.

    Where rotations change at a length for a whole batch (LongRoPE, dynamic NTK), that is the limit:
    beyond it a sequence's numbers depend on the longest one beside it, and each engine has rules of
    its own for the keys that it holds. Source: arXiv:2402.13753; llama.cpp issue 24875.
    """
    found = [value for name in _CONTEXT if (value := getattr(config, name, None)) is not None]
    found += _borders(config)
    for value in found:
        if not is_count(value):
            raise ModelError(f"{path}: a context of {value!r} tokens; expected a count")
    return min(found, default=1 << 31)


def _borders(config: Any) -> list[Any]:
    """Return the lengths beyond which rotations are others for a whole batch."""
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope, *(kind for kind in rope.values() if isinstance(kind, dict))]  # or one a layer
    name = "original_max_position_embeddings"
    return [
        border
        for kind in kinds
        if kind.get("rope_type") in _CHANGING
        and (border := kind.get(name) or getattr(config, name, None)) is not None
    ]


def is_count(value: Any) -> TypeGuard[int]:
    """Tell whether a value is a whole number above 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0

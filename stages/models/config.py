"""A model's config as transformers reads it: sizes and limits have other names in each family."""

from pathlib import Path
from typing import Any

from ...storage.errors import ModelError
from ..boundary import one_line
from .quiet import quiet

# What families call the longest sequence, where transformers does not map it to the first.
_CONTEXT = ("max_position_embeddings", "max_seq_len", "max_sequence_length", "context_length")


def load_config(folder: Path, code: bool) -> Any:
    """Return the config of the language model in a folder. code: run Python code that is there.

    Of a model that reads more than text, the part that reads text. Raises `ModelError`.
    """
    from transformers import AutoConfig  # heavy

    path = folder / "config.json"
    with one_line(lambda reason: ModelError(f"{path}: no usable config ({reason})")), quiet():
        return AutoConfig.from_pretrained(folder, trust_remote_code=code).get_text_config()


def context_of(config: Any, path: Path) -> int:
    """Return the longest sequence in tokens; a very large number where nothing limits it."""
    found = [value for name in _CONTEXT if (value := getattr(config, name, None)) is not None]
    for value in found:
        if not is_count(value):
            raise ModelError(f"{path}: a context of {value!r} tokens; expected a count")
    return min(found, default=1 << 31)


def is_count(value: Any) -> bool:
    """Tell whether a value is a whole number above 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0

"""A model in numbers, from its config and the headers of its weights: what a plan needs.

Of a name on the hub whose weights are still there, its class tells as well.
"""

import math
from contextlib import suppress
from dataclasses import dataclass

from safetensors import SafetensorError, safe_open

from ...storage.errors import ModelError
from .card import ModelCard
from .config import is_count, load_config
from .fingerprint import has_weights, weight_files
from .load import load_on_meta


@dataclass(frozen=True)
class Shape:
    """A model in numbers.

    parameters: None where nothing here tells. cache_elements: keys and values a token.
    """

    parameters: int | None
    cache_elements: int
    vocabulary: int
    hidden: int
    layers: int


def shape_of(card: ModelCard) -> Shape:
    """Return a model in numbers; of its weights no more than headers are read."""
    path, config = card.folder / "config.json", load_config(card.folder, card.code)

    def count(name: str) -> int | None:
        value = getattr(config, name, None)
        if value and not is_count(value):
            raise ModelError(f"{path}: {name} = {value!r}; expected a count")
        return value or None

    width, heads = count("hidden_size") or 1, count("num_attention_heads") or 1
    layers, head = count("num_hidden_layers") or 1, count("head_dim") or width // heads
    heads = count("num_key_value_heads") or heads
    return Shape(parameters_of(card), 2 * layers * heads * head, card.head_rows, width, layers)


def parameters_of(card: ModelCard) -> int | None:
    """Return the number of parameters, None where neither weights nor the class are known here."""
    if not has_weights(card.folder):
        with suppress(ModelError):
            return sum(p.numel() for p in load_on_meta(card).parameters())
        return None
    total = 0
    for path in weight_files(card.folder):
        try:
            with safe_open(path, framework="np") as file:
                names = list(file.keys())
                total += sum(math.prod(file.get_slice(name).get_shape()) for name in names)
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"{path}: not a whole safetensors file ({error}); copy it again"
            ) from error
    return total

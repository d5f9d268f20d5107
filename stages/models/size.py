"""A model in numbers, from its config and the headers of its weights: what a plan needs.

Of a name on the hub whose weights are still there, its class tells as well.
"""

import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ...storage.errors import ModelError
from .card import ModelCard
from .config import is_count, text_config
from .fingerprint import has_weights, weight_files
from .load import load_on_meta


@dataclass(frozen=True)
class Shape:
    """A model in numbers.

    parameters: None where nothing here tells. file: bytes that weights are read from, 0 where none
    are here. cache_elements: keys and values a token. attention: width of queries, keys and values
    of a layer. inner: width inside of its feed-forward part. tied: the head is the embedding.
    """

    parameters: int | None
    file: int
    cache_elements: int
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    attention: int
    inner: int
    tied: bool


def shape_of(card: ModelCard) -> Shape:
    """Return a model in numbers; of its weights no more than headers are read."""
    path, config = card.folder / "config.json", text_config(card.folder, card.code)

    def count(name: str) -> int | None:
        value = getattr(config, name, None)
        if value and not is_count(value):
            raise ModelError(f"{path}: {name} = {value!r}; expected a count")
        return value or None

    width, heads = count("hidden_size") or 1, count("num_attention_heads") or 1
    layers, head = count("num_hidden_layers") or 1, count("head_dim") or width // heads
    shared = count("num_key_value_heads") or heads
    inner = count("moe_intermediate_size") or count("intermediate_size") or 4 * width
    return Shape(
        parameters=parameters_of(card),
        file=sum(path.stat().st_size for path in _files(card)),
        cache_elements=2 * layers * shared * head,
        vocabulary=card.head_rows,
        hidden=width,
        layers=layers,
        heads=heads,
        attention=(heads + 2 * shared) * head,
        inner=inner * (count("num_experts_per_tok") or 1),
        tied=bool(getattr(config, "tie_word_embeddings", False)),
    )


def parameters_of(card: ModelCard) -> int | None:
    """Return the number of parameters, None where neither weights nor the class are known here."""
    if not has_weights(card.weights_folder):
        with suppress(ModelError):
            return sum(p.numel() for p in load_on_meta(card).parameters())
        return None
    total = 0
    for path in weight_files(card.weights_folder):
        try:
            with safe_open(path, framework="np") as file:
                names = list(file.keys())
                total += sum(math.prod(file.get_slice(name).get_shape()) for name in names)
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"{path}: not a whole safetensors file ({error}); copy it again"
            ) from error
    return total


def _files(card: ModelCard) -> list[Path]:
    folder = card.weights_folder
    return weight_files(folder) if has_weights(folder) else []

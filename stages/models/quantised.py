"""Quantised weights: a teacher may have them where their library is there; a student may not."""

from functools import partial
from pathlib import Path

from safetensors import safe_open

from ...storage.errors import ModelError
from ..boundary import one_line
from .card import ModelCard
from .fingerprint import has_weights, weight_files
from .folder import read_json
from .quiet import quiet


def refuse_quantised_student(card: ModelCard) -> None:
    """Raise `ModelError` for weights that cannot be trained."""
    if (method := quantised_by(card)) is not None:
        raise ModelError(
            f"{card.folder}: its weights are quantised ({method}), which cannot be trained: choose "
            "the plain checkpoint, or load it with transformers, `dequantize()` and save it"
        )


def check_quantised_teacher(card: ModelCard) -> None:
    """Raise `ModelError` where transformers cannot compute with such weights on this machine.

    Or where the weights are plain: transformers computes with them in some formats, and dies of
    them in others.
    """
    method = quantised_by(card)
    if method is None:
        return

    def refused(reason: str) -> ModelError:
        return ModelError(
            f"{card.folder}: its weights are quantised ({method}), and transformers cannot use "
            f"them here: {reason}"
        )

    from transformers.quantizers.auto import AutoHfQuantizer  # heavy

    about = read_json(card.folder / "config.json")["quantization_config"]
    with one_line(refused), quiet():
        AutoHfQuantizer.from_config(about, pre_quantized=True).validate_environment()
    if has_weights(card.folder) and not _kinds(card) - _PLAIN:
        raise ModelError(
            f"{card.folder}: its config.json says that its weights are quantised ({method}), and "
            "its files hold plain numbers: take `quantization_config` out of it, or copy the "
            "quantised weights"
        )


_PLAIN = {"F64", "F32", "F16", "BF16"}


def _kinds(card: ModelCard) -> set[str]:
    """Return the types of a model's tensors, from the headers of its files."""
    kinds = set()
    for path in weight_files(card.folder):
        unreadable = partial(_unreadable, path)
        with one_line(unreadable), safe_open(path, framework="np") as file:
            names = list(file.keys())
            kinds |= {file.get_slice(name).get_dtype() for name in names}
    return kinds


def _unreadable(path: Path, reason: str) -> ModelError:
    return ModelError(f"{path}: not a whole safetensors file ({reason}); copy it again")


def quantised_by(card: ModelCard) -> str | None:
    """Return the name of how weights are quantised, None where they are not."""
    about = read_json(card.folder / "config.json").get("quantization_config")
    if not about:
        return None
    return str(about.get("quant_method", "unknown")) if isinstance(about, dict) else "unknown"

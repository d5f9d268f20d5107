"""Quantised weights: a teacher may have them where their library is there; a student may not."""

from ...storage.errors import ModelError
from ..boundary import one_line
from .card import ModelCard
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
    """Raise `ModelError` where transformers cannot compute with such weights on this machine."""
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


def quantised_by(card: ModelCard) -> str | None:
    """Return the name of how weights are quantised, None where they are not."""
    about = read_json(card.folder / "config.json").get("quantization_config")
    if not about:
        return None
    return str(about.get("quant_method", "unknown")) if isinstance(about, dict) else "unknown"

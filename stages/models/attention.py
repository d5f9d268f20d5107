"""By which of transformers' implementations a model's attention is computed.

They compute one function and differ by rounding, so the choice is in no key, like that of other
kernels (`tensor_parallel`, `[cpu]`); the type that is computed in changes more, and is in keys.
"""

import importlib.util
from typing import Any

import torch

from ...storage.errors import ConfigError, ModelError
from .card import ModelCard
from .device import resolve_device, resolve_dtype

# What transformers' sdpa leaves out without a word: Gemma's cap; Falcon's biases where no row is
# padded.
_LEFT_OUT_BY_SDPA = ("attn_logit_softcapping", "alibi")
_FLASH = {
    "flash_attention_2": ("flash_attn", "flash-attn"),
    "flash_attention_3": ("flash_attn_interface", "flash-attn-3"),
}
"""Module and package of each."""


def attention_of(config: Any, card: ModelCard, dtype: torch.dtype) -> str | None:
    """Return the attention that a model must be given, None where transformers' choice is right.

    Flash attention computes in 16 bits alone: what is held in float32 (masters, proofs at an
    export) has `auto` in its place. Raises `ModelError` for one that leaves something out.
    """
    text, wanted = config.get_text_config(), card.attention
    left_out = next((name for name in _LEFT_OUT_BY_SDPA if getattr(text, name, None)), None)
    if wanted == "auto" or (wanted in _FLASH and dtype == torch.float32):
        return "eager" if left_out else None
    if left_out and wanted != "eager":
        raise ModelError(
            f"{card.folder}: attn_implementation = '{wanted}' may leave out its {left_out}, which "
            "only eager attention is known to compute: set 'auto' or 'eager'"
        )
    return wanted


def check_attention(model: Any, card: ModelCard, who: str, dtype: str, device: str) -> None:
    """Raise a `TipError` where the attention that is asked for cannot be had here.

    model: with weights or without; what its class lacks of the others is met when it is made. who:
    student or teacher. dtype, device: by the names that configs give them.
    """
    if card.attention not in _FLASH:
        return
    setting, here = f"{who}.attn_implementation = '{card.attention}'", resolve_device(device)
    module, package = _FLASH[card.attention]
    if here.type != "cuda":
        raise ConfigError(
            f"{setting} needs a GPU, and device is {here.type}: set 'auto', or device = 'cuda' on "
            "a machine that has one"
        )
    if importlib.util.find_spec(module) is None:
        raise ConfigError(
            f"{setting} needs {package}, which is not installed: install it for this torch and "
            "GPU, or set 'auto'"
        )
    if resolve_dtype(dtype, here) == torch.float32:
        raise ConfigError(
            f"{setting} computes in 16 bits alone, and {who}.dtype is float32: set {who}.dtype = "
            "'bfloat16', or attn_implementation = 'auto'"
        )
    if not getattr(model, "_supports_flash_attn", False):
        raise ModelError(
            f"{card.folder}: {type(model).__name__} has no flash attention: set "
            f"{who}.attn_implementation = 'auto'"
        )

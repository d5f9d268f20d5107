"""The proof, made at each load, that head(body(x)) is what the whole model computes."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch

from ...storage.errors import ModelError
from .language_model import LanguageModel

_TOLERANCE = 1e-3  # relative to the logits' spread; scales and soft-caps differ by percents
_SPREAD = 100.0  # logits are brought up to this, beyond the usual soft-caps


def check_head(model: LanguageModel) -> None:
    """Raise `ModelError` unless the head's product of the body's output is the model's output.

    Both see the hidden states scaled up until the logits spread over +-100: small logits pass a
    soft-cap almost unchanged.
    """
    ids = torch.arange(12, device=model.device).reshape(2, 6) % min(model.vocabulary, 1000)
    with torch.inference_mode():
        hidden = model.hidden(ids)
        spread = model.head.logits(hidden.flatten(0, 1)).abs().amax().item()
        small = 0 < spread < _SPREAD
        scale = 2.0 ** math.ceil(math.log2(_SPREAD / spread)) if small else 1.0
        parts = model.head.logits((hidden * scale).flatten(0, 1))
        with _scaled_body(model, scale):
            whole = model.model(input_ids=ids, use_cache=False).logits.float().flatten(0, 1)
    if not whole.isfinite().all():
        raise ModelError(
            f"{model.card.folder}: its logits hold NaN or infinity on six known tokens"
        )
    coarse = 1.0 if model.dtype == torch.float32 else 30.0  # bf16 rounds the whole model's logits
    gap = ((whole - parts).abs().amax() / whole.abs().amax().clamp(min=1e-6)).item()
    if not gap <= _TOLERANCE * coarse:
        raise ModelError(
            f"{model.card.folder}: its logits are not a plain linear head of the last hidden state "
            f"(they differ by {gap:.2%} of their spread): logits that are scaled or soft-capped "
            "are not supported"
        )


@contextlib.contextmanager
def _scaled_body(model: LanguageModel, scale: float) -> Iterator[None]:
    """Multiply the body's output on its way to the model's own head."""

    def scaled(_body: Any, _inputs: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state * scale
        return output

    handle = model.model.base_model.register_forward_hook(scaled)
    try:
        yield
    finally:
        handle.remove()

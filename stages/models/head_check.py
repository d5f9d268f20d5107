"""The proof, made at each load, that head(body(x)) is what the whole model computes."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...storage.errors import ModelError
from .head import LogitMap
from .language_model import LanguageModel

_TOLERANCE = 1e-3  # relative to the logits' spread; scales and soft-caps differ by percents
_SPREAD = 100.0  # logits are brought up to this, beyond the usual soft-caps


def check_head(model: LanguageModel) -> None:
    """Raise `ModelError` unless the head's product of the body's output is the model's output.

    Both see the hidden states scaled up until the products spread over +-100: small ones pass a
    soft-cap almost unchanged.
    """
    ids = torch.arange(12, device=model.device).reshape(2, 6) % min(model.vocabulary, 1000)
    with torch.inference_mode():
        hidden = model.hidden(ids).flatten(0, 1)
        spread = replace(model.head, map=LogitMap()).logits(hidden).abs().amax().item()
        small = 0 < spread < _SPREAD
        scale = 2.0 ** math.ceil(math.log2(_SPREAD / spread)) if small else 1.0
        parts = model.head.logits(hidden * scale)
        with _scaled_into_head(model, scale) as seen:
            whole = model.model(input_ids=ids, use_cache=False).logits.float().flatten(0, 1)
    if not whole.isfinite().all():
        raise ModelError(
            f"{model.card.folder}: its logits hold NaN or infinity on six known tokens: copy the "
            "folder again, or choose another checkpoint"
        )
    coarse = 1.0 if model.dtype == torch.float32 else 30.0  # bf16 rounds the whole model's logits
    if _apart(whole, parts) <= _TOLERANCE * coarse:
        return
    given = seen[0].flatten(0, 1) if seen else torch.zeros_like(hidden)
    what = "its head is not given the last hidden state of its body"
    if (gap := _apart(given, hidden)) <= _TOLERANCE * coarse:
        what = "its logits are not its head's, scaled or soft-capped as its config says"
        gap = _apart(whole, parts)
    raise ModelError(
        f"{model.card.folder}: {what} (they differ by {gap:.2%} of their spread): such models are "
        "not supported"
    )


def _apart(one: Tensor, other: Tensor) -> float:
    """Return how far two tensors are apart, as a share of the first one's spread."""
    return ((one - other).abs().amax() / one.abs().amax().clamp(min=1e-6)).item()


@contextlib.contextmanager
def _scaled_into_head(model: LanguageModel, scale: float) -> Iterator[list[Tensor]]:
    """Multiply what the model gives its own head; what that was without is listed."""
    seen: list[Tensor] = []

    def scaled(_head: Any, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        seen.append(given[0])
        return given[0] * scale, *given[1:]

    handle = model.model.get_output_embeddings().register_forward_pre_hook(scaled)
    try:
        yield seen
    finally:
        handle.remove()

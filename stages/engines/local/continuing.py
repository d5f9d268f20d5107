"""The proof, made once a model, that token by token it computes what it computes at once.

Families keep what they have read in ways of their own: under another name, or not at all; some
count positions from the padding in front. None says so, and rollouts would have wrong log-probs.
"""

import inspect
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ....storage.errors import ModelError
from ...boundary import one_line
from ...models.language_model import LanguageModel
from .cache import new_cache

_READ, _STEPS, _PADDING = 2, 10, 3  # tokens read at once, then one by one; padding in front
# Of the median step (a router may choose otherwise at one), relative. What is wrong is off by 10 %
# and more; linear attention, which goes step by step in another order than at once, by 1e-4.
_TOLERANCE = 1e-2
_TOLERANCE_16_BITS = 0.2

_padding: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def takes_padding(model: LanguageModel) -> bool:
    """Tell whether prompts may be padded in front, after showing that a model goes on rightly.

    Raises `ModelError` where it computes something else token by token.
    """
    if model.model not in _padding:
        _padding[model.model] = _shown(model)
    return _padding[model.model]


def next_states(
    model: LanguageModel, ids: Tensor, places: Tensor, mask: Tensor | None, cache: Any
) -> Tensor:
    """Return the hidden states of ids [B, T] that follow what a cache holds.

    places: [B, T] their positions, always given: some hybrids ask a layer for them that keeps none.
    mask: [B, cached + T], None where no row is padded.
    """
    known = inspect.signature(model.body.forward).parameters
    name = "cache_params" if "cache_params" in known else "past_key_values"  # Mamba's word for it
    more: dict[str, Any] = {name: cache, "position_ids": places}
    if mask is not None:
        more["attention_mask"] = mask
    return model.hidden(ids, use_cache=True, **more)


@torch.inference_mode()
def _shown(model: LanguageModel) -> bool:
    def unusable(reason: str) -> ModelError:
        return ModelError(f"{model.card.folder}: it cannot write token by token ({reason})")

    ids = torch.arange(_READ + _STEPS, device=model.device)[None] % min(model.vocabulary, 1000)
    limit = _TOLERANCE if model.dtype == torch.float32 else _TOLERANCE_16_BITS
    with one_line(unusable):
        whole = model.hidden(ids)[:, _READ - 1 :]
        gap = _gaps(whole, _by_token(model, ids)).median().item()
    if not gap <= limit:
        raise ModelError(
            f"{model.card.folder}: token by token it computes something else than at once (by "
            f"{gap:.1%} of its hidden states' largest): such a student is not supported"
        )
    try:
        padded = _gaps(whole, _by_token(model, ids, _PADDING))
        return padded.amax().item() <= limit  # to be wrong here costs time alone
    except (RuntimeError, TypeError, ValueError, IndexError):
        return False


def _by_token(model: LanguageModel, ids: Tensor, padding: int = 0) -> Tensor:
    """Return the last states [1, _STEPS + 1, D] of `_READ` ids and then of each one more."""
    padded = torch.nn.functional.pad(ids, (padding, 0))
    mask = torch.nn.functional.pad(torch.ones_like(ids), (padding, 0))
    places = (mask.cumsum(1) - 1).clamp(min=0)
    cache, states, start = new_cache(model.model), [], 0
    for end in range(padding + _READ, padded.shape[1] + 1):
        new, seen = slice(start, end), mask[:, :end] if padding else None
        states.append(next_states(model, padded[:, new], places[:, new], seen, cache)[:, -1:])
        start = end
    return torch.cat(states, 1)


def _gaps(whole: Tensor, steps: Tensor) -> Tensor:
    """Return how far each state is off, [1, _STEPS + 1], relative to the largest number."""
    return (whole - steps).abs().amax(2) / whole.abs().amax()

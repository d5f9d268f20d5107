"""Activation checkpointing without noise, and the proof that a student computes without any.

transformers trades memory for a second forward pass in training mode only, which is also when
dropout and a router's jitter are live: whatever a family calls them, as modules, functions or
attributes. Here the layers alone are in that mode, and nothing inside of them.
"""

import re
from typing import Any

import numpy as np
import torch

from ...storage.errors import ModelError
from ..models.card import ModelCard
from ..models.language_model import LanguageModel

_NOISE = re.compile("drop|jitter|noise")
_TOLERANCE = 1e-4  # relative; dropout moves states by percents, a GPU's order of sums by 1e-6
_LONGEST = 512  # tokens of the sequence on which it is shown


def refuse_without_checkpointing(model: Any, card: ModelCard) -> None:
    """Raise `ModelError` for a model, with weights or without, whose layers cannot."""
    if not getattr(model, "supports_gradient_checkpointing", False):
        raise ModelError(
            f"{card.folder}: {type(model).__name__} has no activation checkpointing: set "
            "train.activation_checkpointing = false"
        )


def checkpoint_activations(student: LanguageModel) -> None:
    """Let layers throw their activations away and compute them again.

    Raises `ModelError` for an architecture whose layers cannot.
    """
    model = student.model
    refuse_without_checkpointing(model, student.card)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    for module in model.modules():
        if not getattr(module, "gradient_checkpointing", False):
            continue
        module.training = True
        for rates in (module, getattr(module, "config", None)):
            for name, value in vars(rates).items() if rates is not None else ():
                if isinstance(value, float) and _NOISE.search(name):
                    setattr(rates, name, 0.0)


@torch.no_grad()
def refuse_noise(student: LanguageModel, ids: np.ndarray) -> None:
    """Raise `ModelError` where the body computes a sequence [T] otherwise the second time."""
    rows = torch.from_numpy(ids[:_LONGEST]).to(student.device)[None]
    first, second = student.hidden(rows), student.hidden(rows)
    gap = ((first - second).abs().amax() / first.abs().amax()).item()
    if gap > _TOLERANCE:  # NaN is not noise: the steps themselves tell of it
        raise ModelError(
            f"{student.card.folder}: its hidden states are others each time (by {gap:.1%} of the "
            "largest): dropout or the like that cannot be turned off; set its rates to 0 in "
            "config.json, or train.activation_checkpointing = false"
        )

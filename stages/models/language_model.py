"""A model in memory: a body that makes hidden states, and a head."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .card import ModelCard
from .head import Head, logit_map
from .masks import masks_unread


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model in memory, ready for use."""

    model: Any
    card: ModelCard
    device: torch.device
    dtype: torch.dtype

    @property
    def head(self) -> Head:
        """Return the LM head (shared with the embedding where the model ties them)."""
        module = self.model.get_output_embeddings()
        return Head(module.weight, module.bias, logit_map(self.model.config.get_text_config()))

    @property
    def body(self) -> Any:
        """Return what turns ids into hidden states."""
        return _body_of(self.model)

    @property
    def vocabulary(self) -> int:
        """Return the number of ids the head knows."""
        return self.model.get_output_embeddings().weight.shape[0]

    def hidden(self, ids: Tensor, **kwargs: Any) -> Tensor:
        """Return hidden states [B, T, D] of ids [B, T]; extra arguments go to the body.

        A row of ids is one sequence; an attention mask is given where some of it is padding.
        """
        kwargs.setdefault("use_cache", False)
        with masks_unread(self.device):
            return self.body(input_ids=ids, **kwargs).last_hidden_state


def _body_of(model: Any) -> Any:
    """Return the part of a model below its head.

    Llama 4 does not name its own as others do, and what reads images, too, has it in a part that
    has a head itself.
    """
    body = model.base_model
    if body is model:
        names = ("model", "language_model")
        body = next((b for n in names if (b := getattr(model, n, None)) is not None), model)
    if body is not model and getattr(body, "get_output_embeddings", lambda: None)() is not None:
        return _body_of(body)
    return body

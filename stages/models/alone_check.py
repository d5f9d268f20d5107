"""The proof, made at each load, that a token's numbers come of what stands before it and no more.

A model that also reads what follows (an encoder whose config does not say that it is a decoder)
knows the token that it should predict; one that mixes the rows of a batch gives other numbers in
each.
"""

import torch

from ...storage.errors import ModelError
from .language_model import LanguageModel
from .quantised import quantised_by

_READ = 4  # of the six known tokens
# Of the median token (a router may choose otherwise at one), relative. What reads ahead is off by
# 10 % and more.
_TOLERANCE = 1e-2
_TOLERANCE_16_BITS = 0.2


@torch.inference_mode()
def check_alone(model: LanguageModel) -> None:
    """Raise `ModelError` where hidden states change with what follows or stands beside."""
    ids = torch.arange(12, device=model.device).reshape(2, 6) % min(model.vocabulary, 1000)
    within = model.hidden(ids)[:1, :_READ]
    alone = model.hidden(ids[:1, :_READ])
    gap = ((within - alone).abs().amax(2) / alone.abs().amax()).median().item()
    if not gap <= (_TOLERANCE if model.dtype == torch.float32 else _TOLERANCE_16_BITS):
        method = quantised_by(model.card)
        why = (
            "it is no causal language model"
            if method is None
            else f"its quantisation ({method}) rounds a row together with those beside it"
        )
        raise ModelError(
            f"{model.card.folder}: its hidden states change with the tokens that follow or the "
            f"rows beside (by {gap:.1%} of the largest): {why}"
        )

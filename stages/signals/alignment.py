"""Which hidden state predicts which token: the one place that knows."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ..arrays.batching import on_device, pad
from ..arrays.ragged import Ragged
from ..models.language_model import LanguageModel


def predicting_states(
    model: LanguageModel, prompts: Sequence[np.ndarray], responses: Ragged, rows: np.ndarray
) -> Tensor:
    """Return the hidden states [N, D] that predict the response tokens of these rollouts."""
    sequences = [np.concatenate([prompts[r], responses.row(r)[:-1]]) for r in rows]
    hidden = model.hidden(pad(sequences, model.device))
    counts = responses.counts[rows].astype(np.int64)
    first = np.array([len(prompts[r]) - 1 for r in rows])
    within = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
    row = on_device(np.repeat(np.arange(len(rows)), counts), model.device)
    return hidden[row, on_device(np.repeat(first, counts) + within, model.device)]

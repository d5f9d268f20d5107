"""Drift: how far a round of training moved the student, on what it was trained on and elsewhere.

Measured on the student's own rollouts of the round, with the log-probs that were kept while
sampling: the estimator k3, mean of r - 1 - log r with r = after / before, unbiased under the
student that sampled. Over all tokens it is the staleness of the rollouts.

Source: Schulman, "Approximating KL Divergence", 2020.
"""

import numpy as np
import torch
from torch import Tensor

from .batching import pad
from .loss import chunk_rows
from .models import LanguageModel
from .settings import TrainSettings
from .training_data import TrainingData


@torch.inference_mode()
def drift(
    student: LanguageModel, data: TrainingData, settings: TrainSettings, rollouts: int = 32
) -> dict[str, float]:
    """Return estimates of KL(student before the round || after), nats a token.

    student: after the round. rollouts: how many of the round's are looked at, evenly spread.

    `staleness` is the mean over all tokens, `drift_selected` over those that were trained on,
    `drift_unselected` over the others; where there are none, 0.
    """
    rows = np.linspace(0, len(data.rollouts) - 1, min(rollouts, len(data.rollouts))).astype(int)
    changes, chosen = [], []
    for row in rows:
        change = _change(student, data, row, settings)
        changes.append(np.expm1(change) - change)
        chosen.append(np.isin(np.arange(len(change)), data.positions[data.tokens(row)]))
    terms, selected = np.concatenate(changes), np.concatenate(chosen)
    return {
        "staleness": _mean(terms),
        "drift_selected": _mean(terms[selected]),
        "drift_unselected": _mean(terms[~selected]),
    }


def _change(
    student: LanguageModel, data: TrainingData, row: int, settings: TrainSettings
) -> np.ndarray:
    """Return log(after / before) of each response token of a rollout."""
    ids = np.concatenate([data.prompts.row(row), data.responses.row(row)])
    hidden = student.hidden(pad([ids[:-1]], student.device))[0]
    predicting = hidden[int(data.prompts.counts[row]) - 1 :]
    tokens = torch.from_numpy(data.responses.row(row).astype(np.int64)).to(student.device)
    return _logprobs(student, predicting, tokens, settings) - data.old_logprobs.row(row)


def _logprobs(
    student: LanguageModel, hidden: Tensor, tokens: Tensor, settings: TrainSettings
) -> np.ndarray:
    chunk, found = chunk_rows(settings.chunk_elements, student.vocabulary), []
    for start in range(0, len(tokens), chunk):
        logits = student.head.logits(hidden[start : start + chunk])
        picked = logits.gather(1, tokens[start : start + chunk, None]).squeeze(1)
        found.append((picked - logits.logsumexp(1)).double().cpu().numpy())
    return np.concatenate(found)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else 0.0

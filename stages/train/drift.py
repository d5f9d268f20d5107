"""Drift: how far a round of training moved the student, on what it was trained on and elsewhere.

Measured on the student's own rollouts of the round, with the log-probs that were kept while
sampling: the estimator k3, mean of r - 1 - log r with r = after / before, unbiased under the
student that sampled. Over all tokens it is the staleness of the rollouts.

Source: Schulman, "Approximating KL Divergence", 2020.
"""

from dataclasses import dataclass

import numpy as np
import torch

from ..arrays.batching import fill
from ..models.language_model import LanguageModel
from ..signals.alignment import predicting_states, read_lengths, token_logprobs
from .data import TrainingData
from .settings import TrainSettings

_FEWEST, _MOST = 16, 32  # rollouts


@dataclass(frozen=True)
class Drift:
    """Means of KL(before || after) in nats a token; 0 where there are no such tokens.

    staleness: over all tokens looked at. selected: over those that were trained on. unselected:
    over the others.
    """

    staleness: float
    selected: float
    unselected: float


@torch.inference_mode()
def drift(student: LanguageModel, data: TrainingData, settings: TrainSettings) -> Drift:
    """Return estimates of KL(student before the round || after), nats a token.

    student: after the round. An eighth of the round's rollouts is looked at, evenly spread, but at
    least 16 and at most 32: more would cost a round noticeably.
    """
    count = min(len(data.rollouts), max(_FEWEST, min(_MOST, len(data.rollouts) // 8)))
    rows = np.linspace(0, len(data.rollouts) - 1, count).astype(int)
    prompts = [data.prompts.row(row) for row in range(len(data.rollouts))]
    lengths = read_lengths(data.prompts.counts, data.responses.counts)[rows]
    trained = np.zeros(len(data.responses.values), dtype=bool)
    trained[np.repeat(data.responses.offsets[:-1], data.selected) + data.positions] = True
    changes, chosen = [], []
    for batch in fill(lengths, settings.batch_tokens):
        states = predicting_states(student, prompts, data.responses, rows[batch])
        places = data.responses.places(rows[batch])
        tokens = data.responses.values[places]
        after = token_logprobs(student, states, tokens, settings.chunk(fused=False))
        change = after - data.old_logprobs.values[places]
        changes.append(np.expm1(change) - change)
        chosen.append(trained[places])
    terms, selected = np.concatenate(changes), np.concatenate(chosen)
    return Drift(_mean(terms), _mean(terms[selected]), _mean(terms[~selected]))


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else 0.0

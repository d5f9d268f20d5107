"""With which probability tokens were sampled, where that was not at temperature 1.

The rollouts keep log-probs at temperature 1. What they are at another one takes the sum over the
whole vocabulary there, so the student that sampled reads the chosen tokens once more: the price of
a residual at other temperatures.
"""

from dataclasses import replace

import numpy as np
import torch

from ..arrays.batching import fill
from ..models.language_model import LanguageModel
from ..signals.alignment import states_at, token_logprobs
from .data import TrainingData
from .settings import TrainSettings


@torch.inference_mode()
def at_temperature(
    student: LanguageModel, data: TrainingData, temperature: float, settings: TrainSettings
) -> TrainingData:
    """Return the data with its drawn tokens' log-probs at a temperature above 0.

    student: the one that sampled them, before its training.
    """
    assert data.drawn is not None  # who asks for log-probs of drawn tokens has loaded them
    logprobs = np.zeros(len(data.positions))
    for rows in fill(data.lengths, settings.batch_tokens):
        tokens = np.concatenate([data.tokens(row) for row in rows])
        prompts = [data.prompts.row(row) for row in rows]
        states = states_at(
            student,
            [data.sequence(row) for row in rows],
            prompts,
            data.selected[rows],
            data.positions[tokens],
        )
        drawn = data.drawn.tokens[tokens]
        logprobs[tokens] = token_logprobs(
            student, states, drawn, settings.chunk(fused=False), temperature
        )
    return replace(data, drawn=replace(data.drawn, logprobs=logprobs))

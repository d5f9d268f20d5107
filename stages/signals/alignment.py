"""Which hidden state predicts which token: the one place that knows.

A model shown prompt and response gives a hidden state at every place; the state at place s predicts
the token at place s + 1. So of a prompt of L tokens, response token t is predicted at place
L - 1 + t, and nothing predicts the first token of all.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..arrays.batching import on_device, pad
from ..arrays.chunks import chunk_rows
from ..arrays.ragged import Ragged, within
from ..models.language_model import LanguageModel


def predicting_places(
    prompt_lengths: np.ndarray, counts: np.ndarray, positions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return row and place of the states that predict N response tokens, each [N].

    prompt_lengths: [R]. counts: [R] how many of the N tokens belong to each row. positions: [N] in
    the response, row after row.
    """
    rows = np.repeat(np.arange(len(counts)), counts)
    return rows, np.repeat(prompt_lengths - 1, counts) + positions


def read_lengths(prompt_lengths: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return how many ids a model must read to predict the first `counts` response tokens, [R].

    prompt_lengths, counts: [R], a count at least 1. The last token is predicted, never read.
    """
    return prompt_lengths + counts - 1


def predicting_states(
    model: LanguageModel, prompts: Sequence[np.ndarray], responses: Ragged, rows: np.ndarray
) -> Tensor:
    """Return the hidden states [N, D] that predict all response tokens of these rollouts."""
    counts = responses.counts[rows].astype(np.int64)
    sequences = [np.concatenate([prompts[r], responses.row(r)[:-1]]) for r in rows]
    return states_at(model, sequences, [prompts[r] for r in rows], counts, within(counts))


def states_at(
    model: LanguageModel,
    sequences: Sequence[np.ndarray],
    prompts: Sequence[np.ndarray],
    counts: np.ndarray,
    positions: np.ndarray,
) -> Tensor:
    """Return the hidden states [N, D] that predict N response tokens.

    sequences: what the body reads of each row, its prompt and the response as far as is needed.
    counts, positions: as in `predicting_places`.
    """
    hidden = model.hidden(pad(sequences, model.device))
    lengths = np.array([len(prompt) for prompt in prompts])
    row, place = predicting_places(lengths, counts, positions)
    return hidden[on_device(row, model.device), on_device(place, model.device)]


def token_logprobs(
    model: LanguageModel,
    states: Tensor,
    tokens: np.ndarray,
    chunk_elements: int,
    temperature: float = 1,
) -> np.ndarray:
    """Return the log-prob of each token [N] under the state [N, D] that predicts it, float64."""
    ids = on_device(tokens.astype(np.int64), model.device)
    chunk, found = chunk_rows(chunk_elements, model.vocabulary), []
    for piece, plain in model.head.pieces(states, chunk, model.vocabulary):
        logits = plain if temperature == 1 else plain / temperature
        picked = logits.gather(1, ids[piece, None]).squeeze(1)
        found.append((picked - logits.logsumexp(1)).double())
    return torch.cat(found).cpu().numpy()

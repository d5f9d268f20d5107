"""What a student thought of the ids that are shown: it reads the rollouts once more.

The store keeps the student's top ids in order, and the probability of the sampled one alone: the
loss takes the live student's. So who wants to see all of them side by side has the round's student
read the shown rollouts again.
"""

import numpy as np
import pyarrow as pa
import torch

from ...stages.arrays.batching import on_device
from ...stages.arrays.chunks import chunk_rows
from ...stages.arrays.log_softmax import log_softmax
from ...stages.arrays.ragged import Ragged
from ...stages.engines.protocols import Tick
from ...stages.models.language_model import LanguageModel
from ...stages.score.shard import read_rollouts
from ...stages.signals.alignment import predicting_states

_BATCH_TOKENS = 8192  # of a forward pass, padding included
_CHUNK_ELEMENTS = 1 << 24  # logits held at once


@torch.inference_mode()
def support_logprobs(
    student: LanguageModel, rollouts: pa.Table, support: Ragged, tick: Tick
) -> np.ndarray:
    """Return the student's log-prob of every id of N supports, flat as `support.values` (float32).

    rollouts: rows of the `rollouts` table that have a token, their tokens in the order of the N
    supports. NaN for an id that the student does not have. tick: told of rollouts.
    """
    shard = read_rollouts(rollouts, None)
    lengths = shard.read_lengths(shard.student_prompts)
    out = np.full(len(support.values), np.nan, dtype=np.float32)
    for rows in _batches(lengths):
        states = predicting_states(student, shard.student_prompts, shard.responses, rows)
        tokens = shard.responses.places(rows)
        ids, valid = support.padded(tokens)
        known = valid & (ids < student.vocabulary)
        wanted = on_device(np.where(known, ids, 0).astype(np.int64), student.device)
        chunk, found = chunk_rows(_CHUNK_ELEMENTS, student.vocabulary), []
        for piece, logits in student.head.pieces(states, chunk, student.vocabulary):
            found.append(log_softmax(logits).gather(1, wanted[piece]))
        values = torch.cat(found).float().cpu().numpy()
        out[support.places(tokens)] = np.where(known, values, np.nan)[valid]
        tick(len(rows))
    return out


def _batches(lengths: np.ndarray) -> list[np.ndarray]:
    """Return rows in batches of so many tokens, the longest first."""
    batches: list[np.ndarray] = []
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, int(_BATCH_TOKENS // max(1, lengths[order[start]])))
        batches.append(order[start : start + size])
        start += size
    return batches

"""An independent second scoring of a few rollouts: the guard against every silent misalignment.

A shift by one, a wrong mask, a wrong head or a broken cache changes log-probs by whole nats; here
each shard proves that it has none.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from ...storage.errors import DisagreementError
from ..arrays.batching import evenly, on_device
from ..arrays.log_softmax import log_softmax
from ..models.language_model import LanguageModel
from ..models.masks import masks_unread
from ..signals.alignment import predicting_places
from .shard import RolloutArrays

# Mean |log-prob| gap between two computations of the same tokens, in nats. Batched bf16 logits
# differ by hundredths; a shift by one token differs by whole nats.
CHECK_TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.25}
CHECK_TOKENS = 64  # of each rollout, spread over it: whole logits of 8,192 x 152k would take 5 GB

Again = Callable[[int, np.ndarray], np.ndarray]
"""Scores a rollout alone: log-probs of its tokens at some positions."""


def check_rollouts(
    who: str, shard: RolloutArrays, logprobs: np.ndarray, again: Again, rows: int, limit: float
) -> float:
    """Score a few rollouts again, each alone, and return the largest mean gap in nats.

    logprobs: [N] of the shard's tokens, as they were scored among others. rows: how many. Raises
    `DisagreementError` for a gap above the limit.
    """
    gaps = []
    for row in shard.answered[evenly(rows, len(shard.answered))]:
        count = int(shard.responses.counts[row])
        positions = np.unique(np.linspace(0, count - 1, CHECK_TOKENS).astype(int))
        before = logprobs[shard.responses.offsets[row] + positions]
        gaps.append(float(np.abs(again(int(row), positions) - before).mean()))
    gap = float(np.max(gaps, initial=0))
    if not gap <= limit:  # NaN is refused too
        raise DisagreementError(
            f"{who}: log-probs of sampled tokens differ by {gap:.3g} nats on average when a "
            f"rollout is scored alone (expected under {limit:g}): it computes something else in a "
            "batch; nothing of the shard is stored"
        )
    return gap


def check_model(
    who: str,
    model: LanguageModel,
    prompts: Sequence[np.ndarray],
    shard: RolloutArrays,
    logprobs: np.ndarray,
    rows: int,
) -> float:
    """Score a few rollouts alone, through the whole model; see `check_rollouts`."""

    def again(row: int, positions: np.ndarray) -> np.ndarray:
        return _alone(model, prompts[row], shard.responses.row(row), positions)

    return check_rollouts(who, shard, logprobs, again, rows, CHECK_TOLERANCE[model.dtype])


def _alone(
    model: LanguageModel, prompt: np.ndarray, response: np.ndarray, positions: np.ndarray
) -> np.ndarray:
    """Return the log-probs of some response tokens from the whole model over one rollout."""
    ids, tokens = (
        on_device(a.astype(np.int64), model.device)
        for a in (np.concatenate([prompt, response]), response[positions])
    )
    count = np.array([len(positions)])
    _, places = predicting_places(np.array([len(prompt)]), count, positions)
    keep = on_device(places, model.device)
    with masks_unread(model.device):
        logits = model.model(input_ids=ids[None], use_cache=False, logits_to_keep=keep).logits[0]
    if len(logits) != len(keep):  # a class that does not know the argument gives all
        logits = logits[keep]
    return log_softmax(logits.float()).gather(1, tokens[:, None]).squeeze(1).cpu().numpy()

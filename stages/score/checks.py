"""An independent second scoring of a few rollouts: the guard against every silent misalignment.

A shift by one, a wrong mask, a wrong head or a broken cache changes log-probs by whole nats; here
each shard proves that it has none.
"""

from collections.abc import Sequence

import numpy as np
import torch

from ...storage.errors import NumericsError
from ..arrays.batching import evenly
from ..models.language_model import LanguageModel
from .shard import RolloutArrays

# Mean |log-prob| gap between two computations of the same tokens, in nats. Batched bf16 logits
# differ by hundredths; a shift by one token differs by whole nats.
CHECK_TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.25}
CHECK_TOKENS = 64  # of each rollout, spread over it: whole logits of 8,192 x 152k would take 5 GB


def recheck_both(
    student: LanguageModel,
    teacher: LanguageModel,
    shard: RolloutArrays,
    columns: dict[str, np.ndarray],
    rows: int,
) -> dict:
    """Recheck a few rollouts of both models; return the gaps."""
    facts = recheck("student", student, shard.student_prompts, shard, columns, rows)
    return facts | recheck("teacher", teacher, shard.teacher_prompts, shard, columns, rows)


def recheck(
    who: str,
    model: LanguageModel,
    prompts: Sequence[np.ndarray],
    shard: RolloutArrays,
    columns: dict[str, np.ndarray],
    rows: int,
) -> dict:
    """Score a few rollouts alone, through the whole model, and compare.

    For the student the log-probs that sampling kept are compared too: the gap between the engine
    and this forward pass is reported, never refused (engines differ in rounding).
    """
    offsets, gaps = shard.responses.offsets, []
    answered = np.flatnonzero(shard.responses.counts)
    for row in answered[evenly(rows, len(answered))]:
        response = shard.responses.row(row)
        some = np.unique(np.linspace(0, len(response) - 1, CHECK_TOKENS).astype(int))
        again = _log_probs_alone(model, prompts[row], response, some)
        stored = columns[f"{who}_logprob"][offsets[row] + some]
        gaps.append(float(np.abs(again - stored).mean()))
    gap = float(np.max(gaps, initial=0))
    if not gap <= CHECK_TOLERANCE[model.dtype]:  # NaN is refused too
        raise NumericsError(
            f"{who}: log-probs of sampled tokens differ by {gap:.3g} nats on average when a "
            f"rollout is scored alone (expected under {CHECK_TOLERANCE[model.dtype]:g}): this "
            "model computes something else in a batch; nothing of the shard is stored"
        )
    facts = {f"{who}_check_gap": gap}
    if who == "student":
        drift = columns["student_logprob"] - shard.logprobs
        drift = drift.astype(np.float64)
        facts["sampling_gap_rms"] = float(np.sqrt(np.mean(drift**2)))
        # KL(sampling student || this one), estimator k3 (Schulman 2020): 0 unless it was replayed
        facts["off_policy_kl"] = float(np.mean(np.expm1(drift) - drift))
    return facts


def _log_probs_alone(
    model: LanguageModel, prompt: np.ndarray, response: np.ndarray, positions: np.ndarray
) -> np.ndarray:
    """Return the log-probs of some response tokens from the whole model over one rollout."""
    ids = torch.from_numpy(np.concatenate([prompt, response]).astype(np.int64)).to(model.device)
    predicting = torch.from_numpy(len(prompt) - 1 + positions).to(model.device)
    logits = model.model(input_ids=ids[None], use_cache=False, logits_to_keep=predicting).logits[0]
    picked = logits.float().log_softmax(1).gather(1, ids[predicting + 1, None])
    return picked.squeeze(1).cpu().numpy()

"""An independent second scoring of a few rollouts: the guard against every silent misalignment.

A shift by one, a wrong mask, a wrong head or a broken cache changes log-probs by whole nats; here
each shard proves that it has none.
"""

from collections.abc import Sequence

import numpy as np
import torch

from ..storage.errors import NumericsError
from .models import LanguageModel
from .rollout_arrays import RolloutArrays

# Mean |log-prob| gap between two computations of the same tokens, in nats. Batched bf16 logits
# differ by hundredths; a shift by one token differs by whole nats.
CHECK_TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.25}


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
    for row in np.linspace(0, len(shard.rollouts) - 1, min(rows, len(shard.rollouts))).astype(int):
        response = shard.responses.row(row)
        if not len(response):
            continue
        ids = torch.from_numpy(np.concatenate([prompts[row], response]).astype(np.int64))
        logits = model.model(input_ids=ids[None].to(model.device), use_cache=False).logits[0]
        predicting = logits[len(prompts[row]) - 1 : -1].float().log_softmax(1).cpu()
        again = predicting.gather(1, torch.from_numpy(response.astype(np.int64))[:, None])
        stored = columns[f"{who}_logprob"][offsets[row] : offsets[row + 1]]
        gaps.append(float(np.abs(again.squeeze(1).numpy() - stored).mean()))
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

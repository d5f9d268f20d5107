"""A shard of rollouts as arrays, and the hidden states that predict its responses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ..arrays.ragged import Ragged, from_lists


@dataclass(frozen=True)
class RolloutArrays:
    """R rollouts as arrays; the numbers of their tokens follow one another, [sum of lengths].

    student_prompts, teacher_prompts: what each model is shown before the same response. top: the
    student's top ids, a row a token.
    """

    rollouts: np.ndarray
    student_prompts: list[np.ndarray]
    teacher_prompts: list[np.ndarray]
    responses: Ragged
    trainable: np.ndarray
    logprobs: np.ndarray
    top: Ragged


def read_rollouts(
    table: pa.Table, teacher_prompts: Mapping[str, Sequence[int]] | None
) -> RolloutArrays:
    """Return the columns of the `rollouts` table as arrays.

    teacher_prompts: by prompt hash; None where the teacher is shown the student's prompts.
    """
    own = [np.asarray(ids) for ids in table["prompt_ids"].to_pylist()]
    other = own
    if teacher_prompts is not None:
        other = [np.asarray(teacher_prompts[h]) for h in table["prompt_hash"].to_pylist()]
    return RolloutArrays(
        table["rollout"].to_numpy(),
        own,
        other,
        from_lists(table["response_ids"]),
        from_lists(table["trainable"]).values,
        from_lists(table["logprobs"]).values,
        Ragged(from_lists(table["top_ids"]).values, from_lists(table["top_counts"]).values),
    )

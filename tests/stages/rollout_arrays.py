"""Shards of rollouts made by hand, where no model has to answer."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from tip.stages.score.shard import RolloutArrays, read_rollouts
from tip.storage.columns import ROLLOUTS, schema

FIRST = 100  # id of the first rollout


def rollouts(counts: Sequence[int], tops: int = 2) -> pa.Table:
    """Return the `rollouts` table of responses of some lengths, two samples a prompt.

    Response token t of rollout r is 10 r + t, and its `tops` top ids follow upon it. The prompt of
    rollout r has 1 + r // 2 ids.
    """
    tokens = [[10 * r + t for t in range(count)] for r, count in enumerate(counts)]
    every = range(len(counts))
    return pa.table(
        {
            "rollout": [FIRST + r for r in every],
            "prompt_hash": [f"h{r // 2}" for r in every],
            "sample": [r % 2 for r in every],
            "prompt_ids": [[5] * (1 + r // 2) for r in every],
            "response_ids": tokens,
            "trainable": [[t % 2 == 0 for t in ids] for ids in tokens],
            "logprobs": [[-0.5] * len(ids) for ids in tokens],
            "top_ids": [[t + i for t in ids for i in range(tops)] for ids in tokens],
            "top_counts": [[tops] * len(ids) for ids in tokens],
            "stop_reason": ["stop"] * len(tokens),
            "reward": [None] * len(tokens),
        },
        schema=schema(ROLLOUTS),
    )


def arrays(counts: Sequence[int], tops: int = 2) -> RolloutArrays:
    """Return such a shard as arrays."""
    return read_rollouts(rollouts(counts, tops), None)


def numbers(shard: RolloutArrays) -> np.ndarray:
    """Return a number for each token, 100 times its rollout's place and its position."""
    rollout, position = shard.positions()
    return 100.0 * (rollout - FIRST) + position

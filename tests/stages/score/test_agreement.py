"""Two models agree on a token where their first choices are the same."""

import pyarrow as pa
from rollout_arrays import rollouts
from tip.stages.score.agreement import agreement


def teacher(ids: list[list[int]], logprobs: list[list[float]]) -> pa.Table:
    return pa.table(
        {
            "ids": pa.array(ids, pa.list_(pa.int32())),
            "logprobs": pa.array(logprobs, pa.list_(pa.float16())),
        }
    )


def test_each_kind_of_row() -> None:
    ours = rollouts([2, 0, 3])  # first choices 0, 1, 20, 21, 22
    theirs = teacher(
        [[0], [0, 1], [9, 20], [3, 22], [21, 22, 23]],
        [[-3.0], [-0.5, -0.6], [-1.0, -1.0], [-1.0, -2.0], [-3.0, -0.25, -4.0]],
    )
    assert agreement(ours, theirs).tolist() == [True, False, True, False, True]


def test_a_shard_without_a_token_has_none() -> None:
    assert agreement(rollouts([0]), teacher([], [])).tolist() == []

"""A shard's arrays are its table's columns, token by token."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from rollout_arrays import FIRST, arrays, rollouts
from tip.stages.score.shard import read_rollouts, refuse_other_signals, refuse_unknown_ids
from tip.storage.errors import ModelError, StoreError


def test_arrays_hold_the_columns_of_a_table() -> None:
    table = rollouts([2, 0, 3])
    shard = read_rollouts(table, None)
    assert shard.rollouts.tolist() == [FIRST, FIRST + 1, FIRST + 2]
    assert [p.tolist() for p in shard.student_prompts] == table["prompt_ids"].to_pylist()
    assert [shard.responses.row(r).tolist() for r in range(3)] == table["response_ids"].to_pylist()
    assert shard.trainable.tolist() == [True, False, True, False, True]
    assert shard.logprobs.tolist() == [-0.5] * 5
    assert [shard.top.row(t).tolist() for t in (0, 4)] == [[0, 1], [22, 23]]


def test_a_slice_of_a_table_gives_the_arrays_of_its_rollouts() -> None:
    shard = read_rollouts(rollouts([2, 1, 3]).slice(1), None)
    assert shard.responses.values.tolist() == [10, 20, 21, 22]
    assert shard.top.row(1).tolist() == [20, 21]


def test_a_teacher_is_shown_the_students_prompts_or_its_own_by_their_hash() -> None:
    table = rollouts([1, 1, 1])
    same = read_rollouts(table, None)
    assert same.teacher_prompts == same.student_prompts
    other = read_rollouts(table, {"h0": (7, 8), "h1": (9,)})
    assert [p.tolist() for p in other.teacher_prompts] == [[7, 8], [7, 8], [9]]
    assert [p.tolist() for p in other.student_prompts] == [[5], [5], [5, 5]]


def test_each_token_has_its_rollout_and_its_position() -> None:
    rollout, position = arrays([2, 0, 3]).positions()
    assert rollout.tolist() == [FIRST, FIRST, FIRST + 2, FIRST + 2, FIRST + 2]
    assert position.tolist() == [0, 1, 0, 1, 2]


def test_rollouts_that_have_a_token_are_the_answered_ones() -> None:
    assert arrays([2, 0, 3, 0]).answered.tolist() == [0, 2]


def test_all_but_the_last_token_is_read_behind_each_models_prompts() -> None:
    shard = arrays([2, 1, 3])
    assert shard.read_lengths(shard.student_prompts).tolist() == [2, 1, 4]
    assert shard.read_lengths([np.arange(9)] * 3).tolist() == [10, 9, 11]


def test_the_students_part_of_the_support_is_that_of_the_tokens_asked() -> None:
    shard = arrays([2, 1, 3], tops=3)
    part = shard.student_ids(np.array([5, 2]), torch.device("cpu"))
    assert part.tokens.tolist() == [22, 10]
    assert part.top.tolist() == [[22, 23, 24], [10, 11, 12]]
    assert part.valid.all()
    assert (part.tokens.dtype, part.top.dtype) == (torch.int64, torch.int64)
    assert arrays([2], tops=0).student_ids(np.array([1]), torch.device("cpu")).top.shape == (1, 0)


def test_an_id_beyond_a_models_head_is_refused_with_who_lacks_it() -> None:
    model: Any = SimpleNamespace(vocabulary=20)
    refuse_unknown_ids("teacher", model, np.array([3, 19]))
    refuse_unknown_ids("teacher", model, np.zeros(0, dtype=int))
    with pytest.raises(ModelError, match=r"token id 20, which the teacher does not have .*20 rows"):
        refuse_unknown_ids("teacher", model, np.array([3, 20]))


@pytest.mark.parametrize("change", [lambda t: t.slice(1), lambda t: t.take(pa.array([0, 2, 1]))])
def test_signals_that_are_not_of_these_tokens_are_refused(change: Any) -> None:
    shard = arrays([2, 1])
    rollout, position = shard.positions()
    signals = pa.table({"rollout": rollout, "position": position})
    refuse_other_signals(signals, shard)
    with pytest.raises(StoreError, match="not those of these rollouts"):
        refuse_other_signals(change(signals), shard)

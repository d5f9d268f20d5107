"""Whatever the batches were, tables stand in the order of the rollouts, and facts are theirs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rollout_arrays import FIRST, arrays, numbers
from tip.stages.arrays.batching import fill
from tip.stages.models.card import ModelCard
from tip.stages.score.shard import RolloutArrays
from tip.stages.score.tables import (
    Columns,
    Read,
    by_name,
    in_batches,
    refuse_nonfinite,
    send,
    teacher_result,
    tokens_result,
)
from tip.stages.signals.divergences import Features
from tip.stages.signals.supports import Supports, stored
from tip.storage.columns import TEACHER, TOKENS, schema
from tip.storage.errors import NumericsError

counts_and_budget = st.tuples(
    st.lists(st.integers(0, 6), min_size=1, max_size=8).filter(any), st.integers(1, 30)
)


def supports_of(tokens: np.ndarray) -> Supports:
    """Return supports of tokens: the id itself and two behind it, half of the mass outside."""
    ids = (tokens[:, None] + np.arange(3)).ravel()
    counts = np.full(len(tokens), 3, dtype=np.int32)
    tail = np.full(len(tokens), np.log(0.5), dtype=np.float32)
    return stored(ids, np.full(len(ids), -1.5), counts, tail)


def features_of(shard: RolloutArrays, **changes: Any) -> Columns:
    """Return the features of a shard's tokens, one half each unless told otherwise."""
    count = len(shard.responses.values)
    columns = {name: np.full(count, 0.5, dtype=np.float32) for name in Features._fields}
    columns["teacher_rank"] = np.zeros(count, dtype=np.int32)
    columns["student_logprob"] = shard.logprobs.copy()
    return columns | {name: np.full(count, value, np.float32) for name, value in changes.items()}


CARD = ModelCard(Path(), "", (1,), (1, 21), 60, 128, Path())


@given(counts_and_budget)
def test_parts_come_back_into_the_order_of_the_rollouts(case: tuple[list[int], int]) -> None:
    counts, budget = case
    shard = arrays(counts)
    batches: list[list[int]] = []
    ticks: list[int] = []

    read: list[list[int]] = []

    def score(rows: np.ndarray) -> Read:
        batches.append(rows.tolist())
        tokens = shard.responses.places(rows)

        def take() -> tuple[Supports, Columns]:
            read.append(rows.tolist())
            assert len(batches) == min(len(read) + 1, total)  # the next is under way
            return supports_of(shard.responses.values[tokens]), {"n": numbers(shard)[tokens]}

        return take

    total = len(fill(np.array(counts), budget))

    supports, columns = in_batches(shard, np.array(counts), budget, score, ticks.append)
    assert read == batches
    assert sorted(r for rows in batches for r in rows) == shard.answered.tolist()
    assert columns["n"].tolist() == numbers(shard).tolist()
    assert supports is not None
    first = supports.ids.values.reshape(-1, 3)[:, 0]
    assert first.tolist() == shard.responses.values.tolist()
    assert sum(ticks) == len(first)


def test_a_pass_without_supports_gives_none() -> None:
    shard = arrays([2, 1])

    def score(rows: np.ndarray) -> Read:
        return lambda: (None, {"n": numbers(shard)[shard.responses.places(rows)]})

    supports, columns = in_batches(shard, np.array([2, 1]), 1, score, lambda _: None)
    assert supports is None
    assert columns["n"].tolist() == [0, 1, 100]


def test_a_number_of_a_batch_that_is_not_finite_is_refused() -> None:
    shard = arrays([2, 1])

    def score(rows: np.ndarray) -> Read:
        found = numbers(shard)[shard.responses.places(rows)]
        return lambda: (None, {"entropy": np.where(found == 100, np.nan, found)})

    with pytest.raises(NumericsError, match=f"entropy is nan at position 0 of rollout {FIRST + 1}"):
        in_batches(shard, np.array([2, 1]), 1, score, lambda _: None)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_first_number_that_is_not_finite_is_named_with_its_place(bad: float) -> None:
    shard = arrays([2, 0, 3])
    values = np.zeros(5)
    refuse_nonfinite({"jsd": values}, shard)
    values[3:] = bad
    with pytest.raises(NumericsError) as it:
        refuse_nonfinite({"jsd": values}, shard)
    assert f"jsd is {bad} at position 1 of rollout {FIRST + 2} (2 such tokens" in str(it.value)
    assert "\n" not in str(it.value)


def test_features_of_chunks_follow_one_another_in_the_types_of_the_table() -> None:
    chunks = [
        Features(*(torch.arange(size, dtype=torch.float64) for _ in Features._fields))
        for size in (2, 3)
    ]
    chunks = [c._replace(teacher_rank=c.teacher_rank.long()) for c in chunks]
    supports, found = send([], by_name(chunks))()
    assert supports is None
    assert list(found) == list(Features._fields)
    assert all(values.tolist() == [0, 1, 0, 1, 2] for values in found.values())
    assert found["teacher_rank"].dtype == np.int32
    assert found["jsd"].dtype == np.float32


def test_a_teachers_table_says_what_was_read_and_kept() -> None:
    shard = replace(arrays([2, 0, 3]), teacher_prompts=[np.arange(4)] * 3)
    supports, entropy = supports_of(shard.responses.values), np.arange(5, dtype=np.float32)
    table, facts = teacher_result(shard, supports, entropy, 0.25, given_ids=True)
    assert table.schema == schema(TEACHER)
    assert table["ids"].to_pylist() == [[t, t + 1, t + 2] for t in (0, 1, 20, 21, 22)]
    assert table["position"].to_pylist() == [0, 1, 0, 1, 2]
    assert table["entropy"].to_pylist() == [0, 1, 2, 3, 4]
    assert (facts.teacher_tokens, facts.entries) == (3 * 4 + 5, 15)
    assert (facts.teacher_check_gap, facts.given_ids, facts.made_by) == (0.25, True, None)


def test_a_token_table_holds_tokens_flags_and_numbers() -> None:
    shard = arrays([2, 3])
    table, facts = tokens_result(shard, features_of(shard, jsd=0.125), CARD, 0.25)
    assert table.schema == schema(TOKENS)
    assert table["token"].to_pylist() == [0, 1, 10, 11, 12]
    assert table["special"].to_pylist() == [False, True, False, False, False]
    assert table["trainable"].to_pylist() == [True, False, True, False, True]
    assert table["jsd"].to_pylist() == [0.125] * 5
    assert (facts.tokens, facts.reverse_kl, facts.student_mass) == (5, 0.5, 0.5)
    assert (facts.student_check_gap, facts.lost_mass) == (0.25, None)
    assert (facts.sampling_gap_rms, facts.off_policy_kl) == (0, 0)


def test_a_student_that_did_not_sample_is_known_by_its_distance() -> None:
    shard = arrays([2, 3])
    table, facts = tokens_result(shard, features_of(shard, student_logprob=-0.75), CARD, 0)
    assert table["drift"].to_pylist() == [-0.25] * 5
    assert facts.sampling_gap_rms == pytest.approx(0.25)
    assert facts.off_policy_kl == pytest.approx(np.exp(-0.25) - 1 + 0.25)


def test_lost_mass_is_a_fact_and_no_column() -> None:
    shard = arrays([2, 3])
    columns = features_of(shard) | {"lost_mass": np.array([0.1, 0, 0, 0, 0.4], np.float32)}
    table, facts = tokens_result(shard, columns, CARD, 0)
    assert facts.lost_mass == pytest.approx(0.1)
    assert "lost_mass" not in table.column_names
    assert "lost_mass" in columns, "what was given stays as it was"

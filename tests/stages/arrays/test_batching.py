"""Batches hold every sequence once, keep to the budget, and pad behind."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tip.stages.arrays.batching import evenly, fill, pad

lengths_and_budget = st.tuples(
    st.lists(st.integers(0, 40), max_size=30), st.integers(min_value=1, max_value=100)
)


@given(lengths_and_budget)
def test_every_sequence_with_tokens_is_in_one_batch(case: tuple[list[int], int]) -> None:
    lengths, budget = case
    found = sorted(int(i) for batch in fill(lengths, budget) for i in batch)
    assert found == [i for i, length in enumerate(lengths) if length > 0]


@given(lengths_and_budget)
def test_a_batch_keeps_to_the_budget_unless_it_is_one_long_sequence(
    case: tuple[list[int], int],
) -> None:
    lengths, budget = case
    for batch in fill(lengths, budget):
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget


@given(lengths_and_budget)
def test_two_neighbouring_batches_would_not_fit_into_one(case: tuple[list[int], int]) -> None:
    lengths, budget = case
    batches = fill(lengths, budget)
    for batch, following in pairwise(batches):
        assert (len(batch) + 1) * lengths[following[0]] > budget


def test_sequences_are_sorted_by_length_and_equal_ones_keep_their_order() -> None:
    batches = fill([5, 2, 5, 2, 1], budget=10)
    assert [b.tolist() for b in batches] == [[4, 1, 3], [0, 2]]


def test_padding_stands_behind_and_is_zero() -> None:
    ids = pad([np.array([7, 8, 9]), np.array([5])], torch.device("cpu"))
    assert ids.tolist() == [[7, 8, 9], [5, 0, 0]]
    assert ids.dtype == torch.int64


@pytest.mark.parametrize(
    ("count", "rows", "expected"),
    [
        (1, 64, [32]),
        (2, 64, [16, 48]),
        (9, 3, [0, 1, 2]),
        (3, 3, [0, 1, 2]),
        (0, 5, []),
        (2, 0, []),
    ],
)
def test_rows_are_chosen_evenly_and_never_twice(count: int, rows: int, expected: list[int]) -> None:
    assert evenly(count, rows).tolist() == expected

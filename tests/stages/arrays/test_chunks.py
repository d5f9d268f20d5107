"""Chunks keep to their size, and pieces hold every row of a chunk once."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tip.stages.arrays import chunks
from tip.stages.arrays.chunks import chunk_rows, pieces

CPU = torch.device("cpu")


@given(st.integers(1, 10_000), st.integers(1, 10_000))
def test_a_chunk_is_as_many_rows_as_fit_and_at_least_one(elements: int, vocabulary: int) -> None:
    rows = chunk_rows(elements, vocabulary)
    assert rows == 1 or rows * vocabulary <= elements
    assert (rows + 1) * vocabulary > elements


@given(st.integers(0, 50), st.integers(1, 30))
def test_pieces_cover_the_rows_in_order_and_keep_to_the_cache(rows: int, vocabulary: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "_CACHE_ELEMENTS", 100)
        found = list(pieces(rows, vocabulary, CPU))
    assert [i for piece in found for i in range(rows)[piece]] == list(range(rows))
    assert all((piece.stop - piece.start) * vocabulary <= 100 for piece in found)


def test_a_gpu_works_on_a_chunk_whole() -> None:
    assert list(pieces(7, 1 << 24, torch.device("cuda"))) == [slice(0, 7)]

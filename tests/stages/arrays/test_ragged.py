"""Rows of different lengths keep their content on every way between lists, arrays and Arrow."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tip.stages.arrays.ragged import Ragged, concatenate, from_lists, within

rows_of_numbers = st.lists(st.lists(st.integers(-9, 9), max_size=5), max_size=8)


def ragged(rows: list[list[int]]) -> Ragged:
    values = np.array([v for row in rows for v in row], dtype=np.int32)
    return Ragged(values, np.array([len(row) for row in rows], dtype=np.int32))


def lists(some: Ragged) -> list[list[int]]:
    return [some.row(i).tolist() for i in range(len(some.counts))]


@st.composite
def rows_and_picks(draw: st.DrawFn) -> tuple[list[list[int]], list[int]]:
    rows = draw(rows_of_numbers.filter(len))
    return rows, draw(st.lists(st.integers(0, len(rows) - 1), max_size=8))


@given(rows_of_numbers)
def test_rows_come_back_as_they_went_in(rows: list[list[int]]) -> None:
    assert lists(ragged(rows)) == rows


@given(rows_and_picks())
def test_taking_rows_is_taking_list_items(case: tuple[list[list[int]], list[int]]) -> None:
    rows, picks = case
    assert lists(ragged(rows).take(np.array(picks, dtype=np.int64))) == [rows[i] for i in picks]


@given(rows_and_picks())
def test_a_rectangle_holds_the_rows_at_its_true_entries_and_the_filling_elsewhere(
    case: tuple[list[list[int]], list[int]],
) -> None:
    rows, picks = case
    padded, valid = ragged(rows).padded(np.array(picks, dtype=np.int64), fill=77)
    assert [p[v].tolist() for p, v in zip(padded, valid, strict=True)] == [rows[i] for i in picks]
    assert (padded[~valid] == 77).all()
    assert padded.shape == (len(picks), max((len(rows[i]) for i in picks), default=0))


@given(st.lists(st.integers(0, 5), max_size=8))
def test_positions_within_rows_begin_anew_in_each(counts: list[int]) -> None:
    expected = [position for count in counts for position in range(count)]
    assert within(np.array(counts, dtype=np.int32)).tolist() == expected


@given(st.lists(rows_of_numbers, min_size=1, max_size=4))
def test_concatenation_is_that_of_lists(parts: list[list[list[int]]]) -> None:
    assert lists(concatenate([ragged(p) for p in parts])) == [row for part in parts for row in part]


@given(rows_of_numbers)
def test_an_arrow_column_round_trips(rows: list[list[int]]) -> None:
    column = ragged(rows).lists(pa.int32())
    assert column.to_pylist() == rows
    assert column.type == pa.list_(pa.field("element", pa.int32(), nullable=False))
    assert lists(from_lists(column)) == rows


@given(rows_and_picks(), st.integers(0, 8), st.integers(0, 8))
def test_a_slice_of_a_chunked_column_gives_the_rows_of_the_slice(
    case: tuple[list[list[int]], list[int]], start: int, length: int
) -> None:
    rows, picks = case
    other = [rows[i] for i in picks]
    type_ = pa.list_(pa.int32())
    column = pa.chunked_array([pa.array(rows, type_), pa.array(other, type_)])
    assert lists(from_lists(column.slice(start, length))) == (rows + other)[start : start + length]
    whole = pa.array(rows, type_)
    assert lists(from_lists(whole.slice(start, length))) == rows[start : start + length]


@pytest.mark.parametrize("type_", [pa.bool_(), pa.float16(), pa.float32(), pa.int32()], ids=str)
def test_every_element_type_of_the_tables_is_read(type_: pa.DataType) -> None:
    column = pa.array([[1, 0], [], [1]], pa.list_(pa.int32())).cast(pa.list_(type_))
    assert lists(from_lists(column)) == [[1, 0], [], [1]]


def test_a_column_without_a_chunk_has_no_row() -> None:
    none = from_lists(pa.chunked_array([], type=pa.list_(pa.int32())))
    assert lists(none) == []
    assert none.values.dtype == np.int32

"""The content hash follows the logical rows, and nothing else of a table."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tip.storage import columns as declared
from tip.storage.columns import schema
from tip.storage.content import content_hash, is_list, kind_of, numbers, spell

from .example_tables import TABLES, TEACHER_ROW, split, tables


@pytest.mark.parametrize("name", TABLES)
def test_chunks_and_slices_leave_the_content_hash_alone(name: str) -> None:
    @settings(max_examples=30, deadline=None)
    @given(tables(TABLES[name]), st.lists(st.integers(0, 100), max_size=4))
    def check(table: pa.Table, at: list[int]) -> None:
        copied = pa.Table.from_pylist(table.to_pylist(), schema=table.schema)
        assert content_hash(split(table, at)) == content_hash(table) == content_hash(copied)

    check()


@pytest.mark.parametrize("name", TABLES)
def test_different_rows_have_different_content_hashes(name: str) -> None:
    @settings(max_examples=30, deadline=None)
    @given(tables(TABLES[name]), tables(TABLES[name]))
    def check(one: pa.Table, other: pa.Table) -> None:
        same = repr(one.to_pylist()) == repr(other.to_pylist())
        assert (content_hash(one) == content_hash(other)) == same

    check()


@pytest.mark.parametrize(
    "others",
    [
        pa.table({"a": pa.array([[1], [2, 3]])}),
        pa.table({"a": pa.array([[1, 2], [], [3]])}),
        pa.table({"a": pa.array([[1, 2], [3], []])}),
        pa.table({"a": pa.array([[1, 2], [3], None])}),
        pa.table({"a": pa.array([[1, 2], [3]], pa.list_(pa.int32()))}),
        pa.table({"b": pa.array([[1, 2], [3]])}),
    ],
)
def test_where_lists_end_and_what_is_null_belongs_to_the_content(others: pa.Table) -> None:
    assert content_hash(others) != content_hash(pa.table({"a": pa.array([[1, 2], [3]])}))


def test_what_lies_below_a_null_does_not_belong_to_the_content() -> None:
    nulls = np.array([False, True])
    one, other = (pa.Array.from_pandas(np.array([1.0, below]), mask=nulls) for below in (2.0, 3.0))
    assert content_hash(pa.table({"a": one})) == content_hash(pa.table({"a": other}))


def test_the_content_hash_of_known_rows_is_pinned() -> None:
    table = pa.Table.from_pylist(
        [TEACHER_ROW, TEACHER_ROW | {"ids": [], "logprobs": [], "tail": None}],
        schema=schema(declared.TEACHER),
    )
    expected = "40632efc383149d79b7625228b5712f85ee5378da910c3dfd66dfae84d7d0dc2"
    assert content_hash(table) == expected


@pytest.mark.parametrize(
    ("type_", "kind", "spelled"),
    [
        (pa.int32(), "number", "int32"),
        (pa.float16(), "number", "float16"),
        (pa.float64(), "number", "float64"),
        (pa.string(), "text", "text"),
        (pa.large_string(), "text", "text"),
        (pa.string_view(), "text", "text"),
        (pa.bool_(), "bool", "bool"),
        (pa.null(), "null", "null"),
        (pa.list_(pa.float16()), "list of number", "list(float16)"),
        (pa.large_list(pa.string()), "list of text", "list(text)"),
    ],
)
def test_a_type_has_one_name_however_arrow_lays_it_out(
    type_: pa.DataType, kind: str, spelled: str
) -> None:
    assert (kind_of(type_), spell(type_)) == (kind, spelled)
    assert is_list(type_) == kind.startswith("list")


def test_plain_values_become_numpys_own() -> None:
    assert numbers(pa.array([True, False])).tolist() == [True, False]
    assert numbers(pa.array([1, 2], pa.int16())).dtype == np.int16

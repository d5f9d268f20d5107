"""What is rendered from the declared columns says what they say."""

import duckdb
import pyarrow as pa
import pytest
from tip.storage.columns import ROLLOUTS, Column, markdown, narrow, schema

from .example_tables import TABLES, example

COLUMNS = (
    Column("a", pa.int32(), "index", "a number"),
    Column("b", pa.list_(pa.int32()), "token", "a list", length="b_length"),
    Column("c", pa.list_(pa.bool_()), "flag", "another list", True),
)


def test_a_schema_has_the_columns_in_order_and_says_where_null_may_stand() -> None:
    assert schema(COLUMNS) == pa.schema(
        [
            pa.field("a", pa.int32(), False),
            pa.field("b", pa.list_(pa.int32()), False),
            pa.field("c", pa.list_(pa.bool_()), True),
        ]
    )


def test_the_narrow_view_has_lengths_and_no_lists() -> None:
    assert narrow(COLUMNS) == "a, len(b)::INTEGER AS b_length"
    rows = example(ROLLOUTS)
    seen = duckdb.sql(f"SELECT {narrow(ROLLOUTS)} FROM rows").to_arrow_table()
    assert not any(pa.types.is_list(field.type) for field in seen.schema)
    assert seen["length"].to_pylist() == [len(flags) for flags in rows["trainable"].to_pylist()]


def test_the_page_has_a_line_a_column() -> None:
    lines = markdown(COLUMNS).splitlines()
    assert lines[2] == "| `a` | int32 | index | a number |"
    assert len(lines) == 2 + len(COLUMNS)


@pytest.mark.parametrize("name", TABLES)
def test_every_column_has_its_own_name_a_unit_and_a_meaning(name: str) -> None:
    columns = TABLES[name]
    assert len({column.name for column in columns}) == len(columns)
    assert all(column.unit and column.meaning for column in columns)
    assert not [c.name for c in columns if c.length and not pa.types.is_list(c.type)]

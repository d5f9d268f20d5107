"""What is read equals what was written, and nothing that does not fit is written."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tip.storage import columns as declared
from tip.storage.columns import Column, schema
from tip.storage.content import content_hash
from tip.storage.errors import NumericsError, StoreError
from tip.storage.tables import read_table, write_table

TABLES = {
    name: getattr(declared, name)
    for name in ("ROLLOUTS", "TEACHER", "TOKENS", "SELECTION", "EVALUATION")
}
FOLDERS = settings(
    max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
TEACHER_ROW = {
    "rollout": 7,
    "position": 0,
    "ids": [3, 1],
    "logprobs": [-0.5, -1.5],
    "tail": -2.0,
    "entropy": 0.7,
}


def values(type_: pa.DataType) -> st.SearchStrategy[Any]:
    """Give every value that a type can hold and a table may."""
    if pa.types.is_list(type_):
        return st.lists(values(type_.value_type), max_size=5)
    if pa.types.is_floating(type_):
        return st.floats(width=type_.bit_width, allow_nan=False, allow_infinity=False)
    if pa.types.is_integer(type_):
        bound = 1 << (type_.bit_width - 1)
        return st.integers(-bound, bound - 1)
    return st.booleans() if pa.types.is_boolean(type_) else st.text(max_size=5)


def tables(columns: tuple[Column, ...]) -> st.SearchStrategy[pa.Table]:
    row = {c.name: st.none() | values(c.type) if c.nullable else values(c.type) for c in columns}
    rows = st.lists(st.fixed_dictionaries(row), max_size=8)
    return rows.map(lambda rows: pa.Table.from_pylist(rows, schema=schema(columns)))


def teacher(rows: int = 1, **changes: Any) -> pa.Table:
    """Return a teacher table in which the last row has the changes."""
    made = [TEACHER_ROW] * (rows - 1) + [TEACHER_ROW | changes]
    return pa.table({name: pa.array([row[name] for row in made]) for name in TEACHER_ROW})


def split(table: pa.Table, at: list[int]) -> pa.Table:
    """Return the same rows in chunks, each of them a slice of something longer."""
    bounds = sorted({0, *(a % (len(table) + 1) for a in at), len(table)})
    pairs = pairwise(bounds)
    return pa.concat_tables([table.slice(0, 0), *(table.slice(a, b - a) for a, b in pairs)])


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_read_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    @FOLDERS
    @given(tables(TABLES[name]))
    def check(table: pa.Table) -> None:
        path = tmp_path / "table.parquet"
        written = write_table(path, table, TABLES[name])
        read = read_table([path])
        assert read.schema.equals(schema(TABLES[name]))
        assert written.equals(table)
        assert read.equals(table)
        assert content_hash(read) == content_hash(table)

    check()


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


def test_every_float16_but_nan_and_infinity_survives_in_a_list(tmp_path: Path) -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    column = Column("x", pa.list_(pa.field("element", pa.float16(), nullable=False)), "", "")
    table = pa.table([pa.array([halves])], schema=schema([column]))
    write_table(tmp_path / "x.parquet", table, (column,))
    read = read_table([tmp_path / "x.parquet"])["x"].chunk(0).values.to_numpy()
    assert (read.view(np.uint16) == halves.view(np.uint16)).all()


def test_lists_of_halves_lie_in_files_as_singles_of_the_same_numbers(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    written = write_table(path, example(declared.TEACHER), declared.TEACHER)
    stored = pq.read_table(path)["logprobs"]
    assert stored.type.value_type == pa.float32()
    assert stored.to_pylist() == written["logprobs"].to_pylist()
    assert read_table([path], ["logprobs"])["logprobs"].type.value_type == pa.float16()


def test_files_that_hold_halves_are_read_as_well(tmp_path: Path) -> None:
    table = example(declared.TEACHER)
    pq.write_table(table, tmp_path / "t.parquet")
    assert read_table([tmp_path / "t.parquet"]).equals(table)


def test_duckdb_and_polars_read_every_table_as_written(tmp_path: Path) -> None:
    for name, columns in TABLES.items():
        path = tmp_path / f"{name}.parquet"
        written = write_table(path, example(columns), columns)
        assert duckdb.read_parquet(str(path)).to_arrow_table().to_pylist() == written.to_pylist()
        assert pl.read_parquet(path).rows(named=True) == written.to_pylist()


def example(columns: tuple[Column, ...]) -> pa.Table:
    """Return 300 rows of values that are exact in every float type."""
    rng = np.random.default_rng(0)

    def one(type_: pa.DataType) -> Any:
        if pa.types.is_list(type_):
            return [one(type_.value_type) for _ in range(rng.integers(0, 6))]
        number = int(rng.integers(-1000, 1000))
        if pa.types.is_floating(type_):
            return number / 8
        if pa.types.is_boolean(type_):
            return number > 0
        return number if pa.types.is_integer(type_) else f"{number} ü\n"

    rows = [
        {c.name: None if c.nullable and i % 3 == 0 else one(c.type) for c in columns}
        for i in range(300)
    ]
    return pa.Table.from_pylist(rows, schema=schema(columns))


def test_columns_are_put_in_order_and_cast(tmp_path: Path) -> None:
    wide = teacher(2).select(["entropy", "tail", "logprobs", "ids", "position", "rollout"])
    written = write_table(tmp_path / "t.parquet", wide, declared.TEACHER)
    assert written.schema.equals(schema(declared.TEACHER))
    assert written["ids"].to_pylist() == [[3, 1], [3, 1]]


@pytest.mark.parametrize("source", ["polars", "duckdb"])
def test_tables_of_polars_and_duckdb_are_taken(source: str, tmp_path: Path) -> None:
    columns = declared.EVALUATION
    table = example(columns)
    frame = pl.from_arrow(table)
    made = frame.to_arrow() if source == "polars" else duckdb.sql("from frame").to_arrow_table()
    assert write_table(tmp_path / "t.parquet", made, columns).equals(table)
    assert content_hash(made) == content_hash(table)


@pytest.mark.parametrize(
    ("changes", "column", "row"),
    [
        ({"logprobs": [-0.5, float("nan")]}, "logprobs", 2),
        ({"logprobs": [-0.5, float("-inf")]}, "logprobs", 2),
        ({"logprobs": [-0.5, -70000.0]}, "logprobs", 2),
        ({"tail": float("inf")}, "tail", 2),
        ({"entropy": float("nan")}, "entropy", 2),
        ({"entropy": 1e39}, "entropy", 2),
    ],
)
@pytest.mark.parametrize("chunked", [False, True])
def test_numbers_that_are_not_finite_are_refused_with_their_place(
    changes: dict[str, Any], column: str, row: int, chunked: bool, tmp_path: Path
) -> None:
    table = teacher(3, **changes)
    path = tmp_path / "t.parquet"
    with pytest.raises(NumericsError, match=f"column {column}, row {row}: .* not finite"):
        write_table(path, split(table, [1]) if chunked else table, declared.TEACHER)
    assert not path.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": None}, "column ids, row 2: null"),
        ({"ids": [None]}, "column ids, row 2: null"),
        ({"entropy": None}, "column entropy, row 2: null"),
        ({"ids": [1 << 31]}, "column ids: .*not in range"),
        ({"position": 1 << 40}, "column position: .*not in range"),
    ],
)
def test_values_that_do_not_fit_are_refused_with_their_place(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        write_table(tmp_path / "t.parquet", teacher(3, **changes), declared.TEACHER)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (teacher().drop_columns(["tail"]), r"missing \['tail'\]"),
        (teacher().append_column("x", pa.array([1])), r"unexpected \['x'\]"),
        (teacher().append_column("tail", pa.array([1.0])), "each once"),
        (teacher().set_column(0, "rollout", pa.array(["7"])), "text where number"),
        (teacher().set_column(5, "entropy", pa.array([True])), "bool where number"),
        (teacher().set_column(2, "ids", pa.array([3])), "number where list of number"),
        (teacher().set_column(1, "position", pa.array([0.5])), "column position: .*truncated"),
    ],
)
def test_columns_that_do_not_fit_are_refused(table: pa.Table, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        write_table(tmp_path / "t.parquet", table, declared.TEACHER)
    assert not list(tmp_path.iterdir())


def test_parts_are_concatenated_in_the_order_of_their_paths(tmp_path: Path) -> None:
    paths = [tmp_path / f"{position}.parquet" for position in (2, 0, 1)]
    for path in paths:
        write_table(path, teacher(position=int(path.stem)), declared.TEACHER)
    read = read_table(paths, columns=["position", "rollout"])
    assert read.to_pydict() == {"position": [2, 0, 1], "rollout": [7, 7, 7]}


def test_an_unknown_column_is_refused_with_those_that_exist(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_table(path, teacher(), declared.TEACHER)
    with pytest.raises(StoreError, match=r"no column \['entropie'\]; it has .*'entropy'"):
        read_table([path], columns=["rollout", "entropie"])


@pytest.mark.parametrize("how", ["missing", "truncated", "flipped", "empty"])
def test_a_damaged_file_is_refused_in_one_line(how: str, tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_table(path, example(declared.TEACHER), declared.TEACHER)
    data = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
    elif how == "flipped":
        column = pq.read_metadata(path).row_group(0).column(3)
        data[column.data_page_offset + column.total_compressed_size // 2] ^= 1
        path.write_bytes(data)
    else:
        path.write_bytes(data[: len(data) // 2] if how == "truncated" else b"")
    with pytest.raises(StoreError, match=r"cannot read the table .*t\.parquet") as caught:
        read_table([path])
    assert "\n" not in str(caught.value)


def test_reading_no_parts_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="at least one path"):
        read_table([])


def test_floats_are_byte_split_and_payload_lists_carry_no_statistics(tmp_path: Path) -> None:
    write_table(tmp_path / "t.parquet", example(declared.TEACHER), declared.TEACHER)
    group = pq.read_metadata(tmp_path / "t.parquet").row_group(0)
    found = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    assert "BYTE_STREAM_SPLIT" in found["entropy"].encodings
    assert "BYTE_STREAM_SPLIT" in found["ids.list.element"].encodings
    assert "BYTE_STREAM_SPLIT" in found["logprobs.list.element"].encodings
    assert found["rollout"].is_stats_set
    assert not found["ids.list.element"].is_stats_set
    assert {column.compression for column in found.values()} == {"ZSTD"}

"""What is read equals what was written, and nothing that does not fit is written."""

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from tip.storage import columns as declared
from tip.storage.columns import Column, schema
from tip.storage.content import content_hash
from tip.storage.errors import NumericsError, StoreError
from tip.storage.tables import read_table, write_table

from .example_tables import TABLES, example, split, tables, teacher

FOLDERS = settings(
    max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)


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

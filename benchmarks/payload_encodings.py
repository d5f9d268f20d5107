"""What each way of writing ids and log-probs costs in Parquet, and who can read it.

Columns of a Parquet file are independent, so each scheme writes one list column and is measured
alone: bytes of its column chunks (levels of the lists included, the file's footer not), best of
three writes and reads. An ideal coder's need is given beside: the order-0 entropy of what the
scheme would have to code, after Miller and Madow. `storage/tables.py` writes ids as "split, zstd 3"
and log-probs as "single, split". Without another level zstd works at 3.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from tip.stages.arrays.ragged import Ragged, from_lists
from tip.storage.columns import TEACHER
from tip.storage.tables import LIST_ROWS, write_table

TURNS = 3
FIXED_POINT = 1024  # steps a nat of the fixed-point scheme


def unchanged(rows: Ragged) -> pa.Array:
    """Return the values as they are."""
    return pa.array(rows.values)


def bits(rows: Ragged) -> pa.Array:
    """Return the bit patterns of float16: for numbers up to 0, ascending as they fall."""
    return pa.array(rows.values.view(np.uint16))


def single(rows: Ragged) -> pa.Array:
    """Return float16 values as float32."""
    return pa.array(rows.values.astype(np.float32))


def fixed_point(rows: Ragged) -> pa.Array:
    """Return log-probs as int32, 1/1024 nats; coarser than float16 where p > 0.37."""
    return pa.array(np.rint(rows.values.astype(np.float64) * FIXED_POINT).astype(np.int32))


def id_gaps(rows: Ragged) -> pa.Array:
    """Return ids as differences in their row: a reader must sum them up."""
    return pa.array(gaps(rows.values, rows.counts).astype(np.int32))


def bit_gaps(rows: Ragged) -> pa.Array:
    """Return the bit patterns of float16 as differences in their row."""
    return pa.array(gaps(rows.values.view(np.uint16), rows.counts).astype(np.int32))


@dataclass(frozen=True)
class Scheme:
    """A way of writing one column. as_stored: from its rows to the values that are written."""

    column: str
    name: str
    encoding: str | None = "BYTE_STREAM_SPLIT"
    level: int = 3
    falling: bool = False
    as_stored: Callable[[Ragged], pa.Array] = unchanged
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Cost:
    """bytes an entry, millions of entries a second, and which libraries read back the same."""

    size: float
    write: float
    read: float
    readers: str


def schemes() -> list[Scheme]:
    """Return the ways to write ids, then log-probs; both as they are and by falling log-prob."""
    split, delta, no_dictionary = "BYTE_STREAM_SPLIT", "DELTA_BINARY_PACKED", None
    ids = [
        Scheme("ids", "plain", no_dictionary),
        Scheme("ids", "dictionary", "DICTIONARY"),
        *(Scheme("ids", f"split, zstd {n}", split, n) for n in (1, 3, 9, 19)),
        Scheme("ids", "split, pages of 64 KiB", more={"data_page_size": 1 << 16}),
        Scheme("ids", "split, row groups of 1,024", more={"row_group_size": 1024}),
        *(Scheme("ids", f"delta, zstd {n}", delta, n) for n in (3, 19)),
        Scheme("ids", "gaps, split", split, as_stored=id_gaps),
        Scheme("ids", "by falling log-prob: split", split, falling=True),
        Scheme("ids", "by falling log-prob: split, zstd 19", split, 19, True),
        Scheme("ids", "by falling log-prob: dictionary", "DICTIONARY", falling=True),
    ]
    logprobs = [Scheme("logprobs", "half, plain, zstd 1", no_dictionary, 1)]
    for falling in (False, True):
        order = "by falling log-prob: " if falling else ""
        logprobs += [
            Scheme("logprobs", f"{order}half, plain", no_dictionary, falling=falling),
            Scheme("logprobs", f"{order}half, plain, zstd 19", no_dictionary, 19, falling),
            Scheme("logprobs", f"{order}half, dictionary", "DICTIONARY", falling=falling),
            Scheme("logprobs", f"{order}half, split", split, falling=falling),
            Scheme("logprobs", f"{order}single, split", split, 3, falling, single),
            Scheme("logprobs", f"{order}single, split, zstd 9", split, 9, falling, single),
            Scheme("logprobs", f"{order}bits as uint16, split", split, 3, falling, bits),
            Scheme("logprobs", f"{order}bits as uint16, split, zstd 19", split, 19, falling, bits),
            Scheme("logprobs", f"{order}bits as uint16, delta", delta, 3, falling, bits),
            Scheme("logprobs", f"{order}1/1024 nats, split", split, 3, falling, fixed_point),
            Scheme("logprobs", f"{order}1/1024 nats, delta", delta, 3, falling, fixed_point),
        ]
    logprobs.append(
        Scheme("logprobs", "by falling log-prob: gaps of bits, split", split, 3, True, bit_gaps)
    )
    return ids + logprobs


def by_falling(ids: Ragged, logprobs: Ragged) -> tuple[Ragged, Ragged]:
    """Return both in each row by falling log-prob, equal ones by id."""
    row = np.repeat(np.arange(len(ids.counts)), ids.counts)
    order = np.lexsort((ids.values, -logprobs.values.astype(np.float32), row))
    return Ragged(ids.values[order], ids.counts), Ragged(logprobs.values[order], ids.counts)


def cost(scheme: Scheme, table: pa.Table, folder: Path) -> Cost:
    """Write one column of a `teacher` table as a scheme says, and read it back."""
    pair = from_lists(table["ids"]), from_lists(table["logprobs"])
    ids, logprobs = by_falling(*pair) if scheme.falling else pair
    values = ids if scheme.column == "ids" else logprobs
    stored = scheme.as_stored(values)
    element = pa.field("element", stored.type, nullable=False)
    offsets = pa.array(values.offsets.astype(np.int32))
    column = pa.ListArray.from_arrays(offsets, stored, type=pa.list_(element))
    written = pa.table({"x": column})
    path, entries = folder / "column.parquet", len(stored)
    options: dict[str, Any] = {"row_group_size": LIST_ROWS, "write_page_checksum": True}
    if scheme.encoding not in (None, "DICTIONARY"):
        options["column_encoding"] = {"x.list.element": scheme.encoding}
    options |= {
        "compression": "zstd",
        "compression_level": scheme.level,
        "use_dictionary": scheme.encoding == "DICTIONARY",
        "write_statistics": False,
    } | scheme.more
    write = best_of(lambda: pq.write_table(written, path, **options))
    read = best_of(lambda: pq.read_table(path))
    return Cost(
        sum(column_bytes(path).values()) / entries,
        entries / write / 1e6,
        entries / read / 1e6,
        readers(path, column),
    )


def best_of(work: Callable[[], object]) -> float:
    """Return the seconds of the fastest of some turns."""
    seconds = []
    for _ in range(TURNS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def readers(path: Path, expected: pa.ListArray) -> str:
    """Return which of pyarrow, Polars and DuckDB read the same numbers."""
    reading: dict[str, Callable[[], Any]] = {
        "pyarrow": lambda: pq.read_table(path),
        "Polars": lambda: pl.read_parquet(path).to_arrow(),
        "DuckDB": lambda: duckdb.read_parquet(str(path)).to_arrow_table(),
    }
    found = []
    for name, read in reading.items():
        try:
            column = read()["x"]
        except (duckdb.Error, pl.exceptions.PolarsError, pa.ArrowException):
            continue
        if _same(column, expected):
            found.append(name)
    return ", ".join(found)


def _same(column: pa.ChunkedArray, expected: pa.ListArray) -> bool:
    ours, theirs = from_lists(column.cast(pa.list_(column.type.value_type))), from_lists(expected)
    return np.array_equal(ours.counts, theirs.counts) and np.array_equal(
        ours.values.astype(np.float64), theirs.values.astype(np.float64)
    )


def column_bytes(path: Path) -> dict[str, int]:
    """Return the bytes of each column of a Parquet file, without headers of the file."""
    metadata, found = pq.read_metadata(path), {}
    for group in range(metadata.num_row_groups):
        for index in range(metadata.num_columns):
            column = metadata.row_group(group).column(index)
            name = column.path_in_schema.split(".")[0]
            found[name] = found.get(name, 0) + column.total_compressed_size
    return found


def written_bytes(table: pa.Table, folder: Path) -> tuple[dict[str, int], int]:
    """Return the bytes of each column of a table written by the project, and of the file."""
    path = folder / "teacher.parquet"
    write_table(path, table, TEACHER)
    return column_bytes(path), os.path.getsize(path)


def ideal(table: pa.Table) -> dict[str, float]:
    """Return the bytes an entry that an ideal order-0 coder would need for ids and log-probs."""
    ids, logprobs = from_lists(table["ids"]), from_lists(table["logprobs"])
    ranked_ids, ranked = by_falling(ids, logprobs)
    patterns = ranked.values.view(np.uint16).astype(np.int64)
    return {
        "ids ascending, as gaps": entropy_bytes(gaps(ids.values, ids.counts)),
        "ids by falling log-prob, one by one": entropy_bytes(ranked_ids.values),
        "log-probs one by one": entropy_bytes(patterns),
        "log-probs by falling, as gaps of their bits": entropy_bytes(gaps(patterns, ids.counts)),
    }


def gaps(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the difference of each value to the one before in its row; the first as it is."""
    found = np.diff(values.astype(np.int64), prepend=0)
    starts = np.cumsum(counts)[:-1]
    starts = np.concatenate([[0], starts])[counts > 0]
    found[starts] = values[starts]
    return found


def entropy_bytes(values: np.ndarray) -> float:
    """Return the entropy of a sample in bytes a value, with Miller and Madow's correction."""
    counts = np.unique(values, return_counts=True)[1]
    share = counts / counts.sum()
    nats = -(share * np.log(share)).sum() + (len(counts) - 1) / (2 * counts.sum())
    return float(nats / np.log(2) / 8)

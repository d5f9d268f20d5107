"""Parquet in and out, for the tables of `columns`.

Guarantees: what is read back equals what was written, bit for bit; a table that does not fit its
columns, or that holds NaN or infinity, is never written; damaged pages are noticed when read.
The content hash depends on the logical rows alone.

The encodings were chosen by measurement: of the teacher table in docs/PERFORMANCE.md, of the token
table here (bytes a row, 100,000 rows, zstd level 3):

    pyarrow's defaults 60.6 | zstd + dictionary 55.4 | as written here 35.3

Ids ascend in a row: by falling log-prob the log-probs shrink and the ids grow by more.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .columns import Column, schema
from .content import is_list, kind_of, numbers, spell
from .errors import NumericsError, StoreError

# Rows a row group: 65,536 narrow rows let DuckDB spread one shard over threads; 8,192 rows with
# lists are a few MB, so that a reader of the payload holds little beyond what it asked for.
NARROW_ROWS = 65_536
LIST_ROWS = 8_192

# A list of halves is stored as singles of the same numbers: Parquet readers know their encoding,
# and their last 13 bits are zero. This mark on the field brings the halves back.
_HALVES = {b"tip.element": b"float16"}

Flags = np.ndarray[Any, np.dtype[np.bool_]]


def write_table(path: Path, table: pa.Table, columns: tuple[Column, ...]) -> pa.Table:
    """Write a table as Parquet and return it as written: columns in order, types cast.

    Raises `ValueError` if columns are missing or unexpected, a value does not fit its type, or a
    null stands where none is allowed, and `NumericsError` for NaN or infinity, naming column and
    row; nothing is written then.
    """
    table = _conform(table, columns)
    pq.write_table(_as_stored(table), path, **_options(columns))
    return table


def read_table(paths: Sequence[Path], columns: Sequence[str] | None = None) -> pa.Table:
    """Return the rows of Parquet files, in the order of `paths`; `columns` picks and orders.

    Raises `StoreError` for a file that is missing, damaged or without one of the columns.
    """
    if not paths:
        raise ValueError("read_table needs at least one path: without one there is no schema")
    return pa.concat_tables([_read(Path(path), columns) for path in paths])


def _options(columns: tuple[Column, ...]) -> dict[str, Any]:
    lists = any(is_list(column.type) for column in columns)
    return {
        "compression": "zstd",
        "compression_level": 3,
        "row_group_size": LIST_ROWS if lists else NARROW_ROWS,
        "use_dictionary": [c.name for c in columns if _repeats(c.type)],
        "column_encoding": {_leaf(c): "BYTE_STREAM_SPLIT" for c in columns if _splits(c.type)},
        # Lists and texts are never filtered on.
        "write_statistics": [c.name for c in columns if pa.types.is_primitive(c.type)],
        "write_page_checksum": True,
    }


def _as_stored(table: pa.Table) -> pa.Table:
    """Return the table as files hold it: lists of halves as lists of singles, marked."""
    fields = [
        pa.field(f.name, _single(f.type), f.nullable, _HALVES) if _is_halves(f.type) else f
        for f in table.schema
    ]
    return table.cast(pa.schema(fields))


def _as_declared(table: pa.Table) -> pa.Table:
    """Return the table that `_as_stored` was given."""
    fields = [
        pa.field(f.name, _half(f.type), f.nullable) if _was_halves(f) else f for f in table.schema
    ]
    return table.cast(pa.schema(fields))


def _conform(table: pa.Table, columns: tuple[Column, ...]) -> pa.Table:
    wanted = schema(columns)
    missing = [name for name in wanted.names if name not in table.column_names]
    unexpected = [name for name in table.column_names if name not in wanted.names]
    if missing or unexpected or table.num_columns != len(wanted):
        raise ValueError(
            f"columns do not fit: missing {missing}, unexpected {unexpected}, "
            f"expected each once of {wanted.names}"
        )
    arrays = []
    for field in wanted:
        array = _cast(table.column(field.name), field)
        _refuse_nulls(array, field)
        _refuse_not_finite(array, field)
        arrays.append(array)
    return pa.table(arrays, schema=wanted)


def _cast(array: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    given, wanted = kind_of(array.type), kind_of(field.type)
    reason = f"{given} where {wanted} is needed"
    if given in (wanted, "null") or (given == "list of null" and is_list(field.type)):
        try:
            return array.cast(field.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            reason = str(error).splitlines()[0]
    raise ValueError(f"column {field.name}: {array.type} does not become {field.type}: {reason}")


def _refuse_nulls(array: pa.ChunkedArray, field: pa.Field) -> None:
    found = None if field.nullable else _first(array, _null)
    if found is None and is_list(field.type):
        found = _first(array, _null, entries=True)
    if found is not None:
        raise ValueError(f"column {field.name}, row {found[0]}: null where a value is needed")


def _refuse_not_finite(array: pa.ChunkedArray, field: pa.Field) -> None:
    entries = is_list(field.type)
    if not pa.types.is_floating(field.type.value_type if entries else field.type):
        return
    found = _first(array, _not_finite, entries)
    if found is not None:
        row, value = found
        raise NumericsError(
            f"column {field.name}, row {row}: {value} is not finite in {spell(field.type)}; "
            "nothing was stored: look at the model or the rule that computed it"
        )


def _null(values: pa.Array) -> Flags:
    return numbers(values.is_null())


def _not_finite(values: pa.Array) -> Flags:
    return ~np.isfinite(numbers(values)) & ~_null(values)


def _first(
    array: pa.ChunkedArray, marks_of: Callable[[pa.Array], Flags], entries: bool = False
) -> tuple[int, Any] | None:
    """Return row and value of the first marked value, or with `entries` of a marked list entry."""
    start = 0
    for chunk in array.chunks:
        values = chunk.flatten() if entries else chunk
        marked = np.flatnonzero(marks_of(values))
        if len(marked):
            at = int(marked[0])
            row = pc.call_function("list_parent_indices", [chunk])[at].as_py() if entries else at
            return start + row, values[at].as_py()
        start += len(chunk)
    return None


def _read(path: Path, columns: Sequence[str] | None) -> pa.Table:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            names = file.schema_arrow.names
            missing = [name for name in columns or () if name not in names]
            if missing:
                raise StoreError(f"{path} has no column {missing}; it has {names}")
            stored = file.read(columns=None if columns is None else list(columns))
            table = _as_declared(stored)
    except StoreError:
        raise
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise StoreError(
            f"cannot read the table {path}: {reason}; `tip cache verify` lists what is damaged"
        ) from error
    return table if columns is None else table.select(list(columns))


def _is_halves(type_: pa.DataType) -> bool:
    return is_list(type_) and pa.types.is_float16(type_.value_type)


def _was_halves(field: pa.Field) -> bool:
    return _HALVES.items() <= (field.metadata or {}).items()


def _single(type_: pa.DataType) -> pa.DataType:
    return pa.list_(type_.value_field.with_type(pa.float32()))


def _half(type_: pa.DataType) -> pa.DataType:
    return pa.list_(type_.value_field.with_type(pa.float16()))


def _leaf(column: Column) -> str:
    """Return the Parquet path of a column's values."""
    return f"{column.name}.list.element" if is_list(column.type) else column.name


def _splits(type_: pa.DataType) -> bool:
    """Tell whether BYTE_STREAM_SPLIT pays and every reader knows it for the type."""
    if is_list(type_):
        return type_.value_type in (pa.int32(), pa.float32(), pa.float16())
    return type_ in (pa.float32(), pa.float64())


def _repeats(type_: pa.DataType) -> bool:
    """Tell whether a dictionary pays: words, token ids, and ids that repeat row after row."""
    return pa.types.is_integer(type_) or pa.types.is_string(type_)

"""Parquet in and out, for the tables of `columns`.

Guarantees: what is read back equals what was written, bit for bit; a table that does not fit its
columns, or that holds NaN or infinity, is never written; damaged pages are noticed when read.
The content hash depends on the logical rows alone.

The encodings were chosen by measurement: of the teacher table in docs/PERFORMANCE.md, of the token
table here (bytes a row, 100,000 rows, zstd level 3):

    pyarrow's defaults 60.6 | zstd + dictionary 55.4 | as written here 35.3

Ids ascend in a row: by falling log-prob the log-probs shrink and the ids grow by more.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .columns import Column, schema
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


def content_hash(table: pa.Table) -> str:
    """Return the hash of a table's logical rows, 64 hex digits.

    Names, types, values, list lengths and nulls count, bit for bit; chunks, slices, what lies
    below a null, and the version of the writer do not.
    """
    digest = hashlib.sha256()
    for field, column in zip(table.schema, table.columns, strict=True):
        hashed = _ArrayHash()
        for chunk in column.chunks:
            hashed.feed(chunk)
        digest.update(f"{field.name}:{_spell(field.type)}:{hashed.hexdigest()}\n".encode())
    return digest.hexdigest()


def _options(columns: tuple[Column, ...]) -> dict[str, Any]:
    lists = any(_is_list(column.type) for column in columns)
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
    given, wanted = _kind(array.type), _kind(field.type)
    reason = f"{given} where {wanted} is needed"
    if given in (wanted, "null") or (given == "list of null" and _is_list(field.type)):
        try:
            return array.cast(field.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            reason = str(error).splitlines()[0]
    raise ValueError(f"column {field.name}: {array.type} does not become {field.type}: {reason}")


def _refuse_nulls(array: pa.ChunkedArray, field: pa.Field) -> None:
    found = None if field.nullable else _first(array, _null)
    if found is None and _is_list(field.type):
        found = _first(array, _null, entries=True)
    if found is not None:
        raise ValueError(f"column {field.name}, row {found[0]}: null where a value is needed")


def _refuse_not_finite(array: pa.ChunkedArray, field: pa.Field) -> None:
    entries = _is_list(field.type)
    if not pa.types.is_floating(field.type.value_type if entries else field.type):
        return
    found = _first(array, _not_finite, entries)
    if found is not None:
        row, value = found
        raise NumericsError(
            f"column {field.name}, row {row}: {value} is not finite in {_spell(field.type)}; "
            "nothing was stored: look at the model or the rule that computed it"
        )


def _null(values: pa.Array) -> Flags:
    return _numbers(values.is_null())


def _not_finite(values: pa.Array) -> Flags:
    return ~np.isfinite(_numbers(values)) & ~_null(values)


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


def _is_list(type_: pa.DataType) -> bool:
    return pa.types.is_list(type_) or pa.types.is_large_list(type_)


def _is_halves(type_: pa.DataType) -> bool:
    return _is_list(type_) and pa.types.is_float16(type_.value_type)


def _was_halves(field: pa.Field) -> bool:
    return _HALVES.items() <= (field.metadata or {}).items()


def _single(type_: pa.DataType) -> pa.DataType:
    return pa.list_(type_.value_field.with_type(pa.float32()))


def _half(type_: pa.DataType) -> pa.DataType:
    return pa.list_(type_.value_field.with_type(pa.float16()))


def _kind(type_: pa.DataType) -> str:
    """Return what a type holds: a cast changes its width, never its kind."""
    if _is_list(type_):
        return f"list of {_kind(type_.value_type)}"
    if pa.types.is_integer(type_) or pa.types.is_floating(type_):
        return "number"
    text = pa.types.is_string(type_) or pa.types.is_large_string(type_)
    return "text" if text or pa.types.is_string_view(type_) else str(type_)


def _leaf(column: Column) -> str:
    """Return the Parquet path of a column's values."""
    return f"{column.name}.list.element" if _is_list(column.type) else column.name


def _splits(type_: pa.DataType) -> bool:
    """Tell whether BYTE_STREAM_SPLIT pays and every reader knows it for the type."""
    if _is_list(type_):
        return type_.value_type in (pa.int32(), pa.float32(), pa.float16())
    return type_ in (pa.float32(), pa.float64())


def _repeats(type_: pa.DataType) -> bool:
    """Tell whether a dictionary pays: words, token ids, and ids that repeat row after row."""
    return pa.types.is_integer(type_) or pa.types.is_string(type_)


def _spell(type_: pa.DataType) -> str:
    """Return a type's name, free of what Arrow's versions print or lay out differently."""
    if _is_list(type_):
        return f"list({_spell(type_.value_type)})"
    if pa.types.is_floating(type_):
        return f"float{type_.bit_width}"
    return str(type_) if _kind(type_) == "number" else _kind(type_)


def _numbers(array: pa.Array) -> np.ndarray[Any, Any]:
    return array.to_numpy(zero_copy_only=False)


class _ArrayHash:
    """Running hash of one column: the rows that are null, the lengths, the values.

    Three streams, so that the place where a chunk ends leaves no trace in any of them.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.nulls = hashlib.sha256()
        self.lengths = hashlib.sha256()
        self.values = hashlib.sha256()
        self.items: _ArrayHash | None = None

    def feed(self, array: pa.Array) -> None:
        if array.null_count:
            at = np.flatnonzero(_numbers(array.is_null())) + self.rows
            self.nulls.update(at.astype("<i8").tobytes())
        self.rows += len(array)
        self._feed_values(array.drop_null() if array.null_count else array)

    def _feed_values(self, array: pa.Array) -> None:
        if _is_list(array.type):
            self._feed_lengths(array.value_lengths())
            self.items = self.items or _ArrayHash()
            self.items.feed(array.flatten())
        elif pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
            self._feed_lengths(pc.call_function("binary_length", [array]))
            self.values.update("".join(array.to_pylist()).encode())
        else:
            self.values.update(np.ascontiguousarray(_numbers(array)).view(np.uint8).data)

    def _feed_lengths(self, lengths: pa.Array) -> None:
        self.lengths.update(_numbers(lengths).astype("<i8").tobytes())

    def hexdigest(self) -> str:
        parts = (
            str(self.rows),
            self.nulls.hexdigest(),
            self.lengths.hexdigest(),
            self.values.hexdigest(),
            self.items.hexdigest() if self.items and self.items.rows else "",
        )
        return hashlib.sha256("/".join(parts).encode()).hexdigest()

"""The content hash of a table: of its logical rows alone."""

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


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
        digest.update(f"{field.name}:{spell(field.type)}:{hashed.hexdigest()}\n".encode())
    return digest.hexdigest()


def is_list(type_: pa.DataType) -> bool:
    """Tell whether a column holds lists."""
    return pa.types.is_list(type_) or pa.types.is_large_list(type_)


def kind_of(type_: pa.DataType) -> str:
    """Return what a type holds: a cast changes its width, never its kind."""
    if is_list(type_):
        return f"list of {kind_of(type_.value_type)}"
    if pa.types.is_integer(type_) or pa.types.is_floating(type_):
        return "number"
    text = pa.types.is_string(type_) or pa.types.is_large_string(type_)
    return "text" if text or pa.types.is_string_view(type_) else str(type_)


def spell(type_: pa.DataType) -> str:
    """Return a type's name, free of what Arrow's versions print or lay out differently."""
    if is_list(type_):
        return f"list({spell(type_.value_type)})"
    if pa.types.is_floating(type_):
        return f"float{type_.bit_width}"
    return str(type_) if kind_of(type_) == "number" else kind_of(type_)


def numbers(array: pa.Array) -> np.ndarray[Any, Any]:
    """Return an array of plain values for numpy."""
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
            at = np.flatnonzero(numbers(array.is_null())) + self.rows
            self.nulls.update(at.astype("<i8").tobytes())
        self.rows += len(array)
        self._feed_values(array.drop_null() if array.null_count else array)

    def _feed_values(self, array: pa.Array) -> None:
        if is_list(array.type):
            self._feed_lengths(array.value_lengths())
            self.items = self.items or _ArrayHash()
            self.items.feed(array.flatten())
        elif pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
            self._feed_lengths(pc.call_function("binary_length", [array]))
            self.values.update("".join(array.to_pylist()).encode())
        else:
            self.values.update(np.ascontiguousarray(numbers(array)).view(np.uint8).data)

    def _feed_lengths(self, lengths: pa.Array) -> None:
        self.lengths.update(numbers(lengths).astype("<i8").tobytes())

    def hexdigest(self) -> str:
        parts = (
            str(self.rows),
            self.nulls.hexdigest(),
            self.lengths.hexdigest(),
            self.values.hexdigest(),
            self.items.hexdigest() if self.items and self.items.rows else "",
        )
        return hashlib.sha256("/".join(parts).encode()).hexdigest()

"""Rows of different lengths as one flat array and their counts (numpy).

The shape in which the support of each token travels between tensors and Parquet: no Python object
per row, no padding on disk.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class Ragged:
    """R rows: `values[offsets[r]:offsets[r + 1]]` is row r."""

    values: np.ndarray
    counts: np.ndarray

    @cached_property
    def offsets(self) -> np.ndarray:
        """Return the R + 1 borders of the rows (int64)."""
        return np.concatenate([[0], np.cumsum(self.counts, dtype=np.int64)])

    def row(self, row: int) -> np.ndarray:
        """Return one row, as a view."""
        offsets = self.offsets
        return self.values[offsets[row] : offsets[row + 1]]

    def places(self, rows: np.ndarray) -> np.ndarray:
        """Return the places in `values` of the given rows, row after row."""
        counts = self.counts[rows]
        return np.repeat(self.offsets[rows], counts) + within(counts)

    def take(self, rows: np.ndarray) -> "Ragged":
        """Return the given rows in the given order."""
        return Ragged(self.values[self.places(rows)], self.counts[rows])

    def padded(self, rows: np.ndarray, fill: float = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return the given rows as a rectangle [n, K] and the mask of its true entries."""
        counts = self.counts[rows].astype(np.int64)
        valid = np.arange(counts.max(initial=0))[None, :] < counts[:, None]
        out = np.full(valid.shape, fill, dtype=self.values.dtype)
        out[valid] = self.values[self.places(rows)]
        return out, valid

    def lists(self, element: pa.DataType) -> pa.ListArray:
        """Return an Arrow list column without null."""
        field = pa.field("element", element, nullable=False)
        values = pa.array(self.values).cast(element)
        return pa.ListArray.from_arrays(
            pa.array(self.offsets.astype(np.int32)), values, type=pa.list_(field)
        )


def within(counts: np.ndarray) -> np.ndarray:
    """Return the position of each element in its row, row after row: 0, 1, ... of each (int64)."""
    counts = counts.astype(np.int64)
    return np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)


def from_lists(column: pa.ChunkedArray | pa.Array) -> Ragged:
    """Return the rows of an Arrow list column without null."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):  # a column of no chunks at all
        array = pa.concat_arrays(array.chunks)
    offsets = array.offsets.to_numpy()
    values = array.values.to_numpy(zero_copy_only=False)
    return Ragged(values[offsets[0] : offsets[-1]], np.diff(offsets))


def concatenate(parts: list[Ragged]) -> Ragged:
    """Return the rows of several, one after the other."""
    return Ragged(
        np.concatenate([p.values for p in parts]), np.concatenate([p.counts for p in parts])
    )

"""Tables for the tests of storage: all that may be written, and some that are known."""

from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st
from tip.storage import columns as declared
from tip.storage.columns import Column, schema

TABLES = {
    name: getattr(declared, name)
    for name in ("ROLLOUTS", "TEACHER", "TOKENS", "SELECTION", "EVALUATION")
}
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

"""`tip sql`: one question to a run's tables, and its answer on the screen or in a file."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console

from ...stages.select.settings import SelectSettings
from ...storage.errors import ConfigError, InputError, is_panic
from ...storage.queries import ask
from ...storage.runs import RunFolder
from ...storage.visible import visible
from .cells import screen
from .tables import RunTables, named_in

_FIRST_DAY, _LAST_DAY = ((d - date(1970, 1, 1)).days for d in (date.min, date.max))
_ROWS = 40  # shown, of any number
_WIDE_TEXT = 60  # characters of a cell before it is cut
_WRITERS = {
    ".parquet": "write_parquet",
    ".csv": "write_csv",
    ".json": "write_json",
    ".jsonl": "write_ndjson",
}
_ANY_WIDTH = 65_535  # off a terminal nothing is wrapped; polars takes no more


def print_query(
    query: str,
    name: str,
    numbers: list[int] | None,
    runs: str,
    output: Path | None,
    seconds: float | None = None,
    *,
    lines: bool = False,
) -> None:
    """Run one SELECT over the tables of a run and print or write its result.

    lines: print JSON, a line a row. After `seconds` (default: what a round's selection may take) it
    is broken off.
    """
    writer = None if output is None else writer_of(output)
    tables = RunTables(RunFolder(runs, name), None if numbers is None else tuple(numbers))
    limit = seconds or SelectSettings().timeout_seconds
    named = named_in(query)
    with tables.opened(named, limit) as connection:
        answer = ask(connection, query, table=named[0])
    with _polars():
        _refuse_dates(answer)
        frame = pl.DataFrame(answer)
        if writer is not None and output is not None:
            write_frame(frame, writer, output)
        elif lines:
            sys.stdout.write(frame.write_ndjson())
        else:
            print(visible(_shown(frame, screen())))


def _shown(frame: pl.DataFrame, console: Console) -> str:
    """Return a frame as a table, or where that is too wide for the terminal a line a value."""
    with pl.Config(
        tbl_rows=_ROWS,
        tbl_cols=-1,
        tbl_hide_dataframe_shape=True,
        tbl_formatting="ASCII_FULL" if console.options.ascii_only else "UTF8_FULL",
        tbl_width_chars=_ANY_WIDTH,
        fmt_str_lengths=_WIDE_TEXT,
    ):
        text = str(frame)
    width = max(map(len, text.splitlines()))
    if console.is_terminal and width > console.width:
        text = _records(frame.head(_ROWS))
    if frame.height > _ROWS:
        text += f"\n{frame.height:,} rows, {_ROWS} shown: --output writes all of them"
    return text


def _records(frame: pl.DataFrame) -> str:
    wide = max(map(len, frame.columns))
    rows = [
        "\n".join(f"{name:<{wide}}  {value}" for name, value in row.items())
        for row in frame.iter_rows(named=True)
    ]
    return "\n\n".join(rows)


def writer_of(output: Path, option: str = "--output") -> str:
    """Return the name of the frame's method that writes such a file. option: what named it."""
    if output.suffix not in _WRITERS:
        *most, last = _WRITERS
        raise ConfigError(
            f"{option} {output}: expected a name ending in {', '.join(most)} or {last}"
        )
    return _WRITERS[output.suffix]


def write_frame(frame: pl.DataFrame, writer: str, output: Path, option: str = "--output") -> None:
    """Write a frame into a file. Raises `ConfigError` where that cannot be."""
    try:
        getattr(frame, writer)(output)
    except OSError as error:
        raise ConfigError(f"{option} {output}: cannot be written ({error})") from error


@contextmanager
def _polars() -> Iterator[None]:
    """Turn what polars says of a type of DuckDB's that it cannot show or write into one line."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, pl.exceptions.PolarsError) and not is_panic(error):
            raise
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"SQL: the answer cannot be shown or written ({reason}); cast such columns to VARCHAR"
        ) from error


def _refuse_dates(answer: pa.Table) -> None:
    """Raise `InputError` for dates that polars cannot show: it would end in a panic."""
    for field, column in zip(answer.schema, answer.columns, strict=True):
        if not pa.types.is_date32(field.type) and not pa.types.is_timestamp(field.type):
            continue
        days = pc.call_function("min_max", [column.cast(pa.date32(), safe=False)])
        ends = [end.value for end in days.values()]
        if any(end is not None and not _FIRST_DAY <= end <= _LAST_DAY for end in ends):
            raise InputError(
                f"SQL: column {field.name!r} holds a date outside of the years 1 to 9999; cast it "
                "to VARCHAR"
            )

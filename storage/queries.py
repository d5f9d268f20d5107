"""Questions to the tables, asked with DuckDB.

Every connection is in memory and *locked*: it reads the very parts it was opened on and nothing
else, and cannot be unlocked. That alone does not keep users' SQL from writing. Two hazards, both
tested: a permission for a directory lets COPY replace the committed parts in it; and even with
permissions for single files `COPY ... TO part (USE_TMP_FILE false)` replaces them, also from
inside `WITH x AS (COPY ...) SELECT ...`, which counts as one SELECT. So users' SQL is exactly one
SELECT *and* runs as a subquery or a view, where DuckDB refuses whatever writes.
"""

import re
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import duckdb
import pyarrow as pa

from .columns import ROLLOUTS, narrow
from .errors import InputError, StoreError
from .scratch import scratch
from .statements import first_line, one_select

Parts = Sequence[Path] | Mapping[int, Sequence[Path]]

_BATCH_ROWS = 1 << 17


@contextmanager
def locked_connection(
    paths: Iterable[Path],
    *,
    threads: int = 0,
    memory_gb: float | None = None,
    seconds: float | None = None,
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a connection that can read `paths` and nothing else.

    `threads` 0 takes all cores; `memory_gb` limits DuckDB's own memory, beyond which it spills
    into a temporary folder (TMPDIR) that is gone afterwards; after `seconds` a question is broken
    off.
    """
    config: dict[str, str | bool | int | float | list[str]] = {
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    if threads:
        config["threads"] = threads
    if memory_gb is not None:
        config["memory_limit"] = f"{memory_gb}GB"
    with scratch() as spill:
        connection = duckdb.connect(":memory:", config={**config, "temp_directory": str(spill)})
        try:
            # a bar on stdout would be part of what `tip sql` prints
            with suppress(duckdb.InvalidInputException):  # a notebook without widgets has no bar
                connection.execute("SET enable_progress_bar = false")
            connection.execute("SET allowed_paths = " + _list([str(path) for path in paths]))
            connection.execute("SET enable_external_access = false")
            connection.execute("SET lock_configuration = true")
            with _limited(connection, seconds), _broken_off_by_signals(connection):
                yield connection
        finally:
            connection.close()


@contextmanager
def _broken_off_by_signals(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end a question as they end Python's own code.

    DuckDB leaves a question for a signal as a `RuntimeError`, and waits then for its threads, which
    nobody has told: now and then for ever.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {kind: signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)}
    raised: list[BaseException] = []

    def handle(kind: int, frame: FrameType | None) -> None:
        connection.interrupt()
        handler = handlers[signal.Signals(kind)]
        assert callable(handler)
        try:
            handler(kind, frame)
        except BaseException as error:
            raised.append(error)
            raise

    ours = [kind for kind, handler in handlers.items() if callable(handler)]
    for kind in ours:
        signal.signal(kind, handle)
    try:
        yield
    except Exception as error:  # a RuntimeError, or what was made of an interrupted question
        if not raised:
            raise
        raise raised[0] from error
    finally:
        for kind in ours:
            signal.signal(kind, handlers[kind])


@contextmanager
def _limited(connection: duckdb.DuckDBPyConnection, seconds: float | None) -> Iterator[None]:
    """Interrupt whatever a connection is doing after some time."""
    if seconds is None:
        yield
        return
    done = threading.Event()

    def interrupt() -> None:
        late = not done.wait(min(seconds, threading.TIMEOUT_MAX))
        while late:  # again and again: between two questions an interrupt is lost
            connection.interrupt()
            late = not done.wait(0.05)

    timer = threading.Thread(target=interrupt, daemon=True)
    timer.start()
    try:
        yield
    finally:
        done.set()
        timer.join()


def add_view(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    parts: Parts,
    columns: str | Mapping[int, str] = "*",
) -> None:
    """Create a view over Parquet parts; a mapping's keys become the column `round`.

    columns: what of them is seen, in SQL; by round where it differs. Raises `StoreError` for a part
    that cannot be read.
    """
    if isinstance(parts, Mapping):
        selects = [
            f"SELECT {int(number)}::INTEGER AS round, "
            f"{columns if isinstance(columns, str) else columns[number]} FROM {_parquet(of_round)}"
            for number, of_round in sorted(parts.items())
        ]
    else:
        selects = [f"SELECT {columns} FROM {_parquet(parts)}"]
    try:
        connection.execute(f"CREATE VIEW {name} AS " + " UNION ALL ".join(selects))
    except duckdb.Error as error:
        raise StoreError(f"the parts of `{name}` cannot be read: {first_line(error)}") from error


def add_rollouts_view(connection: duckdb.DuckDBPyConnection, name: str, parts: Parts) -> None:
    """Create a view over the narrow columns of rollout parts."""
    add_view(connection, name, parts, narrow(ROLLOUTS))


def ask(
    connection: duckdb.DuckDBPyConnection, sql: str, name: str = "SQL", table: str = "tokens"
) -> pa.Table:
    """Return the answer to a user's SELECT over the views of a locked connection, in its order.

    table: the view whose columns are named where a column is unknown. Raises `InputError`, one line
    that begins with `name`, for SQL that cannot be answered.
    """
    inner = one_select(sql, name)
    with users_sql(connection, name, table):
        return connection.sql(f"SELECT * FROM (\n{inner}\n)").to_arrow_table()


def stream(
    connection: duckdb.DuckDBPyConnection, sql: str, rows: int = _BATCH_ROWS
) -> pa.RecordBatchReader:
    """Return the answer to our own SELECT as batches, so that it is held once at most."""
    return connection.sql(sql).to_arrow_reader(rows)


def one_row(connection: duckdb.DuckDBPyConnection, sql: str) -> tuple[Any, ...]:
    """Return the only row of the answer to our own SELECT."""
    (row,) = connection.execute(sql).fetchall()  # a single fetch would leave the answer open
    return row


@contextmanager
def users_sql(
    connection: duckdb.DuckDBPyConnection, name: str, table: str = "tokens"
) -> Iterator[None]:
    """Turn what DuckDB says about a user's SQL into one line, an `InputError`.

    `table` is the view whose columns are named where a column is unknown.
    """
    try:
        yield
    except duckdb.InterruptException as error:
        raise InputError(
            f"{name}: took longer than it may: make it simpler, or allow more "
            "(`select.timeout_seconds`, `tip sql --timeout`)"
        ) from error
    except duckdb.OutOfMemoryException as error:
        raise InputError(
            f"{name}: needs more memory than it may have (`select.memory_gb`): {first_line(error)}"
        ) from error
    except duckdb.Error as error:
        unknown = re.search(r'Referenced column "([^"]+)" not found', str(error))
        if not unknown:
            raise InputError(f"{name}: {first_line(error)}") from error
        columns = ", ".join(columns_of(connection, table))
        raise InputError(
            f"{name}: there is no column `{unknown[1]}`; `{table}` has {columns}"
        ) from error


def columns_of(connection: duckdb.DuckDBPyConnection, table: str) -> list[str]:
    """Return the names of the columns of a view or table."""
    return [row[0] for row in connection.execute(f"DESCRIBE {table}").fetchall()]


def set_variables(
    connection: duckdb.DuckDBPyConnection, values: Mapping[str, str | float | bool]
) -> None:
    """Bind values that SQL reads with `getvariable('name')`. Names are ours, never a user's."""
    for name, value in values.items():
        connection.execute(f'SET VARIABLE "{name}" = ?', [value])


def _parquet(paths: Sequence[Path]) -> str:
    return f"read_parquet({_list([str(path) for path in paths])})"


def _list(texts: Sequence[str]) -> str:
    return "[" + ", ".join("'" + text.replace("'", "''") + "'" for text in texts) + "]"

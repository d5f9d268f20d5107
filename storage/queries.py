"""Questions to the tables, asked with DuckDB.

Every connection is in memory and *locked*: it reads the very parts it was opened on and nothing
else, and cannot be unlocked. That alone does not keep users' SQL from writing. Two hazards, both
tested: a permission for a directory lets COPY replace the committed parts in it; and even with
permissions for single files `COPY ... TO part (USE_TMP_FILE false)` replaces them, also from
inside `WITH x AS (COPY ...) SELECT ...`, which counts as one SELECT. So users' SQL is exactly one
SELECT *and* runs as a subquery or a view, where DuckDB refuses whatever writes.
"""

import json
import re
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import Any

import duckdb
import pyarrow as pa

from .columns import ROLLOUTS, narrow
from .errors import InputError, StoreError
from .scratch import scratch

Parts = Sequence[Path] | Mapping[int, Sequence[Path]]

_BATCH_ROWS = 1 << 17
_SAMPLE, _CATALOG = "TABLESAMPLE", "a catalog"
_TEXT = r'"(?:[^"\\]|\\.)*"'  # in JSON
# Table functions that depend on their arguments alone. Others tell of this process and its session,
# or run SQL that is hidden in a text.
_TABLE_FUNCTIONS = frozenset(
    {"generate_series", "histogram_values", "json_each", "json_tree", "range", "repeat", "unnest"}
)
_CATALOGS = re.compile(
    r'"schema_name":"(?:information_schema|pg_catalog)"'
    r'|"table_name":"(?:duckdb|pragma|pg|sqlite)_[^"]*"',
    re.IGNORECASE,
)
# Words that DuckDB reads as a clock where no column has the name, and functions of today.
_CLOCKS = frozenset(
    {"age", "current_date", "current_time", "current_timestamp", "localtime", "localtimestamp"}
)
# What tells of who asks and of DuckDB itself, as words or as functions.
_SESSION = frozenset(
    {"current_role", "current_setting", "current_user", "session_user", "user", "version"}
)


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


@contextmanager
def open_tokens(
    parts: Parts,
    rollouts: Parts = (),
    *,
    threads: int = 0,
    memory_gb: float | None = None,
    seconds: float | None = None,
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a locked connection with the views `tokens` and, if parts are given, `rollouts`.

    Parts are those of one round, or a mapping from rounds to parts: then both views have a column
    `round`. `rollouts` has the narrow columns only: rollout, prompt_hash, sample, prompt_length,
    length, stop_reason, reward. Raises `StoreError` for a part that cannot be read.
    """
    paths = chain(_flat(parts), _flat(rollouts))
    with locked_connection(
        paths, threads=threads, memory_gb=memory_gb, seconds=seconds
    ) as connection:
        add_view(connection, "tokens", parts)
        if rollouts:
            add_rollouts_view(connection, "rollouts", rollouts)
        yield connection


def add_view(
    connection: duckdb.DuckDBPyConnection, name: str, parts: Parts, columns: str = "*"
) -> None:
    """Create a view over Parquet parts; a mapping's keys become the column `round`."""
    if isinstance(parts, Mapping):
        selects = [
            f"SELECT {int(number)}::INTEGER AS round, {columns} FROM {_parquet(of_round)}"
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


def one_select(sql: str, name: str = "SQL", *, steady: bool = False) -> str:
    """Return the text of the only statement of `sql`, a SELECT, without its semicolon.

    steady: refuse what does not depend on the tables alone. Raises `InputError` that says what was
    found instead. Passing it does not make SQL harmless: run it with `ask`, or inside a view.
    """
    _refuse_half_characters(sql, name)
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise InputError(f"{name}: {first_line(error)}") from error
    kinds = [_kind(statement) for statement in statements]
    if kinds != ["SELECT"]:
        found = " and ".join(kinds) if kinds else "nothing"
        raise InputError(f"{name}: expected exactly one SELECT, found {found}")
    if steady:
        _refuse_unsteady(sql, name)
    return statements[0].query.strip().rstrip("; \n")


def _kind(statement: duckdb.Statement) -> str:
    try:
        return str(statement.type).rsplit(".", 1)[-1]
    except ValueError:  # one that DuckDB's own Python has no name for, such as UPDATE EXTENSIONS
        return "another statement"


def one_expression(sql: str, name: str) -> str:
    """Return `sql`, which must be a single SQL expression that depends on the tables alone.

    Raises `InputError` otherwise.
    """
    _refuse_half_characters(sql, name)
    try:
        duckdb.SQLExpression(sql)
    except duckdb.Error as error:
        raise InputError(f"{name}: expected one SQL expression: {first_line(error)}") from error
    _refuse_unsteady(f"SELECT (\n{sql}\n)", name)
    return sql


def _refuse_half_characters(sql: str, name: str) -> None:
    """Raise `InputError` for a lone surrogate, as Python makes it of bytes that are not UTF-8."""
    try:
        sql.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{name}: character {error.start + 1} is none; write UTF-8") from error


def _refuse_unsteady(select: str, name: str) -> None:
    """Raise `InputError` for chance, clocks and the like: another answer under the same key."""
    if found := _unsteady_in(select):
        raise InputError(
            f"{name}: `{found[0]}` gives another answer each time, and what is selected is stored "
            "under a key that says how: use the columns of the tables, and a rule that draws "
            "(`tip rules`) where chance is wanted"
        )


@lru_cache(maxsize=256)  # a round reads its rule several times, and each question takes 20 ms
def _unsteady_in(select: str) -> list[str]:
    """Return what of a SELECT gives another answer each time, in order."""
    with duckdb.connect(":memory:") as connection:
        (text,) = connection.execute("SELECT json_serialize_sql(?)", [select]).fetchall()[0]
    return sorted({*_names_in(text)} & _unsteady())


def _names_in(query: str) -> Iterator[str]:
    """Give the names of all functions in a query as JSON, and what else makes it unsteady.

    A pattern, because a parser of JSON ends in its recursion where an expression is deep. Quotes
    inside of a text are escaped, so no text can pass for one of these fields.
    """
    for name in re.findall(rf'"function_name":({_TEXT})', query):
        yield json.loads(name).lower()
    for names in re.findall(rf'"column_names":(\[{_TEXT}(?:,{_TEXT})*\])', query):
        yield from {name.lower() for name in json.loads(names)} & (_CLOCKS | _SESSION)
    if '"sample":{' in query:
        yield _SAMPLE
    if _CATALOGS.search(query):
        yield _CATALOG


@cache
def _unsteady() -> frozenset[str]:
    """Return the functions whose answer is not that of their arguments, in lower case.

    DuckDB calls them volatile, or steady within one query and takes no argument, as a clock does.
    """
    with duckdb.connect(":memory:") as connection:
        rows = connection.execute("""
            SELECT lower(function_name) FROM duckdb_functions() GROUP BY ALL
            HAVING bool_or(stability = 'VOLATILE')
                OR bool_or(stability = 'CONSISTENT_WITHIN_QUERY' AND len(parameters) = 0)
                OR bool_and(function_type IN ('table', 'table_macro', 'pragma'))
        """).fetchall()
    names = frozenset(name for (name,) in rows) - _TABLE_FUNCTIONS
    return names | _CLOCKS | _SESSION | {_SAMPLE, _CATALOG}


def ask(
    sql: str,
    tokens: Parts,
    rollouts: Parts = (),
    *,
    name: str = "SQL",
    seconds: float | None = None,
) -> pa.Table:
    """Return the answer to a user's SELECT over `tokens` and `rollouts`, in its order.

    After `seconds` it is broken off. Raises `InputError`, one line that begins with `name`, for
    SQL that cannot be answered.
    """
    inner = one_select(sql, name)
    with open_tokens(tokens, rollouts, seconds=seconds) as connection, users_sql(connection, name):
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


def first_line(error: Exception) -> str:
    """Return the first line of a DuckDB message, without its kind."""
    line = str(error).strip().split("\n", 1)[0]
    return re.sub(r"^[A-Z][A-Za-z ]* Error: ", "", line)


def _flat(parts: Parts) -> list[Path]:
    return [*chain(*parts.values())] if isinstance(parts, Mapping) else list(parts)


def _parquet(paths: Sequence[Path]) -> str:
    return f"read_parquet({_list([str(path) for path in paths])})"


def _list(texts: Sequence[str]) -> str:
    return "[" + ", ".join("'" + text.replace("'", "''") + "'" for text in texts) + "]"

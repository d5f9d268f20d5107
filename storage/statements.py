"""What a user's SQL may be: exactly one SELECT, or one expression.

Passing this does not make SQL harmless: it runs in a locked connection besides (`queries.py`).
"""

import json
import re
from collections.abc import Iterator
from functools import cache, lru_cache

import duckdb

from .errors import InputError

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


def first_line(error: Exception) -> str:
    """Return the first line of a DuckDB message, without its kind."""
    line = str(error).strip().split("\n", 1)[0]
    return re.sub(r"^[A-Z][A-Za-z ]* Error: ", "", line)

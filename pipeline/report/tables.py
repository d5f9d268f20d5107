"""The rows of the rollouts that are shown, of one round."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import duckdb
import pyarrow as pa

from ...storage.queries import add_view, locked_connection
from .source import Source

_KINDS = ("rollouts", "tokens", "teacher", "selection")


@dataclass(frozen=True)
class RoundTables:
    """Four tables of the same rollouts, each in the order of prompt, sample and position.

    selection: None where nothing was selected yet.
    """

    rollouts: pa.Table
    tokens: pa.Table
    teacher: pa.Table
    selection: pa.Table | None


def tables_of(source: Source, number: int, rollouts: Sequence[int]) -> RoundTables:
    """Return the rows of some rollouts of a round; nothing else of it is kept in memory."""
    paths = {kind: source.paths(kind, [number]).get(number, ()) for kind in _KINDS}
    files = chain.from_iterable(paths.values())
    with locked_connection(files, threads=source.config.threads) as connection:
        connection.execute("CREATE TEMP TABLE picked (rollout BIGINT)")
        connection.executemany("INSERT INTO picked VALUES (?)", [(each,) for each in rollouts])
        for kind, parts in paths.items():
            if parts:
                add_view(connection, kind, parts)
        connection.execute(
            "CREATE TEMP TABLE placed AS SELECT rollout, "
            "row_number() OVER (ORDER BY prompt_hash, sample, rollout) AS place "
            "FROM rollouts SEMI JOIN picked USING (rollout)"
        )
        found = {kind: _rows(connection, kind) for kind, parts in paths.items() if parts}
    return RoundTables(found["rollouts"], found["tokens"], found["teacher"], found.get("selection"))


def _rows(connection: duckdb.DuckDBPyConnection, kind: str) -> pa.Table:
    order = "place" if kind == "rollouts" else "place, position"
    return connection.sql(
        f"SELECT t.* FROM {kind} AS t JOIN placed USING (rollout) ORDER BY {order}"
    ).to_arrow_table()

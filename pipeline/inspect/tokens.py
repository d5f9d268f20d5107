"""What is asked of a run's tables: one rollout, or the tokens that matter most, in context."""

from dataclasses import dataclass

import duckdb
import polars as pl

from ...storage.errors import ConfigError
from ...storage.queries import users_sql
from ...storage.statements import one_expression
from ..show.texts import Texts

_BEFORE, _AFTER = 12, 4  # tokens of context

# What the teacher would have said: its three likeliest ids of the support, with probabilities.
_WANTED = """
    WITH ids AS (
        SELECT round, rollout, position, unnest(ids) AS id, unnest(logprobs) AS logprob
        FROM teacher JOIN asked USING (round, rollout, position)),
    best AS (
        SELECT * FROM ids
        QUALIFY row_number() OVER (
            PARTITION BY round, rollout, position ORDER BY logprob DESC, id) <= 3)
    SELECT round, rollout, position,
        string_agg(token_text(id) || ' ' || round(100 * exp(logprob))::INTEGER || '%', ', '
            ORDER BY logprob DESC, id) AS teacher
    FROM best GROUP BY ALL
"""
_NUMBERED = "SELECT *, row_number() OVER (PARTITION BY round ORDER BY rollout) - 1 AS number"


@dataclass(frozen=True)
class Found:
    """A rollout that was looked for: its place in its round, and its words."""

    number: int
    rollout: int
    prompt: str
    response: str


def rollouts_of(connection: duckdb.DuckDBPyConnection, text: str | None) -> list[Found]:
    """Return a round's rollouts by place; text: only those whose prompt or response hold it."""
    rows = connection.execute(
        f"SELECT number, rollout, prompt, response FROM ({_NUMBERED} FROM rollouts) ORDER BY 1"
    ).fetchall()
    found = [Found(*row) for row in rows]
    return [f for f in found if text is None or text in f.prompt or text in f.response]


def tokens_of(connection: duckdb.DuckDBPyConnection, texts: Texts, rollout: int) -> pl.DataFrame:
    """Return the tokens of a rollout in order, with `selected`, `weight` and `importance`."""
    frame = pl.DataFrame(
        connection.sql(
            "SELECT t.*, s.rollout IS NOT NULL AS selected, s.weight, s.importance "
            "FROM tokens t LEFT JOIN selection s USING (round, rollout, position) "
            f"WHERE rollout = {int(rollout)} ORDER BY position"
        ).to_arrow_table()
    )
    return frame.with_columns(text=pl.Series(texts.in_order(frame["token"].to_list())))


def most_important(
    connection: duckdb.DuckDBPyConnection, texts: Texts, count: int | None, where: str | None
) -> tuple[pl.DataFrame, int]:
    """Return so many tokens with their context, the most important first, and how many there are.

    count: None for all.
    Of all that were selected by the rule's importance, and among equals (under `all`, every token)
    by reverse KL; of the tokens that fulfil `where` by reverse KL alone. Columns: round, rollout,
    number (its place), position, before, text, after, type, importance, reverse_kl,
    student_entropy, student_prob, teacher.
    Raises `InputError` for a condition that is none.
    """
    condition = "selected" if where is None else one_expression(where, "--where")
    order = "reverse_kl DESC NULLS LAST, rollout, position"
    if where is None:
        order = f"importance DESC NULLS LAST, {order}"
    with users_sql(connection, "--where"):
        connection.execute(
            "CREATE TEMP TABLE fitting AS SELECT round, rollout, position, importance, reverse_kl "
            "FROM (SELECT t.*, s.rollout IS NOT NULL AS selected, s.weight, s.importance "
            "FROM tokens t LEFT JOIN selection s USING (round, rollout, position)) "
            f"WHERE (\n{condition}\n)"
        )
    ((fit,),) = connection.execute("SELECT count(*) FROM fitting").fetchall()
    limit = "" if count is None else f"LIMIT {int(count)}"
    connection.execute(
        "CREATE TEMP TABLE asked AS SELECT round, rollout, position, importance FROM fitting "
        f"ORDER BY {order} {limit}"
    )
    context = (
        "SELECT a.round, a.rollout, a.position, "
        "list(c.token ORDER BY c.position) FILTER (c.position < a.position) AS before, "
        "list(c.token ORDER BY c.position) FILTER (c.position > a.position) AS after "
        "FROM asked a JOIN tokens c USING (round, rollout) "
        f"WHERE c.position BETWEEN a.position - {_BEFORE} AND a.position + {_AFTER} GROUP BY ALL"
    )
    frame = pl.DataFrame(
        connection.sql(
            f"WITH wanted AS ({_WANTED}), context AS ({context}), numbered AS ({_NUMBERED} "
            "FROM (SELECT DISTINCT round, rollout FROM rollouts)) "
            "SELECT round, rollout, number, position, before, text, after, type::VARCHAR AS type, "
            "a.importance, reverse_kl, student_entropy, exp(student_logprob) AS student_prob, "
            "teacher FROM asked a JOIN tokens USING (round, rollout, position) "
            "JOIN context USING (round, rollout, position) JOIN numbered USING (round, rollout) "
            "LEFT JOIN wanted USING (round, rollout, position) "
            f"ORDER BY {order}"
        ).to_arrow_table()
    )
    around = {
        name: pl.Series(["".join(texts.in_order(ids or [])) for ids in frame[name].to_list()])
        for name in ("before", "after")
    }
    texts_of = {name: column.cast(pl.String) for name, column in around.items()}
    return frame.with_columns(**texts_of), fit


def numeric(tokens: pl.DataFrame, column: str) -> str:
    """Return a column of numbers. Raises `ConfigError` where there is none of that name."""
    if column not in tokens.columns or not tokens[column].dtype.is_numeric():
        numbers = [name for name, kind in tokens.schema.items() if kind.is_numeric()]
        raise ConfigError(f"--by {column}: no column of numbers; choose from {', '.join(numbers)}")
    return column

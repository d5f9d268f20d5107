"""Questions to the tables: what they answer, and that no SQL reads or writes anything else."""

import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tip.storage.errors import InputError, StoreError
from tip.storage.queries import (
    Parts,
    add_rollouts_view,
    add_view,
    ask,
    columns_of,
    locked_connection,
    set_variables,
    users_sql,
)
from tip.storage.statements import first_line, one_expression, one_select

ROWS = pa.table({"rollout": pa.array([7, 7, 9], pa.int64()), "reverse_kl": [0.5, 0.25, 1.0]})
ENDLESS = "SELECT count(*) FROM range(100000000) a, range(1000) b WHERE (a.range * b.range) % 7 = 3"
WRITES = "(USE_TMP_FILE false)"  # replaces the file itself, not one beside it


@pytest.fixture
def part(tmp_path: Path) -> Path:
    path = tmp_path / "tokens" / "0.parquet"
    path.parent.mkdir()
    pq.write_table(ROWS, path)
    return path


@pytest.fixture
def rollouts(tmp_path: Path) -> Path:
    path = tmp_path / "rollouts.parquet"
    table = pa.table(
        {
            "rollout": pa.array([7, 9], pa.int64()),
            "prompt_hash": ["a", "b"],
            "sample": pa.array([0, 0], pa.int32()),
            "prompt_ids": [[1, 2, 3], [1]],
            "response_ids": [[4, 5], [6]],
            "trainable": [[True, False], [True]],
            "stop_reason": ["stop", "length"],
            "reward": pa.array([1.0, None], pa.float32()),
        }
    )
    pq.write_table(table, path)
    return path


@contextmanager
def opened(
    parts: Parts, rollouts: Sequence[Path] = (), seconds: float | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    paths = [*chain(*parts.values())] if isinstance(parts, Mapping) else list(parts)
    with locked_connection([*paths, *rollouts], seconds=seconds) as connection:
        add_view(connection, "tokens", parts)
        if rollouts:
            add_rollouts_view(connection, "rollouts", rollouts)
        yield connection


def asked(
    sql: str, parts: Parts, rollouts: Sequence[Path] = (), *, seconds: float | None = None
) -> pa.Table:
    with opened(parts, rollouts, seconds) as connection:
        return ask(connection, sql)


def test_an_answer_keeps_the_order_that_was_asked_for(part: Path) -> None:
    answer = asked("SELECT reverse_kl FROM tokens ORDER BY reverse_kl DESC;", [part])

    assert answer["reverse_kl"].to_pylist() == [1.0, 0.5, 0.25]


def test_several_rounds_come_with_their_number(part: Path) -> None:
    answer = asked(
        "SELECT round, count(*) AS n FROM tokens GROUP BY ALL ORDER BY 1",
        {0: [part], 3: [part, part]},
    )

    assert answer.to_pylist() == [{"round": 0, "n": 3}, {"round": 3, "n": 6}]


def test_rollouts_are_seen_by_their_narrow_columns(part: Path, rollouts: Path) -> None:
    answer = asked("FROM rollouts ORDER BY rollout", [part], [rollouts])

    assert answer.to_pylist()[0] == {
        "rollout": 7,
        "prompt_hash": "a",
        "sample": 0,
        "prompt_length": 3,
        "length": 2,
        "stop_reason": "stop",
        "reward": 1.0,
    }
    assert answer["reward"].to_pylist() == [1.0, None]


def test_a_path_may_hold_quotes_and_be_relative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "it's"
    folder.mkdir()
    pq.write_table(ROWS, folder / "a.parquet")
    monkeypatch.chdir(tmp_path)

    assert asked("FROM tokens", [Path("it's") / "a.parquet"]).num_rows == 3


def test_a_part_that_cannot_be_read_is_an_error_of_the_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="the parts of `tokens` cannot be read"):
        asked("FROM tokens", [tmp_path / "gone.parquet"])


def test_memory_threads_and_spill_folder_are_those_of_the_caller(part: Path) -> None:
    with locked_connection([part], threads=3, memory_gb=0.5) as connection:
        ((threads, memory, spill),) = connection.execute(
            "SELECT current_setting('threads'), current_setting('memory_limit'),"
            " current_setting('temp_directory')"
        ).fetchall()
        assert (threads, memory) == (3, "476.8 MiB")
        assert os.path.isdir(spill)
    assert not os.path.exists(spill)


def test_a_sort_beyond_the_memory_limit_goes_over_the_disk(part: Path) -> None:
    with locked_connection([part], threads=1, memory_gb=0.05) as connection:
        rows = connection.execute(
            "SELECT count(*) FROM (SELECT range::VARCHAR || repeat('x', 50) AS text"
            " FROM range(2000000) ORDER BY text LIMIT 1500000 OFFSET 2)"
        ).fetchall()
    assert rows == [(1500000,)]


@pytest.mark.parametrize(
    "statement",
    [
        "COPY tokens TO '{part}'",
        "COPY tokens TO '{folder}/new.parquet'",
        "ATTACH '{folder}/new.db' AS other",
        "EXPORT DATABASE '{folder}/export'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "LOAD '{folder}/x.duckdb_extension'",
        "SET threads = 1",
        "RESET memory_limit",
        "PRAGMA threads = 1",
        "SET enable_external_access = true",
        "SET allowed_paths = ['{other}']",
        "SELECT * FROM read_parquet('{other}')",
        "SELECT * FROM '{other}'",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM read_blob('/proc/self/environ')",
        "SELECT * FROM glob('/etc/*')",
        "SELECT * FROM sniff_csv('/etc/passwd')",
        "SELECT * FROM parquet_metadata('{other}')",
    ],
)
def test_a_locked_connection_refuses(part: Path, statement: str) -> None:
    other = part.with_name("other.parquet")
    pq.write_table(ROWS, other)
    sql = statement.format(part=part, folder=part.parent, other=other)

    with opened([part]) as connection, pytest.raises(duckdb.Error):
        connection.execute(sql).fetchall()

    assert sorted(os.listdir(part.parent)) == ["0.parquet", "other.parquet"]
    assert pq.read_table(part).equals(ROWS)


def test_a_permission_for_the_folder_lets_copy_replace_the_part(part: Path) -> None:
    """The first hazard: why connections are given the very parts."""
    with duckdb.connect() as connection:
        connection.execute(f"SET allowed_directories = ['{part.parent}']")
        connection.execute("SET enable_external_access = false")
        connection.execute(f"COPY (SELECT 1) TO '{part}'")
    assert not pq.read_table(part).equals(ROWS)


def test_a_permission_for_the_part_alone_does_not_keep_copy_from_replacing_it(part: Path) -> None:
    """The second hazard: why users' SQL is one SELECT, and runs inside another."""
    with opened([part]) as connection:
        connection.execute(f"WITH x AS (COPY (SELECT 1) TO '{part}' {WRITES}) SELECT * FROM x")
    assert not pq.read_table(part).equals(ROWS)


@pytest.mark.parametrize(
    "sql",
    [
        "COPY tokens TO '{part}' " + WRITES,
        "WITH x AS (COPY (SELECT 1) TO '{part}' " + WRITES + ") SELECT * FROM x",
        "WITH x AS (COPY (SELECT 1) TO '{part}' " + WRITES + ") SELECT * FROM x LIMIT 0",
        "SELECT * FROM query('COPY (SELECT 1) TO ''{part}'' " + WRITES + "')",
        "SELECT 1) TO '{part}' " + WRITES + "; SELECT (1",
        "SELECT * FROM (FROM tokens); DROP VIEW tokens",
        "SELECT * FROM tokens) UNION ALL (SELECT * FROM read_csv('/etc/passwd')",
        "EXPLAIN ANALYZE COPY tokens TO '{part}' " + WRITES,
    ],
)
def test_no_question_writes_a_part(part: Path, sql: str) -> None:
    with pytest.raises(InputError) as caught:
        asked(sql.format(part=part), [part])

    assert "\n" not in str(caught.value)
    assert os.listdir(part.parent) == ["0.parquet"]
    assert pq.read_table(part).equals(ROWS)


def test_a_name_in_sql_is_never_a_variable_of_python(part: Path) -> None:
    secret = ROWS  # the engine would find it by its name

    with pytest.raises(InputError, match="Table with name secret does not exist"):
        asked("FROM secret", [part])
    assert secret is ROWS


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("", "found nothing"),
        ("-- nothing", "found nothing"),
        ("SELECT 1; SELECT 2", "found SELECT and SELECT"),
        ("SELECT 1; DROP TABLE t", "found SELECT and DROP"),
        ("SET threads = 1", "found SET"),
        ("PRAGMA version", "found"),
        ("INSERT INTO t VALUES (1)", "found INSERT"),
        ("SELEC 1", "syntax error"),
    ],
)
def test_anything_but_one_select_is_refused_with_what_was_found(sql: str, says: str) -> None:
    with pytest.raises(InputError, match=f"rule x: .*{says}") as caught:
        one_select(sql, "rule x")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "sql", ["SELECT 1", "SELECT 1;", " FROM t ; ", "WITH a AS (SELECT 1) FROM a"]
)
def test_one_select_comes_back_without_its_semicolon(sql: str) -> None:
    assert one_select(sql) == sql.strip().rstrip(";").strip()


@pytest.mark.parametrize("sql", ["a > 1; SELECT 1", "true) OR (true", "1 FROM t", "a, b", ""])
def test_what_is_not_one_expression_is_refused(sql: str) -> None:
    with pytest.raises(InputError, match="where: expected one SQL expression"):
        one_expression(sql, "where")


def test_an_unknown_column_is_answered_with_those_there_are(part: Path) -> None:
    with pytest.raises(InputError) as caught:
        asked("SELECT reverse_lk FROM tokens", [part])

    assert str(caught.value) == (
        "SQL: there is no column `reverse_lk`; `tokens` has rollout, reverse_kl"
    )


def test_too_little_memory_is_told_with_the_setting(part: Path) -> None:
    with (
        locked_connection([part], memory_gb=0.05) as connection,
        pytest.raises(InputError, match="big: needs more memory than it may"),
        users_sql(connection, "big"),
    ):
        connection.execute("SELECT list(range) FROM range(100000000)").fetchall()


def test_variables_are_bound_and_never_become_sql(part: Path) -> None:
    with opened([part]) as connection:
        set_variables(connection, {"text": "'; DROP VIEW tokens; --", "number": 0.5})
        rows = connection.execute("SELECT getvariable('text'), getvariable('number')").fetchall()
        assert rows == [("'; DROP VIEW tokens; --", 0.5)]
        assert columns_of(connection, "tokens") == ["rollout", "reverse_kl"]


def test_only_the_first_line_of_an_engines_message_is_told() -> None:
    error = duckdb.BinderException("Binder Error: no such thing\n\nLINE 1: ...\n  ^")

    assert first_line(error) == "no such thing"


@pytest.mark.parametrize(
    ("sql", "what"),
    [
        ("SELECT random()", "random"),
        ("SELECT * FROM tokens ORDER BY uuid()", "uuid"),
        ("WITH x AS (SELECT Now() AS t) SELECT * FROM x", "now"),
        ("SELECT position FROM tokens WHERE CURRENT_TIMESTAMP > '2000-01-01'", "current_timestamp"),
        ("SELECT position + date_part('year', current_date)", "current_date"),
        ("SELECT list_transform([1], x -> x + random())", "random"),
        ("SELECT * FROM tokens USING SAMPLE 10", "TABLESAMPLE"),
        ("SELECT * FROM tokens TABLESAMPLE 5%", "TABLESAMPLE"),
        ("SELECT (SELECT gen_random_uuid())", "gen_random_uuid"),
        ("SELECT setseed(0.5)", "setseed"),
        ("SELECT age(TIMESTAMP '2000-01-01')", "age"),
    ],
)
def test_what_answers_otherwise_each_time_is_refused_by_name(sql: str, what: str) -> None:
    with pytest.raises(InputError, match=rf"^rule mine: `{what}` gives another answer each time"):
        one_select(sql, "rule mine", steady=True)
    assert one_select(sql)  # a question that is not stored may ask for it


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT *, ln(1 + reverse_kl) AS importance FROM tokens",
        "SELECT *, rank() OVER (PARTITION BY rollout ORDER BY reverse_kl) FROM tokens",
        "SELECT 'random()' AS text, hash(position), getvariable('x'), range(3), -position",
        "SELECT list_transform([1, 2], x -> x + 1), date_part('year', DATE '2000-01-01')",
    ],
)
def test_what_depends_on_the_tables_alone_is_let_in(sql: str) -> None:
    assert one_select(sql, steady=True) == sql


def test_a_deep_expression_is_looked_through() -> None:
    deep = "+".join(["1"] * 900)
    assert one_expression(deep, "where") == deep
    with pytest.raises(InputError, match="`random` gives"):
        one_expression(f"{deep}+random()", "where")


def test_a_question_that_takes_too_long_is_broken_off(part: Path) -> None:
    with (
        locked_connection([part], seconds=0.2) as connection,
        pytest.raises(InputError, match="rule slow: took longer than it may"),
        users_sql(connection, "rule slow"),
    ):
        connection.execute(ENDLESS)
    with locked_connection([part], seconds=0.05) as connection:  # the time of nobody else
        pass
    time.sleep(0.1)


@pytest.mark.parametrize("time", range(5))  # before, every fourth waited for ever
def test_an_interrupt_of_a_question_is_one(part: Path, time: int) -> None:
    def interrupt() -> None:
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # type: ignore[arg-type]

    timer = threading.Timer(0.1 + time / 50, interrupt)

    def ask_for_ever() -> None:
        with locked_connection([part]) as connection, users_sql(connection, "SQL"):
            timer.start()
            connection.execute(ENDLESS).fetchall()

    with pytest.raises(KeyboardInterrupt):
        ask_for_ever()


def test_a_select_that_was_once_found_steady_is_not_asked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sql = "SELECT max(reverse_kl) - 7 FROM tokens"
    assert one_select(sql, steady=True) == sql
    monkeypatch.setattr(duckdb, "connect", None)
    assert one_select(sql, steady=True) == sql


def test_an_interrupt_between_two_questions_is_not_lost(part: Path) -> None:
    with locked_connection([part], seconds=0.05) as connection, users_sql(connection, "late"):
        time.sleep(0.3)
        with pytest.raises(duckdb.InterruptException):
            connection.execute(ENDLESS).fetchall()


def test_a_statement_without_a_name_and_half_a_character_are_refused() -> None:
    with pytest.raises(InputError, match="found another statement"):
        one_select("UPDATE EXTENSIONS")
    for refuse in (one_select, one_expression):
        with pytest.raises(InputError, match="x: character 9 is none"):
            refuse("SELECT '\udcff'", "x")


@pytest.mark.parametrize(
    ("sql", "what"),
    [
        ("FROM query('SELECT random()')", "query"),
        ("FROM duckdb_memory()", "duckdb_memory"),
        ("FROM duckdb_settings", "a catalog"),
        ("FROM information_schema.tables", "a catalog"),
        ("SELECT current_setting('threads')", "current_setting"),
        ("SELECT version()", "version"),
        ("SELECT current_user", "current_user"),
    ],
)
def test_what_tells_of_the_session_is_refused_by_name(sql: str, what: str) -> None:
    with pytest.raises(InputError, match=f"`{what}` gives another answer each time"):
        one_select(sql, steady=True)


def test_functions_of_tables_that_depend_on_their_arguments_are_let_in() -> None:
    assert one_select("FROM range(3), unnest([1])", steady=True)

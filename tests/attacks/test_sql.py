"""A person's SQL reads the round's tables and nothing else, writes nothing, and ends."""

import hashlib
import os
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import duckdb
import pytest
from tip.stages.select.check import check_selection
from tip.stages.select.select import select
from tip.stages.select.settings import SelectSettings
from tip.storage.errors import InputError, TipError
from tip.storage.queries import add_rollouts_view, add_view, ask, locked_connection
from token_tables import TABLES, rollout_table, write_parts

from .endings import Forks, forks

Place = Callable[[str], object]
STATEMENTS = [
    "COPY tokens TO '{new}'", "COPY tokens TO '{part}' (USE_TMP_FILE false)",
    "COPY tokens FROM '{secret}'", "COPY (SELECT 1) TO '{new}' (FORMAT csv)",
    "COPY FROM DATABASE memory TO other", "ATTACH '{new}' AS other", "DETACH memory", "USE memory",
    "LOAD httpfs", "INSTALL httpfs", "LOAD '{secret}'", "INSTALL x FROM 'http://127.0.0.1:9'",
    "UPDATE EXTENSIONS", "SET threads = 1", "SET enable_external_access = true",
    "SET VARIABLE keep = 1", "RESET memory_limit", "PRAGMA threads = 1", "PRAGMA enable_profiling",
    "PRAGMA database_list", "CREATE SECRET s (TYPE s3, KEY_ID 'a', SECRET 'b')", "DROP SECRET s",
    "EXPORT DATABASE '{new}'", "IMPORT DATABASE '{folder}'", "CALL force_checkpoint()",
    "CALL enable_logging('file')", "CHECKPOINT", "PREPARE p AS SELECT 1", "EXECUTE p",
    "DEALLOCATE p", "CREATE TABLE t AS SELECT 1", "VACUUM", "CREATE MACRO m(x) AS x",
    "CREATE VIEW v AS SELECT 1", "CREATE OR REPLACE VIEW tokens AS SELECT 1",
    "INSERT INTO tokens VALUES (1)", "UPDATE tokens SET position = 1", "DELETE FROM tokens",
    "DROP VIEW tokens", "ALTER VIEW tokens RENAME TO t", "TRUNCATE tokens", "BEGIN", "COMMIT",
    "EXPLAIN ANALYZE COPY tokens TO '{new}'", "SELECT 1 INTO t", "", ";", "--", "/*",
    "COMMENT ON VIEW tokens IS 'x'",
]  # fmt: skip
READS = [
    "'{secret}'", "'/etc/passwd'", "'file://{secret}'", "'http://127.0.0.1:9/x.csv'",
    "'s3://b/x.parquet'", "'https://127.0.0.1:9/x.parquet'", "'hf://datasets/a/b.parquet'",
    "\"{secret}\"", "'{folder}/*'", "read_csv('{secret}')", "read_csv_auto('{secret}')",
    "read_text('{secret}')", "read_text('{folder}/*')", "read_blob('{secret}')",
    "read_blob('/proc/self/environ')", "read_json('{secret}')", "read_ndjson('{secret}')",
    "read_json_objects('{secret}')", "read_parquet('{other}')", "'{other}'",
    "read_parquet(['{part}', '{other}'])", "parquet_scan('{other}')", "parquet_metadata('{other}')",
    "parquet_schema('{other}')", "parquet_kv_metadata('{other}')",
    "parquet_file_metadata('{other}')", "sniff_csv('{secret}')", "glob('{folder}/*')",
    "glob('/etc/*')", "read_duckdb('{secret}')", "query('COPY (SELECT 1) TO ''{new}''')",
    "query('SELECT * FROM ''{secret}''')", "query_table('{secret}')", "query('SELECT 1; SELECT 2')",
    "json_execute_serialized_sql(json_serialize_sql('FROM ''{secret}'''))",
    "(COPY tokens TO '{new}')", "(ATTACH '{new}')", "import_database('{folder}')", "secret",
    "arrow_scan(1, 2, 3)", "sqlite_scan('{secret}', 't')", "postgres_scan('', '', '')",
    "st_read('{secret}')", "iceberg_scan('{folder}')",
]  # fmt: skip
EXPRESSIONS = [
    "getenv('HOME') = ''", "(SELECT content = '' FROM read_text('{secret}'))",
    "1) TO '{new}'; SELECT (1", "true) UNION ALL (SELECT * FROM '{secret}'", "true)) --", "true /*",
    "true; COPY tokens TO '{new}'", "(WITH x AS (COPY tokens TO '{new}') SELECT true FROM x)",
    "true ORDER BY 1", "(SELECT 1 FROM '{other}') = 1", "*", "COLUMNS(*)", "a, b", "\u00a0;\u00a0",
    "\u2018x\u2019 = 1", "true\u0000", "\ud800 = 1", "x := 1", "?", "$1 = 1",
]  # fmt: skip
UNSTEADY = [
    "random() > 0.5", "uuid() = ''", "gen_random_uuid()::VARCHAR > 'a'", "now() > '2020-01-01'",
    "current_timestamp IS NULL", "today() IS NULL", "age(DATE '2020-01-01') IS NULL",
    "nextval('s') > 0", "setseed(0.5) IS NULL", "version() = ''", "current_setting('threads') = 1",
    "current_user = ''", "(SELECT r > 0.5 FROM query('SELECT random() AS r'))",
    "(SELECT count(*) FROM duckdb_settings()) > 0",
    "(SELECT max(memory_usage_bytes) FROM duckdb_memory()) > 0",
    "(SELECT count(*) FROM duckdb_settings) > 0",
    "(SELECT count(*) FROM information_schema.tables) > 0",
    "(SELECT count(*) FROM tokens USING SAMPLE 5) > 0", "main.random() > 0.5", "\"random\"() > 0.5",
    "RANDOM() > 0.5", "list_transform([1], lambda x: random()) IS NULL",
    "(SELECT count(*) FROM pg_catalog.pg_class) > 0", "txid_current() > 0",
    "get_current_time() IS NULL",
]  # fmt: skip


def some(texts: list[str], step: int) -> list[Any]:
    """Return one text of so many as it is, the others for the soak."""
    return [
        text if place % step == 0 else pytest.param(text, marks=pytest.mark.soak)
        for place, text in enumerate(texts)
    ]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give the working folder, home and TMPDIR of all questions."""
    root = tmp_path_factory.mktemp("watched")
    for name in ("home", "tmp", "work"):
        (root / name).mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(root / "home"))
        patch.setenv("TMPDIR", str(root / "tmp"))
        patch.chdir(root / "work")
        yield root


class Tables:
    """The tables of a round, and how a text is put into what asks them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        table = TABLES["random"]
        self.tokens = write_parts(root / "store" / "t", table)
        self.rollouts = write_parts(root / "store" / "r", rollout_table(table))
        self.other = write_parts(root / "other", table)[0]
        self.secret = root / "home" / "secret.csv"
        self.secret.write_text("a,b\n1,a secret\n")
        self.before = self.state()

    def state(self) -> dict[str, str]:
        """Return what lies below the root, with a hash of its bytes."""
        return {
            str(path.relative_to(self.root)): hashlib.sha256(path.read_bytes()).hexdigest()
            if path.is_file()
            else ""
            for path in self.root.rglob("*")
        }

    def filled(self, text: str) -> str:
        """Return a text with the places of the files in it."""
        places = {"new": self.root / "work" / "new", "part": self.tokens[0], "other": self.other}
        places |= {"secret": self.secret, "folder": self.secret.parent}
        for name, path in places.items():
            text = text.replace(f"{{{name}}}", str(path))
        return text

    def question(self, sql: str) -> Any:
        """Ask as `tip sql` does."""
        with locked_connection([*self.tokens, *self.rollouts]) as connection:
            add_view(connection, "tokens", self.tokens)
            add_rollouts_view(connection, "rollouts", self.rollouts)
            return ask(connection, self.filled(sql))

    def rule(self, sql: str) -> object:
        """Use a text as a rule's file."""
        path = self.root / "tmp" / "rule.sql"
        path.write_bytes(self.filled(sql).encode("utf-8", "surrogatepass"))
        try:
            return self.select(rule=str(path))
        finally:
            path.unlink()

    def select(self, **settings: object) -> object:
        """Check settings as before a run, then select with them."""
        chosen = SelectSettings().model_copy(update=settings)
        check_selection(chosen)
        return select(self.tokens, self.rollouts, chosen, seed=0, vocabulary=1000, threads=1)

    def refuses(self, place: Place, text: str) -> str:
        """Return the one line that a text is refused with; nothing has changed by it."""
        with pytest.raises(TipError) as refused:
            place(text)
        said = " ".join(str(refused.value).split())
        assert "a secret" not in said
        assert self.state() == self.before, text
        return said


@pytest.fixture(scope="module")
def tables(watched: Path) -> Tables:
    return Tables(watched)


def where(tables: Tables, text: str) -> object:
    return tables.select(where=tables.filled(text))


def weight(tables: Tables, text: str) -> object:
    return tables.select(rollout_weight=tables.filled(text))


def aggregate(tables: Tables, text: str) -> object:
    head = f"-- A rule.\n-- round x = {text}\n"
    return tables.rule(f"{head}SELECT *, 1 AS importance FROM tokens")


@pytest.mark.parametrize("sql", some(STATEMENTS, 20))
def test_a_statement_is_refused_wherever_it_stands(sql: str, tables: Tables) -> None:
    tables.refuses(tables.question, sql)
    tables.refuses(tables.rule, sql)
    tables.refuses(tables.question, f"WITH x AS ({sql}) SELECT * FROM x")
    tables.refuses(tables.question, f"SELECT 1; {sql or 'SELECT 2'} SELECT 3")
    tables.refuses(tables.question, f"SELECT 1) {sql}; SELECT (1")
    tables.refuses(partial(where, tables), sql or "true; true")
    tables.refuses(partial(weight, tables), sql or "1; 1")


@pytest.mark.parametrize("source", some(READS, 24))
def test_nothing_but_the_tables_is_read(source: str, tables: Tables) -> None:
    tables.refuses(tables.question, f"SELECT * FROM {source}")
    tables.refuses(tables.question, f"SELECT * FROM tokens, {source}")
    tables.refuses(
        tables.rule, f"SELECT *, (SELECT count(*) FROM {source}) AS importance FROM tokens"
    )
    tables.refuses(partial(where, tables), f"(SELECT count(*) FROM {source}) > 0")


@pytest.mark.parametrize("source", some(READS[::5], 20))
def test_nothing_but_the_tables_is_read_by_weights_and_numbers_of_the_round(
    source: str, tables: Tables
) -> None:
    tables.refuses(partial(weight, tables), f"(SELECT count(*) FROM {source})")
    tables.refuses(partial(aggregate, tables), f"(SELECT count(*) FROM {source})")


@pytest.mark.parametrize("text", some(EXPRESSIONS, 12))
def test_a_condition_does_not_leave_its_brackets(text: str, tables: Tables) -> None:
    tables.refuses(partial(where, tables), text)
    tables.refuses(partial(weight, tables), text)


@pytest.mark.parametrize("text", some(UNSTEADY, 16))
def test_what_answers_otherwise_each_time_selects_nothing(text: str, tables: Tables) -> None:
    for place in (where, weight, aggregate):
        said = tables.refuses(partial(place, tables), text)
        assert "another answer each time" in said
    said = tables.refuses(tables.rule, f"SELECT *, ({text})::INT AS importance FROM tokens")
    assert "another answer each time" in said


@cache
def functions(kind: str) -> list[tuple[str, int]]:
    """Return the names of all functions of a kind, and how many arguments they take."""
    with duckdb.connect() as connection:
        rows = connection.execute(
            "SELECT DISTINCT function_name, least(len(parameters), 4) FROM duckdb_functions() "
            "WHERE function_type = ? AND regexp_full_match(function_name, '\\w+') ORDER BY ALL",
            [kind],
        ).fetchall()
    return rows


ARGUMENTS = ["'{secret}'", "'{folder}/*'", "'{new}'", "1", "NULL"]


def calls(kind: str) -> list[str]:
    """Return calls of all functions of a kind with what may be a path, a number or nothing."""
    return [
        f"{name}({', '.join([argument] * count)})"
        for name, count in functions(kind)
        for argument in (ARGUMENTS if count else ARGUMENTS[:1])
    ]


def _ask_all(tables: Tables, questions: list[str]) -> None:
    """Ask everything: an answer or one line, nothing of other files in it, nothing changed."""
    for sql in questions:
        try:
            columns = tables.question(sql).columns
            answer = "".join(c.to_string(element_size_limit=10**6) for c in columns)
        except TipError as refused:
            answer = str(refused)
        assert "a secret" not in answer, sql
    assert tables.state() == tables.before


def test_some_functions_of_tables_touch_no_file(tables: Tables) -> None:
    _ask_all(tables, [f"SELECT * FROM {call}" for call in calls("table") if "read" in call][::4])


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["table", "table_macro", "pragma"])
def test_no_function_of_tables_touches_a_file(kind: str, tables: Tables) -> None:
    asked = [f"SELECT * FROM {call}" for call in calls(kind)]
    assert len(asked) > 10
    _ask_all(tables, asked)


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["scalar", "macro", "aggregate"])
def test_no_function_of_values_touches_a_file(kind: str, tables: Tables) -> None:
    asked = [f"SELECT {call} FROM tokens LIMIT 1" for call in calls(kind)]
    assert len(asked) > 100
    _ask_all(tables, asked)


CROSS = "(SELECT count(*) FROM tokens a, tokens b, tokens c, tokens d WHERE a.jsd < b.jsd + c.jsd)"


@pytest.mark.parametrize("place", some(["where", "rule", "rollout_weight"], 3))
def test_a_question_without_end_is_broken_off(place: str, tables: Tables) -> None:
    chosen = {"where": f"{CROSS} > 0", "rollout_weight": CROSS}
    path = tables.root / "tmp" / "rule.sql"
    path.write_text(f"SELECT *, {CROSS} AS importance FROM tokens")
    chosen = {"rule": str(path)} if place == "rule" else {place: chosen[place]}
    settings = SelectSettings().model_copy(update={**chosen, "timeout_seconds": 1.0})
    with pytest.raises(InputError, match="took longer than it may"):
        select(tables.tokens, tables.rollouts, settings, seed=0, vocabulary=1000, threads=1)
    path.unlink()
    assert tables.state() == tables.before


@pytest.mark.parametrize("what", some(["list(range)", "string_agg(range::VARCHAR, ',')"], 2))
def test_a_condition_that_wants_all_memory_is_refused(what: str, tables: Tables) -> None:
    big = f"(SELECT length(({what})::VARCHAR) FROM range(300000000)) > 0"
    settings = SelectSettings().model_copy(update={"where": big, "memory_gb": 0.1})
    with pytest.raises(InputError, match="needs more memory than it may"):
        select(tables.tokens, tables.rollouts, settings, seed=0, vocabulary=1000, threads=1)
    assert tables.state() == tables.before


@pytest.mark.soak
def test_a_big_sort_goes_over_the_disk_and_leaves_nothing(tables: Tables) -> None:
    sort = "SELECT hash(range) AS r FROM range(20000000) ORDER BY 1 OFFSET 9"
    big = f"(SELECT max(r) FROM ({sort})) > 0"
    settings = SelectSettings().model_copy(update={"where": big, "memory_gb": 0.1})
    select(tables.tokens, tables.rollouts, settings, seed=0, vocabulary=1000, threads=1)
    assert tables.state() == tables.before


@pytest.fixture(scope="module")
def fork(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    with forks(tmp_path_factory.mktemp("forks")) as process:
        yield process


@pytest.mark.soak
@pytest.mark.parametrize(
    "sql", ["COPY tokens TO 'x'", "FROM '/etc/passwd'", "SELECT '\udcff'", "("]
)
def test_the_command_refuses_in_one_line(sql: str, fork: Forks, tmp_path: Path) -> None:
    end = fork.ask("tip", tmp_path, "sql", sql, "--run", "r")
    end.check()
    assert end.code == 2
    assert os.listdir(tmp_path) == []

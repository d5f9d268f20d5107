"""A question to a run's tables: every table, words for people, files for programs."""

import json
from pathlib import Path

import polars as pl
import pytest
from rich.console import ConsoleOptions
from tip.pipeline.rounds.play import play
from tip.pipeline.session import open_session
from tip.pipeline.show.query import print_query
from tip.pipeline.show.tables import RunTables, named_in
from tip.storage.errors import ConfigError, InputError
from tip.storage.queries import ask
from tip.storage.store.store import Store

from ..conftest import MakeConfig, played

COUNT = "SELECT round, count(*) AS tokens FROM tokens GROUP BY round ORDER BY round"


def test_a_question_is_answered_on_the_screen_or_in_a_file(
    config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session = open_session(config(rounds=2, rollout={"prompts": 8}))
    play(session)
    runs = session.config.runs
    print_query(COUNT, "run", None, runs, tmp_path / "all.csv")
    counted = pl.read_csv(tmp_path / "all.csv")
    assert counted["round"].to_list() == [0, 1]
    print_query(COUNT, "run", [1], runs, None)
    assert str(counted["tokens"][1]) in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"\.parquet, \.csv, \.json or \.jsonl"):
        print_query(COUNT, "run", None, runs, tmp_path / "all.txt")
    with pytest.raises(ConfigError, match="no scored round"):
        print_query(COUNT, "run", [7], runs, None)
    endless = "SELECT count(*) FROM tokens a, tokens b, tokens c, tokens d WHERE a.jsd < d.jsd"
    with pytest.raises(InputError, match="tip sql --timeout"):
        print_query(endless, "run", None, runs, None, 0.2)


def test_a_question_to_a_run_that_is_not_there_names_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no run nobody under .*; `tip status"):
        print_query(COUNT, "nobody", None, str(tmp_path), None)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("'infinity'::DATE AS a", "column 'a' holds a date outside of the years"),
        ("INTERVAL 1 DAY AS a", "cast such columns to VARCHAR"),
        ("[1] AS a", "CSV format does not support nested data"),
    ],
)
def test_an_answer_that_cannot_be_written_is_refused(
    shared: MakeConfig, tmp_path: Path, answer: str, said: str
) -> None:
    session = open_session(shared(rounds=1, rollout={"prompts": 8}))
    play(session)
    with pytest.raises(InputError, match=said):
        print_query(f"SELECT {answer}", "run", None, session.config.runs, tmp_path / "a.csv")


def test_a_terminal_of_ascii_is_given_a_table_of_ascii(
    shared: MakeConfig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = open_session(shared(rounds=1, rollout={"prompts": 8}))
    play(session)
    monkeypatch.setattr(ConsoleOptions, "ascii_only", property(lambda _: True))
    print_query(COUNT, "run", None, session.config.runs, None)
    assert capsys.readouterr().out.isascii()


@pytest.fixture(scope="module")
def tables(shared: MakeConfig, asked: dict[str, object]) -> RunTables:
    evaluated = {**asked, "limit": 12, "every": 1}
    made = shared("tables", rounds=2, rollout={"prompts": 8}, evaluate=evaluated)
    return RunTables(played(made).run)


def test_every_table_of_a_run_is_asked_by_its_name(tables: RunTables) -> None:
    with tables.opened() as connection:
        (kept, typed, known) = connection.execute(
            "SELECT count(*), count(*) FILTER (s.type = t.type), count(*) FILTER (d.ids[1] >= 0) "
            "FROM selection s JOIN tokens t USING (round, rollout, position) "
            "JOIN teacher d USING (round, rollout, position)"
        ).fetchall()[0]
        assert kept == typed == known > 0
        answered = connection.execute(
            "SELECT round, count(*), count(response) FROM evaluation GROUP BY ALL ORDER BY 1"
        ).fetchall()
    assert answered == [(0, 12, 12), (1, 12, 12), (2, 12, 12)]


def test_a_token_has_its_text_and_a_rollout_its_words(tables: RunTables) -> None:
    with tables.opened() as connection:
        for prompt, response, texts in connection.execute(
            "SELECT prompt, response, words FROM rollouts JOIN (SELECT round, rollout, "
            "string_agg(text, '' ORDER BY position) AS words FROM tokens GROUP BY ALL) "
            "USING (round, rollout)"
        ).fetchall():
            assert texts == response
            assert prompt.startswith("Q ")


def test_a_type_is_known_where_a_round_was_selected(config: MakeConfig) -> None:
    session = played(config(rounds=1, rollout={"prompts": 8}))
    with RunTables(session.run).opened() as connection:
        before = connection.execute("SELECT count(type), count(*) FROM tokens").fetchall()[0]
    assert before[0] == before[1] > 0
    store = Store(session.config.store)
    for key in [pointers.selection for _, pointers in session.run.rounds()]:
        store.remove("selection", str(key))
    with RunTables(session.run).opened(["tokens"]) as connection:
        after = connection.execute("SELECT count(type), count(*) FROM tokens").fetchall()[0]
    assert after == (0, before[1])


def test_only_the_tables_that_a_question_names_are_read(tables: RunTables) -> None:
    assert named_in("SELECT 1") == ["tokens"]
    assert named_in("select * from Tokens join SELECTION using (rollout)") == [
        "tokens",
        "selection",
    ]


def test_a_table_that_nothing_filled_is_empty(shared: MakeConfig) -> None:
    tables = RunTables(played(shared(rounds=1, rollout={"prompts": 8})).run)
    with tables.opened() as connection:
        answer = ask(connection, "SELECT round, answer FROM evaluation")
    assert (answer.num_rows, answer.column_names) == (0, ["round", "answer"])


def test_off_a_terminal_no_row_is_wrapped_and_json_is_a_line_a_row(
    tables: RunTables, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = str(tables.run.path.parent)
    print_query("SELECT * FROM tokens LIMIT 3", "tables", None, runs, None)
    shown = capsys.readouterr().out.splitlines()
    assert "student_entropy" in shown[1]
    assert "…" not in "".join(shown)
    query = "SELECT text, type FROM tokens ORDER BY rollout, position LIMIT 3"
    print_query(query, "tables", None, runs, None, lines=True)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 3
    assert rows[0].keys() == {"text", "type"}


def test_on_a_terminal_a_row_that_is_too_wide_is_a_line_a_value(
    tables: RunTables, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    print_query("SELECT * FROM tokens LIMIT 50", "tables", None, str(tables.run.path.parent), None)
    shown = capsys.readouterr().out
    assert "\nreverse_kl " in shown
    assert "50 rows, 40 shown: --output writes all of them" in shown


@pytest.mark.parametrize("kind", ["json", "jsonl", "parquet", "csv"])
def test_an_answer_is_the_same_in_every_kind_of_file(
    tables: RunTables, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / f"answer.{kind}"
    query = "SELECT rollout, text, student_entropy FROM tokens ORDER BY rollout, position"
    print_query(query, "tables", None, str(tables.run.path.parent), path)
    readers = {"csv": pl.read_csv, "json": pl.read_json, "jsonl": pl.read_ndjson}
    frame = readers.get(kind, pl.read_parquet)(path)
    with tables.opened() as connection:
        wanted = pl.DataFrame(ask(connection, query))
    assert frame["text"].to_list() == wanted["text"].to_list()
    assert frame["rollout"].to_list() == wanted["rollout"].to_list()

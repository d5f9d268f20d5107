"""Tokens in the terminal: a rollout in colours, what matters most, what the teacher wanted."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tip.pipeline.inspect.command import inspect
from tip.pipeline.session import Session
from tip.pipeline.show.tables import RunTables
from tip.storage.errors import ConfigError, InputError

from .conftest import MakeConfig, played

ASKED: dict[str, Any] = {
    "round_number": None,
    "rollout": None,
    "find": None,
    "top": None,
    "where": None,
    "rules": (),
    "by": "reverse_kl",
    "export": None,
}


@pytest.fixture(scope="module")
def session(shared: MakeConfig) -> Session:
    return played(shared("looked", rounds=2, rollout={"prompts": 8}))


@pytest.fixture
def look(session: Session, capsys: pytest.CaptureFixture[str]):
    def looked(**asked: Any) -> str:
        inspect("looked", session.config.runs, **ASKED | asked)
        return capsys.readouterr().out

    return looked


def test_a_rollout_is_shown_with_its_words_and_its_worst_tokens(look, session: Session) -> None:
    with RunTables(session.run, (1,)).opened(("tokens", "rollouts")) as connection:
        rows = connection.execute(
            "SELECT prompt, response, rollout FROM rollouts ORDER BY rollout"
        ).fetchall()
        worst = connection.execute(
            f"SELECT max(reverse_kl) FROM tokens WHERE rollout = {rows[2][2]} AND trainable"
        ).fetchall()[0][0]
    shown = look(rollout=2)
    assert "looked, round 1, rollout 2" in shown
    assert rows[2][0] in shown
    assert rows[2][1] in shown
    assert f"{worst:.4f}" in shown
    assert "colour: student_entropy, 0 to" in look(by="student_entropy", round_number=0)


def test_a_text_finds_rollouts_and_one_of_them_is_shown(look, session: Session) -> None:
    with RunTables(session.run, (1,)).opened(("rollouts",)) as connection:
        prompts = [r for (r,) in connection.execute("SELECT prompt FROM rollouts").fetchall()]
    assert prompts[3] in look(find=prompts[3][2:])
    listed = look(find="Q")
    assert "8 rollouts: --rollout N shows one" in listed
    with pytest.raises(ConfigError, match="--find 'zebra': in no prompt"):
        look(find="zebra")
    with pytest.raises(ConfigError, match="--rollout 9: round 1 of run looked has 8 that fit"):
        look(rollout=9)


def test_the_most_important_tokens_come_with_context_and_what_the_teacher_wanted(
    look, session: Session, tmp_path: Path
) -> None:
    file = tmp_path / "top.parquet"
    shown = look(top=5, export=file, rules=("q3", "soft_or"))
    frame = pl.read_parquet(file)
    assert frame.height == 5
    assert frame["importance"].is_sorted(descending=True)
    assert frame["soft_or"].all(), "the run's own rule chose them"
    with RunTables(session.run, (1,)).opened() as connection:
        for row in frame.iter_rows(named=True):
            key = f"rollout = {row['rollout']}"
            texts = [
                t
                for (t,) in connection.execute(
                    f"SELECT text FROM tokens WHERE {key} ORDER BY position"
                ).fetchall()
            ]
            place = row["position"]
            around = "".join(texts[max(0, place - 12) : place + 5])
            assert row["before"] + row["text"] + row["after"] == around
            ((best,),) = connection.execute(
                "SELECT token_text(ids[list_position(logprobs, list_max(logprobs))]) FROM teacher "
                f"WHERE {key} AND position = {place}"
            ).fetchall()
            assert row["teacher"].startswith(best)
    assert "teacher wanted" in " ".join(shown.split())


def test_of_equal_importance_the_largest_reverse_kl_comes_first(
    shared: MakeConfig, tmp_path: Path
) -> None:
    settings = shared("every", rounds=1, rollout={"prompts": 8}, select={"rule": "all"})
    run = played(settings).run
    with RunTables(run, (0,)).opened(("tokens",)) as connection:
        worst = connection.execute(
            "SELECT reverse_kl FROM tokens WHERE trainable ORDER BY 1 DESC LIMIT 4"
        ).fetchall()
    file = tmp_path / "top.parquet"
    inspect("every", settings.runs, **ASKED | {"top": 4, "export": file})
    assert pl.read_parquet(file)["reverse_kl"].to_list() == [kl for (kl,) in worst]


def test_a_file_has_all_that_fit_and_the_screen_says_how_many_it_shows(
    look, session: Session, tmp_path: Path
) -> None:
    file = tmp_path / "all.csv"
    with RunTables(session.run, (1,)).opened(("tokens",)) as connection:
        ((fit,),) = connection.execute("SELECT count(*) FROM tokens WHERE position < 9").fetchall()
    shown = look(where="position < 9", export=file)
    assert f"20 of {fit} shown; --top N shows more" in shown
    assert f"{fit} tokens are written to" in shown
    assert pl.read_csv(file).height == fit > 20
    look(where="position < 9", top=3, export=file)
    assert pl.read_csv(file).height == 3


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"top": 3, "find": "1"}, "--top and --where show tokens of all rollouts"),
        ({"where": "position = 0", "rollout": 2}, "--top and --where show tokens of all rollouts"),
        ({"find": "Q", "export": Path("no.csv")}, "--export writes one rollout"),
    ],
)
def test_what_cannot_be_shown_or_written_together_is_refused(
    look, asked: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        look(**asked)
    assert not Path("no.csv").exists()


def test_a_condition_chooses_tokens_of_any_column(look, tmp_path: Path) -> None:
    file = tmp_path / "where.csv"
    look(where="type = 'Q3' AND NOT selected", export=file)
    frame = pl.read_csv(file)
    assert set(frame["type"]) <= {"Q3"}
    assert frame["reverse_kl"].is_sorted(descending=True)
    with pytest.raises(InputError, match="--where: there is no column `nonsense`"):
        look(where="nonsense > 1")
    with pytest.raises(InputError, match="expected one SQL expression"):
        look(where="1; DROP TABLE x")


def test_what_cannot_be_shown_is_told(look, session: Session, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--by text: no column of numbers"):
        look(by="text")
    with pytest.raises(ConfigError, match=r"--export .*: expected a name ending in"):
        look(export=tmp_path / "x.txt")
    with pytest.raises(ConfigError, match="no run nobody"):
        inspect("nobody", session.config.runs, **ASKED)
    with pytest.raises(ConfigError, match="no scored round"):
        look(round_number=7)

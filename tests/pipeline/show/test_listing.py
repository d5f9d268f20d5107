"""`tip rules` and `tip sql`: every rule has a line, and a question is asked of stored tables."""

from pathlib import Path

import polars as pl
import pytest
from tip.pipeline.rounds.play import play
from tip.pipeline.session import open_session
from tip.pipeline.show.listing import print_query, print_rules
from tip.stages.select.rulebook import builtin_rules
from tip.storage.errors import ConfigError

from ..conftest import MakeConfig

COUNT = "SELECT round, count(*) AS tokens FROM tokens GROUP BY round ORDER BY round"


def test_every_built_in_rule_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_rules()
    shown = {line.split()[0] for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert shown >= set(builtin_rules())


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
    with pytest.raises(ConfigError, match=r"\.parquet or \.csv"):
        print_query(COUNT, "run", None, runs, tmp_path / "all.txt")
    with pytest.raises(ConfigError, match="no scored round"):
        print_query(COUNT, "run", [7], runs, None)


def test_a_question_to_a_run_that_is_not_there_names_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no run nobody under .*; `tip status"):
        print_query(COUNT, "nobody", None, str(tmp_path), None)

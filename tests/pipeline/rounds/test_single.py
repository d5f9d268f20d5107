"""One stage at a time makes what a whole run makes, and says what it lacks."""

from pathlib import Path

import pytest
from tip.pipeline.rounds.single import rollout_round, score_round, select_round, train_round
from tip.pipeline.session import open_session
from tip.storage.errors import ConfigError

from ..conftest import MakeConfig, contents, played


def test_single_stages_make_what_a_run_makes(config: MakeConfig, tmp_path: Path) -> None:
    whole = contents(played(config(store=str(tmp_path / "whole"), runs=str(tmp_path / "r"))))
    for number in range(2):
        for stage in (rollout_round, score_round, select_round, train_round):
            stage(open_session(config()), number)
    assert contents(open_session(config())) == whole


def test_a_stage_without_what_it_needs_names_the_command(config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match="tip rollout CONFIG --round 0"):
        score_round(open_session(config()), 0)

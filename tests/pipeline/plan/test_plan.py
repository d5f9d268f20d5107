"""A dry run tells what a run will do, from manifests, and leaves nothing behind."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tip.cli import app
from tip.pipeline.plan.plan import plan_of
from tip.pipeline.rounds.branching import branch
from tip.pipeline.rounds.play import play
from tip.pipeline.session import look_at, open_session
from tip.pipeline.show.plan import print_plan
from tip.stages.models.card import read_card
from tip.stages.models.load import load_model
from tip.stages.models.settings import ModelSettings
from tip.stages.models.size import shape_of
from tip.storage.errors import ConfigError
from typer.testing import CliRunner

from ..conftest import PAIR, MakeConfig, numbers


def planned(config: Any) -> Any:
    return plan_of(look_at(config))


def shown(config: Any, origin: str | None = None) -> None:
    print_plan(config, plan_of(look_at(config), origin))


def test_a_dry_run_of_nothing_estimates_and_writes_nothing(
    config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown(config(rounds=3))
    assert not (tmp_path / "store").exists()
    assert not (tmp_path / "runs").exists()
    out = capsys.readouterr().out
    assert f"{3 * 64 * 64:,} generated tokens" in out  # the longest responses
    assert "nothing like it in the store yet" in out
    assert "0/2 rolled out" in out
    assert "memory on cpu" in out


def test_a_plan_counts_the_shards_that_the_run_then_finds(config: MakeConfig) -> None:
    played = open_session(config(rounds=1))
    play(played)
    plan = planned(config("large", rounds=2, rollout={"prompts": 96}))
    first, second = plan.rounds
    assert (first.shards, first.cached_rollouts, first.cached_scores) == (3, 2, 2)
    assert (second.cached_rollouts, second.cached_scores) == (None, None)
    assert planned(config(rounds=2)).rounds[0].trained
    large = open_session(config("large", rounds=1, rollout={"prompts": 96}))
    play(large)
    found = numbers(large, "rollout", "reused_tokens")[0]
    assert found == numbers(played, "rollout", "tokens")[0]


def test_an_estimate_rests_on_what_the_store_holds(config: MakeConfig) -> None:
    session = open_session(config(rounds=1))
    play(session)
    plan = planned(config("next", rounds=1, seed=5))
    tokens = numbers(session, "rollout", "tokens")[0]
    assert plan.rounds[0].tokens == pytest.approx(tokens, abs=1)
    sizes = session.store.sizes()
    stored = sum(sizes[kind].bytes for kind in ("rollouts", "teacher", "tokens"))
    assert plan.rounds[0].bytes == pytest.approx(stored, rel=0.01)


def test_a_plan_loads_no_weights_and_counts_them_from_their_headers(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ModelSettings(model=str(PAIR / "student"))
    card = read_card(settings)
    model = load_model(card, torch.device("cpu"), torch.float32)
    assert shape_of(card).parameters == sum(p.numel() for p in model.model.parameters())

    def refuse(*_: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("tip.stages.holder.load_model", refuse)
    plan = planned(config(score={"mode": "separate", "engine": "vllm"}, rollout={"engine": "vllm"}))
    stages = [need.stage for need in plan.memory]
    assert stages == ["rollout", "score (teacher)", "score (student)", "train"]


def test_the_command_line_shows_the_plan_and_plays_nothing(
    config: MakeConfig, tmp_path: Path
) -> None:
    settings = config()
    text = "\n".join(
        [
            f'store = "{settings.store}"',
            f'runs = "{settings.runs}"',
            f'student.model = "{settings.student.model}"',
            f'teacher.model = "{settings.teacher.model}"',
            f'prompts = {{ source = "{settings.prompts.source}", template = "raw" }}',
            "rollout = { prompts = 64, max_tokens = 64 }",
        ]
    )
    (tmp_path / "c.toml").write_text(text)
    result = CliRunner().invoke(app, ["run", str(tmp_path / "c.toml"), "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "run c: 10 rounds" in result.output
    assert not (tmp_path / "store").exists()
    assert not (tmp_path / "runs").exists()


def test_what_is_stored_is_not_to_be_made_again(config: MakeConfig) -> None:
    play(open_session(config(rounds=1)))
    plan = planned(config("other", rounds=1, select={"rule": "q3"}))
    assert (plan.tokens, plan.teacher_tokens, plan.bytes) == (0, 0, 0)


def test_a_replay_is_planned_from_the_run_that_it_replays(config: MakeConfig) -> None:
    played = open_session(config(rounds=2))
    play(played)
    plan = planned(config("again", rollout={"replay": "run"}))
    assert (plan.tokens, plan.teacher_tokens) == (0, 0)
    assert [r.tokens for r in plan.rounds] == numbers(played, "rollout", "tokens")


def test_a_branch_is_planned_from_where_it_will_begin(
    config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    play(open_session(config(rounds=2)))
    settings = config("late", rounds=3, select={"rule": "q3"})
    shown(settings, "run@1")
    before = capsys.readouterr().out
    assert not look_at(settings).run.path.exists()
    branch(open_session(settings), "run@1")
    shown(settings)
    for out in (before, capsys.readouterr().out):
        assert "run late: 2 rounds" in out
        assert "2/2 rolled out, 2/2 scored" in out


def test_a_run_that_would_be_refused_has_no_plan(config: MakeConfig) -> None:
    play(open_session(config(rounds=1)))
    with pytest.raises(ConfigError, match="was started with"):
        planned(config(train={"lr": 1e-5}))


def test_a_joint_scoring_is_planned_with_both_models(config: MakeConfig) -> None:
    sizes = {need.stage: need.bytes for need in planned(config()).memory}
    apart = {n.stage: n.bytes for n in planned(config(score={"mode": "separate"})).memory}
    assert sizes["score"] > apart["score (student)"]
    assert sizes["score"] > apart["score (teacher)"]

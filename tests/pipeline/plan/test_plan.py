"""A dry run tells what a run will do, from manifests, and leaves nothing behind."""

from pathlib import Path
from typing import Any

import pytest
from tip.cli import app
from tip.pipeline.plan.plan import plan_of
from tip.pipeline.rounds.branching import branch
from tip.pipeline.rounds.play import play
from tip.pipeline.session import Session, look_at, open_session
from tip.pipeline.show.plan import print_plan
from tip.stages.models import fingerprint
from tip.stages.models.card import read_card
from tip.storage.errors import ConfigError
from typer.testing import CliRunner

from ..conftest import MakeConfig, copied, numbers, played


@pytest.fixture(scope="module")
def ran(shared: MakeConfig) -> Session:
    return played(shared(rounds=1))


def planned(config: Any) -> Any:
    return plan_of(look_at(config))


def shown(config: Any, origin: str | None = None) -> None:
    print_plan(config, plan_of(look_at(config), origin))


def test_a_dry_run_of_nothing_estimates_and_writes_nothing(
    config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for settings in (config().student, config().teacher):
        read_card(settings)  # hashes them
    shown(config(rounds=3))
    assert not (tmp_path / "store").exists()
    assert not (tmp_path / "runs").exists()
    out = capsys.readouterr().out
    assert f"{3 * 64 * 64:,} generated tokens" in out  # the longest responses
    assert "nothing like it in the store yet" in out
    assert "0/2 rolled out" in out
    assert "memory on cpu" in out


def test_a_plan_counts_the_shards_that_the_run_then_finds(ran: Session, config: MakeConfig) -> None:
    copied(ran, config(rounds=1))
    plan = planned(config("large", rounds=2, rollout={"prompts": 96}))
    first, second = plan.rounds
    assert (first.shards, first.cached_rollouts, first.cached_scores) == (3, 2, 2)
    assert (second.cached_rollouts, second.cached_scores) == (None, None)
    assert planned(config(rounds=2)).rounds[0].trained
    large = played(config("large", rounds=1, rollout={"prompts": 96}))
    found = numbers(large, "rollout", "reused_tokens")[0]
    assert found == numbers(ran, "rollout", "tokens")[0]


def test_an_estimate_rests_on_what_the_store_holds(ran: Session, shared: MakeConfig) -> None:
    plan = planned(shared("next", rounds=1, seed=5))
    tokens = numbers(ran, "rollout", "tokens")[0]
    assert plan.rounds[0].tokens == pytest.approx(tokens, abs=1)
    sizes = ran.store.sizes()
    stored = sum(sizes[kind].bytes for kind in ("rollouts", "teacher", "tokens"))
    assert plan.rounds[0].bytes == pytest.approx(stored, rel=0.01)


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


def test_what_is_stored_is_not_to_be_made_again(ran: Session, shared: MakeConfig) -> None:
    plan = planned(shared("other", rounds=1, select={"rule": "q3"}))
    assert (plan.tokens, plan.teacher_tokens, plan.bytes) == (0, 0, 0)


def test_a_replay_is_planned_from_the_run_that_it_replays(ran: Session, config: MakeConfig) -> None:
    longer = copied(ran, config(rounds=2))
    play(longer)
    plan = planned(config("again", rollout={"replay": "run"}))
    assert (plan.tokens, plan.teacher_tokens) == (0, 0)
    made = numbers(longer, "rollout", "tokens")[1:]  # of the second start
    assert [r.tokens for r in plan.rounds] == made


def test_a_branch_is_planned_from_where_it_will_begin(
    ran: Session, config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    play(copied(ran, config(rounds=2)))
    settings = config("late", rounds=3, select={"rule": "q3"})
    shown(settings, "run@1")
    before = capsys.readouterr().out
    assert not look_at(settings).run.path.exists()
    branch(open_session(settings), "run@1")
    shown(settings)
    for out in (before, capsys.readouterr().out):
        assert "run late: 2 rounds" in out
        assert "2/2 rolled out, 2/2 scored" in out


def test_a_run_that_would_be_refused_has_no_plan(ran: Session, shared: MakeConfig) -> None:
    with pytest.raises(ConfigError, match="was started with"):
        planned(shared(train={"lr": 1e-5}))


def test_looking_hashes_no_weights_and_a_plan_says_what_it_cannot_know(
    ran: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    monkeypatch.setattr(fingerprint, "_hashed", {})
    plan = planned(ran.config)
    assert plan.unhashed == ("student", "teacher")
    assert (plan.rounds[0].cached_rollouts, plan.rounds[0].cached_scores) == (None, None)
    assert (plan.rounds[0].trained, plan.tokens, plan.teacher_tokens) == (True, 0, 0)
    assert not (tmp_path / "empty").exists()


def test_a_million_rounds_are_planned_as_a_hundred_and_the_rest(config: MakeConfig) -> None:
    few, many = (planned(config(f"m{n}", rounds=n)) for n in (100, 1_000_000))
    assert many.rounds[:100] == few.rounds
    (rest,) = many.rounds[100:]
    assert (rest.number, rest.rounds) == (100, 999_900)
    assert many.tokens == pytest.approx(few.tokens * 10_000, rel=0.01)

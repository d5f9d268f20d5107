"""What run folders take is told, and nothing goes before it was said."""

from pathlib import Path

import pytest
from tip.pipeline.rounds.branching import branch
from tip.pipeline.session import Session, open_session
from tip.pipeline.show.housekeeping import print_folders, prune_runs, remove_runs
from tip.pipeline.show.listing import print_sizes
from tip.storage.errors import ConfigError, StoreError
from tip.storage.files import bytes_under

from ..conftest import MakeConfig, contents, played

HORIZON = {"train": {"horizon": 8}, "rollout": {"prompts": 8}}


@pytest.fixture
def session(config: MakeConfig) -> Session:
    return played(config(rounds=2, **HORIZON))


def test_a_run_that_has_ended_keeps_its_last_state_alone(session: Session) -> None:
    (state,) = session.run.kept_states()
    last = session.run.round(1)
    assert last is not None
    assert state.name.startswith(str(last.checkpoint))


def test_what_folders_take_is_listed_and_counted_beside_the_store(
    session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    print_folders(session.config.runs)
    row = next(line for line in capsys.readouterr().out.splitlines() if " 2/2 " in line)
    assert row.split()[:3] == ["run", "2/2", "1"]
    print_sizes(session.config.store, session.config.runs)
    (state,) = session.run.kept_states()
    counted = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["states", "of", "runs", "1", f"{bytes_under(state):,}"] in counted
    with pytest.raises(ConfigError, match="no runs here"):
        print_folders(session.config.store)


def test_states_go_when_told_and_a_longer_run_is_the_same_without(
    session: Session, config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = session.config.runs
    prune_runs(runs, ["run"], do_it=False)
    assert "nothing was removed: say --yes" in capsys.readouterr().out
    assert len(session.run.kept_states()) == 1
    prune_runs(runs, ["run"], do_it=True)
    assert session.run.kept_states() == []
    longer = contents(played(config(rounds=3, **HORIZON)))
    whole = contents(played(config("whole", rounds=3, **HORIZON)))
    assert longer == whole


def test_a_run_goes_when_told_and_its_artifacts_stay(
    session: Session, config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, before = session.config.runs, bytes_under(Path(session.config.store))
    remove_runs(runs, ["run"], do_it=False)
    assert session.run.path.is_dir()
    remove_runs(runs, ["run"], do_it=True)
    assert not session.run.path.exists()
    assert bytes_under(Path(session.config.store)) == before
    assert "its artifacts stay in the store" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="no run run"):
        remove_runs(runs, ["run"], do_it=True)


def test_a_run_that_another_builds_on_is_kept(session: Session, config: MakeConfig) -> None:
    late = open_session(config("late", rounds=2, seed=5, **HORIZON))
    branch(late, "run@1")
    with pytest.raises(ConfigError, match="run late shares its rounds"):
        remove_runs(session.config.runs, ["run"], do_it=True)
    remove_runs(session.config.runs, ["run", "late"], do_it=True)
    assert not session.run.path.exists()


def test_a_run_at_work_is_left_alone(session: Session) -> None:
    with session.run.held(), pytest.raises(StoreError, match="is being played by"):
        remove_runs(session.config.runs, ["run"], do_it=True)
    assert session.run.path.is_dir()


def test_a_run_that_another_replays_is_kept(session: Session, config: MakeConfig) -> None:
    played(config("again", rounds=1, rollout={"prompts": 8, "replay": "run"}))
    with pytest.raises(ConfigError, match="run again shares its rounds or replays them"):
        remove_runs(session.config.runs, ["run"], do_it=True)

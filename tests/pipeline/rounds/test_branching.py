"""A branch shares another run's first rounds, and is that very branch whenever it is started."""

import shutil
from pathlib import Path

import pytest
from tip.pipeline.rounds.branching import branch
from tip.pipeline.rounds.single import rollout_round, train_round
from tip.pipeline.session import Session, open_session
from tip.storage.errors import ConfigError

from ..conftest import MakeConfig, contents, numbers, played


@pytest.fixture(scope="module")
def origin(shared: MakeConfig) -> Session:
    """Return `run`, of which all branches here share rounds."""
    return played(shared(rounds=3))


def test_a_branch_shares_its_first_rounds_and_continues_as_the_run_did(
    origin: Session, shared: MakeConfig
) -> None:
    settings = shared("branch", rounds=3)
    branch(open_session(settings), "run@2")
    twin = played(settings)
    assert contents(twin) == contents(origin)
    other = shared("other", rounds=3, select={"rule": "random"})
    branch(open_session(other), "run@1")
    assert numbers(played(other), "rollout", "round") == [1, 2]


def test_a_branch_beyond_the_trained_rounds_is_refused(origin: Session, shared: MakeConfig) -> None:
    with pytest.raises(ConfigError, match="has 3 trained rounds"):
        branch(open_session(shared("beyond", rounds=5)), "run@4")


def test_a_branch_from_elsewhere_is_not_taken_for_the_one_that_is_there(
    origin: Session, shared: MakeConfig
) -> None:
    late = shared("late", rounds=3, select={"rule": "random"})
    branch(open_session(late), "run@1")
    played(late)
    branch(open_session(late), "run@1")
    with pytest.raises(ConfigError, match=r"late began from run@1"):
        branch(open_session(late), "run@2")
    with pytest.raises(ConfigError, match="began at its own round 0"):
        branch(open_session(origin.config), "late@1")
    with pytest.raises(ConfigError, match="shared with run"):
        train_round(open_session(late), 0)


def test_a_run_that_was_refused_before_its_first_round_can_begin_as_a_branch(
    origin: Session, shared: MakeConfig
) -> None:
    refused = shared("refused", rounds=3)
    with pytest.raises(ConfigError, match="has no student yet"):
        rollout_round(open_session(refused), 1)
    branch(open_session(refused), "run@2")
    assert numbers(played(refused), "rollout", "round") == [2]


@pytest.mark.parametrize("pointers", [0, 1])
def test_a_branch_that_was_stopped_before_it_was_whole_is_begun_again(
    origin: Session, shared: MakeConfig, pointers: int
) -> None:
    settings = shared(f"half{pointers}", rounds=3, select={"rule": "random"})
    branch(open_session(settings), "run@2")
    run = open_session(settings).run
    for number in range(pointers, 2):
        (run.path / "rounds" / f"{number:04d}.json").unlink()
    with pytest.raises(ConfigError, match=r"stopped: start it again with --from run@2, or delete"):
        played(settings)
    branch(open_session(settings), "run@2")
    assert numbers(played(settings), "rollout", "round") == [2]


def test_a_branch_of_a_branch_finds_the_run_that_its_rounds_belong_to(
    origin: Session, shared: MakeConfig
) -> None:
    early = shared("early", rounds=3, train={"lr": 1e-5})
    branch(open_session(early), "run@2")
    session = played(early)
    shutil.rmtree(session.run.path / "states")
    later = shared("later", rounds=2, train={"lr": 1e-6})
    branch(open_session(later), "early@1")
    assert numbers(played(later), "train", "fresh") == [True]


def test_a_branch_into_another_store_is_refused(
    origin: Session, shared: MakeConfig, tmp_path: Path
) -> None:
    elsewhere = shared("elsewhere", rounds=2, store=str(tmp_path / "other"))
    with pytest.raises(ConfigError, match="lie in store"):
        branch(open_session(elsewhere), "run@1")

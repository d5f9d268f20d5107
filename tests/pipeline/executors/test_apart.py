"""One protocol: the same works give the same artifacts here, in another process, and when found."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tip.pipeline.executors.apart import Apart, in_own_process
from tip.pipeline.executors.finder import Finder, LackingError
from tip.pipeline.progress import Reporter
from tip.pipeline.rounds.play import play
from tip.pipeline.session import open_session
from tip.storage.errors import StoreError, TipError

from ..conftest import MakeConfig, contents


def die(_: None) -> None:
    os._exit(9)


def test_another_process_makes_what_this_one_makes(config: MakeConfig, tmp_path: Path) -> None:
    here = open_session(config(rounds=1))
    play(here)
    elsewhere = {"store": str(tmp_path / "s2"), "runs": str(tmp_path / "r2")}
    settings = config(rounds=1, **elsewhere)
    session = open_session(settings)
    apart = replace(session, executor=Apart(settings, session.reporter))
    play(apart)
    assert contents(apart) == contents(here)
    # and what one executor made the other finds
    found = replace(session, executor=Finder(session.store))
    play(found)
    assert contents(found) == contents(here)


def test_a_finder_finds_or_ends_and_makes_nothing(config: MakeConfig) -> None:
    session = open_session(config(rounds=1))
    looking = replace(session, executor=Finder(session.store))
    with pytest.raises(LackingError, match="round 0 rollout"):
        play(looking)
    assert not list(session.store.list())


def test_ticks_and_words_of_another_process_reach_the_reporter(config: MakeConfig) -> None:
    ticks: list[int] = []

    class Counting(Reporter):
        def bar(self, title: str, total: int, unit: str) -> Any:
            from contextlib import nullcontext

            return nullcontext(ticks.append if "rollout" in title else lambda _: None)

    settings = config(rounds=1)
    session = replace(open_session(settings), reporter=Counting(quiet=True))
    play(replace(session, executor=Apart(settings, session.reporter)))
    assert sum(ticks) == 64


def test_a_process_that_is_killed_is_named() -> None:
    with pytest.raises(TipError, match=r"process of run mine was killed.*same command continues"):
        in_own_process(die, None, "run mine")


@dataclass(frozen=True)
class Killed:
    """A work during which its process is killed."""

    unit = "shards"
    size = 1

    def found(self, _: Any) -> None:
        return None

    def ensure(self, *_: Any) -> Any:
        os._exit(9)


def test_an_executor_whose_process_was_killed_is_closed_and_used_again(config: MakeConfig) -> None:
    settings = config(rounds=1)
    session = open_session(settings)
    apart = Apart(settings, session.reporter)
    killed: Any = Killed()
    with pytest.raises(TipError, match="was killed"):
        apart.map([killed], "rollout")
    apart.close()
    ((made, *_),) = apart.map([_rollouts(session)], "rollout")
    apart.close()
    assert made.fresh


def test_errors_of_another_process_arrive_as_they_are(config: MakeConfig) -> None:
    settings = config(rounds=1)
    session = open_session(settings)
    apart = Apart(settings, session.reporter)
    works = [replace(_rollouts(session), shards=((),))]
    with pytest.raises(Exception) as raised:  # noqa: PT011  # whatever an empty shard raises
        apart.map(works, "rollout")
    here = pytest.raises(type(raised.value))
    with here:
        session.executor.map(works, "rollout")


def test_a_store_that_the_other_process_cannot_open_is_named(
    config: MakeConfig, tmp_path: Path
) -> None:
    session = open_session(config(rounds=1))
    (tmp_path / "file").touch()
    apart = Apart(config(rounds=1, store=str(tmp_path / "file")), session.reporter)
    for _ in range(2):
        with pytest.raises(StoreError, match=r"cannot write to the store .*/file"):
            apart.map([_rollouts(session)], "rollout")
    apart.close()


def _rollouts(session: Any) -> Any:
    from tip.pipeline.rounds.rollouts import rollout_works

    return rollout_works(session, session.student(0), session.inputs.round_shards(0))[0]

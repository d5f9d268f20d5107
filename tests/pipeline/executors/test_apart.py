"""Another process makes what this one makes, is heard, and is named where it was killed."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tip.pipeline.executors.apart import Apart, in_own_process
from tip.pipeline.executors.finder import Finder
from tip.pipeline.progress import Tick
from tip.pipeline.rounds.play import play
from tip.pipeline.rounds.rollouts import rollout_works
from tip.pipeline.session import Session, open_session
from tip.pipeline.works.rollouts import RolloutWork
from tip.stages.holder import Holder
from tip.storage.errors import TipError

from ..conftest import Listening, MakeConfig, contents


def die(_: None) -> None:
    os._exit(9)


def rollouts_of(session: Session) -> RolloutWork:
    return rollout_works(session, session.student(0), session.inputs.round_shards(0))[0]


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


@dataclass(frozen=True)
class Telling:
    """A work that makes nothing, and tells so."""

    unit = "shards"
    size = 3

    def found(self, _: Any) -> None:
        return None

    def ensure(self, holder: Holder, _: Any, tick: Tick) -> tuple[()]:
        tick(1)
        holder.say("a word")
        tick(2)
        return ()


def test_ticks_and_words_of_another_process_reach_the_reporter(config: MakeConfig) -> None:
    reporter = Listening()
    apart = Apart(config(), reporter)
    assert apart.map([Telling()], "probe") == [()]
    apart.close()
    assert (reporter.ticks, reporter.said) == ({"probe": [1, 2]}, ["a word"])


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
    ((made, *_),) = apart.map([rollouts_of(session)], "rollout")
    apart.close()
    assert made.fresh


def test_errors_of_another_process_arrive_as_they_are(config: MakeConfig) -> None:
    settings = config(rounds=1)
    session = open_session(settings)
    apart = Apart(settings, session.reporter)
    works = [replace(rollouts_of(session), shards=((),))]
    with pytest.raises(Exception) as raised:  # noqa: PT011  # whatever an empty shard raises
        apart.map(works, "rollout")
    here = pytest.raises(type(raised.value))
    with here:
        session.executor.map(works, "rollout")

"""Another process makes what this one makes, is heard, and is named where it was killed."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tip.pipeline.executors.apart import Apart
from tip.pipeline.executors.finder import Finder
from tip.pipeline.progress import Tick
from tip.pipeline.rounds.play import play
from tip.pipeline.session import open_session
from tip.stages.holder import Holder
from tip.storage.errors import DisagreementError, TipError

from ..conftest import Listening, MakeConfig, contents


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


@dataclass(frozen=True)
class Failing:
    """A work that ends its process, or raises."""

    error: Exception | None = None
    unit = "shards"
    size = 1

    def found(self, _: Any) -> None:
        return None

    def ensure(self, *_: Any) -> Any:
        if self.error is None:
            os._exit(9)
        raise self.error


def test_an_executor_whose_process_was_killed_is_closed_and_used_again(config: MakeConfig) -> None:
    apart = Apart(config(), Listening())
    with pytest.raises(TipError, match="was killed"):
        apart.map([Failing()], "rollout")
    apart.close()
    assert apart.map([Telling()], "rollout") == [()]
    with pytest.raises(DisagreementError, match="as it is"):
        apart.map([Failing(DisagreementError("as it is"))], "rollout")
    apart.close()

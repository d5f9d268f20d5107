"""A run that is only looked for is played as far as the store goes."""

from dataclasses import replace

import pytest
from tip.pipeline.executors.finder import Finder, LackingError
from tip.pipeline.rounds.play import play
from tip.pipeline.session import open_session

from ..conftest import MakeConfig


def test_a_finder_finds_or_ends_and_makes_nothing(config: MakeConfig) -> None:
    session = open_session(config(rounds=1))
    looking = replace(session, executor=Finder(session.store))
    with pytest.raises(LackingError, match="teacher"):
        play(looking)
    assert not list(session.store.list())

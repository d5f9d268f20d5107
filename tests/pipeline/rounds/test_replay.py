"""A replay takes another run's rollouts, and costs no generation and no teacher."""

import numpy as np
import pytest
from tip.storage.errors import ConfigError
from tip.storage.tables import read_table

from ..conftest import MakeConfig, artifacts, numbers, played


def test_a_replay_generates_nothing_and_asks_no_teacher(config: MakeConfig) -> None:
    played(config())
    replay = played(config("replay", rollout={"replay": "run"}, select={"rule": "random"}))
    assert numbers(replay, "rollout", "generated_tokens") == [0, 0]
    assert numbers(replay, "score", "teacher_tokens_scored") == [0, 0]
    stale = numbers(replay, "score", "off_policy_kl")
    assert stale[0] < 1e-6 < stale[1]
    modes = [artifact.facts["mode"] for artifact in artifacts(replay, "tokens")]
    assert modes == ["exact"] * 2 + ["support"] * 2
    paths = [replay.store.path(a, "tokens") for a in artifacts(replay, "tokens")]
    own, others = (np.abs(read_table(paths[i : i + 2])["drift"].to_numpy()) for i in (0, 2))
    assert own.max() < 1e-3 < others.mean(), "of the live student, not of the one that sampled"


def test_a_replay_of_a_run_that_is_not_there_says_so(config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match="has no round 0"):
        played(config("replay", rollout={"replay": "nobody"}))

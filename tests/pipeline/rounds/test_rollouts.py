"""The rollout stage of a round: shards that runs share, and who has paid for them."""

import pytest
from tip.pipeline.metrics import by_round
from tip.pipeline.rounds.play import play
from tip.pipeline.rounds.rollouts import gap_of
from tip.pipeline.session import Session, open_session
from tip.pipeline.works.work import Made
from tip.storage.facts import EngineGap

from ..conftest import MakeConfig, artifacts, numbers, played
from ..killing import Killed, KillingReporter


@pytest.fixture(scope="module")
def small(shared: MakeConfig) -> Session:
    return played(shared(rounds=1, rollout={"prompts": 32}))


def test_a_round_of_64_prompts_reuses_the_shards_of_one_of_32(
    small: Session, shared: MakeConfig
) -> None:
    large = played(shared("large", rounds=1))
    reused = numbers(large, "rollout", "reused_tokens")[0]
    assert reused == numbers(small, "rollout", "tokens")[0]


def test_a_killed_runs_own_work_counts_as_paid(config: MakeConfig) -> None:
    with pytest.raises(Killed):
        play(open_session(config(), KillingReporter("rollout", 40 * 64)))
    session = played(config())
    made = by_round(session.run.metrics())[0].rollout
    assert made is not None
    assert (made.generated_tokens, made.reused_tokens) == (made.tokens, 0)


def test_a_gap_is_recorded_by_what_that_engine_made_now(small: Session) -> None:
    """One measured in an evaluation used to be recorded for rollouts of another engine."""
    (artifact, *_) = artifacts(small, "rollouts")
    gap = EngineGap(mean=1e-6, rms=2e-6, tokens=9)
    assert gap_of([(Made(artifact, fresh=True), None)]) == {}
    assert gap_of([(Made(artifact, fresh=False), gap)]) == {}
    assert gap_of([(Made(artifact, fresh=True), gap)]) == {
        "engine_gap_mean": 1e-6,
        "engine_gap_rms": 2e-6,
        "engine_gap_tokens": 9,
    }

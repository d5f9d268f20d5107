"""How much weights take on disk is known from headers and settings."""

from pathlib import Path

import pytest
from tip.pipeline.plan.disk import WeightsOnDisk, weights_on_disk
from tip.pipeline.plan.plan import plan_of
from tip.pipeline.plan.sizes import sizes_of
from tip.pipeline.session import look_at

from ..conftest import MakeConfig, played

STUDENT = 100_992  # parameters


@pytest.mark.parametrize(("rounds", "states"), [(0, 0), (1, 2), (2, 3), (3, 4), (10, 4)])
def test_a_run_leaves_a_checkpoint_a_round_and_the_last_states(
    config: MakeConfig, rounds: int, states: int
) -> None:
    session = look_at(config(train={"export_dtype": "bfloat16"}))
    expected = WeightsOnDisk(
        rounds * STUDENT * 2, states * STUDENT * 12, min(rounds, 1) * STUDENT * 12
    )
    assert weights_on_disk(session, sizes_of(session), rounds) == expected


def test_what_a_run_leaves_is_what_was_foreseen(config: MakeConfig) -> None:
    small = config(rounds=1, rollout={"prompts": 32})
    foreseen = plan_of(look_at(small)).weights
    assert foreseen is not None
    session = played(small)
    left = sum(a.bytes for a in session.store.list("checkpoint"))
    state = sum(p.stat().st_size for p in Path(session.run.path, "states").rglob("*.safetensors"))
    assert left == pytest.approx(foreseen.checkpoints, rel=0.1)
    assert 2 * state == pytest.approx(foreseen.states, rel=0.1)  # one more while it is written
    assert plan_of(look_at(small)).weights == WeightsOnDisk(0, 0, 0)

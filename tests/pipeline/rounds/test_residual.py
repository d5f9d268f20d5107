"""A run with `train.tail = "residual"`: what it shares and tells, and what it is refused for."""

from typing import Any

import numpy as np
import pytest
from served import Served
from tip.pipeline.plan.plan import plan_of
from tip.pipeline.rounds.play import play
from tip.pipeline.session import open_session
from tip.stages.train import data as data_module
from tip.storage.errors import ConfigError

from ..conftest import Listening, MakeConfig, artifacts, numbers, played, serving

RESIDUAL = {"train": {"tail": "residual", "lr": 3e-4, "rollouts_per_step": 16}}
BUCKET = {"train": {"tail": True, "lr": 3e-4, "rollouts_per_step": 16}}


@pytest.mark.parametrize("mode", ["joint", "separate"])
def test_it_trains_on_the_signals_of_a_run_with_another_tail(config: MakeConfig, mode: str) -> None:
    small = {"rounds": 1, "rollout": {"prompts": 32}, "score": {"mode": mode}}
    plain = played(config("plain", **small, **BUCKET))
    said = Listening()
    session = open_session(config("residual", **small, **RESIDUAL), said)
    play(session)
    assert numbers(session, "score", "teacher_tokens_scored") == [0]
    (one,), (other,) = artifacts(plain, "checkpoint"), artifacts(session, "checkpoint")
    assert one.key != other.key
    assert "residual" not in one.facts
    assert not [line for line in plain.run.metrics() if "residual" in line]
    (told,) = numbers(session, "train", "residual")
    assert told == other.facts["residual"]
    assert 0 < told["outside"] < 1
    assert 0 <= told["clipped"] < told["outside"]
    assert any("sampled outside the support" in text for text in said.said)


def test_rollouts_of_another_temperature_are_weighed_by_their_own_probabilities(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At temperature 1.5 improbable tokens come too often: a sum of ratios gives the true count."""
    kept: list[Any] = []
    real = data_module.TrainingData.residual

    def watched(self: Any, *arguments: Any) -> Any:
        kept.append(self)
        return real(self, *arguments)

    monkeypatch.setattr(data_module.TrainingData, "residual", watched)
    more = {"rounds": 1, "rollout": {"prompts": 64, "temperature": 1.5}, "select": {"keep": 1.0}}
    played(config(**more, **RESIDUAL))
    drawn, plain = kept[0].drawn, kept[0].old_logprobs.values
    assert len(plain) == len(drawn.logprobs)
    # E[p / p_sampled] = 1, whatever was sampled from
    ratio = np.exp(plain - drawn.logprobs)
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / np.sqrt(len(ratio))
    assert ratio.std() > 0.1


@pytest.mark.parametrize(
    ("rollout", "named"),
    [({"top_p": 0.9}, "top_p = 0.9"), ({"top_k": 5}, "top_k = 5"), ({"temperature": 0}, "= 0")],
)
def test_sampling_that_leaves_tokens_out_is_refused(
    config: MakeConfig, rollout: dict[str, Any], named: str
) -> None:
    config(rollout=rollout)
    with pytest.raises(
        ConfigError, match=rf"every token can be sampled, but rollout\..*{named}"
    ) as it:
        config(rollout=rollout, **RESIDUAL)
    assert "\n" not in str(it.value)


@pytest.mark.parametrize("rollout", [{"top_p": 0.9}, {"temperature": 0.5}])
def test_a_replay_of_rollouts_that_were_sampled_otherwise_is_refused_before_it_is_scored(
    config: MakeConfig, rollout: dict[str, Any]
) -> None:
    small = {"prompts": 32, "max_tokens": 16}
    played(config("first", rounds=1, rollout=small | rollout))
    replay = {"rounds": 1, "rollout": {"replay": "first"}}
    with pytest.raises(ConfigError, match="but run first sampled with"):
        played(config("again", **replay, **RESIDUAL))
    assert open_session(config("again", **replay, **RESIDUAL)).run.round(0) is None
    played(config("plain", **replay))


def test_a_replay_is_weighed_by_what_the_other_student_sampled_with(config: MakeConfig) -> None:
    narrow: dict[str, Any] = {"score": {"teacher_top_max": 2}, "select": {"keep": 1.0}}
    rollout = {"prompts": 32, "student_top_max": 2}
    played(config("first", rollout=rollout, **narrow))
    tight = {"train": RESIDUAL["train"] | {"residual_cap": 1.0001, "rollouts_per_step": 32}}
    other = {"select": {"rule": "random", "keep": 0.5}, "score": narrow["score"]}
    session = played(config("again", rollout={"replay": "first"}, **other, **tight))
    own, others = numbers(session, "train", "residual")
    assert own["outside"] > 0
    assert own["clipped"] == 0  # one step, of the very student that sampled
    assert others["clipped"] > 0


def test_a_teacher_that_cannot_be_asked_for_ids_is_refused_before_any_work(
    config: MakeConfig, served: Served
) -> None:
    with pytest.raises(ConfigError, match=r"score\.engine = 'server' cannot be asked") as it:
        played(config(**serving(served), **RESIDUAL))
    assert "\n" not in str(it.value)
    with pytest.raises(ConfigError, match="cannot be asked"):
        plan_of(open_session(config(**serving(served), **RESIDUAL)))
    assert not list(open_session(config()).store.list("rollouts", []))

"""Settings that do not go together are refused, with both named."""

from typing import Any

import pytest
from tip.pipeline.config.toml import make_config
from tip.storage.errors import ConfigError

from ..conftest import MakeConfig

LEAST = {
    "name": "x",
    "student": {"model": "s"},
    "teacher": {"model": "t"},
    "prompts": {"source": "p"},
}


def test_several_samples_at_temperature_0_are_refused() -> None:
    evaluate = {"source": "p", "temperature": 0, "samples": 4}
    with pytest.raises(ConfigError, match="samples = 4 with temperature = 0"):
        make_config(LEAST | {"evaluate": evaluate}, "x")


@pytest.mark.parametrize("who", ["student", "teacher"])
def test_several_gpus_and_a_numbered_one_are_refused(who: str) -> None:
    four = LEAST | {who: {"model": "m", "vllm": {"tensor_parallel": 4}}}
    with pytest.raises(ConfigError, match=rf"{who}.vllm.tensor_parallel = 4 .*device = 'cuda:1'"):
        make_config(four | {"device": "cuda:1"}, "x")
    make_config(four | {"device": "cuda"}, "x")


def test_several_processes_and_a_numbered_gpu_are_refused() -> None:
    two = LEAST | {"train": {"processes": 2}}
    with pytest.raises(ConfigError, match=r"train.processes = 2 trains on .*device = 'cuda:1'"):
        make_config(two | {"device": "cuda:1"}, "x")
    make_config(two | {"device": "cuda"}, "x")


def test_a_server_needs_its_section_and_the_section_its_engine(config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=r"score.engine = 'server' and the section"):
        config(score={"mode": "separate", "engine": "server"})
    with pytest.raises(ConfigError, match=r"teacher.server is there"):
        config(teacher={"server": {"url": "http://x"}})


def test_an_engine_that_holds_the_teacher_alone_is_refused_in_joint_mode(
    config: MakeConfig,
) -> None:
    with pytest.raises(ConfigError, match=r"mode = 'joint'.*set mode = 'separate'"):
        config(score={"engine": "vllm"})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({}, "train.loss = 'reverse_kl'"),
        ({"train": {"loss": "jsd"}}, "train.loss = 'jsd'"),
        ({"train": {"loss": "suppress"}}, "train.loss = 'suppress'"),
        ({"train": {"loss": "forward_kl", "tail": False}}, "train.tail = False"),
        ({"train": {"loss": "forward_kl", "clip_token": 2.0}}, "train.clip_token = 2.0"),
        ({"train": {"loss": "forward_kl", "tail": "residual"}}, "train.tail = 'residual'"),
        ({"train": {"loss": "forward_kl"}, "rollout": {"replay": "a"}}, "rollout.replay = 'a'"),
    ],
)
def test_shares_of_draws_are_refused_where_they_cannot_be_trained_on(
    config: MakeConfig, changes: dict[str, Any], named: str
) -> None:
    config(train={"loss": "forward_kl"}, score={"support": "sampled"})
    with pytest.raises(ConfigError, match=rf"score.support = 'sampled'.*but {named}") as it:
        config(score={"support": "sampled"}, **changes)
    assert "\n" not in str(it.value)

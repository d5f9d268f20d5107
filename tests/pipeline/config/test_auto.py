"""What `auto` stands for: decided at the first start, and kept from then on."""

import importlib.util
from typing import Any

import pytest
import torch
from tip.pipeline.config import auto
from tip.pipeline.config.auto import decided
from tip.pipeline.config.run import RunConfig
from tip.pipeline.config.same import same_run
from tip.pipeline.config.toml import make_config
from tip.storage.runs import RunFolder, RunRecord

from .test_run import LEAST

AUTO = make_config(LEAST | {"rollout": {"engine": "auto"}}, "x")
SEPARATE = {"mode": "separate", "engine": "server"}


def machine(monkeypatch: pytest.MonkeyPatch, *, gpu: bool, vllm: bool) -> None:
    device = torch.device("cuda" if gpu else "cpu")
    monkeypatch.setattr(auto, "resolve_device", lambda _: device)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: "it" if vllm else None)


def made(**changes: Any) -> RunConfig:
    """Return the least config with some sections changed."""
    values = dict(LEAST)
    for name, change in changes.items():
        old = values.get(name)
        values[name] = {**old, **change} if isinstance(old, dict) else change
    return make_config(values, "x")


@pytest.mark.parametrize(
    ("gpu", "vllm", "expected"),
    [(True, True, "vllm"), (True, False, "transformers"), (False, True, "transformers")],
)
def test_auto_is_vllm_where_it_is_installed_and_there_is_a_gpu(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, vllm: bool, expected: str
) -> None:
    machine(monkeypatch, gpu=gpu, vllm=vllm)
    config, told = decided(AUTO, None)
    assert config.rollout.engine == expected
    assert told == [f"note: rollout.engine = 'auto' is {expected!r} in this run"]
    assert make_config(LEAST, "x").rollout.engine == "transformers"  # `auto` is to be asked for


def test_on_a_cpu_auto_has_the_keys_of_the_embedded_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, gpu=False, vllm=True)
    config, _ = decided(AUTO, None)
    named, _ = decided(make_config(LEAST, "x"), None)
    assert config.rollout.key() == named.rollout.key()
    assert config.model_dump() == named.model_dump()


def test_a_run_keeps_the_engine_that_it_was_begun_with(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, gpu=True, vllm=True)
    begun = decided(AUTO, None)[0].model_dump(mode="json")
    machine(monkeypatch, gpu=True, vllm=False)
    assert decided(AUTO, RunRecord(config=begun))[0].rollout.engine == "vllm"
    assert decided(AUTO, RunRecord(config={}))[0].rollout.engine == "transformers"
    assert same_run(begun, AUTO) == []
    other = make_config(LEAST | {"rollout": {"engine": "transformers"}}, "x")
    assert same_run(begun, other) == ["rollout.engine"]


def test_a_config_without_auto_stays_the_same_object() -> None:
    named = made(train={"tail": True})
    config, told = decided(named, None)
    assert config is named
    assert told == []


def test_a_tail_has_a_residual_where_nothing_stands_against_it() -> None:
    assert make_config(LEAST, "x").train.tail == "auto"
    config, told = decided(make_config(LEAST, "x"), None)
    assert (config.train.tail, told) == ("residual", [])


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"rollout": {"top_p": 0.9}}, "at temperature 1, but rollout.top_p = 0.9"),
        ({"rollout": {"temperature": 0.7}}, "but rollout.temperature = 0.7"),
        ({"train": {"loss": "forward_kl"}}, "for reverse KL alone, not for 'forward_kl'"),
        (
            {"score": {"support": "sampled"}, "train": {"loss": "forward_kl"}},
            "'sampled' has no tail",
        ),
        (
            {"score": SEPARATE, "teacher": {"server": {"url": "http://u"}}},
            "score.engine = 'server' cannot be asked for the student's ids here",
        ),
        ({"score": SEPARATE | {"engine": "vllm"}}, "score.engine = 'vllm' cannot be asked"),
        ({"rollout": {"replay": "other"}}, "that of run other had no residual"),
    ],
    ids=str,
)
def test_where_something_does_the_tail_is_a_bucket_and_the_reason_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, changes: dict[str, Any], why: str
) -> None:
    machine(monkeypatch, gpu=False, vllm=True)
    config, (told,) = decided(made(runs=str(tmp_path), **changes), None)
    assert config.train.tail is True
    assert told.startswith("note: train.tail = 'auto' is true in this run: ")
    assert why in told


def test_vllm_on_a_gpu_can_be_asked_for_the_students_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, gpu=True, vllm=True)
    config = made(score={"engine": "vllm", "mode": "separate"})
    assert decided(config, None)[0].train.tail == "residual"


def test_a_replay_has_the_tail_of_the_run_that_it_replays(tmp_path: Any) -> None:
    first = decided(make_config(LEAST | {"runs": str(tmp_path)}, "x"), None)[0]
    RunFolder(str(tmp_path), "other").save(RunRecord(config=first.model_dump(mode="json")))
    replay = made(runs=str(tmp_path), rollout={"replay": "other"})
    assert decided(replay, None)[0].train.tail == "residual"


def test_a_run_keeps_the_tail_that_it_was_begun_with() -> None:
    config = make_config(LEAST, "x")
    for tail in (True, False, "residual"):
        begun = made(train={"tail": tail}).model_dump(mode="json")
        kept, told = decided(config, RunRecord(config=begun))
        assert (kept.train.tail, told) == (tail, [])
        assert same_run(begun, config) == []
    assert same_run(begun, made(train={"tail": True})) == ["train.tail"]

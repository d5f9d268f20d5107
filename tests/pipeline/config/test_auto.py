"""What `auto` stands for: decided at the first start, and kept from then on."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from tip.pipeline.config import auto
from tip.pipeline.config.auto import decided
from tip.pipeline.config.run import RunConfig
from tip.pipeline.config.same import same_run
from tip.pipeline.config.toml import make_config
from tip.storage.runs import RunFolder, RunRecord, RunView

from .test_run import LEAST

AUTO = make_config(LEAST | {"rollout": {"engine": "auto"}}, "x")
NOWHERE = RunView("nowhere", "x")
SEPARATE = {"mode": "separate", "engine": "server"}


def machine(monkeypatch: pytest.MonkeyPatch, *, gpu: bool, vllm: bool) -> None:
    device = torch.device("cuda" if gpu else "cpu")
    monkeypatch.setattr(auto, "resolve_device", lambda _: device)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: "it" if vllm else None)


def begun(tmp_path: Path, config: dict[str, Any], rounds: int = 1) -> RunFolder:
    """Return the folder of a run with a record, and with pointers of so many rounds."""
    run = RunFolder(tmp_path, "begun")
    run.save(RunRecord(config=config))
    for number in range(rounds):
        run.point(number, rollouts=("key",))
    return run


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
    config, told = decided(AUTO, NOWHERE)
    assert config.rollout.engine == expected
    assert told == [f"note: rollout.engine = 'auto' is {expected!r} in this run"]
    assert make_config(LEAST, "x").rollout.engine == "transformers"  # `auto` is to be asked for


def test_on_a_cpu_auto_has_the_keys_of_the_embedded_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, gpu=False, vllm=True)
    config, _ = decided(AUTO, NOWHERE)
    named, _ = decided(make_config(LEAST, "x"), NOWHERE)
    assert config.rollout.key() == named.rollout.key()
    assert config.model_dump() == named.model_dump()


def test_a_run_keeps_the_engine_that_it_was_begun_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine(monkeypatch, gpu=True, vllm=True)
    known = decided(AUTO, NOWHERE)[0].model_dump(mode="json")
    machine(monkeypatch, gpu=True, vllm=False)
    assert decided(AUTO, begun(tmp_path, known))[0].rollout.engine == "vllm"
    assert same_run(known, AUTO) == []
    other = make_config(LEAST | {"rollout": {"engine": "transformers"}}, "x")
    assert same_run(known, other) == ["rollout.engine"]


def test_a_config_without_auto_stays_the_same_object() -> None:
    named = made(train={"tail": True})
    config, told = decided(named, NOWHERE)
    assert config is named
    assert told == []


def test_a_tail_has_a_residual_where_nothing_stands_against_it() -> None:
    assert make_config(LEAST, "x").train.tail == "auto"
    config, told = decided(make_config(LEAST, "x"), NOWHERE)
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
        ({"select": {"rule": "eopd"}}, "for reverse KL alone, not for 'jeffreys'"),
    ],
    ids=str,
)
def test_where_something_does_the_tail_is_a_bucket_and_the_reason_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    machine(monkeypatch, gpu=False, vllm=True)
    config, (told,) = decided(made(runs=str(tmp_path), **changes), NOWHERE)
    assert config.train.tail is True
    assert told.startswith("note: train.tail = 'auto' is true in this run: ")
    assert why in told


def test_vllm_on_a_gpu_can_be_asked_for_the_students_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, gpu=True, vllm=True)
    config = made(score={"engine": "vllm", "mode": "separate"})
    assert decided(config, NOWHERE)[0].train.tail == "residual"


def test_a_replay_and_a_branch_have_the_tail_of_the_run_that_they_follow(tmp_path: Path) -> None:
    replay = made(runs=str(tmp_path), rollout={"replay": "begun", "top_p": 0.5})  # of no use here
    branch = made(runs=str(tmp_path))
    for tail in (True, False, "residual"):
        begun(tmp_path, made(train={"tail": tail}).model_dump(mode="json"))
        for config, origin in ((replay, None), (branch, "begun@1")):
            found, told = decided(config, NOWHERE, origin)
            assert found.train.tail == tail
            word = str(tail).lower()
            why = f"note: train.tail = 'auto' is {word} in this run: that of run begun is"
            assert told == ([] if tail == "residual" else [why])
    other = made(runs=str(tmp_path), rollout={"replay": "begun"}, train={"loss": "jsd"})
    found, (told,) = decided(other, NOWHERE)
    assert found.train.tail is True
    assert "not for 'jsd'" in told


def test_a_run_keeps_the_tail_that_it_was_begun_with(tmp_path: Path) -> None:
    config = make_config(LEAST, "x")
    known: dict[str, Any] = {}
    for tail in (True, False, "residual"):
        known = made(train={"tail": tail}).model_dump(mode="json")
        kept, told = decided(config, begun(tmp_path, known))
        assert (kept.train.tail, told) == (tail, [])
        assert same_run(known, config) == []
    assert same_run(known, made(train={"tail": True})) == ["train.tail"]
    assert decided(config, begun(tmp_path, LEAST))[0].train.tail is True  # no word of it then


def test_a_first_start_that_was_stopped_before_any_round_decides_nothing(tmp_path: Path) -> None:
    known = made(train={"tail": "residual"}).model_dump(mode="json")
    config, (told,) = decided(made(rollout={"top_p": 0.9}), begun(tmp_path, known, rounds=0))
    assert config.train.tail is True
    assert "rollout.top_p = 0.9" in told

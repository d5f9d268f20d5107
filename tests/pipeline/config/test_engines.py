"""`auto` is vLLM where that is installed beside a GPU, and stays what a run was begun with."""

import importlib.util

import pytest
import torch
from tip.pipeline.config import engines
from tip.pipeline.config.engines import with_engines
from tip.pipeline.config.same import same_run
from tip.pipeline.config.toml import make_config
from tip.storage.runs import RunRecord

from .test_run import LEAST

AUTO = make_config(LEAST | {"rollout": {"engine": "auto"}}, "x")


def machine(monkeypatch: pytest.MonkeyPatch, *, gpu: bool, vllm: bool) -> None:
    device = torch.device("cuda" if gpu else "cpu")
    monkeypatch.setattr(engines, "resolve_device", lambda _: device)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: "it" if vllm else None)


@pytest.mark.parametrize(
    ("gpu", "vllm", "expected"),
    [(True, True, "vllm"), (True, False, "transformers"), (False, True, "transformers")],
)
def test_auto_is_vllm_where_it_is_installed_and_there_is_a_gpu(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, vllm: bool, expected: str
) -> None:
    machine(monkeypatch, gpu=gpu, vllm=vllm)
    assert with_engines(AUTO, None).rollout.engine == expected
    named = make_config(LEAST | {"rollout": {"engine": "transformers"}}, "x")
    assert with_engines(named, None) is named
    assert make_config(LEAST, "x").rollout.engine == "transformers"  # `auto` is to be asked for


def test_on_a_cpu_auto_has_the_keys_of_the_embedded_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, gpu=False, vllm=True)
    decided = with_engines(AUTO, None)
    assert decided.rollout.key() == make_config(LEAST, "x").rollout.key()
    assert decided.model_dump() == make_config(LEAST, "x").model_dump()


def test_a_run_keeps_the_engine_that_it_was_begun_with(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, gpu=True, vllm=True)
    begun = with_engines(AUTO, None).model_dump(mode="json")
    machine(monkeypatch, gpu=True, vllm=False)
    assert with_engines(AUTO, RunRecord(config=begun)).rollout.engine == "vllm"
    assert with_engines(AUTO, RunRecord(config={})).rollout.engine == "transformers"
    assert same_run(begun, AUTO) == []
    other = make_config(LEAST | {"rollout": {"engine": "transformers"}}, "x")
    assert same_run(begun, other) == ["rollout.engine"]

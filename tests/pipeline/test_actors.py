"""What an actor takes is what this process would compute with, or what is set."""

import re
from typing import Any

import pytest
import torch
from tip.pipeline import actors
from tip.pipeline.actors import Share, require_ray, share_of, threads_of
from tip.storage.errors import ConfigError

from .conftest import MakeConfig

RAY = {"executor": "ray"}


@pytest.mark.parametrize(
    ("threads", "cpus", "share"),
    [
        (1, None, Share(1, 0.0, 1, "cpu")),
        (3, None, Share(3, 0.0, 3, "cpu")),
        (3, 2, Share(2, 0.0, 3, "cpu")),  # threads decide last digits, whatever is reserved
        (0, 2, Share(2, 0.0, 2, "cpu")),
        (0, None, Share(5, 0.0, 5, "cpu")),
    ],
)
def test_threads_are_those_of_this_process_where_none_are_set(
    config: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
    threads: int,
    cpus: int | None,
    share: Share,
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    workers = RAY if cpus is None else RAY | {"cpus": cpus}
    settings = config(threads=threads, device="cpu", workers=workers)
    assert (share_of(settings), threads_of(settings)) == (share, share.threads)
    assert threads_of(config(threads=threads)) == threads


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actors, "resolve_device", lambda _: torch.device("cuda"))


@pytest.mark.parametrize(
    ("changes", "gpus"),
    [
        ({}, 1),
        ({"workers": RAY | {"gpus": 0.5}}, 0.5),
        ({"rollout": {"engine": "vllm"}, "student": {"vllm": {"tensor_parallel": 4}}}, 4),
        ({"student": {"vllm": {"tensor_parallel": 4}}}, 1),  # transformers uses one
        (
            {
                "score": {"mode": "separate", "engine": "vllm"},
                "teacher": {"vllm": {"tensor_parallel": 8}},
                "rollout": {"engine": "vllm"},
                "student": {"vllm": {"tensor_parallel": 2}},
            },
            8,
        ),
    ],
)
def test_an_actor_has_the_gpus_of_the_widest_model_that_it_runs(
    config: MakeConfig, on_gpu: None, changes: dict[str, Any], gpus: float
) -> None:
    share = share_of(config(**({"threads": 0, "workers": RAY} | changes)))
    assert (share.gpus, share.cpus, share.device) == (gpus, 1, "cuda")


@pytest.mark.parametrize(
    ("workers", "changes", "said"),
    [
        ({"gpus": 0}, {}, "workers.gpus = 0, but models are computed on the device cuda"),
        (
            {"gpus": 2},
            {"rollout": {"engine": "vllm"}, "student": {"vllm": {"tensor_parallel": 4}}},
            "workers.gpus = 2, but student.vllm.tensor_parallel = 4 needs as many for each actor",
        ),
    ],
)
def test_gpus_that_do_not_fit_are_refused(
    config: MakeConfig, on_gpu: None, workers: dict[str, Any], changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        share_of(config(workers=RAY | workers, **changes))


def test_a_gpu_for_what_computes_on_a_cpu_is_refused(config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=r"workers.gpus = 1, but .* the device cpu"):
        share_of(config(device="cpu", workers=RAY | {"gpus": 1}))


def test_ray_that_is_not_installed_is_named_with_the_way_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    require_ray()
    monkeypatch.setattr(actors, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=re.escape("pip install 'tip-opd[ray]'")):
        require_ray()

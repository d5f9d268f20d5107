"""The settings of an engine reach vLLM, as arguments and as environment."""

import pickle
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from tip.stages.engines.vllm.spec import scoring_batch
from vllm_pair import spec


def test_a_scoring_batch_keeps_its_logits_under_a_gibibyte() -> None:
    assert scoring_batch(151_936) * 151_936 * 4 <= 1 << 30
    assert scoring_batch(49_152) * 49_152 * 4 <= 1 << 30
    assert scoring_batch(10**9) == 256
    assert scoring_batch(36) == 8192


def test_engine_settings_reach_vllm() -> None:
    made = spec(
        Path("m"),
        device="cuda",
        tensor_parallel=4,
        memory=0.7,
        quantization="fp8",
        scoring=True,
        vocabulary=151_936,
        kv_cache_dtype="fp8",
        dtype="bfloat16",
    )
    found = made.arguments()
    assert found["tensor_parallel_size"] == 4
    assert found["gpu_memory_utilization"] == 0.7
    assert (found["quantization"], found["kv_cache_dtype"]) == ("fp8", "fp8")
    assert found["enable_prefix_caching"] is False
    assert found["enforce_eager"] is False
    assert found["max_num_batched_tokens"] == scoring_batch(151_936)
    assert spec(Path("m")).arguments()["enforce_eager"] is True


def test_prompts_are_not_cut_in_two_on_a_cpu_unless_they_are_only_read() -> None:
    assert spec(Path("m"), batch_tokens=64).arguments()["max_num_batched_tokens"] == 128  # longest
    assert spec(Path("m")).arguments()["enable_chunked_prefill"] is False
    assert spec(Path("m"), scoring=True).arguments()["enable_chunked_prefill"] is True


def test_what_reads_images_is_not_loaded() -> None:
    for made in (spec(Path("m")), spec(Path("m"), scoring=True, device="cuda")):
        assert made.arguments()["language_model_only"] is True


def test_an_engine_sees_the_gpu_it_is_to_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    second = spec(Path("m"), device="cuda:1")
    assert second.environment()["CUDA_VISIBLE_DEVICES"] == "1"
    assert "CUDA_VISIBLE_DEVICES" not in spec(Path("m"), device="cuda").environment()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert second.environment()["CUDA_VISIBLE_DEVICES"] == "7"


def test_children_of_vllm_inherit_no_pipe() -> None:
    for device in ("cpu", "cuda"):
        environment = spec(Path("m"), device=device).environment()
        assert environment["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"


def test_nothing_is_compiled_on_a_cpu_unless_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TORCH_COMPILE_DISABLE", raising=False)
    assert spec(Path("m")).environment()["TORCH_COMPILE_DISABLE"] == "1"
    for changes in ({"enforce_eager": False}, {"device": "cuda"}):
        assert "TORCH_COMPILE_DISABLE" not in spec(Path("m"), **changes).environment()


def test_a_spec_is_a_value_that_may_be_sent() -> None:
    made = spec(Path("m"), batch_tokens=64)
    assert pickle.loads(pickle.dumps(made)) == made
    assert hash(made) == hash(spec(Path("m"), batch_tokens=64))
    with pytest.raises(FrozenInstanceError):
        made.folder = Path("other")  # type: ignore[misc]

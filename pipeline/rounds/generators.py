"""Which engine generates or scores with a model, as a value."""

from dataclasses import replace

import torch

from ...stages.engines.probe import probe_key, probe_sequences
from ...stages.engines.settings import SamplingSettings
from ...stages.engines.vllm.spec import EngineSpec
from ...stages.holder import Embedded, Generator, InVllm, Reader, Sequences, Served, as_arrays
from ...stages.models.weights import Weights
from ...stages.score.checks import CHECK_TOLERANCE
from ...storage.errors import ConfigError
from ...storage.facts import CheckpointFacts
from ..actors import threads_of
from ..session import Session


def generator_of(session: Session, weights: Weights, section: SamplingSettings) -> Generator:
    """Return what generates with a model for a section of the config.

    A vLLM process serves rollouts and evaluations alike, so it has room for both.
    """
    if section.engine == "transformers":
        # a CPU's batch stays in its shard: the same bits, whatever else is asked for
        spans = session.device.type != "cpu"
        return Embedded(weights, section.batch_size, spans=spans, graphs=section.graphs)
    probes = probes_of(session)
    return InVllm(weights, _writing(session, weights), probes, _known_reference(weights, probes))


def check_room(session: Session) -> None:
    """Raise `ConfigError` where vLLM is told to take less than the longest prompt and response."""
    if any(section.engine == "vllm" for section in _sections(session)):
        _writing(session, session.inputs.first_student)
    reader_of(session)


def probes_of(session: Session) -> Sequences:
    """Return the sequences on which an engine is compared with the embedded one.

    Empty where no engine but the embedded one generates.
    """
    if all(section.engine == "transformers" for section in _sections(session)):
        return ()
    return tuple(tuple(ids.tolist()) for ids in probe_sequences(session.inputs.everything_asked()))


def reader_of(session: Session) -> Reader | Served | None:
    """Return what scores with the teacher, None where the embedded engine does."""
    config = session.config
    settings, engine = config.score, config.score.engine
    if engine == "transformers":
        return None
    teacher = session.inputs.teacher(engine)
    needed = session.inputs.longest_shown + config.rollout.max_tokens
    if engine == "server":
        assert config.teacher.server is not None  # the config says so
        tolerance = CHECK_TOLERANCE[getattr(torch, teacher.dtype)]
        return Served(teacher.card, config.teacher.server, needed, settings.engine_top, tolerance)
    # a row of given ids may be as wide as the student's part of the support
    top = max(settings.engine_top, config.rollout.student_top_max)
    spec = replace(_spec(session, teacher, needed + 1, 256, top), scoring=True, top=top)
    return Reader(teacher, spec, settings.engine_top, given_ids=session.device.type == "cuda")


def _sections(session: Session) -> list[SamplingSettings]:
    """Return the sections of all that is generated."""
    config = session.config
    return [config.rollout, *([config.evaluate] if config.evaluate else [])]


def _writing(session: Session, weights: Weights) -> EngineSpec:
    """Return what a process that generates is started with: with room for all sections."""
    sections, asked = _sections(session), session.inputs.everything_asked()
    return _spec(
        session,
        weights,
        needed=max(len(p.ids) for p in asked) + max(s.max_tokens for s in sections),
        rows=max(s.batch_size for s in sections),
        top=max(session.config.rollout.student_top_max, 1),
    )


def _known_reference(weights: Weights, probes: Sequences) -> tuple[float, ...] | None:
    """Return what a checkpoint knows of the probes since its training."""
    artifact = weights.checkpoint
    known = CheckpointFacts.of(artifact).probe if artifact is not None else None
    found = (known or {}).get(probe_key(as_arrays(probes)))
    return None if found is None else tuple(found)


def _spec(session: Session, weights: Weights, needed: int, rows: int, top: int) -> EngineSpec:
    """Return what a process for a model is started with. needed: tokens of a sequence."""
    vllm, card = weights.vllm, weights.card
    longest = vllm.max_model_len or needed
    if longest < needed:
        raise ConfigError(
            f"vllm.max_model_len = {longest}, but prompts and responses take up to {needed} "
            "tokens: raise it, or leave it out"
        )
    return EngineSpec(
        folder=card.folder,
        dtype=weights.dtype,
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
        trust_remote_code=card.code,
        threads=threads_of(session.config),
    )

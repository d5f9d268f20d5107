"""How much memory a device needs in each stage, from configs and the headers of weights alone."""

from dataclasses import dataclass

from ...stages.engines.vllm.spec import scoring_batch
from ...stages.models.size import Shape, shape_of
from ..session import Session

_GIB = 1 << 30
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_MASTER_BYTES = 16  # float32 weight, gradient and two moments


@dataclass(frozen=True)
class Need:
    """What one stage needs. what: made of what. bytes: a device; None where it is not known.

    least: what of them is no estimate: weights, or masters with their gradients and moments.
    """

    stage: str
    what: str
    bytes: float | None
    least: float | None


def memory_of(session: Session) -> list[Need]:
    """Return what each stage needs."""
    config, inputs = session.config, session.inputs
    student, teacher = shape_of(inputs.student_card), shape_of(inputs.teacher_card)
    longest = max(len(p.ids) for p in inputs.prompts) + config.rollout.max_tokens
    small = _weights(inputs.first_student.dtype, student)
    large = _weights(inputs.teacher(config.score.engine).dtype, teacher)
    chunk = 4 * 3 * config.score.chunk_elements
    needs = [_rollout(session, student, small, longest)]
    if config.score.mode == "joint":
        both = None if small is None or large is None else small + large
        what = "both models and a chunk of logits each"
        needs.append(Need("score", what, _add(both, 2 * chunk), both))
    else:
        needs.append(_teacher(session, teacher, large, chunk))
        what = "the student and a chunk of logits"
        needs.append(Need("score (student)", what, _add(small, chunk), small))
    needs.append(_training(session, student, longest))
    return needs


def _training(session: Session, student: Shape, longest: int) -> Need:
    settings = session.config.train
    what = "float32 masters, gradients, moments, activations"
    if student.parameters is None:
        return Need("train", what, None, None)
    tokens = max(settings.batch_tokens, longest)
    checkpointing = settings.activation_checkpointing
    activations = tokens * student.hidden * (2 if checkpointing else 34)
    activations *= 1 if checkpointing else student.layers
    logits = 12 * settings.chunk_elements
    masters = student.parameters * _MASTER_BYTES
    return Need("train", what, masters + 4 * activations + logits, masters)


def _weights(dtype: str, shape: Shape) -> float | None:
    return None if shape.parameters is None else shape.parameters * _BYTES[dtype]


def _add(weights: float | None, more: float) -> float | None:
    return None if weights is None else weights + more


def _rollout(session: Session, shape: Shape, weights: float | None, longest: int) -> Need:
    config = session.config
    vllm, rollout = config.student.vllm, config.rollout
    if rollout.engine == "vllm":
        if session.device.type == "cpu":
            size = _add(weights, vllm.cpu_cache_gb * _GIB)
            return Need("rollout", "vLLM: weights and its cache", size, weights)
        share = None if weights is None else weights / vllm.tensor_parallel
        text = f"vLLM: weights on each of {vllm.tensor_parallel}, then {vllm.memory:.0%} of it all"
        return Need("rollout", text, share, share)
    together = min(rollout.batch_size, 32 * rollout.samples)  # a batch stays in its shard
    width = _BYTES[session.inputs.first_student.dtype]
    cache = together * longest * shape.cache_elements * width
    what = f"weights and the cache of {together} rows"
    return Need("rollout", what, _add(weights, cache), weights)


def _teacher(session: Session, shape: Shape, weights: float | None, chunk: int) -> Need:
    config, stage = session.config, "score (teacher)"
    if config.score.engine == "server":
        return Need(stage, "on the server", 0.0, 0.0)
    if config.score.engine == "transformers":
        return Need(stage, "the teacher and a chunk of logits", _add(weights, chunk), weights)
    vllm = config.teacher.vllm
    logits = 3 * 4 * (vllm.batch_tokens or scoring_batch(shape.vocabulary)) * shape.vocabulary
    if session.device.type == "cpu":
        size = _add(weights, vllm.cpu_cache_gb * _GIB + logits)
        return Need(stage, "vLLM: weights, its cache, logits of a batch", size, weights)
    text = f"vLLM: weights on each of {vllm.tensor_parallel} and logits, then {vllm.memory:.0%}"
    share = None if weights is None else weights / vllm.tensor_parallel
    return Need(stage, text, _add(share, logits), share)

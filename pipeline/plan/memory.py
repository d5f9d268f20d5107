"""How much memory a device needs in each stage, from configs and the headers of weights alone."""

import json
from dataclasses import dataclass
from pathlib import Path

from ...stages.engines.vllm.spec import scoring_batch
from ...stages.models.card import ModelCard
from ...stages.models.settings import ModelSettings
from ..session import Session

_GIB = 1 << 30
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_MASTER_BYTES = 16  # float32 weight, gradient and two moments


@dataclass(frozen=True)
class Shape:
    """A model in numbers: parameters, bytes of keys and values a token an element, rows, width."""

    parameters: int
    cache_elements: int
    vocabulary: int
    hidden: int
    layers: int


def shape_of(card: ModelCard) -> Shape:
    """Return a model in numbers, from its config and the headers of its weights."""
    config = json.loads((card.folder / "config.json").read_text())
    heads = config.get("num_key_value_heads") or config.get("num_attention_heads") or 1
    width = config.get("hidden_size") or 1
    head = config.get("head_dim") or width // (config.get("num_attention_heads") or 1)
    layers = config.get("num_hidden_layers") or 1
    files = sorted(card.folder.glob("*.safetensors"))
    parameters = sum(_parameters(file) for file in files)
    return Shape(parameters, 2 * layers * heads * head, card.head_rows, width, layers)


def _parameters(file: Path) -> int:
    with file.open("rb") as data:
        header = json.loads(data.read(int.from_bytes(data.read(8), "little")))
    total = 0
    for name, tensor in header.items():
        if name != "__metadata__":
            size = 1
            for side in tensor["shape"]:
                size *= side
            total += size
    return total


def memory_of(session: Session) -> list[tuple[str, str, float]]:
    """Return (stage, what it is made of, bytes a device) for each stage."""
    config = session.config
    student, teacher = shape_of(session.student_card), shape_of(session.teacher_card)
    longest = max(len(p.ids) for p in session.prompts) + config.rollout.max_tokens
    small = _weights(session, config.student, student)
    large = _weights(session, config.teacher, teacher)
    chunk = 4 * 3 * config.score.chunk_elements
    rows = [_rollout_memory(session, student, small, longest)]
    if config.score.mode == "joint":
        rows.append(("score", "both models and a chunk of logits each", small + large + 2 * chunk))
    else:
        rows.append(_teacher_memory(session, teacher, large, longest, chunk))
        rows.append(("score (student)", "the student and a chunk of logits", small + chunk))
    tokens = max(config.train.batch_tokens, longest)
    activations = tokens * student.hidden * (2 if config.train.activation_checkpointing else 34)
    activations *= 1 if config.train.activation_checkpointing else student.layers
    training = (
        student.parameters * _MASTER_BYTES + 4 * activations + 12 * config.train.chunk_elements
    )
    rows.append(("train", "float32 masters, gradients, moments, activations", training))
    return rows


def _weights(session: Session, settings: ModelSettings, shape: Shape) -> float:
    return shape.parameters * _BYTES[str(session.dtype(settings)).removeprefix("torch.")]


def _rollout_memory(
    session: Session, shape: Shape, weights: float, longest: int
) -> tuple[str, str, float]:
    config = session.config
    vllm, rollout = config.student.vllm, config.rollout
    size = _BYTES[str(session.dtype(config.student)).removeprefix("torch.")]
    if rollout.engine == "vllm":
        if session.device.type == "cpu":
            return "rollout", "vLLM: weights and its cache", weights + vllm.cpu_cache_gb * _GIB
        share = weights / vllm.tensor_parallel
        text = f"vLLM: weights on each of {vllm.tensor_parallel}, then {vllm.memory:.0%} of it all"
        return "rollout", text, share
    together = min(rollout.batch_size, 32 * rollout.samples)  # a batch stays in its shard
    cache = together * longest * shape.cache_elements * size
    return "rollout", f"weights and the cache of {together} rows", weights + cache


def _teacher_memory(
    session: Session, shape: Shape, weights: float, longest: int, chunk: int
) -> tuple[str, str, float]:
    config = session.config
    if config.score.engine == "server":
        return "score (teacher)", "on the server", 0.0
    if config.score.engine == "transformers":
        return "score (teacher)", "the teacher and a chunk of logits", weights + chunk
    vllm = config.teacher.vllm
    logits = 3 * 4 * (vllm.batch_tokens or scoring_batch(shape.vocabulary)) * shape.vocabulary
    if session.device.type == "cpu":
        total = weights + vllm.cpu_cache_gb * _GIB + logits
        return "score (teacher)", "vLLM: weights, its cache, logits of a batch", total
    text = f"vLLM: weights on each of {vllm.tensor_parallel} and logits, then {vllm.memory:.0%}"
    return "score (teacher)", text, weights / vllm.tensor_parallel + logits

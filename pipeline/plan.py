"""`tip run --dry-run`: what a run would do and take, from configs and manifests alone.

Nothing is written and no weights are read beyond their headers. What lies in the store is found by
the keys that the run itself would ask for; those of later rounds depend on students that do not
exist yet, so they count as to be made. Estimates say what they rest on.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..stages.engines.vllm_engine import scoring_batch
from ..stages.models import ModelCard
from ..stages.prompts import Prompt, shards
from ..stages.rollout import rollout_inputs, sampling_of
from ..stages.settings import ModelSettings
from ..storage.artifacts import artifact_key
from ..storage.store import Artifact, Store
from .engines import compute_of
from .rounds import first_round
from .separate import Teacher
from .session import Session, Student

GIB = 1 << 30
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Where the store says nothing: entries a token and bytes an entry, of the SmolLM2 pair; a row of
# the narrow table; a token and its top ids in `rollouts`.
_ENTRY_BYTES, _ENTRIES, _TOKEN_BYTES, _ROLLOUT_BYTES = 2.8, 90, 48, 200
_MASTER_BYTES = 16  # float32 weight, gradient and two moments
_WIDTH = 120  # columns of what goes to a file or a pipe
_KNOWN_SHARDS = 64  # manifests read for lengths and sizes


@dataclass(frozen=True)
class RoundPlan:
    """One round: what it takes, and how much of it is in the store. Tokens are estimates."""

    number: int
    shards: int
    rollouts: int
    tokens: int
    teacher_tokens: int
    bytes: int
    cached_rollouts: int | None
    cached_scores: int | None
    trained: bool


@dataclass(frozen=True)
class Plan:
    """What a run would do."""

    rounds: list[RoundPlan]
    response_tokens: float
    basis: str
    memory: list[tuple[str, str, float]]


@dataclass(frozen=True)
class Shape:
    """A model in numbers: parameters, bytes of keys and values a token an element, rows, width."""

    parameters: int
    cache_elements: int
    vocabulary: int
    hidden: int
    layers: int


def make_plan(session: Session, store: Store | None) -> Plan:
    """Return the plan of a run. store: None where there is none yet."""
    config = session.config
    known = _known(store, session)
    length, basis = _response_tokens(session, known)
    entry_bytes = _bytes_a_token(known)
    rounds = []
    for number in range(first_round(session.run), config.rounds):
        prompts = session.round_prompts(number)
        count = len(prompts) * config.rollout.samples
        tokens = round(count * length)
        asked = sum(len(p.ids) for p in prompts) * config.rollout.samples
        rollouts, scores = _cached(session, store, number, prompts)
        rounds.append(
            RoundPlan(
                number,
                len([*shards(prompts)]),
                count,
                tokens,
                tokens + asked,
                round(tokens * entry_bytes),
                rollouts,
                scores,
                _is_trained(session, store, number),
            )
        )
    return Plan(rounds, length, basis, _memory(session))


def _known(store: Store | None, session: Session) -> dict[str, list[Artifact]]:
    """Return shards of the store that tell of lengths and sizes: this run's, else anybody's."""
    if store is None:
        return {}
    found: dict[str, list[Artifact]] = {}
    pointers = [p for _, p in session.run.rounds()]
    for kind in ("rollouts", "teacher", "tokens"):
        keys = [key for p in pointers for key in p.get(kind, [])][-_KNOWN_SHARDS:]
        own = [a for key in keys if (a := store.find(kind, key)) is not None]
        found[kind] = own or _first(store.list(kind, damaged=[]), _KNOWN_SHARDS)
    return found


def _first(artifacts: Iterable[Artifact], most: int) -> list[Artifact]:
    return [a for a, _ in zip(artifacts, range(most), strict=False)]


def _response_tokens(session: Session, known: dict[str, list[Artifact]]) -> tuple[float, str]:
    """Return the expected tokens of a response, and where that comes from."""
    most = session.config.rollout.max_tokens
    like = [
        a
        for a in known.get("rollouts", [])
        if a.inputs.get("max_tokens") == most and a.facts["rollouts"]
    ]
    if not like:
        return float(most), "the longest allowed (nothing like it in the store yet)"
    mean = sum(a.facts["tokens"] for a in like) / sum(a.facts["rollouts"] for a in like)
    return mean, f"the mean of {len(like)} stored shards"


def _bytes_a_token(known: dict[str, list[Artifact]]) -> float:
    """Return the bytes that a response token takes in the store, all tables together."""
    usual = {
        "rollouts": _ROLLOUT_BYTES,
        "teacher": _ENTRIES * _ENTRY_BYTES,
        "tokens": _TOKEN_BYTES,
    }
    total = 0.0
    for kind, guess in usual.items():
        artifacts = known.get(kind, [])
        tokens = sum(_tokens_of(a) for a in artifacts)
        total += sum(a.bytes for a in artifacts) / tokens if tokens else guess
    return total


def _tokens_of(artifact: Artifact) -> int:
    return artifact.facts.get("tokens") or sum(p.rows or 0 for p in artifact.parts.values())


def _cached(
    session: Session, store: Store | None, number: int, prompts: Sequence[Prompt]
) -> tuple[int | None, int | None]:
    """Return how many shards of rollouts and of scores are there; None where keys are unknown."""
    if store is None:
        return 0, 0
    student = _student(session, store, number)
    if student is None:
        return None, None
    config = session.config
    sampling = sampling_of(config.rollout, session.student_card.stop_ids, config.seed)
    dtype = compute_of(session, student.settings, config.rollout.engine)
    teacher, found, scored = Teacher(session), 0, 0
    for part in shards(prompts):
        inputs = rollout_inputs(student.fingerprint, dtype, part, config.rollout, sampling)
        rollouts = store.find("rollouts", artifact_key("rollouts", inputs))
        if rollouts is not None:
            key = artifact_key("teacher", teacher.inputs(rollouts))
            found, scored = found + 1, scored + (store.find("teacher", key) is not None)
    return found, scored


def _student(session: Session, store: Store, number: int) -> Student | None:
    if number and not _is_trained(session, store, number - 1):
        return None
    return session.student(number)


def _is_trained(session: Session, store: Store | None, number: int) -> bool:
    key = (session.run.round(number) or {}).get("checkpoint")
    return bool(store and key and store.find("checkpoint", key))


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


def _memory(session: Session) -> list[tuple[str, str, float]]:
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
            return "rollout", "vLLM: weights and its cache", weights + vllm.cpu_cache_gb * GIB
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
        total = weights + vllm.cpu_cache_gb * GIB + logits
        return "score (teacher)", "vLLM: weights, its cache, logits of a batch", total
    text = f"vLLM: weights on each of {vllm.tensor_parallel} and logits, then {vllm.memory:.0%}"
    return "score (teacher)", text, weights / vllm.tensor_parallel + logits


def print_plan(session: Session, plan: Plan) -> None:
    """Print a plan as two tables and a line of sums."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)
    table = Table(
        title=f"run {session.config.name}: {len(plan.rounds)} rounds", title_justify="left"
    )
    for name in ("round", "shards", "rollouts", "tokens", "teacher tokens", "disk", "in the store"):
        table.add_column(name, justify="left" if name == "in the store" else "right")
    for r in plan.rounds:
        table.add_row(
            str(r.number),
            str(r.shards),
            f"{r.rollouts:,}",
            f"{r.tokens:,}",
            f"{r.teacher_tokens:,}",
            _size(r.bytes),
            _state(r),
        )
    console.print(table)
    console.print(
        f"estimates: {plan.response_tokens:.0f} tokens a response ({plan.basis}); "
        f"{sum(r.tokens for r in plan.rounds):,} tokens and "
        f"{_size(sum(r.bytes for r in plan.rounds))} in all, checkpoints beside",
        soft_wrap=True,
    )
    memory = Table(title=f"memory on {session.device} (estimates)", title_justify="left")
    for name in ("stage", "about", "what"):
        memory.add_column(name, justify="right" if name == "about" else "left")
    for stage, what, size in plan.memory:
        memory.add_row(stage, _size(size), what)
    console.print(memory)


def _state(plan: RoundPlan) -> str:
    if plan.trained:
        return "trained"
    if plan.cached_rollouts is None:
        return "not known before"
    of = plan.shards
    return f"{plan.cached_rollouts}/{of} rolled out, {plan.cached_scores}/{of} scored"


def _size(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:.0f} B"


def dry_run(session: Session) -> dict[str, Any]:
    """Print what a run would do, and return its sums; nothing is written."""
    plan = make_plan(session, session.store_if_there())
    print_plan(session, plan)
    return {
        "tokens": sum(r.tokens for r in plan.rounds),
        "bytes": sum(r.bytes for r in plan.rounds),
    }

"""A round of training on tiny models, and the dense loop that its gradient is held against."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from tiny import CPU, CUT, load, prompts, score_settings, select, shard, training_data, write_model
from tip.stages.models.device import resolve_dtype
from tip.stages.models.language_model import LanguageModel
from tip.stages.score.joint import score_joint
from tip.stages.train.data import TrainingData
from tip.stages.train.settings import TrainSettings
from tip.stages.train.step import SelectiveStep
from tip.stages.train.train import _trainable, accumulate
from tip.stages.train.worlds.alone import Alone
from torch import Tensor

ALL = np.arange(10)


@dataclass(frozen=True)
class Round:
    """A student's folder and what it is to be trained on."""

    student: Path
    data: TrainingData


def make_round(folder: Path, architecture: str, *, tied: bool) -> Round:
    """Return ten rollouts of a student, some of their tokens selected, two rollouts without any."""
    student = write_model(folder / "student", architecture, seed=1, tied=tied)
    teacher = write_model(folder / "teacher", "llama", seed=2)
    rollouts = shard(student, teacher, prompts(4, 7, 2, 3, 5), max_tokens=10).rollouts
    flags = [[i % 5 > 0 for i in range(len(r))] for r in rollouts["response_ids"].to_pylist()]
    place = rollouts.column_names.index("trainable")
    field = rollouts.schema.field("trainable")
    rollouts = rollouts.set_column(place, field, pa.array(flags, field.type))
    signals, *_ = score_joint(load(student), load(teacher), rollouts, score_settings())
    return Round(student, training_data(folder, [(rollouts, signals)], select(rollouts), CUT))


def subset(data: TrainingData, rows: np.ndarray) -> TrainingData:
    """Return a round of some rollouts only."""
    tokens = np.concatenate([data.tokens(row) for row in rows])
    ragged = {n: getattr(data, n).take(rows) for n in ("prompts", "responses", "old_logprobs")}
    return TrainingData(
        rollouts=data.rollouts[rows],
        trainable=data.trainable[rows],
        selected=data.selected[rows],
        positions=data.positions[tokens],
        weights=data.weights[tokens],
        supports=data.supports.take(tokens),
        drawn=None if data.drawn is None else data.drawn.take(tokens),
        losses=None if data.losses is None else data.losses[tokens],
        **ragged,
    )


def train_settings(**changes: Any) -> TrainSettings:
    """Return settings that cut a round of ten rollouts into steps of 4, 4 and 2.

    A GPU computes in float32, too, and compiles nothing unless it is told to.
    """
    usual = {"rollouts_per_step": 4, "lr": 1e-2, "batch_tokens": 40, "chunk_elements": 300}
    usual |= {"autocast": "float32", "compile": False}
    return TrainSettings(**usual | changes)


def trainable(
    folder: Path, dtype: torch.dtype = torch.float32, *, device: torch.device = CPU
) -> LanguageModel:
    """Load a model that wants gradients."""
    student = load(folder, dtype, device=device)
    student.model.requires_grad_(True)
    return student


def step_of(student: LanguageModel, settings: TrainSettings) -> SelectiveStep:
    """Return the step as a training on this device takes it."""
    return SelectiveStep(student, settings, resolve_dtype(settings.autocast, student.device))


def gradients(student: LanguageModel) -> dict[str, Tensor]:
    """Return the gradient of each parameter that has one, float64, on the CPU."""
    named = student.model.named_parameters()
    return {n: p.grad.double().cpu() for n, p in named if p.grad is not None}


def distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Return the norm of the difference, relative to the norm of what is expected."""
    assert found.keys() == expected.keys()
    gap = sum(float((found[n] - expected[n]).square().sum()) for n in expected)
    return math.sqrt(gap / sum(float(v.square().sum()) for v in expected.values()))


def accumulated(
    made: Round,
    rows: np.ndarray = ALL,
    dtype: torch.dtype = torch.float32,
    *,
    device: torch.device = CPU,
    **changes: Any,
) -> tuple[float, dict[str, Tensor]]:
    """Return loss and gradient of one step over rows as the stage computes them."""
    student, chosen = trainable(made.student, dtype, device=device), train_settings(**changes)
    if chosen.activation_checkpointing:
        _trainable(student, chosen)
    due = denominator(made.data, rows, chosen.normalise)
    step = step_of(student, chosen)
    loss, _, _ = accumulate(Alone(), step, made.data, rows, chosen, due).read()
    return loss, gradients(student)


def weights(student: LanguageModel) -> dict[str, Tensor]:
    """Return a copy of all parameters, on the CPU."""
    return {n: p.detach().to("cpu", copy=True) for n, p in student.model.named_parameters()}


def same_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Tell whether all tensors are equal."""
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def denominator(data: TrainingData, rows: np.ndarray, normalise: str = "mean") -> float:
    """Return what the loss of a step over these rollouts is divided by."""
    if normalise == "total":
        return float(data.trainable[rows].sum())
    return float(sum(data.weights[data.tokens(r)].sum(dtype=np.float64) for r in rows))


def dense(
    made: Round, rows: np.ndarray, divergence: str, due: float
) -> tuple[float, dict[str, Tensor]]:
    """Return a step's loss and gradient by autograd through whole models, rollout by rollout."""
    student, data = trainable(made.student, torch.float64), made.data
    total = torch.zeros((), dtype=torch.float64)
    for row in rows:
        ids = np.concatenate([data.prompts.row(row), data.responses.row(row)])
        logits = student.model(input_ids=torch.tensor(ids)[None], use_cache=False).logits[0]
        for token in data.tokens(row):
            place = data.prompts.counts[row] + data.positions[token] - 1
            log_p = logits[place].log_softmax(0)
            kept = torch.tensor(data.supports.ids.row(token)).long()
            outside = torch.ones(len(log_p), dtype=torch.bool)
            outside[kept] = False
            log_p = torch.cat([log_p[kept], log_p[outside].logsumexp(0)[None]])
            log_q = torch.tensor(
                [*data.supports.logprobs.row(token), data.supports.tail[token]]
            ).double()
            total = total + float(data.weights[token]) * divergence_of(log_p, log_q, divergence)
    (total / due).backward()
    return total.item() / due, gradients(student)


def divergence_of(log_p: Tensor, log_q: Tensor, divergence: str) -> Tensor:
    if divergence == "reverse_kl":
        return (log_p.exp() * (log_p - log_q)).sum()
    if divergence == "forward_kl":
        return (log_q.exp() * (log_q - log_p)).sum()
    if divergence == "jeffreys":
        return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum()
    log_m = ((log_p.exp() + log_q.exp()) / 2).log()
    return (log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)).sum() / 2

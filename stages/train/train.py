"""Train: the student learns from the selected tokens of a round, and nothing else is computed.

From `rollouts`, `teacher` and `selection` to a checkpoint and a training state. A step is a fixed
number of rollouts; its loss is sum(w l) / D with one D for the whole step, so it depends neither
on micro-batches nor on their order beyond rounding. Sequences end after their last selected token,
rollouts without one cost nothing, and only selected rows meet the LM head. The student side is
always live; only teacher numbers come from disk. Legend: N tokens of a micro-batch, D hidden width.
"""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ...storage.errors import NumericsError
from ...storage.facts import CheckpointFacts
from ..arrays.batching import fill, on_device, pad
from ..arrays.chunks import chunk_rows
from ..arrays.noise import mix
from ..engines.protocols import Tick, silent
from ..models.cpu.products import precision
from ..models.device import resolve_dtype
from ..models.language_model import LanguageModel
from ..signals.loss import sparse_loss
from .data import TrainingData
from .drift import Drift
from .settings import TrainSettings
from .state import load_state, save_state, state_about

VERSION = 1
SKIPS_IN_A_ROW = 3  # non-finite steps that stop a run: one may be chance, three are a defect


@dataclass
class Totals:
    """What a round's training adds up to; part of every snapshot, so a resumed round is whole.

    losses: one a step, None where the step moved nothing. mass: the student's, summed over tokens.
    """

    step: int = 0
    trained_tokens: int = 0
    body_tokens: int = 0
    loss: float = 0.0
    weight: float = 0.0
    mass: float = 0.0
    grad_norm: float = 0.0
    skipped: int = 0
    skipped_in_a_row: int = 0
    losses: list[float | None] = field(default_factory=list)

    def facts(self, rate: float, moved: Drift) -> CheckpointFacts:
        """Return what a checkpoint's manifest says of its training; its fingerprint is still open.

        rate: learning rate of the last step. moved: how far the student moved on its rollouts.
        """
        return CheckpointFacts(
            fingerprint="",
            steps=self.step,
            trained_tokens=self.trained_tokens,
            body_tokens=self.body_tokens,
            loss=self.loss / max(self.weight, 1e-30),
            losses=self.losses,
            student_mass=self.mass / max(self.trained_tokens, 1),
            largest_gradient=self.grad_norm,
            skipped=self.skipped,
            learning_rate=rate,
            staleness=moved.staleness,
            drift_selected=moved.selected,
            drift_unselected=moved.unselected,
        )


def train_inputs(
    start: str,
    selection: tuple[str, str],
    teacher: Sequence[tuple[str, str]],
    settings: TrainSettings,
    autocast: str,
    rates: Sequence[float],
    seed: int,
) -> dict:
    """Return what makes a trained student.

    start: key of the training before, or the fingerprint of the first student. selection, teacher:
    key and content hash. rates: the resolved learning rates of this round's steps, so that the
    schedule's horizon is in the key only through them.
    """
    return {
        **settings.key(),
        "version": VERSION,
        "start": start,
        "selection": list(selection),
        "teacher": [list(t) for t in teacher],
        "autocast": autocast,
        "rates": list(rates),
        "seed": seed,
    }


def steps_of(rollouts: int, settings: TrainSettings) -> int:
    """Return the optimiser steps of a round; the last one of an epoch may hold fewer rollouts."""
    return settings.epochs * -(-rollouts // settings.rollouts_per_step)


def train(
    student: LanguageModel,
    data: TrainingData,
    settings: TrainSettings,
    rates: Sequence[float],
    *,
    seed: int,
    start: Path | None,
    snapshot: Path,
    key: str,
    tick: Tick = silent,
) -> tuple[torch.optim.Optimizer, Totals]:
    """Train the student in place, float32 masters throughout.

    student: loaded in float32. start: the training state of the round before. snapshot: where a
    killed training continues; `key` says whether a snapshot found there is of this very training.
    Returns the optimiser (for `save_state`) and the totals. Raises `NumericsError` when three steps
    in a row are not finite.
    """
    model = _trainable(student, settings)
    optimizer = _optimizer(model, settings)
    if start is not None:
        load_state(start, model, optimizer)
    totals = _resume(snapshot, model, optimizer, key)
    plan = _plan(data.rollouts, settings, seed)
    saved = time.monotonic()
    tick(totals.step)
    while totals.step < len(plan):
        rows = plan[totals.step]
        _set_rate(optimizer, rates[totals.step])
        _step(student, optimizer, data, rows, settings, totals)
        totals.step += 1
        tick(1)
        if time.monotonic() - saved > settings.snapshot_seconds and totals.step < len(plan):
            save_state(snapshot, model, optimizer, {"key": key, "totals": asdict(totals)})
            saved = time.monotonic()
    optimizer.zero_grad(set_to_none=True)
    model.eval()
    return optimizer, totals


def _trainable(student: LanguageModel, settings: TrainSettings) -> nn.Module:
    model: nn.Module = student.model
    model.requires_grad_(True)
    if settings.activation_checkpointing:
        student.model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()  # transformers checkpoints in training mode only
        for module in student.model.modules():
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = 0.0
            if isinstance(module, nn.Dropout):
                module.eval()
    return model


def _optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.AdamW:
    """Return AdamW; weight decay holds matrices only, as is usual for norms and biases."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=settings.lr, betas=settings.betas, eps=settings.eps, fused=True
    )


def _resume(snapshot: Path, model: nn.Module, optimizer: torch.optim.Optimizer, key: str) -> Totals:
    about = state_about(snapshot)
    if about is None or about.get("key") != key:
        return Totals()
    load_state(snapshot, model, optimizer)
    return Totals(**about["totals"])


def _plan(rollouts: np.ndarray, settings: TrainSettings, seed: int) -> list[np.ndarray]:
    """Return the rollouts of each step: each epoch in the order of a hash of (seed, epoch, id)."""
    plan = []
    for epoch in range(settings.epochs):
        with np.errstate(over="ignore"):
            salt = mix(mix(np.asarray(seed % (1 << 64), np.uint64)) + np.uint64(epoch))
            order = np.argsort(mix(rollouts.astype(np.uint64) ^ salt), kind="stable")
        size = settings.rollouts_per_step
        plan += [order[start : start + size] for start in range(0, len(order), size)]
    return plan


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def _step(
    student: LanguageModel,
    optimizer: torch.optim.Optimizer,
    data: TrainingData,
    rows: np.ndarray,
    settings: TrainSettings,
    totals: Totals,
) -> None:
    """Take one optimiser step, or none where no token of these rollouts is selected."""
    tokens = np.concatenate([data.tokens(row) for row in rows])
    denominator = _denominator(data, rows, tokens, settings)
    if denominator <= 0:
        totals.losses.append(None)
        return
    optimizer.zero_grad(set_to_none=True)
    loss, mass = accumulate(student, data, rows, settings, denominator, totals)
    parameters = [p for p in student.model.parameters() if p.requires_grad]
    norm = float(nn.utils.clip_grad_norm_(parameters, settings.clip))
    if not (np.isfinite(norm) and np.isfinite(loss)):
        _skip(totals, loss, norm)
        return
    optimizer.step()
    totals.skipped_in_a_row = 0
    totals.trained_tokens += len(tokens)
    totals.loss += loss * denominator
    totals.weight += denominator
    totals.mass += mass
    totals.grad_norm = max(totals.grad_norm, norm)
    totals.losses.append(loss)


def _denominator(
    data: TrainingData, rows: np.ndarray, tokens: np.ndarray, settings: TrainSettings
) -> float:
    if not len(tokens):
        return 0.0
    if settings.normalise == "total":
        return float(data.trainable[rows].sum())
    return float(data.weights[tokens].sum(dtype=np.float64))


def _skip(totals: Totals, loss: float, norm: float) -> None:
    totals.losses.append(None)
    totals.skipped += 1
    totals.skipped_in_a_row += 1
    if totals.skipped_in_a_row >= SKIPS_IN_A_ROW:
        raise NumericsError(
            f"loss {loss:g} or gradient norm {norm:g} is not finite in {SKIPS_IN_A_ROW} steps in a "
            f"row (up to step {totals.step} of this round): lower train.lr, or set train.autocast "
            "= 'float32'. The round before is whole and stored"
        )


def accumulate(
    student: LanguageModel,
    data: TrainingData,
    rows: np.ndarray,
    settings: TrainSettings,
    denominator: float,
    totals: Totals | None = None,
) -> tuple[float, float]:
    """Add the gradient of the step's loss to the parameters, micro-batch by micro-batch.

    rows: the rollouts of the step. Returns the loss sum(w l) / D in nats and the student's summed
    mass on the supports.
    """
    lengths = data.lengths[rows]
    chunk = chunk_rows(settings.chunk_elements, student.vocabulary)
    losses, masses = [], []
    for batch in fill(lengths, settings.batch_tokens):
        part = rows[batch]
        tokens = np.concatenate([data.tokens(row) for row in part])
        states = _states(student, data, part, lengths[batch], tokens, settings)
        weights = data.weights[tokens].astype(np.float64) / denominator
        weights = on_device(weights, student.device)
        with _head_precision(student.device, settings):
            loss, gradient, mass = sparse_loss(
                states.detach(),
                student.head,
                data.support(tokens, student.device),
                weights,
                settings.loss,
                chunk=chunk,
                tail=settings.tail,
            )
        states.backward(gradient)
        losses.append((loss * weights).sum())
        masses.append(mass.sum())
        if totals is not None:
            totals.body_tokens += int(lengths[batch].sum())
    return float(torch.stack(losses).sum()), float(torch.stack(masses).sum())


def _states(
    student: LanguageModel,
    data: TrainingData,
    rows: np.ndarray,
    lengths: np.ndarray,
    tokens: np.ndarray,
    settings: TrainSettings,
) -> Tensor:
    """Return the hidden states [N, D] that predict the selected tokens, with their graph."""
    sequences = [
        np.concatenate([data.prompts.row(r), data.responses.row(r)])[:length]
        for r, length in zip(rows, lengths, strict=True)
    ]
    with _autocast(student.device, settings):
        hidden = student.hidden(pad(sequences, student.device))
    row = np.repeat(np.arange(len(rows)), data.selected[rows])
    column = np.repeat(data.prompts.counts[rows] - 1, data.selected[rows]) + data.positions[tokens]
    return hidden[on_device(row, student.device), on_device(column, student.device)]


def _autocast(
    device: torch.device, settings: TrainSettings
) -> contextlib.AbstractContextManager[object]:
    dtype = resolve_dtype(settings.autocast, device)
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype)


def _head_precision(
    device: torch.device, settings: TrainSettings
) -> contextlib.AbstractContextManager[None]:
    """Let a GPU's tensor cores multiply the head's float32 numbers where the body is in bfloat16.

    Under autocast the last hidden state of Llama and Qwen is float32, and plain float32 products
    run at a seventh of the rate of TF32 on an H100 (67 and 495 TFLOP/s, data sheet), whose 10
    bits are more than the 7 of the body.
    """
    if device.type != "cuda" or resolve_dtype(settings.autocast, device) != torch.bfloat16:
        return contextlib.nullcontext()
    return precision("high")

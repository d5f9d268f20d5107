"""Train: the student learns from the selected tokens of a round, and nothing else is computed.

From `rollouts`, `teacher` and `selection` to a checkpoint and a training state. A step is a fixed
number of rollouts; its loss is sum(w l) / D with one D for the whole step, so it depends neither
on micro-batches nor on their order beyond rounding. Sequences end after their last selected token,
rollouts without one cost nothing, and only selected rows meet the LM head. The student side is
always live; only teacher numbers come from disk. Legend: N tokens of a micro-batch, D hidden width.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...storage.errors import NumericsError, StoreError
from ...storage.ledger import Ledger
from ..arrays.batching import fill
from ..arrays.noise import mix
from ..engines.protocols import Spared, Tick, silent
from ..models.compiled import cannot_compile, compiled_layers, compiles
from ..models.language_model import LanguageModel
from ..stopping import Terminated, whole
from .checkpointing import checkpoint_activations, refuse_noise
from .data import TrainingData
from .lora import adapter_dropout
from .optimizers import make_optimizer
from .resume import begin, resume
from .settings import TrainSettings
from .step import SelectiveStep, micro_batch
from .totals import Totals
from .worlds.alone import Alone
from .worlds.world import World

VERSION = 1
_WAY_OUT = "lower train.lr, or set train.autocast = 'float32'. The round before is whole and stored"
SKIPS_IN_A_ROW = 3  # non-finite steps that stop a run: one may be chance, three are a defect


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
    if settings.tail == "auto":
        raise ValueError("a run decides what train.tail = 'auto' stands for before it trains")
    more = {
        "residual_cap": (settings.residual_cap, settings.tail == "residual"),
        "jsd_beta": (settings.jsd_beta, settings.jsd_beta != 0.5),  # which rules name may be `jsd`
        "clip_token": (settings.clip_token, settings.clip_token is not None),
        "lora": (settings.lora and settings.lora.key(), settings.lora is not None),
        "optimizer": (settings.optimizer, settings.optimizer != "adamw"),
    }
    return {
        **settings.key(),
        **{name: value for name, (value, counts) in more.items() if counts},
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
    autocast: torch.dtype,
    seed: int,
    start: Path | None,
    state: Path,
    snapshot: Path,
    key: str,
    world: World | None = None,
    tick: Tick = silent,
    say: Callable[[str], None] = lambda _: None,
    ledger: Ledger | None = None,
) -> Totals:
    """Train the student in place, float32 masters throughout, and leave its training state.

    student: loaded in float32, or the first one with adapters (`adapt`). autocast: the body's
    compute type. start: the state of the round before. state: where this round's goes. snapshot:
    where a killed training continues, until its owner drops it. Of what is found in both, `key`
    says whether it is of this very training; a finished state is not trained again. world: the
    processes that train together; None for this one alone. ledger: what seconds go into. Raises
    `NumericsError` when three steps in a row are not finite.
    """
    world, ledger = world or Alone(), ledger or Ledger()
    model = _trainable(student, settings)
    with ledger.of("loading"):
        finished = resume(world, state, model, None, key, say)
    if finished is not None:  # nothing is to be trained, so no moments take memory
        tick(Spared(finished.step))
        model.eval()
        return finished
    plan = _plan(data.rollouts, settings, seed)
    first = plan[0][0]
    refuse_noise(student, np.concatenate([data.prompts.row(first), data.responses.row(first)]))
    step = SelectiveStep(student, settings, autocast)
    if (reason := step.unfused()) is not None:
        say(f"note: the loss takes its plain way: {reason}")
    step = world.wrap(step)
    optimizer = make_optimizer(model, settings)
    with ledger.of("loading"):
        totals = resume(world, snapshot, model, optimizer, key, say)
        if totals is None:
            totals = begin(world, start, model, optimizer)
    saved = time.monotonic()
    tick(Spared(totals.step))
    with _compiling(student, settings, world, say) as seconds:
        while totals.step < len(plan):
            with whole() as told_to_end:
                rows = plan[totals.step]
                _set_rate(optimizer, rates[totals.step])
                with adapter_dropout(model, (seed, totals.step, world.rank)):
                    _step(world, step, optimizer, data, rows, settings, totals)
                totals.step += 1
                tick(1)
                late = time.monotonic() - saved > settings.snapshot_seconds
                ending, late = world.any(told_to_end(), late)
                if ending or (late and totals.step < len(plan)):
                    about = {"key": key, "totals": asdict(totals)}
                    try:
                        with ledger.of("writing"):
                            world.save(snapshot, model, optimizer, about)
                    except StoreError as error:  # it may well come to its end before a kill does
                        say(f"note: no snapshot at step {totals.step}: {error}")
                    saved = time.monotonic()
                if ending:  # another process was told so, or this one
                    raise Terminated
        totals.compile_seconds += seconds()
        ledger.add("compiling", seconds())
    _refuse_unlearned(totals)
    optimizer.zero_grad(set_to_none=True)
    model.eval()
    # cut in two, it would cost all steps since the last snapshot
    with whole(), ledger.of("writing"):
        world.leave(state, model, optimizer, {"key": key, "totals": asdict(totals)})
    return totals


@contextmanager
def _compiling(
    student: LanguageModel, settings: TrainSettings, world: World, say: Callable[[str], None]
) -> Iterator[Callable[[], float]]:
    """Compile layers inside the block where that is wanted; gives the seconds that it took."""
    wanted, device, lora = settings.compile, student.device, settings.lora
    # what drops out would be another draw; the others were not tried
    odd = lora is not None and (lora.bits is not None or lora.dropout > 0)
    if wanted == "auto" and (odd or world.size > 1):
        wanted = False
    if not compiles(wanted, device):
        if wanted == "auto" and device.type == "cuda":
            say(f"note: layers are not compiled: {cannot_compile(device)}")
        yield lambda: 0.0
        return
    with compiled_layers(student) as seconds:
        yield seconds


def _trainable(student: LanguageModel, settings: TrainSettings) -> nn.Module:
    model: nn.Module = student.model
    if settings.lora is None:  # else it came with adapters, which alone want gradients
        model.requires_grad_(True)
    if settings.activation_checkpointing:
        checkpoint_activations(student)
    return model


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
    world: World,
    step: nn.Module,
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
    sums = accumulate(world, step, data, rows, settings, denominator)
    # A GPU is waited for here and nowhere else in a step.
    loss, told, body_tokens, norm = sums.read(world.clip(step, settings.clip))
    totals.body_tokens += body_tokens
    if not (np.isfinite(norm) and np.isfinite(loss)):
        _skip(totals, loss, norm)
        return
    optimizer.step()
    totals.add(loss, denominator, len(tokens), told, norm)


def _denominator(
    data: TrainingData, rows: np.ndarray, tokens: np.ndarray, settings: TrainSettings
) -> float:
    if not len(tokens):
        return 0.0
    if settings.normalise == "total":
        return float(data.trainable[rows].sum())
    return float(data.weights[tokens].sum(dtype=np.float64))


def _refuse_unlearned(totals: Totals) -> None:
    """Raise `NumericsError` for a round in which no step could be taken."""
    if totals.skipped and not totals.trained_tokens:
        raise NumericsError(
            f"the loss or its gradient was not finite in any of the {totals.skipped} steps of this "
            f"round: {_WAY_OUT}"
        )


def _skip(totals: Totals, loss: float, norm: float) -> None:
    totals.losses.append(None)
    totals.skipped += 1
    totals.skipped_in_a_row += 1
    if totals.skipped_in_a_row >= SKIPS_IN_A_ROW:
        raise NumericsError(
            f"loss {loss:g} or gradient norm {norm:g} is not finite in {SKIPS_IN_A_ROW} steps in a "
            f"row (up to step {totals.step} of this round): {_WAY_OUT}"
        )


@dataclass(frozen=True)
class Sums:
    """What the micro-batches of a step add up to, on the device until it is read.

    numbers: [2 + T] float64: the loss sum(w l) / D in nats, the ids that the body read, and the
    sums of what is told of the tokens by names (`mass`, and those of `Objective.told`).
    """

    numbers: Tensor
    names: tuple[str, ...]

    def read(self, *more: Tensor) -> tuple[Any, ...]:
        """Return loss, sums by name and ids read, and more single numbers, as one copy."""
        numbers = torch.cat([self.numbers, *(m.detach().double().view(1) for m in more)]).tolist()
        count = len(self.names)
        loss, tokens, *told = numbers[: 2 + count]
        return loss, dict(zip(self.names, told, strict=True)), int(tokens), *numbers[2 + count :]


def accumulate(
    world: World,
    step: nn.Module,
    data: TrainingData,
    rows: np.ndarray,
    settings: TrainSettings,
    denominator: float,
) -> Sums:
    """Add the gradient of the step's loss to the parameters, micro-batch by micro-batch.

    rows: the rollouts of the step. Returns the sums over all processes.
    """
    losses, sums, read, names = [], [], 0, ()
    lengths = data.lengths[rows]
    for batch in world.share(fill(lengths, settings.batch_tokens), lengths):
        device, counts = next(step.parameters()).device, len(batch) > 0
        if counts:
            part = micro_batch(data, rows[batch], denominator, settings, device)
        else:  # the others need this process in their collectives: the shortest, with no weight
            shortest = np.where(lengths > 0, lengths, lengths.max() + 1).argmin()
            part = micro_batch(data, rows[[shortest]], math.inf, settings, device)
        loss, told = step(part)
        loss.backward()
        losses.append(loss.detach())
        sums.append(told if counts else torch.zeros_like(told))
        read += part.body_tokens if counts else 0
        names = ("mass", *part.objective.told)
    loss = torch.stack(losses).sum()
    tokens = torch.full_like(loss, read)  # filled there: a copy would have to be waited for
    numbers = torch.cat([torch.stack([loss, tokens]), torch.stack(sums).sum(0)])
    return Sums(world.total(numbers), names)

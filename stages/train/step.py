"""One micro-batch of training as one forward pass of one module: body, gather, sparse loss.

So whatever hooks a module has (a sharded one gathers its parameters before a forward pass and
scatters gradients after the backward one) they see each micro-batch whole. Legend: N selected
tokens of a micro-batch, D hidden width, V vocabulary.
"""

import contextlib
import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..arrays.batching import on_device
from ..arrays.chunks import chunk_rows
from ..models.cpu.products import precision
from ..models.head import Head, LogitMap
from ..models.language_model import LanguageModel
from ..settings import TOKEN_LOSSES, TokenLoss
from ..signals.alignment import states_at
from ..signals.fused import PRODUCTS, fused_loss, fuses, lack
from ..signals.loss import sparse_loss
from ..signals.objective import Mixed, Objective
from ..signals.support import Support
from .data import TrainingData
from .settings import TrainSettings


@dataclass(frozen=True)
class MicroBatch:
    """Some rollouts of a step, cut after their last selected token.

    sequences: what the body reads of each. prompts: of each. counts: selected tokens of each.
    positions: [N] in the responses. support: the teacher's buckets of the N tokens. objective: of
    the same. weights: [N] float64, each token's share of the step's loss.
    """

    sequences: list[np.ndarray]
    prompts: list[np.ndarray]
    counts: np.ndarray
    positions: np.ndarray
    support: Support
    objective: Objective
    weights: Tensor

    @property
    def body_tokens(self) -> int:
        """Return the ids that the body reads, padding aside."""
        return sum(map(len, self.sequences))


def micro_batch(
    data: TrainingData,
    rows: np.ndarray,
    denominator: float,
    settings: TrainSettings,
    device: torch.device,
) -> MicroBatch:
    """Return the micro-batch of some rollouts. denominator: of the whole step's loss."""
    tokens = np.concatenate([data.tokens(row) for row in rows])
    weights = data.weights[tokens].astype(np.float64) / denominator
    return MicroBatch(
        [data.sequence(row) for row in rows],
        [data.prompts.row(row) for row in rows],
        data.selected[rows],
        data.positions[tokens],
        data.support(tokens, device),
        _objective(data, tokens, settings, device),
        on_device(weights, device),
    )


def _objective(
    data: TrainingData, tokens: np.ndarray, settings: TrainSettings, device: torch.device
) -> Objective:
    """Return what is minimised at some of the N tokens: one loss, or what each of them names."""
    residual, sampled = None, None
    if settings.tail == "residual":
        residual = data.residual(tokens, settings.residual_cap, device)
    codes = np.full(len(tokens), TOKEN_LOSSES.index(settings.loss))
    if data.losses is not None:
        codes = np.where(data.losses[tokens] < 0, codes, data.losses[tokens])
    found, which = np.unique(codes, return_inverse=True)
    words: tuple[TokenLoss, ...] = tuple(TOKEN_LOSSES[code] for code in found)
    if "suppress" in words:
        sampled = on_device(data.sampled[tokens].astype(np.int64), device)
    return Objective(
        words[0] if len(words) == 1 else Mixed(words, on_device(which, device)),
        tail=settings.tail is not False,
        beta=settings.jsd_beta,
        clip_token=settings.clip_token,
        tokens=sampled,
        residual=residual,
    )


class SelectiveStep(nn.Module):
    """The student's loss over the selected tokens of a micro-batch.

    autocast: the body's compute type; float32 is that of the weights.
    """

    def __init__(
        self, student: LanguageModel, settings: TrainSettings, autocast: torch.dtype
    ) -> None:
        super().__init__()
        self.model = student.model
        self._student, self._settings, self._dtype = student, settings, autocast

    def forward(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """Return the weighted loss in nats, with its graph, and sums of what is told of its tokens.

        Both float64; for the sums see `sparse_loss`. The head's gradient is added here, chunk by
        chunk, where it wants one; the body's by the backward pass of the loss.
        """
        student, settings = self._student, self._settings
        with self._autocast():
            states = states_at(
                student, batch.sequences, batch.prompts, batch.counts, batch.positions
            )
        head, fused = student.head, self._fused()
        elements = settings.chunk(fused=fused is not None)
        return _SparseLoss.apply(
            states,
            head.weight,
            head.bias,
            head.map,
            batch,
            chunk_rows(elements, student.vocabulary),
            fused,
            self._head_precision(),
        )

    def _fused(self) -> torch.dtype | None:
        """Return the type of the products of a fused loss; None where the loss is the plain one."""
        student, wanted = self._student, self._settings.fused
        if student.head.weight.dtype != torch.float32 or self._dtype not in PRODUCTS:
            return None
        return self._dtype if fuses(wanted, student.device, self._dtype) else None

    def unfused(self) -> str | None:
        """Say why a GPU's loss, which may be fused, cannot be; None where it can."""
        device, wanted = self._student.device, self._settings.fused
        return None if device.type == "cpu" or wanted is False else lack(device, self._dtype)

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        if self._dtype == torch.float32:
            return contextlib.nullcontext()
        # a weight is cast where it is used, once; a cache of the copies would keep them all
        return torch.autocast(self._student.device.type, dtype=self._dtype, cache_enabled=False)

    def _head_precision(self) -> contextlib.AbstractContextManager[None]:
        """Let a GPU's tensor cores multiply the head's float32 numbers where the body is in bf16.

        Under autocast the last hidden state of Llama and Qwen is float32, and plain float32
        products run at a seventh of the rate of TF32 on an H100 (67 and 495 TFLOP/s, data sheet),
        whose 10 bits are more than the 7 of the body.
        """
        if self._student.device.type != "cuda" or self._dtype != torch.bfloat16:
            return contextlib.nullcontext()
        return precision("high")


class _SparseLoss(torch.autograd.Function):
    """The sparse loss as a node of the graph.

    Its gradients are taken while the logits of a chunk are there: of the states they wait for the
    backward pass; of the head they are added in place to `weight.grad` at once, so that no second
    [V, D] tensor is made.
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        logit_map: LogitMap,
        batch: MicroBatch,
        chunk: int,
        fused: torch.dtype | None,
        multiplying: contextlib.AbstractContextManager[None],
    ) -> tuple[Tensor, Tensor]:
        loss_of = sparse_loss if fused is None else functools.partial(fused_loss, dtype=fused)
        with multiplying:
            loss, gradient, told = loss_of(
                states,
                Head(weight, bias, logit_map),
                batch.support,
                batch.weights,
                batch.objective,
                chunk=chunk,
            )
        ctx.save_for_backward(gradient)
        sums = told.sum(0)
        ctx.mark_non_differentiable(sums)
        return (loss * batch.weights).sum(), sums

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        factor = gradients[0]
        if not factor.is_cuda and factor != 1:  # a GPU would have to be waited for
            raise ValueError(
                f"backward of the sparse loss starts from {float(factor):g}, but the head's "
                "gradient was taken for 1: multiply the weights, not the loss"
            )
        (states,) = ctx.saved_tensors
        return states, *[None] * 7

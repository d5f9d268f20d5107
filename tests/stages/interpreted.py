"""Triton's kernels on this CPU, in a process of their own.

Triton reads TRITON_INTERPRET when it is imported and when a kernel is declared, and other tests may
have imported it. What runs there is given by name, and tensors travel as pickles.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

import pytest
import torch
from tip.stages.models.head import Head, LogitMap
from tip.stages.signals.divergences import Features
from tip.stages.signals.fused import fused_loss, fused_rows, lack
from tip.stages.signals.fused_features import fused_features
from tip.stages.signals.loss import RowLoss
from tip.stages.signals.objective import Objective
from tip.stages.signals.support import StudentIds, Support
from torch import Tensor

Interpreter = Callable[..., Any]


@contextmanager
def interpreter() -> Iterator[Interpreter]:
    """Give a function that calls another one where Triton's kernels are interpreted."""
    with ProcessPoolExecutor(1, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        with pytest.MonkeyPatch.context() as patch:  # no other test is to see it
            patch.setenv("TRITON_INTERPRET", "1")
            pool.submit(lack, torch.device("cpu"), torch.float32).result()
        yield lambda function, *given, **named: pool.submit(function, *given, **named).result()


def rows(
    products: Tensor,
    support: Support,
    objective: Objective,
    weights: Tensor | None = None,
) -> tuple[RowLoss, Tensor]:
    """Return what the kernels make of a chunk: its loss, and the gradient by them."""
    gradient = products.clone()
    if weights is None:
        weights = torch.ones(len(products), dtype=torch.float64)
    head = Head(products.new_empty(0))
    return fused_rows(gradient, head, support, objective, weights, gradient), gradient


def scores(
    student: Tensor, teacher: Tensor, known: StudentIds, vocabulary: int, top_p: float, most: int
) -> tuple[Support, Features]:
    """Return what the kernels make of both models' logits."""
    return fused_features(student, teacher.clone(), known, vocabulary, top_p, most)


def loss(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    map: LogitMap,
    support: Support,
    weights: Tensor,
    objective: Objective,
    chunk: int,
    dtype: torch.dtype,
    *,
    times: int = 1,
    frozen: bool = False,
) -> dict[str, Tensor]:
    """Return loss, masses and all gradients of a fused loss. times: that the head adds them up."""
    head = Head(weight.requires_grad_(not frozen), bias.requires_grad_(not frozen), map)
    for _ in range(times - 1):
        fused_loss(hidden, head, support, weights, objective, chunk=chunk, dtype=dtype)
    nats, gradient, told = fused_loss(
        hidden, head, support, weights, objective, chunk=chunk, dtype=dtype
    )
    found = {"loss": nats, "mass": told[:, 0], "hidden": gradient}
    of_head = {"weight": weight.grad, "bias": bias.grad}
    return found | {name: grad for name, grad in of_head.items() if grad is not None}

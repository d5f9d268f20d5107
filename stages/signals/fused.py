"""The sparse loss by Triton's kernels: logits are read twice, and their gradient is written once.

The result is that of `loss.py` but for rounding, of whatever objective: the passes over V numbers
are the same for all of them. The K + 1 buckets of reverse KL have a kernel, too; those of other
objectives are `loss.bucket_rows`. Legend: N selected tokens, C rows of a chunk, K support slots, V
vocabulary, D hidden width.
"""

import functools
import math
from typing import Literal

import torch
from torch import Tensor

from ..models.device import speeds_up
from ..models.head import Head, LogitMap, product
from .loss import RowLoss, bucket_rows, sparse_loss
from .objective import Objective
from .support import Support
from .triton_here import lack_of_kernels

PRODUCTS = (torch.float32, torch.bfloat16)
"""What the products of a fused loss may be in."""
_TILE = 128  # rows that a GPU's matrix product takes together: one more costs as many again
_MOST_SLOTS = 4096  # of a support whose buckets one program of the kernel holds


def fuses(wanted: Literal["auto", True, False], device: torch.device, dtype: torch.dtype) -> bool:
    """Tell whether the loss is fused on a device, whose products are of a type.

    `auto`: on a GPU where Triton is and its kernels are shown to be right. Raises `ConfigError`
    where it is wanted and cannot be.
    """
    return speeds_up("train.fused", wanted, device, lambda: lack(device, dtype))


@functools.cache
def lack(device: torch.device, dtype: torch.dtype) -> str | None:
    """Say why the loss cannot be fused on a device; None where it can.

    The kernels are compiled for it and shown to give what `sparse_loss` gives, once a process.
    """
    return lack_of_kernels(device, lambda: _error(device, dtype), _RIGHT)


_RIGHT = 1e-2  # of the norm of a gradient: one that is rounded to bfloat16 is off by 2e-3


def _error(device: torch.device, dtype: torch.dtype) -> float:
    """Return how far a small fused loss is from the plain one, relative to the gradients' norms."""
    rows, vocabulary, width, slots = 40, 304, 16, 5
    random = torch.Generator().manual_seed(0)
    states, weight = (  # of numbers that bfloat16 can hold
        torch.randn(n, width, generator=random).bfloat16().float().to(device)
        for n in (rows, vocabulary)
    )
    ids = torch.arange(slots, device=device) * 60 + torch.arange(rows, device=device)[:, None]
    logs = torch.full((rows, slots), -2.0, device=device)
    support = Support(ids, torch.ones_like(ids, dtype=torch.bool), logs, logs[:, 0])
    shares = torch.full((rows,), 1 / rows, dtype=torch.float64, device=device)
    found = []
    for loss in (sparse_loss, functools.partial(fused_loss, dtype=dtype)):
        head = Head(weight.clone().requires_grad_())
        nats, gradient, _ = loss(states, head, support, shares, Objective("reverse_kl"), chunk=16)
        assert head.weight.grad is not None  # it was asked for
        found.append((nats.float(), gradient, head.weight.grad))
    # by torch, for which no number beside NaN is the larger one
    return float(
        torch.stack([(b - a).norm() / a.norm() for a, b in zip(*found, strict=True)]).max()
    )


@torch.no_grad()
def fused_loss(
    hidden: Tensor,
    head: Head,
    support: Support,
    weights: Tensor,
    objective: Objective,
    *,
    chunk: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `sparse_loss` returns, and add to the same gradients.

    Parameters
    ----------
    head: in float32.
    chunk: rows whose gradient meets the head together, less what fills no tile of a product. With
        products in bfloat16 a third of them has its logits in float32 at a time, so memory is 3.3
        bytes x chunk x V; else 4.
    dtype: of the factors of all products, one of `PRODUCTS`, accumulated in float32. For
        bfloat16 a copy of the head is held meanwhile, 2 bytes x V x D.
    """
    count, vocabulary = len(hidden), len(head.weight)
    near = Head(head.weight.to(dtype), head.bias, head.map)
    states = hidden.to(dtype)
    gradients = torch.empty_like(hidden)
    losses = hidden.new_empty(count, dtype=torch.float64)
    told = losses.new_empty(count, 1 + len(objective.told))
    chunk, few = _rows(chunk, dtype)
    room = hidden.new_empty(min(chunk, count), vocabulary, dtype=dtype)
    in_place = dtype == torch.float32
    logits = room if in_place else hidden.new_empty(min(few, count), vocabulary)
    for start in range(0, count, chunk):
        stop = min(start + chunk, count)
        gradient = room[: stop - start]
        for first in range(start, stop, few):
            last = min(first + few, stop)
            row = fused_rows(
                near.products(states[first:last], room=logits),
                near,
                support.rows(first, last),
                objective.rows(first, last),
                weights[first:last],
                gradient[first - start : last - start],
            )
            losses[first:last] = row.nats
            told[first:last] = row.mass_and_told()
        gradients[start:stop] = product(gradient, near.weight)
        _accumulate(head, gradient, states[start:stop])
    return losses, gradients, told


def _rows(chunk: int, dtype: torch.dtype) -> tuple[int, int]:
    """Return how many rows have their gradient at a time, and how many of them their logits.

    The head's own gradient is read and written for each chunk, 8 bytes x V x D, so many rows should
    share that. Of these the gradient takes 2 bytes a number in bfloat16, and logits 4.
    """
    parts = 1 if dtype == torch.float32 else 3
    whole = chunk // (parts * _TILE) * parts * _TILE
    return whole or chunk, math.ceil((whole or chunk) / parts)


def fused_rows(
    products: Tensor,
    head: Head,
    support: Support,
    objective: Objective,
    weights: Tensor,
    gradient: Tensor,
) -> RowLoss:
    """Return the loss of C rows, and write its gradient by the products.

    Parameters
    ----------
    products: [C, V] float32, what the head's map makes logits of; **overwritten**.
    weights: [C] factors of the gradient; the loss returned is without them.
    gradient: [C, V], written whole; it may be the products.
    """
    from . import kernels

    ids, valid = support.ids, support.valid
    plain = products.gather(1, ids)
    picked = head.map.of(plain)
    # The tail is summed over its own ids, never as 1 - (the rest): it may be e-30.
    products.scatter_(1, ids, -math.inf)
    shift, total = kernels.fold(products, head.map)
    if _is_plain_reverse_kl(objective) and ids.shape[1] <= _MOST_SLOTS:
        nats, tail, share, slopes = kernels.reverse_kl(picked, support, shift, total, weights)
        row = RowLoss(nats, tail, nats.new_empty(len(nats), 0))
    else:
        rest = shift.double() + total.double().log()
        rest.masked_fill_(support.tail == -math.inf, -math.inf)
        own = picked.double().masked_fill_(~valid, -math.inf)
        row, slopes = bucket_rows(own, rest, support, objective, weights)
        share = torch.where(total > 0, slopes[:, -1] / total, 0).float()
        slopes = slopes[:, :-1]
    kernels.spread(products, shift, share, head.map, gradient)
    if head.map != LogitMap():
        slopes = slopes * head.map.slope(picked)
    gradient.scatter_add_(1, ids, slopes.to(gradient.dtype))
    return row


def _is_plain_reverse_kl(objective: Objective) -> bool:
    return objective.loss == "reverse_kl" and objective.tail and not objective.told


def _accumulate(head: Head, gradient: Tensor, states: Tensor) -> None:
    weight, bias = head.weight, head.bias
    if weight.requires_grad:
        if weight.grad is None:
            weight.grad = product(gradient.T, states)
        else:
            product(gradient.T, states, weight.grad, add=True)
    if bias is not None and bias.requires_grad:
        if bias.grad is None:
            bias.grad = torch.zeros_like(bias)
        bias.grad.add_(gradient.sum(0, dtype=bias.dtype))

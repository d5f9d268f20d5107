"""The sparse loss: a divergence over support and tail, its gradient taken as each chunk passes.

For one token the student's distribution is folded into buckets: one for every id of the support
and one, the tail, for all other ids. The teacher's buckets come from disk. What is minimised over
them (`objective.py`) is a divergence between the two, which are both true distributions: no
truncated sum.

No [N, V] tensor exists: only the selected rows meet the LM head, `chunk` rows at a time, and the
logits of a chunk turn in place into their own gradient. Legend: N selected tokens, C rows of a
chunk, K support slots, V vocabulary, D hidden width.

Source: reverse KL over k + 1 buckets, closed form dL/dz_j = p_j (c_bucket(j) - L) with
c = log(student / teacher); the other divergences (`buckets.py`) follow from the same chain rule.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..arrays.chunks import pieces
from ..models.head import Head
from .buckets import Buckets
from .objective import Objective, minimised
from .support import Support


class RowLoss(NamedTuple):
    """The loss of C rows, float64.

    nats: [C]. tail: [C], the student's log mass in the tail; with a residual that of all ids but
    those which the support has whatever was sampled. told: [C, T], as `Objective.told` names it.
    """

    nats: Tensor
    tail: Tensor
    told: Tensor

    def mass_and_told(self) -> Tensor:
        """Return the student's mass on the support, followed by what is told, [C, 1 + T]."""
        return torch.cat([-torch.expm1(self.tail)[:, None], self.told], 1)


def bucket_loss_(
    logits: Tensor,
    support: Support,
    objective: Objective,
    weights: Tensor | None = None,
) -> RowLoss:
    """Turn logits into the gradient of the loss with respect to them.

    Parameters
    ----------
    logits: [C, V] float32 or float64; **overwritten** with dL/dlogits of each row's own loss.
    support: the teacher's buckets of the same C rows. Where it says that nothing is outside (tail
        -inf), the student's own further ids (padding of its head) are left out: they get neither
        mass nor gradient.
    objective: of the same C rows.
    weights: [C] factors of the gradient; the loss returned is without them.
    """
    ids, valid = support.ids, support.valid
    picked = logits.gather(1, ids).masked_fill_(~valid, -math.inf)
    logits.scatter_(1, ids, -math.inf)
    # The tail is summed over its own ids, never as 1 - (the rest): it may be e-30.
    shift = logits.amax(1, keepdim=True)
    # Everything is counted from the largest logit, so that logits of 1e4 lose no digits.
    largest = torch.maximum(picked.amax(1, keepdim=True), shift)
    inside = logits.sub_(shift.masked_fill(shift == -math.inf, 0)).exp_()
    total = inside.sum(1)
    rest = (shift - largest).squeeze(1) + total.log()
    rest.masked_fill_(support.tail == -math.inf, -math.inf)
    row, gradient = bucket_rows(picked.sub_(largest), rest, support, objective, weights)
    # A bucket's gradient is shared by its ids in proportion to their probability.
    gradient = gradient.to(logits.dtype)
    share = torch.where(total > 0, gradient[:, -1] / total, 0)
    inside.mul_(share[:, None]).scatter_add_(1, ids, gradient[:, :-1].contiguous())
    return row


def bucket_rows(
    picked: Tensor,
    rest: Tensor,
    support: Support,
    objective: Objective,
    weights: Tensor | None = None,
) -> tuple[RowLoss, Tensor]:
    """Return the loss of C rows, and its gradient by the log mass of each bucket [C, K + 1].

    picked: [C, K] logits of the support, -inf in an empty slot. rest: [C], log of the sum of exp of
    all other logits. Both counted from any number of the row. Float64.
    """
    # K + 1 numbers a token: float64 costs nothing here, and where all of a student's mass lies on
    # ids of teacher log-prob -60,000 the gradient is a small difference of large losses.
    log_p = torch.cat([picked, rest[:, None]], 1).double().log_softmax(1)
    log_q = torch.cat([support.logprobs, support.tail[:, None]], 1).double()
    there = torch.cat([support.valid, (rest > -math.inf)[:, None]], 1)
    (nats, gradient, told), tail = minimised(Buckets(log_p, log_q, there), support, objective)
    if weights is not None:
        gradient *= weights[:, None]
    return RowLoss(nats, tail, told), gradient


@torch.no_grad()
def sparse_loss(
    hidden: Tensor,
    head: Head,
    support: Support,
    weights: Tensor,
    objective: Objective,
    *,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return each token's loss and the gradient of the weighted sum, chunk by chunk.

    Parameters
    ----------
    hidden: [N, D] outputs of the student's body that predict the N selected tokens; no graph.
    head: gradients are **added to** `head.weight.grad` (and `head.bias.grad`) where they are
        wanted, so that no second [V, D] tensor is made.
    weights: [N] factor of each token, its share of the step's denominator included.
    objective: of the N tokens.
    chunk: rows that meet the head together; memory is chunk x V numbers.

    Returns the loss [N] in nats without weight (float64), d(sum of weight x loss)/d(hidden) [N, D],
    and what is told of each token [N, 1 + T]: the student's mass on the support, followed by what
    `Objective.told` names.
    """
    losses, gradients, told = [], torch.empty_like(hidden), []
    logits = None  # one room for all chunks: new ones would scatter over the heap
    for start in range(0, len(hidden), chunk):
        rows = slice(start, start + chunk)
        states = hidden[rows]
        logits = head.logits(states, room=logits)
        for piece in pieces(len(logits), logits.shape[1], logits.device):
            first, last = start + piece.start, start + piece.stop
            slope = head.map.slope(logits[piece])
            row = bucket_loss_(
                logits[piece],
                support.rows(first, last),
                objective.rows(first, last),
                weights[first:last],
            )
            if not (isinstance(slope, float) and slope == 1):
                logits[piece].mul_(slope)
            losses.append(row.nats)
            told.append(row.mass_and_told())
        gradients[rows] = _back(logits, head.weight).to(hidden.dtype)
        _accumulate(head, logits, states)
    return torch.cat(losses), gradients, torch.cat(told)


def _back(gradient: Tensor, weight: Tensor) -> Tensor:
    if gradient.dtype == weight.dtype:
        return gradient @ weight
    return gradient.to(weight.dtype) @ weight


def _accumulate(head: Head, gradient: Tensor, states: Tensor) -> None:
    if head.weight.requires_grad:
        left, right = gradient.T.to(head.weight.dtype), states.to(head.weight.dtype)
        if head.weight.grad is None:
            head.weight.grad = left @ right
        else:
            head.weight.grad.addmm_(left, right)
    if head.bias is not None and head.bias.requires_grad:
        if head.bias.grad is None:
            head.bias.grad = torch.zeros_like(head.bias)
        head.bias.grad.add_(gradient.sum(0))

"""The residual: what one bucket for all ids outside the support leaves out, from the sampled token.

With r_v = log p_v / q_v, p the student and q the teacher, a divergence is sum_v p_v d(r_v), and its
gradient sum_v p_v c(r_v) grad log p_v with c = d + d'. The tail's bucket B has one r_B for all of
its ids. What is missing of the gradient is a mean over the student's own distribution,

    sum_{v in B} p_v (c(r_v) - c(r_B)) grad log p_v
        = E_{y ~ p} 1[y in B] (c(r_y) - c(r_B)) grad log p_y

and of the value the same with d and without the gradient. So one sampled token, its factor held
fixed, makes loss and gradient those of the whole vocabulary in the mean, as long as B does not
depend on it: a token that is in the support for having been sampled is put back into B. Where y
was drawn from another distribution, p_y over its probability there weighs the term, up to a cap.
Legend: C rows of a chunk, K support slots.

Source: ResOPD, arXiv 2610.04882, for reverse KL; the other divergences by the same steps
(docs/METHOD.md).
"""

import math
from dataclasses import dataclass
from typing import assert_never

import torch
from torch import Tensor

from ..settings import Divergence
from .buckets import Buckets, log_odds
from .support import Support

TOLD = ("outside", "clipped", "nats", "size", "clipped_off")
"""What is told of each token: whether it was sampled outside the support; whether its ratio was
above the cap; what it adds to the loss; the size of its factor; and how much more the cap cost."""


@dataclass(frozen=True)
class Residual:
    """The sampled tokens of N positions.

    tokens: [N] int64, each in the stored support. logprobs: [N], nats, under the distribution that
    it was drawn from. outside: [N] bool, whether it is in the support for having been drawn alone.
    cap: largest ratio of the student's probability to that one.
    """

    tokens: Tensor
    logprobs: Tensor
    outside: Tensor
    cap: float

    def rows(self, start: int, stop: int) -> "Residual":
        """Return a slice of the tokens."""
        rows = slice(start, stop)
        return Residual(self.tokens[rows], self.logprobs[rows], self.outside[rows], self.cap)


@dataclass(frozen=True)
class Folded:
    """Buckets where each token sampled outside the support is in the tail again.

    slot: [C, K], the slot that it had, none where it lies inside. log_p, log_q: [C], its own.
    """

    buckets: Buckets
    slot: Tensor
    log_p: Tensor
    log_q: Tensor


def fold(buckets: Buckets, support: Support, residual: Residual) -> Folded:
    """Put each token that was sampled outside the support back into the tail's bucket."""
    slot = (support.ids == residual.tokens[:, None]) & support.valid & residual.outside[:, None]
    log_p, own_p = _into_tail(buckets.log_p, slot)
    log_q, own_q = _into_tail(buckets.log_q, slot)
    there = buckets.there & ~torch.nn.functional.pad(slot, (0, 1))
    there[:, -1] |= residual.outside
    return Folded(Buckets(log_p, log_q, there), slot, own_p, own_q)


def _into_tail(logs: Tensor, slot: Tensor) -> tuple[Tensor, Tensor]:
    """Return log masses with that of each row's slot in the tail as well, and the slot's own."""
    own = logs[:, :-1].masked_fill(~slot, -math.inf).amax(1)
    tail = torch.logaddexp(logs[:, -1], own)
    return torch.cat([logs[:, :-1], tail[:, None]], 1), own


def add_residual(
    folded: Folded,
    loss: Tensor,
    gradient: Tensor,
    residual: Residual,
    divergence: Divergence,
    beta: float = 0.5,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return loss [C] and gradient [C, K + 1] with the residual, and `TOLD` of it [C, 5].

    loss, gradient: of the folded buckets, by their log masses. The gradient returned is by those of
    the buckets as they were before: a sampled token has its slot again. beta: of `jsd`.
    """
    log_p, log_q, there = folded.buckets
    outside = residual.outside
    ratio = (folded.log_p - residual.logprobs).masked_fill(~outside, -math.inf)
    weight = ratio.clamp(max=math.log(residual.cap))
    alone = (folded.log_p - folded.log_q).masked_fill(~outside, 0)
    bucket = (log_p[:, -1] - log_q[:, -1]).masked_fill(~outside, 0)
    one, other = (_terms(weight, r, divergence, beta) for r in (alone, bucket))
    factor, nats = one[0] - other[0], one[1] - other[1]
    # factor x grad log p_y: 1 at y, less the probability of each bucket
    gradient = gradient - factor[:, None] * log_p.exp().masked_fill(~there, 0)
    # what the bucket has of the gradient is shared by its ids in proportion to their probability
    tail = gradient[:, -1:].clone()
    share = (folded.log_p - log_p[:, -1]).masked_fill(~outside, -math.inf).exp()[:, None]
    gradient[:, :-1] += folded.slot * (tail * share + factor[:, None])
    gradient[:, -1:] = tail * (1 - share)
    clipped = ratio > weight
    size = factor.abs()
    off = size * torch.expm1(torch.where(clipped, ratio - weight, 0))
    return loss + nats, gradient, torch.stack([outside, clipped, nats, size, off], 1)


def _terms(weight: Tensor, r: Tensor, divergence: Divergence, beta: float) -> tuple[Tensor, Tensor]:
    """Return w c(r) and w d(r) for w = exp(weight).

    exp(-r) is never taken by itself: where the student has nearly left a token that it had drawn,
    r is hugely negative, and so is the weight.
    """
    if divergence == "jeffreys":
        (one, value), (other, more) = (
            _terms(weight, r, each, beta) for each in ("reverse_kl", "forward_kl")
        )
        return one + other, value + more
    if divergence == "reverse_kl":
        whole = weight.exp() * r
        return whole, whole
    by_teacher = (weight - r).exp()
    if divergence == "forward_kl":
        return -by_teacher, -r * by_teacher
    if divergence != "jsd":
        assert_never(divergence)
    odds, softplus = log_odds(beta), torch.nn.functional.softplus
    p_over_m = -math.log(1 - beta) - softplus(odds - r)
    q_over_m = -math.log(beta) - softplus(r - odds)
    ours = (1 - beta) * weight.exp() * p_over_m
    return ours, ours + beta * by_teacher * q_over_m

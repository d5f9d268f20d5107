"""A divergence over buckets, and its gradient by their log masses.

A bucket is an id of a token's support, or the tail: all other ids as one. Legend: C rows of a
chunk, K support slots; p the student, q the teacher.

Source: `jsd`: GKD, arXiv 2306.13649, equation 1.
"""

import math
from typing import NamedTuple, assert_never

import torch
from torch import Tensor

from ..settings import Divergence


class Buckets(NamedTuple):
    """Log masses [C, K + 1] of both models, the tail's last, and which of the buckets there are."""

    log_p: Tensor
    log_q: Tensor
    there: Tensor


def bucket_divergence(
    buckets: Buckets, divergence: Divergence, *, tail: bool = True, beta: float = 0.5
) -> tuple[Tensor, Tensor]:
    """Return the divergence [C] and its gradient by each bucket's log mass [C, K + 1].

    tail: whether the tail's term is part of the sum. beta: of `jsd`, see `TrainSettings.jsd_beta`.
    """
    if divergence == "jeffreys":
        (reverse, one), (forward, other) = (
            bucket_divergence(buckets, each, tail=tail) for each in ("reverse_kl", "forward_kl")
        )
        return reverse + forward, one + other
    there = buckets.there
    p = buckets.log_p.exp().masked_fill(~there, 0)
    log_p = buckets.log_p.masked_fill(~there, 0)  # 0 x inf would be NaN where a slot is empty
    log_q = buckets.log_q.masked_fill(~there, 0)
    counted = there.clone()
    counted[:, -1] &= tail
    if divergence == "reverse_kl":
        ratio = (log_p - log_q).masked_fill(~counted, 0)
        loss = (p * ratio).sum(1)
        gradient = p * (ratio - loss[:, None])
        if not tail:  # what moves into the tail takes its 1 + ratio out of the sum
            gradient += p * p[:, -1:]
            gradient[:, -1] -= p[:, -1]
        return loss, gradient
    q = log_q.exp().masked_fill(~counted, 0)
    if divergence == "forward_kl":
        return (q * (log_q - log_p)).sum(1), p * q.sum(1, keepdim=True) - q
    if divergence != "jsd":
        assert_never(divergence)
    # m = beta q + (1 - beta) p, with the teacher's part counted from the student's
    log_m = torch.logaddexp(log_p, log_q + log_odds(beta)) + math.log(1 - beta)
    ratio = (log_p - log_m).masked_fill(~counted, 0)
    loss = ((1 - beta) * p * ratio + beta * q * (log_q - log_m)).sum(1)
    return loss, (1 - beta) * p * (ratio - (p * ratio).sum(1, keepdim=True))


def log_odds(share: float) -> float:
    """Return log(share / (1 - share)), 0 for a half."""
    return math.log(share) - math.log(1 - share)

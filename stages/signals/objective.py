"""What is minimised at each token: a divergence from the teacher, or what needs no teacher.

A step has one loss for all of its tokens, or each token names its own. Legend: N selected tokens, C
rows of a chunk, K support slots.

* A divergence is over support and tail, with or without a residual (`residual.py`), which makes
  loss and gradient those of the whole vocabulary in the mean. With `clip_token` = c a divergence L
  above it counts as c: value and gradient are multiplied by c / L, held fixed, so the token still
  teaches in its direction. A clamp would take the gradient from those that are most wrong. L is
  that of the buckets, which does not depend on the sampled token: with a residual the mean stays
  exact, of c / L times the dense loss.
* `suppress` is log p_y of the sampled token y, a policy gradient with advantage -1 (the weight
  makes it another one): descending makes y rarer. As in the paper there is no ratio to the policy
  that sampled and no bound. It is no divergence: neither limit nor residual apply.
* `none` adds nothing.

Source: `suppress`: OPSA, arXiv 2608.31046, equation 5.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..settings import Divergence, TokenLoss
from .buckets import Buckets, bucket_divergence
from .residual import TOLD as OF_RESIDUAL
from .residual import Folded, Residual, add_residual, fold
from .support import Support

OF_CLIP = ("over", "cut")
"""What is told of each token with a `clip_token`: whether its divergence was above it, and the nats
that were taken off its loss."""


@dataclass(frozen=True)
class Mixed:
    """Losses of N tokens. words: those that occur. which: [N] int64, each token's place in them."""

    words: tuple[TokenLoss, ...]
    which: Tensor


@dataclass(frozen=True)
class Objective:
    """What is minimised at N tokens.

    loss: of all of them, or of each. tail: whether the tail's term is part of a divergence; without
    it the sum is none: it can be negative, and what it leaves out has no teacher. beta: of `jsd`.
    clip_token: nats that a divergence counts at most; None: whatever it is. tokens: [N] int64, the
    sampled ones, each in its support; `suppress` needs them. residual: of the same N, where the
    tail is to be right in the mean.
    """

    loss: TokenLoss | Mixed
    tail: bool = True
    beta: float = 0.5
    clip_token: float | None = None
    tokens: Tensor | None = None
    residual: Residual | None = None

    @property
    def told(self) -> tuple[str, ...]:
        """Return the names of what is told of each token."""
        of_residual = () if self.residual is None else OF_RESIDUAL
        return of_residual + (() if self.clip_token is None else OF_CLIP)

    def rows(self, start: int, stop: int) -> "Objective":
        """Return that of a slice of the tokens."""
        loss, tokens, residual = self.loss, self.tokens, self.residual
        if isinstance(loss, Mixed):
            loss = Mixed(loss.words, loss.which[start:stop])
        return replace(
            self,
            loss=loss,
            tokens=None if tokens is None else tokens[start:stop],
            residual=None if residual is None else residual.rows(start, stop),
        )


class Minimised(NamedTuple):
    """The losses of C rows, float64.

    nats: [C]. gradient: [C, K + 1], by the log mass of each bucket. told: [C, T], as the objective
    names it.
    """

    nats: Tensor
    gradient: Tensor
    told: Tensor


def minimised(buckets: Buckets, support: Support, objective: Objective) -> tuple[Minimised, Tensor]:
    """Return the losses of C rows, and the student's log mass in the tail [C].

    With a residual that is the mass of all ids but those that do not depend on what was sampled.
    """
    residual, loss = objective.residual, objective.loss
    folded = None if residual is None else fold(buckets, support, residual)
    tail = (folded.buckets if folded else buckets).log_p[:, -1]
    if not isinstance(loss, Mixed):
        return _of(loss, buckets, folded, support, objective), tail
    # Each over all rows, which are K + 1 numbers: to pick its own would make a GPU wait.
    found, *others = [_of(word, buckets, folded, support, objective) for word in loss.words]
    for place, one in enumerate(others, 1):
        found = _merged(loss.which == place, one, found)
    return found, tail


def _merged(mine: Tensor, one: Minimised, other: Minimised) -> Minimised:
    """Return the rows of one where they are mine, of the other elsewhere."""
    column = mine[:, None]
    return Minimised(
        torch.where(mine, one.nats, other.nats),
        torch.where(column, one.gradient, other.gradient),
        torch.where(column, one.told, other.told),
    )


def _of(
    word: TokenLoss,
    buckets: Buckets,
    folded: Folded | None,
    support: Support,
    objective: Objective,
) -> Minimised:
    if word not in ("suppress", "none"):
        return _divergence(word, buckets, folded, objective)
    log_p = buckets.log_p
    told = log_p.new_zeros(len(log_p), len(objective.told))
    if word == "none":
        return Minimised(log_p.new_zeros(len(log_p)), torch.zeros_like(log_p), told)
    return Minimised(*_suppressed(buckets, support, objective.tokens), told)


def _suppressed(buckets: Buckets, support: Support, tokens: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return log p_y [C] and its gradient [C, K + 1]: 1 at y, less the mass of each bucket."""
    if tokens is None:
        raise ValueError("`suppress` is of the sampled tokens: give the objective its `tokens`")
    own = (support.ids == tokens[:, None]) & support.valid
    nats = buckets.log_p[:, :-1].masked_fill(~own, 0).sum(1)
    p = buckets.log_p.exp().masked_fill(~buckets.there, 0)
    return nats, torch.nn.functional.pad(own.to(p.dtype), (0, 1)) - p


def _divergence(
    word: Divergence, buckets: Buckets, folded: Folded | None, objective: Objective
) -> Minimised:
    residual, clip, beta = objective.residual, objective.clip_token, objective.beta
    own = folded.buckets if folded else buckets
    bucketed, gradient = bucket_divergence(own, word, tail=objective.tail, beta=beta)
    nats, told = bucketed, [bucketed.new_zeros(len(bucketed), 0)]
    factor = None if clip is None else torch.where(bucketed > clip, clip / bucketed, 1)
    if folded is not None and residual is not None:
        nats, gradient, of_residual = add_residual(folded, nats, gradient, residual, word, beta)
        if factor is not None:
            of_residual[:, OF_RESIDUAL.index("nats") :] *= factor[:, None]
        told.append(of_residual)
    if factor is not None and clip is not None:
        told.append(torch.stack([bucketed > clip, nats * (1 - factor)], 1))
        nats, gradient = nats * factor, gradient * factor[:, None]
    return Minimised(nats, gradient, torch.cat(told, 1))

"""What is known of a token when both distributions are at hand, and what is kept of the teacher.

Everything is taken row by row from logits of a chunk, in float32 (or in float64 in reference
tests), so that no [tokens, V] tensor is larger than a chunk. Legend: C rows of a chunk, V the
vocabulary of a model, S slots of student ids, K support slots.

Ids that only one model has (a padded vocabulary) are in its log-probs, but in no divergence: one
side of the term does not exist. Their mass is in the tail.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .support import Support, largest

TOP = 16  # each model's most probable ids, for `teacher_mass_top` and `overlap`
_LARGEST_RATIO = 30.0  # nats to which the IER clips log(p / q), as published
_LEAST_NOISE = 1e-8  # nats^2 that it divides by at least, as published


class Features(NamedTuple):
    """Numbers of C tokens, each [C]; entropies and divergences in nats."""

    student_entropy: Tensor
    teacher_entropy: Tensor
    reverse_kl: Tensor
    forward_kl: Tensor
    jsd: Tensor
    hellinger: Tensor
    student_logprob: Tensor
    teacher_logprob: Tensor
    teacher_rank: Tensor
    student_mass: Tensor
    teacher_mass: Tensor
    teacher_mass_top: Tensor
    overlap: Tensor
    signal_to_noise: Tensor


class OverAll(NamedTuple):
    """Those numbers of C tokens that are sums over all ids, each [C]."""

    student_entropy: Tensor
    teacher_entropy: Tensor
    reverse_kl: Tensor
    forward_kl: Tensor
    jsd: Tensor
    hellinger: Tensor
    teacher_rank: Tensor


def features(
    student: Tensor,
    teacher: Tensor,
    tokens: Tensor,
    ids: Tensor,
    valid: Tensor,
    *,
    led: tuple[Tensor, Tensor] | None = None,
) -> Features:
    """Return the exact, full-vocabulary numbers of C tokens.

    student, teacher: log-probs [C, V_student] and [C, V_teacher]. tokens: sampled ids [C].
    ids, valid: the support [C, K]. led: ids and flags over which `signal_to_noise` is taken where
    the support was drawn; else these are the support.

    Each sum runs over terms that vanish where both models agree, so that equal models give exactly
    0: (sqrt p - sqrt q)^2 for Hellinger, p (log p - log q) for a divergence, never a difference of
    entropies. In float32 a divergence is right to about 1e-6 nats, so between near-equal models a
    value of that size, of either sign, means 0.
    """
    common = min(student.shape[1], teacher.shape[1])
    at_token = teacher.gather(1, tokens[:, None])
    theirs, there = _at_students_top(student[:, :common], teacher)
    around, counted = led or (ids, valid)
    return combined(
        _over_all(student, teacher, at_token),
        (student.gather(1, tokens[:, None]), at_token),
        (student.gather(1, ids), teacher.gather(1, ids), valid),
        (student.gather(1, around), teacher.gather(1, around), counted),
        (theirs, there, last_of_top(teacher)),
    )


def _over_all(student: Tensor, teacher: Tensor, at_token: Tensor) -> OverAll:
    """Return the sums over all ids. at_token: the teacher's log-prob of the sampled one, [C, 1]."""
    common = min(student.shape[1], teacher.shape[1])
    p, q = student.exp(), teacher.exp()
    student_entropy, teacher_entropy = -_dot(p, student), -_dot(q, teacher)
    p, q = p[:, :common], q[:, :common]
    ratio = student[:, :common] - teacher[:, :common]
    reverse_kl, forward_kl = _dot(p, ratio), -_dot(q, ratio)
    return OverAll(
        student_entropy,
        teacher_entropy,
        reverse_kl,
        forward_kl,
        _jsd(p, q, ratio),
        _hellinger(p, q),
        _count_above(teacher, at_token),
    )


def combined(
    over_all: OverAll,
    at_token: tuple[Tensor, Tensor],
    support: tuple[Tensor, Tensor, Tensor],
    around: tuple[Tensor, Tensor, Tensor],
    top: tuple[Tensor, Tensor, Tensor],
) -> Features:
    """Return the numbers of C tokens, from sums over all ids and log-probs of a few.

    at_token: both models' log-probs of the sampled ids, [C, 1]. support, around: both models'
    log-probs of some ids, and which count, [C, K]; of the second `signal_to_noise` is taken. top:
    the teacher's log-probs of the student's `TOP` ids, which of them there are, and `last_of_top`.
    """
    ours, theirs, valid = support
    at_top, there, last = top
    return Features(
        *over_all[:-1],
        at_token[0].squeeze(1),
        at_token[1].squeeze(1),
        over_all.teacher_rank,
        _mass(ours, valid),
        _mass(theirs, valid),
        _mass(at_top, there),
        _overlap(at_top, there, last),
        signal_to_noise(*around),
    )


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the row-wise inner product; a probability that underflowed to 0 adds nothing."""
    return torch.linalg.vecdot(a, b)


def _count_above(logprobs: Tensor, limit: Tensor) -> Tensor:
    """Return how many numbers of each row are above its limit [C, 1].

    Compared into numbers of the same type, which a CPU sums four times as fast as booleans.
    """
    above = torch.gt(logprobs, limit, out=torch.empty_like(logprobs))
    return above.sum(1).long()  # in float32 exact below 2^24 ids


def _mass(logprobs: Tensor, valid: Tensor) -> Tensor:
    """Return the probability in the true slots; rounding does not lift it above 1."""
    return logprobs.exp().masked_fill(~valid, 0).sum(1).clamp(max=1)


def _at_students_top(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return the teacher's log-probs of the student's `TOP` most probable ids, and flags [C, S].

    student: log-probs [C, S'], -inf where there is no id; teacher: in the same places.
    """
    values, places = largest(student, min(TOP, student.shape[1]))
    return teacher.gather(1, places), values > -math.inf


def last_of_top(teacher: Tensor) -> Tensor:
    """Return the last of the teacher's `TOP` log-probs, [C, 1], of [C, S']."""
    return largest(teacher, min(TOP, teacher.shape[1]))[0][:, -1:]


def _overlap(theirs: Tensor, there: Tensor, last: Tensor) -> Tensor:
    """Return the share of the student's `TOP` ids that are among the teacher's `TOP`.

    theirs, there: from `_at_students_top`. last: from `last_of_top`. Where the teacher's last
    place is shared, all that share it are among its top: no order of ids decides.
    """
    both = (theirs >= last) & there
    return both.sum(1).to(theirs.dtype) / there.sum(1)


def signal_to_noise(student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
    """Return the information-efficiency ratio (IER) of C tokens: signal to noise of one sample.

    student, teacher: log-probs [C, K] on the support, each renormalised there to p and q. valid:
    [C, K]. With c = log(p / q), clipped, and L = 1 / p - 1: signal = Var_p(c), and noise is what
    E_p[(c - b)^2 L] with the best baseline b = E_p[c L] / E_p[L] is above it. E_p[L f] is the sum
    of (1 - p) f, and E_p[L] the slots less one. From 0, where there is one slot, to 900 / 1e-8.

    In float64: where two slots hold all mass the noise is 0, a difference of equal numbers.

    Source: IER-OPD, arXiv 2609.24432. Its released code takes p at 1e-8 at least within L, and 16
    ids of each model.
    """
    log_p, log_q = (
        x.double().masked_fill(~valid, -math.inf).log_softmax(1) for x in (student, teacher)
    )
    p = log_p.exp()
    c = (log_p - log_q).masked_fill(~valid, 0).clamp(-_LARGEST_RATIO, _LARGEST_RATIO)
    missed = (1 - p).masked_fill(~valid, 0)  # p L
    signal = _dot(p, (c - _dot(p, c)[:, None]).square())
    baseline = _dot(missed, c) / missed.sum(1).clamp(min=1)
    noise = _dot(missed, (c - baseline[:, None]).square()) - signal
    return (signal / noise.clamp(min=_LEAST_NOISE)).to(student.dtype)


def _hellinger(p: Tensor, q: Tensor) -> Tensor:
    return (p.sqrt() - q.sqrt()).square().sum(1).mul(0.5).sqrt().clamp(max=1)


def _jsd(p: Tensor, q: Tensor, ratio: Tensor) -> Tensor:
    """Return the Jensen-Shannon divergence, m = (p + q) / 2, from ratio = log(p / q)."""
    # log(p / m) = log 2 - softplus(-ratio), and likewise for q; softplus(x) = max(x, 0) +
    # softplus(-|x|), whose dear second part is the same for both
    smooth = math.log(2) - torch.nn.functional.softplus(-ratio.abs())
    sharp = _dot(p, ratio.clamp(max=0)) - _dot(q, ratio.clamp(min=0))
    return 0.5 * (_dot(p + q, smooth) + sharp)


def support_features(
    student: Tensor, support: Support, tokens: Tensor, teacher_entropy: Tensor
) -> Features:
    """Return the numbers of C tokens over support and tail, from stored teacher numbers.

    student: log-probs [C, V]. tokens: sampled ids [C], each in its support. The divergences are
    those of the bucketed distributions: lower bounds of the exact ones (data processing
    inequality) where both models have the same ids. The teacher's rank, its mass on the student's
    top and the overlap count support ids: of 16 ids or fewer all overlap.
    """
    picked = student.gather(1, support.ids).masked_fill(~support.valid, -math.inf)
    rest = student.scatter(1, support.ids, -math.inf).logsumexp(1)
    both = (support.tail > -math.inf) & (rest > -math.inf)  # else the tail is no term of a sum
    valid = torch.cat([support.valid, both[:, None]], 1)
    log_p = torch.cat([picked, rest[:, None]], 1).masked_fill(~valid, -math.inf)
    log_q = torch.cat([support.logprobs, support.tail[:, None]], 1).to(log_p.dtype)
    p, q = log_p.exp(), log_q.exp().masked_fill(~valid, 0)
    ratio = (log_p - log_q).masked_fill(~valid, 0)
    here = (support.ids == tokens[:, None]) & support.valid
    at_token = log_q[:, :-1].masked_fill(~here, -math.inf).amax(1)
    better = (log_q[:, :-1] > at_token[:, None]) & support.valid
    known = support.logprobs.masked_fill(~support.valid, -math.inf)
    theirs, there = _at_students_top(picked, known)
    return Features(
        -_dot(student.exp(), student),
        teacher_entropy,
        _dot(p, ratio),
        -_dot(q, ratio),
        _jsd(p, q, ratio),
        _hellinger(p, q),
        student.gather(1, tokens[:, None]).squeeze(1),
        at_token,
        better.sum(1),
        _mass(picked, support.valid),
        _mass(support.logprobs, support.valid),
        _mass(theirs, there),
        _overlap(theirs, there, last_of_top(known)),
        signal_to_noise(picked, support.logprobs, support.valid),
    )

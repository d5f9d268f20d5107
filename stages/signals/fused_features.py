"""Support and numbers of tokens by Triton's kernels, which read logits three or four times.

Log-probs are written nowhere. One pass finds what normalises a row, one over both rows sums up what
`features` sums up, one finds the most probable ids, and one more over the teacher's logits sums up
the tail. What is picked and counted of a few ids is the plain path's code. Legend: C rows of a
chunk, V the vocabulary of a model, K support slots.
"""

import functools
import math
from typing import Literal

import torch
from torch import Tensor

from ..arrays.log_softmax import log_softmax
from ..arrays.mass import up_to_mass
from ..models.device import speeds_up
from .divergences import TOP, Features, combined, features
from .support import StudentIds, Support, largest, student_led, support_ids, teacher_support
from .triton_here import lack_of_kernels

_RIGHT = 1e-4  # nats


def fuses_features(wanted: Literal["auto", True, False], device: torch.device) -> bool:
    """Tell whether joint scores are fused on a device; see `fused.fuses`."""
    return speeds_up("score.fused", wanted, device, lambda: lack(device))


@functools.cache
def lack(device: torch.device) -> str | None:
    """Say why joint scores cannot be fused on a device; None where they can.

    The kernels are compiled for it and shown to give what `features` gives, once a process.
    """
    return lack_of_kernels(device, lambda: _error(device), _RIGHT)


def _error(device: torch.device) -> float:
    """Return how far fused numbers of a few tokens are from the plain ones."""
    rows, ids = 4, 300
    random = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn(rows, ids + more, generator=random).to(device) for more in (0, 5))
    top = torch.arange(3, device=device).expand(rows, -1)
    known = StudentIds(top[:, 0], top, torch.ones_like(top, dtype=torch.bool))
    p, q = log_softmax(ours), log_softmax(theirs)
    plain = teacher_support(q, *support_ids(known, q, ids, 0.9, 8))
    expected = features(p, q, known.tokens, plain.ids, plain.valid)
    support, found = fused_features(ours, theirs, known, ids, 0.9, 8)
    pairs = [*zip(found[:-1], expected[:-1], strict=True), (support.tail, plain.tail)]
    # by torch, for which no number beside NaN is the larger one
    return float(torch.stack([(a - b).abs().max() for a, b in pairs]).max())


@torch.no_grad()
def fused_features(
    student: Tensor,
    teacher: Tensor,
    known: StudentIds,
    vocabulary: int,
    top_p: float,
    most: int,
) -> tuple[Support, Features]:
    """Return what `teacher_support` and `features` return of C tokens.

    student, teacher: logits [C, V_student] and [C, V_teacher], float32, rows without gaps; the
    teacher's are **overwritten**. known: the student's ids. vocabulary, top_p, most: as
    `support_ids` and `top_ids` have them.
    """
    from . import pair_kernel

    ours, theirs = pair_kernel.normalised(student), pair_kernel.normalised(teacher)
    over_all = pair_kernel.compared(ours, theirs, known.tokens)
    common = min(student.shape[1], teacher.shape[1])
    # one search for what goes into the support and for the last of the teacher's top
    values, places = largest(teacher, min(max(most, TOP), teacher.shape[1]))
    values = theirs.of(values)
    top = None
    if most:
        top = places[:, :most], up_to_mass(values[:, :most].exp(), top_p)
    ids, valid = student_led(known, top, min(vocabulary, teacher.shape[1]))
    own = largest(student[:, :common], min(TOP, common))
    at_top, there = theirs.at(own[1]), own[0] > -math.inf
    tokens = known.tokens[:, None]
    at_token = ours.at(tokens), theirs.at(tokens)
    picked = ours.at(ids), theirs.at(ids), valid
    last = values[:, min(TOP, values.shape[1]) - 1, None]
    # The tail is summed over its own ids, never as 1 - (the rest): it may be e-30.
    rest = pair_kernel.normalised(teacher.scatter_(1, ids, -math.inf))
    tail = (rest.shift - theirs.shift) + (rest.log_total - theirs.log_total)
    return (
        Support(ids, valid, picked[1], tail.squeeze(1)),
        combined(over_all, at_token, picked, picked, (at_top, there, last)),
    )

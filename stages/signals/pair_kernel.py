"""Triton's kernel that holds two models' logits of a row against each other.

Only `fused_features.py` imports this, where Triton is; see `kernels.py`. Legend: C rows, V the
vocabulary of a model.
"""

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from ..models.head import LogitMap
from .divergences import OverAll
from .kernels import block, constants, fold, there

_BLOCK = 4096  # ids that a program looks at together: seven sums of each thread stay in registers


class Normalised(NamedTuple):
    """Log-probs that nobody writes: logits [C, V], less shift [C, 1], less log_total [C, 1]."""

    logits: Tensor
    shift: Tensor
    log_total: Tensor

    def of(self, logits: Tensor) -> Tensor:
        """Return log-probs of some logits [C, S] of the same rows."""
        return logits - self.shift - self.log_total

    def at(self, ids: Tensor) -> Tensor:
        """Return log-probs of ids [C, S]."""
        return self.of(self.logits.gather(1, ids))


def normalised(logits: Tensor) -> Normalised:
    """Return logits [C, V] with what makes log-probs of them: one pass."""
    shift, total = fold(logits, LogitMap())
    return Normalised(logits, shift[:, None], total.log_()[:, None])


@triton.jit
def pair_kernel(
    student, student_stride, student_ids, teacher, teacher_stride, teacher_ids,
    student_shift, student_log, teacher_shift, teacher_log, tokens, sums, ranks,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the numbers of `OverAll`: `sums` has six a row, and how many are above the token."""
    row = tl.program_id(0).to(tl.int64)  # rows x V may be more than int32 counts
    lanes = tl.arange(0, BLOCK)
    ours, theirs = student + row * student_stride, teacher + row * teacher_stride
    shift_p, log_p = tl.load(student_shift + row), tl.load(student_log + row)
    shift_q, log_q = tl.load(teacher_shift + row), tl.load(teacher_log + row)
    at_token = tl.load(theirs + tl.load(tokens + row)) - shift_q - log_q
    # Each lane goes its own way, and they meet once, as in `fold_kernel`.
    entropy_p = tl.zeros([BLOCK], tl.float32)
    entropy_q = tl.zeros([BLOCK], tl.float32)
    reverse = tl.zeros([BLOCK], tl.float32)
    forward = tl.zeros([BLOCK], tl.float32)
    jsd = tl.zeros([BLOCK], tl.float32)
    hellinger = tl.zeros([BLOCK], tl.float32)
    above = tl.zeros([BLOCK], tl.int32)
    for start in range(0, tl.maximum(student_ids, teacher_ids), BLOCK):
        ids = start + lanes
        in_p, in_q = ids < student_ids, ids < teacher_ids
        lp = tl.load(ours + ids, mask=in_p, other=0.0) - shift_p - log_p
        lq = tl.load(theirs + ids, mask=in_q, other=0.0) - shift_q - log_q
        p, q = tl.where(in_p, tl.exp(lp), 0.0), tl.where(in_q, tl.exp(lq), 0.0)
        entropy_p -= p * lp
        entropy_q -= q * lq
        above += (in_q & (lq > at_token)).to(tl.int32)
        # an id that one model alone has is in no divergence
        p, q = tl.where(in_q, p, 0.0), tl.where(in_p, q, 0.0)
        ratio = tl.where(in_p & in_q, lp - lq, 0.0)
        reverse += p * ratio
        forward -= q * ratio
        # log(p / m) = min(ratio, 0) + smooth, as `divergences` has it: 0 where both are the same
        smooth = -tl.log(0.5 + 0.5 * tl.exp(-tl.abs(ratio)))
        sharp = p * tl.minimum(ratio, 0.0) - q * tl.maximum(ratio, 0.0)
        jsd += (p + q) * smooth + sharp
        apart = tl.sqrt(p) - tl.sqrt(q)
        hellinger += apart * apart
    base = sums + row * 6
    tl.store(base, tl.sum(entropy_p, 0))
    tl.store(base + 1, tl.sum(entropy_q, 0))
    tl.store(base + 2, tl.sum(reverse, 0))
    tl.store(base + 3, tl.sum(forward, 0))
    tl.store(base + 4, tl.sum(0.5 * jsd, 0))
    tl.store(base + 5, tl.sum(0.5 * hellinger, 0))
    tl.store(ranks + row, tl.sum(above, 0))


def compared(student: Normalised, teacher: Normalised, tokens: Tensor) -> OverAll:
    """Return the numbers that are sums over all ids: one pass over both.

    Logits are float32, rows without gaps. tokens: sampled ids [C] int64, each of which the teacher
    has.
    """
    rows, ours = student.logits.shape
    theirs = teacher.logits.shape[1]
    sums = student.logits.new_empty(rows, 6)
    ranks = tokens.new_empty(rows)
    with there(student.logits):
        pair_kernel[(rows,)](
            student.logits, student.logits.stride(0), ours,
            teacher.logits, teacher.logits.stride(0), theirs,
            student.shift, student.log_total, teacher.shift, teacher.log_total,
            tokens.contiguous(), sums, ranks,
            **constants(16, BLOCK=block(max(ours, theirs), _BLOCK)),
        )  # fmt: skip
    entropy, other, reverse, forward, jsd, squared = sums.unbind(1)
    return OverAll(entropy, other, reverse, forward, jsd, squared.sqrt().clamp(max=1), ranks)
